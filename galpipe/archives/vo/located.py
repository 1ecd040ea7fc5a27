"""What to fetch for each object of a catalogue: no network, no pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from galpipe import spec as specs
from galpipe.archives.spec import FixedSize, PetrosianSize, Vo
from galpipe.errors import InputError
from galpipe.status import Status

INPUT = "input_"
LARGEST_SIDE = 2048  # pixels of a cutout


@dataclass(frozen=True)
class Place:
    """An object to fetch; `status` is not 0 where it cannot be, and `reason` says why.

    `half`: half a side of its stamp in arcsec; `wanted`: the same before it was cut to the limit;
    `side`: pixels of its cutout, odd, the object in the middle one.
    """

    row: int  # in the catalogue
    id: int | str
    ra: float
    dec: float
    half: float
    wanted: float
    side: int
    version: str
    status: int = 0
    reason: str | None = None

    @property
    def cut_short(self) -> str | None:
        """What to say of an object that is larger than its stamp may be."""
        if self.wanted <= self.half:
            return None
        return f"cut to {self.half:g} of {self.wanted:.4g} arcsec"


def locate(spec: Vo, table: pa.Table) -> list[Place]:
    """What to fetch for each row of a catalogue (`object_id`, `ra`, `dec` and `input_` columns).

    Raises InputError where the size follows a column that is not there, or a cutout is too large.
    """
    ids: list[int | str] = table["object_id"].to_pylist()
    ra, dec = (table[name].to_numpy(zero_copy_only=False) for name in ("ra", "dec"))
    half, wanted = _sizes(spec, table)
    pixels = specs.identity(spec.pixels)
    places = []
    for row, id in enumerate(ids):
        at = (float(ra[row]), float(dec[row]))
        known = all(map(math.isfinite, at))
        side = 2 * math.ceil(math.sqrt(2) * half[row] / spec.pixels.pixel_scale) + 1
        key = [spec.service, list(at) if known else None, half[row], wanted[row], pixels]
        places.append(
            Place(
                row, id, *at, half[row], wanted[row], side, f"vo:{specs.digest(key)}",
                0 if known else int(Status.BAD_POSITION),
                None if known else "the table gives no position",
            )
        )  # fmt: skip
    largest = max((place.side for place in places), default=0)
    if largest > LARGEST_SIDE:
        raise InputError(
            f"archive.pixels: a cutout would have {largest} pixels on a side, and {LARGEST_SIDE} "
            "are the limit; give a smaller size or a larger pixel_scale."
        )
    return places


def _sizes(spec: Vo, table: pa.Table) -> tuple[list[float], list[float]]:
    """Half a side of each stamp in arcsec, within the limits and without them."""
    size = spec.pixels.size
    if isinstance(size, FixedSize):
        return [size.half] * len(table), [size.half] * len(table)
    radii = _radii(size, table)
    wanted = np.where(radii > 0, radii * size.radii, size.smallest)
    wanted = np.maximum(np.where(np.isfinite(wanted), wanted, size.smallest), size.smallest)
    return np.minimum(wanted, size.largest).tolist(), wanted.tolist()


def _radii(size: PetrosianSize, table: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    name = INPUT + size.column.lower()
    found = next((one for one in table.column_names if one.lower() == name), None)
    if found is None:
        raise InputError(
            f"archive.pixels.size.column: the sample has no column {size.column!r}; add it to the "
            'query or the table, or use size.kind = "fixed".'
        )
    try:
        numbers = pc.cast(table[found], pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise InputError(
            f"archive.pixels.size.column: {size.column!r} holds no numbers; name a column of radii "
            "in arcsec."
        ) from None
    return np.array(pc.fill_null(numbers, 0.0).to_numpy(zero_copy_only=False), np.float64)
