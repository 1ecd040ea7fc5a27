"""Which field and which piece of sky each object of a catalogue needs: no network, no pixels.

Everything is in columns: a catalogue of a million rows is located in seconds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from galpipe import spec as specs
from galpipe.archives.extinction import extinctions
from galpipe.archives.frames import FieldName
from galpipe.archives.spec import FixedSize, Frames, Sdss, Sky
from galpipe.errors import InputError
from galpipe.status import Status

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
PIXEL = 0.396  # arcsec, of every SDSS frame
SMALLEST_SCALE = 0.015  # arcsec per pixel, below which ImgCutout silently takes this
DR7_RERUNS = range(40, 45)  # the imaging was reduced anew for DR8
INPUT = "input_"
OBJECT_COLUMNS = ("dr8objid", "objid", "bestobjid", "photoobjid")
NEEDED = ("run", "camcol", "field", *OBJECT_COLUMNS, "ebv")  # beside sizes and extinctions


@dataclass(frozen=True)
class Target:
    """An object to fetch; `status` is not 0 where it cannot be, and `reason` says why.

    `half`: half a side of its cutout in arcsec; `wanted`: the same before it was cut to the limit;
    `field`: None where no frame is needed (colour images are asked for by position);
    `extinction`: magnitudes by band, to be taken off the fluxes, or none.
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
    extinction: tuple[float, ...] = ()

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


@dataclass(frozen=True)
class Targets(Sequence[Target]):
    """Objects to fetch in columns, (object,) each; one item is a `Target`.

    `fields`: (object, 4) rerun, run, camcol and field, -1 where there is none; `keys`: the digests
    of their versions; `reasons`: by row of the catalogue; `extinction`: (object, band) or (0, 0).
    """

    rows: Integers
    ids: NDArray[Any]
    ra: Doubles
    dec: Doubles
    half: Doubles
    wanted: Doubles
    fields: Integers
    keys: NDArray[np.bytes_]
    status: NDArray[np.int32]
    reasons: Mapping[int, str]
    extinction: Doubles
    reference: str | None  # the band whose frame is named as the source; None: colour images

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Target: ...
    @overload
    def __getitem__(self, place: slice) -> Targets: ...
    def __getitem__(self, place: int | slice) -> Target | Targets:
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        row = int(self.rows[place])
        field = self.field(place)
        return Target(
            row, self.ids[place].item() if self.ids.dtype.kind == "i" else self.ids[place],
            float(self.ra[place]), float(self.dec[place]), float(self.half[place]),
            float(self.wanted[place]), field, self.version(place), self.source(place),
            int(self.status[place]), self.reasons.get(row),
            tuple(self.extinction[place].tolist()) if len(self.extinction) else (),
        )  # fmt: skip

    def __iter__(self) -> Iterator[Target]:
        return (self[place] for place in range(len(self)))

    def take(self, places: Integers) -> Targets:
        """The objects at some places, in their order."""
        status = self.status[places]
        bad = self.rows[places][status != 0].tolist()
        return Targets(
            self.rows[places], self.ids[places], self.ra[places], self.dec[places],
            self.half[places], self.wanted[places], self.fields[places], self.keys[places], status,
            {row: self.reasons[row] for row in bad if row in self.reasons},
            self.extinction[places] if len(self.extinction) else self.extinction, self.reference,
        )  # fmt: skip

    def field(self, place: int) -> FieldName | None:
        """The field of an object; None where it needs none, or has none."""
        values = self.fields[place].tolist()
        return None if values[0] < 0 else FieldName(*values)

    def version(self, place: int) -> str:
        """What decides an object's pixels, as a digest: release, field, position, size, options."""
        return f"sdss:{self.keys[place].decode()}"

    def source(self, place: int) -> str:
        """What the ledger says of where the pixels come from."""
        if self.reference is None:
            return f"getjpeg?ra={float(self.ra[place])!r}&dec={float(self.dec[place])!r}"
        field = self.field(place)
        return field.file(self.reference) if field else ""

    @property
    def largest_side(self) -> int:
        """Pixels on a side of the largest cutout of a frame."""
        return 2 * math.ceil(math.sqrt(2) * float(self.half.max()) / PIXEL) + 1


def locate(spec: Sdss | Sky, table: pa.Table) -> Targets:
    """What to fetch for each row of a catalogue (`object_id`, `ra`, `dec` and `input_` columns).

    The field is read from the columns run, camcol and field where the sample has them, else decoded
    from the objID.  Raises InputError where neither is there, or where the ids are those of DR7.
    """
    ra, dec = (
        np.asarray(table[name].to_numpy(zero_copy_only=False), np.float64) for name in ("ra", "dec")
    )
    half, wanted = _sizes(spec, table)
    count = len(table)
    status = np.zeros(count, np.int32)
    reasons: dict[int, str] = {}
    fields = np.full((count, 4), -1, np.int64)
    extinction = np.empty((0, 0))
    if isinstance(spec.pixels, Frames):
        fields = _fields(spec, table)
        wrong = (
            (fields[:, 0] != spec.rerun) | (fields[:, 1] <= 0)
            | (fields[:, 2] < 1) | (fields[:, 2] > 6) | (fields[:, 3] < 0)
        )  # fmt: skip
        for row in np.flatnonzero(wrong).tolist():
            said = "run {1} camcol {2} field {3} of rerun {0}".format(*fields[row].tolist())
            reasons[row] = f"no frame of rerun {spec.rerun}: the table says {said}"
        status[wrong] = int(Status.NO_COVERAGE)
        fields[wrong] = -1
        if spec.pixels.deredden:
            extinction = extinctions(spec.bands, table)
            unknown = ~np.isfinite(extinction).all(axis=1)
            for row in np.flatnonzero(unknown).tolist():
                reasons[row] = "the table gives no extinction"
            status[unknown] = int(Status.MISSING_BAND)
    lost = ~(np.isfinite(ra) & np.isfinite(dec))
    for row in np.flatnonzero(lost).tolist():
        reasons[row] = "the table gives no position"
    status[lost] = int(Status.BAD_POSITION)
    ids = table["object_id"].to_numpy()
    return Targets(
        np.arange(count), ids, ra, dec, half, wanted, fields,
        _keys(spec, [fields, ra, dec, half, wanted, extinction]), status, reasons, extinction,
        spec.pixels.reference if isinstance(spec.pixels, Frames) else None,
    )  # fmt: skip


