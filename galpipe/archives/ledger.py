"""The ledger of the stage `retrieve`: how every object of the catalogue ended, and every band.

`index.parquet` has a row per object (where its pixels lie), `ledger.parquet` one per object and
band (which file they come from, or why there are none).
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe import spec as specs
from galpipe.archives.located import Targets
from galpipe.archives.spec import Archive, Sdss, Sky
from galpipe.errors import InputError
from galpipe.stages import Context
from galpipe.status import Status, names
from galpipe.workspace import Ref, sync_folder

INDEX = "index.parquet"
LEDGER = "ledger.parquet"
ABSENT = "absent"  # stands for the version of an image that the source no longer has
ROWS_AT_ONCE = 50_000  # objects that are written or compared together, so that memory is bounded
# How an object ends in a band, by the bits of its status: the first that fits.
OUTCOMES = (
    (Status.FAILED, "failed"),
    (Status.CORRUPT, "corrupt"),
    (Status.OFF_FRAME, "off_frame"),
    (Status.BLANK, "blank"),
    (Status.MISSING_BAND, "missing_band"),
    (Status.NO_COVERAGE | Status.MISSING_FILE | Status.BAD_POSITION, "no_coverage"),
    (Status.EDGE, "edge"),
    (Status.OK, "ok"),
)
SCHEMA = pa.schema(
    {
        "outcome": pa.string(),  # ok, edge, no_coverage, missing_band, off_frame, ...
        "status": pa.int32(),
        "reason": pa.string(),
        "url": pa.string(),  # below the archive's address
        "sha256": pa.string(),  # of the file as served
        "beside": pa.string(),  # neighbouring files that completed it, each with its sha256
    }
)


@dataclass(slots=True)
class Line:
    """One object's line of the ledger; `part` None where there are no pixels to use."""

    version: str | None = None
    part: str | None = None
    row: int = -1
    status: int = 0
    source: str | None = None
    sha256: str | None = None
    reason: str | None = None


def earlier_lines(
    context: Context, spec: Archive, base: Ref | None
) -> tuple[dict[tuple[int | str, str], Line], list[str]]:
    """The lines of an earlier release by (id, version), and its parts; none where it was made by
    another spec, since that decides what becomes of the same bytes.
    """
    manifest = context.workspace.manifest(base) if base is not None else None
    if base is None or manifest is None or manifest["spec"] != specs.identity(spec):
        return {}, []
    index = pq.read_table(context.workspace.place(base) / INDEX)
    lines = {}
    for row in index.to_pylist():
        id = row.pop("object_id")
        if row["version"] is not None and not row["status"] & Status.FAILED:
            lines[id, row["version"]] = Line(**row)
            if row["status"] & Status.OK:
                lines[id, ABSENT] = lines[id, row["version"]]
    return lines, manifest["parts"]


def refuse_none(lines: Sequence[Line], mend: str) -> None:
    """A run without a single image has one cause, and it is worth a sentence; so is the `mend`."""
    if any(line.status & Status.OK for line in lines):
        return
    (status, _), number = Counter((line.status, line.reason) for line in lines).most_common(1)[0]
    reason = next(line.reason for line in lines if line.status == status)
    raise InputError(
        f"none of the {len(lines)} objects has a usable image: {number} are {names(status)} "
        f"({reason}); {mend}."
    )


def index_bytes(ids: pa.ChunkedArray, lines: Sequence[Line]) -> bytes:
    """The ledger as Parquet."""
    table = pa.table(
        {
            "object_id": ids,
            "version": pa.array([line.version for line in lines], pa.string()),
            "part": pa.array([line.part for line in lines], pa.string()),
            "row": pa.array([line.row for line in lines], pa.int32()),
            "status": pa.array([line.status for line in lines], pa.int32()),
            "source": pa.array([line.source for line in lines], pa.string()),
            "sha256": pa.array([line.sha256 for line in lines], pa.string()),
            "reason": pa.array([line.reason for line in lines], pa.string()),
        }
    )
    return table_bytes(table)


