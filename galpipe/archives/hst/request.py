"""What to ask for about each object of a catalogue: no network, no pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from galpipe import spec as specs
from galpipe.archives.spec import FixedSize, Hubble
from galpipe.errors import InputError
from galpipe.status import Status

INPUT = "input_"


@dataclass(frozen=True)
class Target:
    """An object to fetch; `status` is not 0 where it cannot be, and `reason` says why.

    `side`: pixels of its stamp, odd, the object in the middle one; `cut_short`: what to say where
    it is larger than a stamp may be.
    """

    row: int  # in the catalogue
    id: int | str
    ra: float
    dec: float
    side: int
    version: str
    cut_short: str | None = None
    status: int = 0
    reason: str | None = None


def locate(spec: Hubble, table: pa.Table) -> list[Target]:
    """What to fetch for each row of a catalogue (`object_id`, `ra`, `dec`, `input_` columns)."""
    ids: list[int | str] = table["object_id"].to_pylist()
    ra, dec = (table[name].to_numpy(zero_copy_only=False) for name in ("ra", "dec"))
    asked = [
        specs.identity(spec.pixels), list(spec.bands), spec.reference, spec.pixel_scale,
        spec.camera_pixel, spec.pixfrac,
    ]  # fmt: skip
    targets = []
    for row, (id, (half, wanted)) in enumerate(zip(ids, _halves(spec, table), strict=True)):
        place = (float(ra[row]), float(dec[row]))
        known = all(map(math.isfinite, place))
        side = 2 * math.ceil(math.sqrt(2) * half / spec.pixel_scale) + 1
        key = [asked, list(place) if known else None, half, wanted]
        targets.append(
            Target(
                row, id, *place, side, f"hst:{specs.digest(key)}",
                f"cut to {half:g} of {wanted:.4g} arcsec" if wanted > half else None,
                0 if known else int(Status.BAD_POSITION),
                None if known else "the table gives no position",
            )
        )  # fmt: skip
    return targets


def _halves(spec: Hubble, table: pa.Table) -> list[tuple[float, float]]:
    """Half a side of each stamp in arcsec, within the limits and without them."""
    size = spec.pixels.size
    if isinstance(size, FixedSize):
        return [(size.half, size.half)] * len(table)
    name = next((n for n in table.column_names if n.lower() == INPUT + size.column.lower()), None)
    if name is None:
        raise InputError(
            f"archive.pixels.size.column: the sample has no column {size.column!r}; add it to the "
            'table, or use size.kind = "fixed".'
        )
    try:
        radii = pc.fill_null(pc.cast(table[name], pa.float64(), safe=False), 0.0).to_numpy()
    except pa.ArrowInvalid:
        raise InputError(
            f"archive.pixels.size.column: {size.column!r} holds no numbers; name a column of radii "
            "in arcsec."
        ) from None
    wanted = np.where(np.isfinite(radii) & (radii > 0), radii * size.radii, size.smallest)
    wanted = np.maximum(wanted, size.smallest)
    return [(min(value, size.largest), value) for value in wanted.tolist()]
