"""Which field and which piece of sky each object of a catalogue needs: no network, no pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from galpipe import spec as specs
from galpipe.archives.frames import FieldName
from galpipe.archives.spec import FixedSize, Frames, Sdss, Sky
from galpipe.errors import InputError
from galpipe.status import Status

PIXEL = 0.396  # arcsec, of every SDSS frame
SMALLEST_SCALE = 0.015  # arcsec per pixel, below which ImgCutout silently takes this
DR7_RERUNS = range(40, 45)  # the imaging was reduced anew for DR8
INPUT = "input_"
OBJECT_COLUMNS = ("dr8objid", "objid", "bestobjid", "photoobjid")


@dataclass(frozen=True)
class Target:
    """An object to fetch; `status` is not 0 where it cannot be, and `reason` says why.

    `half`: half a side of its cutout in arcsec; `wanted`: the same before it was cut to the limit;
    `field`: None where no frame is needed (colour images are asked for by position).
    """

    row: int  # in the catalogue
    id: int | str
    ra: float
    dec: float
    half: float
    wanted: float
    field: FieldName | None
    version: str
    source: str
    status: int = 0
    reason: str | None = None

    @property
    def side(self) -> int:
        """Pixels on a side of a cutout of a frame: odd, the object in the middle one."""
        return 2 * math.ceil(math.sqrt(2) * self.half / PIXEL) + 1

    @property
    def cut_short(self) -> str | None:
        """What to say of an object that is larger than its cutout may be."""
        if self.wanted <= self.half:
            return None
        return f"cut to {self.half:g} of {self.wanted:.4g} arcsec"


def locate(spec: Sdss | Sky, table: pa.Table) -> list[Target]:
    """What to fetch for each row of a catalogue (`object_id`, `ra`, `dec` and `input_` columns).

    The field is read from the columns run, camcol and field where the sample has them, else decoded
    from the objID.  Raises InputError where neither is there, or where the ids are those of DR7.
    """
    ids: list[int | str] = table["object_id"].to_pylist()
    ra, dec = (table[name].to_numpy(zero_copy_only=False) for name in ("ra", "dec"))
    half, wanted = _sizes(spec, table)
    frames = isinstance(spec.pixels, Frames)
    fields: Sequence[FieldName | str | None] = (
        _fields(spec, table) if frames else [None] * len(table)
    )
    targets = []
    for row, (id, field) in enumerate(zip(ids, fields, strict=True)):
        place = (float(ra[row]), float(dec[row]))
        status, reason = 0, None
        if isinstance(field, str):
            status, reason, field = int(Status.NO_COVERAGE), field, None
        if not all(map(math.isfinite, place)):
            status, reason = int(Status.BAD_POSITION), "the table gives no position"
        key = [
            spec.imaging_release,
            [field.rerun, field.run, field.camcol, field.field] if field else None,
            [None if math.isnan(value) else value for value in place],
            [half[row], wanted[row], specs.identity(spec.pixels)],
        ]
        targets.append(
            Target(
                row, id, *place, half[row], wanted[row], field, f"sdss:{specs.digest(key)}",
                _source(spec, place, field), status, reason,
            )
        )  # fmt: skip
    return targets


def _source(spec: Sdss | Sky, place: tuple[float, float], field: FieldName | None) -> str:
    """What the ledger says of where the pixels come from."""
    if isinstance(spec.pixels, Frames):
        return field.file(spec.pixels.reference) if field else ""
    return f"getjpeg?ra={place[0]!r}&dec={place[1]!r}"


def frame_address(spec: Sdss | Sky, name: FieldName, band: str) -> str:
    """Where a frame lies: the layout of the Science Archive Server by release."""
    release = spec.imaging_release
    if release <= 12:
        tree = "boss"
    elif release <= 17:
        tree = "eboss"
    else:
        tree = "prior-surveys/sdss4-dr17-eboss"
    return (
        f"{spec.sas.rstrip('/')}/dr{release}/{tree}/photoObj/frames/"
        f"{name.rerun}/{name.run}/{name.camcol}/{name.file(band)}"
    )


def _column(table: pa.Table, name: str) -> pa.Array | None:
    """A column of the sample, whatever its case."""
    for found in table.column_names:
        if found.lower() == INPUT + name.lower():
            column = table[found].combine_chunks()
            return (
                pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
            )
    return None


def _sizes(spec: Sdss | Sky, table: pa.Table) -> tuple[list[float], list[float]]:
    """Half a side of each cutout in arcsec, within the limits and without them."""
    size = spec.pixels.size
    if isinstance(size, FixedSize):
        return [size.half] * len(table), [size.half] * len(table)
    column = _column(table, size.column)
    if column is None:
        raise InputError(
            f"archive.pixels.size.column: the sample has no column {size.column!r}; add it to the "
            'query or the table, or use size.kind = "fixed".'
        )
    try:
        radii = np.array(
            pc.fill_null(pc.cast(column, pa.float64(), safe=False), 0.0).to_numpy(
                zero_copy_only=False
            )
        )
    except pa.ArrowInvalid:
        raise InputError(
            f"archive.pixels.size.column: {size.column!r} holds no numbers; name a column of radii "
            "in arcsec."
        ) from None
    wanted = np.where(radii > 0, radii * size.radii, size.smallest)
    wanted = np.maximum(np.where(np.isfinite(wanted), wanted, size.smallest), size.smallest)
    if not isinstance(spec.pixels, Frames):  # the server would silently take its own limit
        wanted = np.maximum(wanted, SMALLEST_SCALE * spec.pixels.side / 2)
    return np.minimum(wanted, size.largest).tolist(), wanted.tolist()


def _fields(spec: Sdss | Sky, table: pa.Table) -> list[FieldName | str]:
    """The field of each row, or why there is none."""
    columns = [_column(table, name) for name in ("run", "camcol", "field")]
    if all(column is not None for column in columns):
        run, camcol, field = (_integers(column) for column in columns)
        rerun = np.full(len(table), spec.rerun, np.int64)
    else:
        rerun, run, camcol, field = decode_object_id(_object_ids(table))
        if np.isin(rerun, DR7_RERUNS).any():
            raise InputError(
                "sample.id: these are DR7 objIDs, which name no frame of later releases; select "
                "the DR8+ one too (dr8objid of zoo2MainSpecz) and name it as sample.id."
            )
    names: list[FieldName | str] = []
    for values in zip(rerun.tolist(), run.tolist(), camcol.tolist(), field.tolist(), strict=True):
        if values[0] == spec.rerun and values[1] > 0 and 1 <= values[2] <= 6 and values[3] >= 0:
            names.append(FieldName(*values))
        else:
            said = "run {1} camcol {2} field {3} of rerun {0}".format(*values)
            names.append(f"no frame of rerun {spec.rerun}: the table says {said}")
    return names


def _object_ids(table: pa.Table) -> NDArray[np.int64]:
    """The column of DR8+ objIDs: one of their usual names, else the identifier itself."""
    candidates = [_column(table, name) for name in OBJECT_COLUMNS]
    ids = table["object_id"].combine_chunks()
    ids = pa.concat_arrays(ids.chunks) if isinstance(ids, pa.ChunkedArray) else ids
    for column in (*candidates, ids):
        if column is None:
            continue
        try:
            return _integers(column)
        except InputError:
            continue
    raise InputError(
        "sample: no column tells the frames; add run, camcol and field, or the DR8+ objID, to the "
        "query or the table."
    )


def _integers(column: Any) -> NDArray[np.int64]:
    """A column as exact integers, -1 where it is null; InputError where it holds anything else."""
    if pa.types.is_floating(column.type):
        raise InputError("sample: run, camcol, field and objID must be exact integers, not floats.")
    try:
        whole = pc.fill_null(column.cast(pa.int64()), -1)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise InputError("sample: run, camcol, field and objID must be integers.") from None
    return np.asarray(whole.to_numpy(zero_copy_only=False), np.int64)


def decode_object_id(
    ids: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rerun, run, camcol and field of SDSS objIDs, from their bits (SDSS: ObjID description)."""
    return (ids >> 48) & 0x7FF, (ids >> 32) & 0xFFFF, (ids >> 29) & 7, (ids >> 16) & 0xFFF