def table_bytes(table: pa.Table) -> bytes:
    """A table as Parquet."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def outcome(status: int) -> str:
    """How an object or one of its bands ended, in a word; `pending` where nothing was tried."""
    return next((word for bits, word in OUTCOMES if status & bits), "pending")


class Ledger:
    """The ledger of archives that serve fields, in columns: how each object and band ended.

    `part` numbers `parts`, -1 where there are no pixels; `digest` (object,) and `band_digest`
    (object, band) hold 32 bytes of sha256, zeros where there is none; reasons and `beside` are kept
    only where there are some, by row or by (row, band).
    """

    def __init__(self, targets: Targets, bands: Sequence[str]) -> None:
        count = len(targets)
        self.targets = targets
        self.bands = tuple(bands)
        self.parts: list[str] = []
        self.status = targets.status.copy()
        self.part = np.full(count, -1, np.int32)
        self.row = np.full(count, -1, np.int32)
        self.digest = np.zeros((count, 32), np.uint8)
        self.reasons = dict(targets.reasons)
        self.band_status = np.repeat(self.status[:, None], len(bands), axis=1)
        self.band_digest = np.zeros((count, len(bands), 32), np.uint8)
        self.band_reasons: dict[tuple[int, int], str] = {}
        self.beside: dict[tuple[int, int], str] = {}
        for row, reason in self.reasons.items():
            for band in range(len(bands)):
                self.band_reasons[row, band] = reason

    def keep(self, context: Context, spec: Sdss | Sky, base: Ref | None) -> None:
        """Take over what an earlier release has of the same objects at the same versions.

        Nothing is kept of what failed, nor where another spec made the release.
        """
        manifest = context.workspace.manifest(base) if base is not None else None
        if base is None or manifest is None or manifest["spec"] != specs.identity(spec):
            return
        place = context.workspace.place(base)
        index = pq.read_table(place / INDEX)
        found = pc.index_in(_ids(self.targets.ids), value_set=index["object_id"].combine_chunks())
        rows = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
        there = found.drop_null().to_numpy().astype(np.int64)
        versions = pa.array([self.targets.version(row) for row in rows.tolist()], pa.string())
        old = index.take(pa.array(there))
        same = pc.fill_null(pc.equal(old["version"], versions), False).to_numpy()
        same &= (old["status"].to_numpy() & int(Status.FAILED)) == 0
        rows, there, old = rows[same], there[same], old.filter(pa.array(same))
        self.parts = list(manifest["parts"])
        number = {part: place for place, part in enumerate(self.parts)}
        self.status[rows] = old["status"].to_numpy()
        self.row[rows] = old["row"].to_numpy()
        self.part[rows] = [number.get(part, -1) for part in old["part"].to_pylist()]
        self.digest[rows] = _raw(old["sha256"].to_pylist())
        for row, reason in zip(rows.tolist(), old["reason"].to_pylist(), strict=True):
            if reason is not None:
                self.reasons[row] = reason
        self._keep_bands(place / LEDGER, rows, there)

    def _keep_bands(self, path: Path, rows: NDArray[np.int64], there: NDArray[np.int64]) -> None:
        """The same of the bands; `there` are the rows in the earlier release."""
        self.band_status[rows] = self.status[rows, None]
        if not path.exists():
            return
        count = len(self.bands)
        mine = dict(zip(there.tolist(), rows.tolist(), strict=True))
        first = 0
        columns = ["status", "reason", "sha256", "beside"]
        for batch in pq.ParquetFile(path).iter_batches(ROWS_AT_ONCE * count, columns=columns):
            wanted = [
                place for place in range(len(batch)) if (first + place) // count in mine
            ]  # fmt: skip
            status, reason, sha, beside = (
                batch.column(name).take(pa.array(wanted, pa.int64())).to_pylist()
                for name in columns
            )
            for number, place in enumerate(wanted):
                old, band = divmod(first + place, count)
                row = mine[old]
                self.band_status[row, band] = status[number]
                if reason[number] is not None:
                    self.band_reasons[row, band] = reason[number]
                if sha[number] is not None:
                    self.band_digest[row, band] = np.frombuffer(
                        bytes.fromhex(sha[number]), np.uint8
                    )
                if beside[number] is not None:
                    self.beside[row, band] = beside[number]
            first += len(batch)

    def enter(self, row: int, part: int, place: int, facts: dict[str, Any], at: int) -> None:
        """Take over what a shard's facts say, at one of its rows, of an object of the catalogue."""
        status, checksum, reason = (facts[key][at] for key in ("status", "sha256", "reason"))
        self.status[row] = status
        self.reasons.pop(row, None)
        if reason is not None:
            self.reasons[row] = reason
        self.digest[row] = _bytes(checksum)
        if status & Status.OK:
            self.part[row], self.row[row] = part, place
        told = facts["bands"][at] if facts.get("bands") else [[status, checksum, reason, None]]
        for band in range(len(self.bands)):
            one, sha, why, beside = told[band % len(told)]
            self.band_status[row, band] = one
            self.band_digest[row, band] = _bytes(sha)
            for known, text in ((self.band_reasons, why), (self.beside, beside)):
                known.pop((row, band), None)
                if text is not None:
                    known[row, band] = text

    def refuse_none(self, mend: str) -> None:
        """As `refuse_none`, of the columns."""
        if not (self.status & int(Status.OK)).any():
            refuse_none(
                [
                    Line(status=status, reason=self.reasons.get(row))
                    for row, status in enumerate(self.status.tolist())
                ],
                mend,
            )

    def content(self, spec: Sdss | Sky) -> str:
        """A digest of what the pixels of all objects are, wherever they lie."""
        total = hashlib.sha256(specs.canonical(spec).encode())
        for column in (self.targets.keys, self.status, self.digest):
            total.update(np.ascontiguousarray(column).data.cast("B"))
        total.update(ids_digest(self.targets.ids))
        return total.hexdigest()[: specs.DIGEST_CHARACTERS]

    def by_band(self) -> dict[str, dict[str, int]]:
        """How many objects ended how in each band."""
        return {band: _counted(self.band_status[:, place]) for place, band in enumerate(self.bands)}

    def held(self) -> list[str]:
        """The parts that hold pixels of it, in their order."""
        used = set(np.unique(self.part).tolist())
        return [part for number, part in enumerate(self.parts) if number in used]

    def write(self, folder: Path, url: Callable[[Targets, int, str], str | None]) -> None:
        """Write the index and the ledger; `url` tells the path of an object's file in a band."""
        write_tables(
            folder,
            (self._index_rows(first) for first in range(0, len(self.targets), ROWS_AT_ONCE)),
            (self._band_rows(first, url) for first in range(0, len(self.targets), ROWS_AT_ONCE)),
        )

    def _index_rows(self, first: int) -> pa.Table:
        last = min(first + ROWS_AT_ONCE, len(self.targets))
        span = range(first, last)
        number = self.part[first:last].tolist()
        return pa.table(
            {
                "object_id": _ids(self.targets.ids[first:last]),
                "version": pa.array([self.targets.version(row) for row in span], pa.string()),
                "part": pa.array([self.parts[n] if n >= 0 else None for n in number], pa.string()),
                "row": pa.array(self.row[first:last]),
                "status": pa.array(self.status[first:last]),
                "source": pa.array([self.targets.source(row) for row in span], pa.string()),
                "sha256": pa.array(_hex(self.digest[first:last]), pa.string()),
                "reason": pa.array([self.reasons.get(row) for row in span], pa.string()),
            }
        )

    def _band_rows(self, first: int, url: Callable[[Targets, int, str], str | None]) -> pa.Table:
        last = min(first + ROWS_AT_ONCE, len(self.targets))
        count = len(self.bands)
        places = [(row, band) for row in range(first, last) for band in range(count)]
        return _band_table(
            _ids(np.repeat(self.targets.ids[first:last], count)),
            [self.bands[band] for _, band in places],
            self.band_status[first:last].ravel(),
            [self.band_reasons.get(place) for place in places],
            [url(self.targets, row, self.bands[band]) for row, band in places],
            _hex(self.band_digest[first:last].reshape(-1, 32)),
            [self.beside.get(place) for place in places],
        )