def _keys(spec: Sdss | Sky, columns: Sequence[NDArray[Any]]) -> NDArray[np.bytes_]:
    """A digest of each row of some columns, and of what holds for all rows."""
    plain = [column.reshape(len(column), -1) for column in columns if len(column)]
    # Every undefined number and every zero has one pattern of bits.
    doubles = [np.where(column != column, np.nan, column + 0.0) for column in plain]
    if not doubles:
        return np.empty(0, "S32")
    table = np.ascontiguousarray(np.concatenate(doubles, axis=1))
    common = specs.canonical({"release": spec.imaging_release, "pixels": spec.pixels})
    start = hashlib.sha256(common.encode())
    raw, width = memoryview(table.tobytes()), table.shape[1] * table.itemsize
    keys = []
    for first in range(0, len(raw), width):
        own = start.copy()
        own.update(raw[first : first + width])
        keys.append(own.hexdigest()[: specs.DIGEST_CHARACTERS])
    return np.array(keys, "S32")


def _tree(spec: Sdss | Sky) -> str:
    """The part of the Science Archive Server that has the imaging of a release."""
    release = spec.imaging_release
    if release <= 12:
        return "boss"
    return "eboss" if release <= 17 else "prior-surveys/sdss4-dr17-eboss"


def frame_path(spec: Sdss | Sky, name: FieldName, band: str) -> str:
    """Where a frame lies below the archive's address, by release."""
    return (
        f"dr{spec.imaging_release}/{_tree(spec)}/photoObj/frames/"
        f"{name.rerun}/{name.run}/{name.camcol}/{name.file(band)}"
    )


def psfield_path(spec: Sdss | Sky, name: FieldName) -> str:
    """Where a field's point-spread functions lie below the archive's address, by release."""
    return (
        f"dr{spec.imaging_release}/{_tree(spec)}/photo/redux/{name.rerun}/{name.run}/objcs/"
        f"{name.camcol}/psField-{name.run:06d}-{name.camcol}-{name.field:04d}.fit"
    )


def mask_path(spec: Sdss | Sky, name: FieldName, band: str) -> str:
    """Where a frame's mask lies below the archive's address, by release."""
    return (
        f"dr{spec.imaging_release}/{_tree(spec)}/photo/redux/{name.rerun}/{name.run}/objcs/"
        f"{name.camcol}/{name.mask_file(band)}"
    )


def frame_address(spec: Sdss | Sky, name: FieldName, band: str) -> str:
    """Where a frame lies: the layout of the Science Archive Server by release."""
    return f"{spec.sas.rstrip('/')}/{frame_path(spec, name, band)}"


def psfield_address(spec: Sdss | Sky, name: FieldName) -> str:
    """Where the point-spread functions of a field lie."""
    return f"{spec.sas.rstrip('/')}/{psfield_path(spec, name)}"


def mask_address(spec: Sdss | Sky, name: FieldName, band: str) -> str:
    """Where the mask of a frame lies."""
    return f"{spec.sas.rstrip('/')}/{mask_path(spec, name, band)}"


def needed_columns(spec: Sdss | Sky, names: Sequence[str]) -> list[str]:
    """The columns of a catalogue that `locate` looks at."""
    wanted = {"object_id", "ra", "dec"} | {INPUT + name for name in NEEDED}
    if not isinstance(spec.pixels.size, FixedSize):
        wanted.add(INPUT + spec.pixels.size.column.lower())
    wanted |= {f"{INPUT}extinction_{band}" for band in spec.bands}
    return [name for name in names if name.lower() in wanted or name in wanted]


def _column(table: pa.Table, name: str) -> pa.Array | None:
    """A column of the sample, whatever its case."""
    for found in table.column_names:
        if found.lower() == INPUT + name.lower():
            column = table[found].combine_chunks()
            return (
                pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
            )
    return None


def _sizes(spec: Sdss | Sky, table: pa.Table) -> tuple[Doubles, Doubles]:
    """Half a side of each cutout in arcsec, within the limits and without them."""
    size = spec.pixels.size
    if isinstance(size, FixedSize):
        return np.full(len(table), size.half), np.full(len(table), size.half)
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
    return np.minimum(wanted, size.largest), wanted


def _fields(spec: Sdss | Sky, table: pa.Table) -> Integers:
    """Rerun, run, camcol and field of each row, (object, 4), as the table says them."""
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
    return np.stack([rerun, run, camcol, field], axis=1)


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