def write_tables(folder: Path, index: Iterable[pa.Table], ledger: Iterable[pa.Table]) -> None:
    """Write index and ledger from their pieces, whole; the output's manifest comes after them."""
    for name, pieces in ((LEDGER, ledger), (INDEX, index)):
        waiting = iter(pieces)
        first = next(waiting)
        with (folder / name).open("wb") as file:
            with pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
                writer.write_table(first)
                for piece in waiting:
                    writer.write_table(piece)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(folder)


def object_ledger(ids: pa.ChunkedArray, bands: Sequence[str], lines: Sequence[Line]) -> pa.Table:
    """A ledger per band of objects whose bands come out of one file: all end as the object."""
    count = len(bands)
    every = [line for line in lines for _ in range(count)]
    return _band_table(
        ids.take(pa.array(np.repeat(np.arange(len(lines)), count))),
        list(bands) * len(lines),
        np.array([line.status for line in every], np.int32),
        [line.reason for line in every],
        [line.source for line in every],
        [line.sha256 for line in every],
        [None] * len(every),
    )


def count_bands(ledger: pa.Table) -> dict[str, dict[str, int]]:
    """How many objects of a ledger ended how in each band."""
    status, band = ledger["status"].to_numpy(), ledger["band"].to_numpy(zero_copy_only=False)
    return {name: _counted(status[band == name]) for name in dict.fromkeys(band.tolist())}


def ids_digest(ids: NDArray[Any]) -> bytes:
    """A digest of object ids in their order."""
    if ids.dtype.kind == "i":
        return hashlib.sha256(np.ascontiguousarray(ids, np.int64).data.cast("B")).digest()
    total = hashlib.sha256()
    for first in range(0, len(ids), ROWS_AT_ONCE):
        total.update(specs.canonical(ids[first : first + ROWS_AT_ONCE].tolist()).encode())
    return total.digest()


def _band_table(
    ids: Any,
    bands: Sequence[str],
    status: NDArray[np.int32],
    reasons: Sequence[str | None],
    urls: Sequence[str | None],
    sha256: Sequence[str | None],
    beside: Sequence[str | None],
) -> pa.Table:
    words = {int(one): outcome(int(one)) for one in np.unique(status)}
    columns = [[words[one] for one in status.tolist()], status, reasons, urls, sha256, beside]
    return pa.table(
        {
            "object_id": ids,
            "band": pa.array(bands, pa.string()),
            **{
                field.name: pa.array(values, field.type)
                for field, values in zip(SCHEMA, columns, strict=True)
            },
        }
    )


def _counted(status: NDArray[Any]) -> dict[str, int]:
    tally: Counter[str] = Counter()
    for one, number in zip(*np.unique(status, return_counts=True), strict=True):
        tally[outcome(int(one))] += int(number)
    return dict(sorted(tally.items(), key=lambda item: (-item[1], item[0])))


def _ids(ids: NDArray[Any]) -> pa.Array:
    return pa.array(ids) if ids.dtype.kind == "i" else pa.array(ids.tolist(), pa.string())


def _bytes(sha256: str | None) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex(sha256) if sha256 else bytes(32), np.uint8)


def _raw(sha256: Sequence[str | None]) -> NDArray[np.uint8]:
    joined = b"".join(bytes.fromhex(one) if one else bytes(32) for one in sha256)
    return np.frombuffer(joined, np.uint8).reshape(-1, 32)


def _hex(raw: NDArray[np.uint8]) -> list[str | None]:
    """32 bytes each as text; None where they are all zero."""
    text = np.ascontiguousarray(raw).tobytes().hex()
    nothing = "0" * 64
    return [
        None if one == nothing else one
        for one in (text[first : first + 64] for first in range(0, len(text), 64))
    ]
