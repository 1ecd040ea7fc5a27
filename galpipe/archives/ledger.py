"""The ledger of the stage `retrieve`: how every object of the catalogue ended, and every band.

`index.parquet` has a row per object (where its pixels lie), `ledger.parquet` one per object and
band (which file they come from, or why there are none).  Everything is in columns, so that a
catalogue of a million rows is opened in seconds.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe import spec as specs
from galpipe.archives.ledger_files import (
    INDEX,
    LEDGER,
    ROWS_AT_ONCE,
    band_table,
    counted,
    hexadecimal,
    id_array,
    raw_bytes,
    write_tables,
)
from galpipe.archives.spec import Archive
from galpipe.errors import InputError
from galpipe.stages import Context
from galpipe.status import Status, names
from galpipe.workspace import Ref

Words = Callable[[int], str | None]  # of a row of the catalogue
FACTS = ("status", "sha256", "reason")  # of a shard, that every kind of archive tells


class Told(NamedTuple):
    """How an object ended in a band: bits of Status, and of the file why, which and what.

    `url` lies below the archive's address; None takes what the ledger knows without asking.
    `beside`: neighbouring files that completed it, each with its sha256.
    """

    status: int
    sha256: str | None = None
    reason: str | None = None
    beside: str | None = None
    url: str | None = None


class Ledger:
    """How each object and band ended.

    `part` numbers `parts`, -1 where there are no pixels; `digest` (object,) and `band_digest`
    (object, band) hold 32 bytes of sha256, zeros where there is none; the other words are kept only
    where there are some, by row or by (row, band).
    """

    def __init__(
        self,
        ids: NDArray[Any],
        versions: pa.Array,
        status: NDArray[np.int32],
        reasons: Mapping[int, str],
        bands: Sequence[str],
        *,
        source: Words | None = None,
        url: Callable[[int, str], str | None] | None = None,
        absent: NDArray[np.bool_] | None = None,
    ) -> None:
        """`versions`: what decides the pixels of each object, as text; null where it is unknown.

        `source` and `url` (by row and band) tell without asking where the pixels come from; None
        where only an answer tells, or where all bands come from the object's source.  `absent`:
        whose image is gone from the archive, so that they keep what an earlier release has.
        """
        count = len(ids)
        self.ids, self.versions = ids, versions
        self.bands = tuple(bands)
        self.parts: list[str] = []
        self.status = status.astype(np.int32)
        self.part = np.full(count, -1, np.int32)
        self.row = np.full(count, -1, np.int32)
        self.digest = np.zeros((count, 32), np.uint8)
        self.reasons = dict(reasons)
        self.sources: dict[int, str] = {}
        self.band_status = np.repeat(self.status[:, None], len(bands), axis=1)
        self.band_digest = np.zeros((count, len(bands), 32), np.uint8)
        self.band_reasons: dict[tuple[int, int], str] = {}
        self.beside: dict[tuple[int, int], str] = {}
        self.urls: dict[tuple[int, int], str] = {}
        self._source, self._url = source, url
        self._absent = np.zeros(count, bool) if absent is None else absent
        for row, reason in self.reasons.items():
            for band in range(len(bands)):
                self.band_reasons[row, band] = reason

    def __len__(self) -> int:
        return len(self.ids)

    def hold(self, part: str) -> int:
        """The number of a part that holds pixels of some objects."""
        self.parts.append(part)
        return len(self.parts) - 1

    def source(self, row: int) -> str | None:
        """Where an object's pixels come from, in words."""
        told = self.sources.get(row)
        return told if told is not None or self._source is None else self._source(row)

    def url(self, row: int, band: int) -> str | None:
        """Which file a band of an object comes from, below the archive's address."""
        told = self.urls.get((row, band))
        return told if told is not None or self._url is None else self._url(row, self.bands[band])

    # What an earlier release has.

    def keep(self, context: Context, spec: Archive, base: Ref | None) -> None:
        """Take over what an earlier release has of the same objects at the same versions.

        Nothing is kept of what failed, nor where another spec made the release, since that decides
        what becomes of the same bytes.
        """
        manifest = context.workspace.manifest(base) if base is not None else None
        if base is None or manifest is None or manifest["spec"] != specs.identity(spec):
            return
        place = context.workspace.place(base)
        index = pq.read_table(place / INDEX)
        found = pc.index_in(id_array(self.ids), value_set=index["object_id"].combine_chunks())
        rows = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
        there = found.drop_null().to_numpy().astype(np.int64)
        old = index.take(pa.array(there))
        status = old["status"].to_numpy()
        equal = pc.equal(old["version"].combine_chunks(), self.versions.take(pa.array(rows)))
        same = pc.fill_null(equal, False).to_numpy(zero_copy_only=False)
        gone = self._absent[rows] & ((status & int(Status.OK)) != 0)
        same = (same | gone) & ((status & int(Status.FAILED)) == 0)
        rows, there, gone, old = rows[same], there[same], gone[same], old.filter(pa.array(same))
        self.parts = list(manifest["parts"])
        number = {part: place for place, part in enumerate(self.parts)}
        self.status[rows] = old["status"].to_numpy()
        self.row[rows] = old["row"].to_numpy()
        self.part[rows] = [number.get(part, -1) for part in old["part"].to_pylist()]
        self.digest[rows] = raw_bytes(old["sha256"].to_pylist())
        self._keep_words(rows, gone, old)
        self._keep_bands(place / LEDGER, rows, there)

    def _keep_words(self, rows: NDArray[np.int64], gone: NDArray[np.bool_], old: pa.Table) -> None:
        for row, reason in zip(rows.tolist(), old["reason"].to_pylist(), strict=True):
            self.reasons.pop(row, None)
            if reason is not None:
                self.reasons[row] = reason
        told = gone if self._source is not None else np.ones(len(rows), bool)
        sources = old["source"].filter(pa.array(told)).to_pylist()
        for row, source in zip(rows[told].tolist(), sources, strict=True):
            if source is not None:
                self.sources[row] = source
        if gone.any():
            versions = self.versions.to_pylist()
            kept = old["version"].filter(pa.array(gone)).to_pylist()
            for row, version in zip(rows[gone].tolist(), kept, strict=True):
                versions[row] = version
            self.versions = pa.array(versions, pa.string())

    def _keep_bands(self, path: Path, rows: NDArray[np.int64], there: NDArray[np.int64]) -> None:
        """The same of the bands; `there` are the rows in the earlier release."""
        self.band_status[rows] = self.status[rows, None]
        if not path.exists():
            return
        count = len(self.bands)
        mine = dict(zip(there.tolist(), rows.tolist(), strict=True))
        first = 0
        columns = ["status", "reason", "sha256", "beside", "url"]
        for batch in pq.ParquetFile(path).iter_batches(ROWS_AT_ONCE * count, columns=columns):
            wanted = [
                place for place in range(len(batch)) if (first + place) // count in mine
            ]  # fmt: skip
            told = (
                batch.column(name).take(pa.array(wanted, pa.int64())).to_pylist()
                for name in columns
            )
            for place, status, reason, sha, beside, url in zip(wanted, *told, strict=True):
                old, band = divmod(first + place, count)
                url = url if self._url is None else None  # else it is told without asking
                self._enter_band(mine[old], band, Told(status, sha, reason, beside, url))
            first += len(batch)

    # What the shards say.

    def enter(
        self,
        row: int,
        part: int,
        place: int,
        facts: Mapping[str, Any],
        at: int,
        bands: Sequence[Told] | None,
    ) -> None:
        """Take over what a shard's facts say, at one of its rows, of an object of the catalogue.

        `bands`: how each ended; None: all as the object.
        """
        status, checksum, reason = (facts[key][at] for key in FACTS)
        self.status[row] = status
        self.digest[row] = _bytes(checksum)
        source = facts["source"][at] if facts.get("source") else None
        _put(self.reasons, row, reason)
        _put(self.sources, row, source)
        if status & Status.OK:
            self.part[row], self.row[row] = part, place
        for band in range(len(self.bands)):
            told = bands[band] if bands else Told(status, checksum, reason, None, source)
            self._enter_band(row, band, told)

    def settle(self, row: int, status: int, reason: str | None) -> None:
        """Decide an object without pixels, and its bands alike."""
        self.status[row] = status
        _put(self.reasons, row, reason)
        for band in range(len(self.bands)):
            self._enter_band(row, band, Told(status, None, reason))

    def _enter_band(self, row: int, band: int, told: Told) -> None:
        self.band_status[row, band] = told.status
        self.band_digest[row, band] = _bytes(told.sha256)
        _put(self.band_reasons, (row, band), told.reason)
        _put(self.beside, (row, band), told.beside)
        _put(self.urls, (row, band), told.url)

    # What it comes to.

    def refuse_none(self, mend: str) -> None:
        """A run without a single image has one cause, and it is worth a sentence; so is `mend`."""
        if (self.status & int(Status.OK)).any():
            return
        ends = [(status, self.reasons.get(row)) for row, status in enumerate(self.status.tolist())]
        (status, _), number = Counter(ends).most_common(1)[0]
        reason = next(why for one, why in ends if one == status)
        raise InputError(
            f"none of the {len(self)} objects has a usable image: {number} are {names(status)} "
            f"({reason}); {mend}."
        )

    def content(self, spec: Archive) -> str:
        """A digest of what the pixels of all objects are, wherever they lie."""
        sha256 = hexadecimal(self.digest)
        ends = zip(self.versions.to_pylist(), self.status.tolist(), sha256, strict=True)
        return specs.digest([specs.identity(spec), self.ids.tolist(), [list(end) for end in ends]])

    def by_band(self) -> dict[str, dict[str, int]]:
        """How many objects ended how in each band."""
        return {band: counted(self.band_status[:, place]) for place, band in enumerate(self.bands)}

    def held(self) -> list[str]:
        """The parts that hold pixels of it, in their order."""
        used = set(np.unique(self.part).tolist())
        return [part for number, part in enumerate(self.parts) if number in used]

    def write(self, folder: Path) -> None:
        """Write the index and the ledger."""
        write_tables(folder, self._pieces(self._index_rows), self._pieces(self._band_rows))

    def _pieces(self, piece: Callable[[int, int], pa.Table]) -> Iterator[pa.Table]:
        for first in range(0, len(self), ROWS_AT_ONCE):
            yield piece(first, min(first + ROWS_AT_ONCE, len(self)))

    def _index_rows(self, first: int, last: int) -> pa.Table:
        span, number = range(first, last), self.part[first:last].tolist()
        return pa.table(
            {
                "object_id": id_array(self.ids[first:last]),
                "version": self.versions.slice(first, last - first),
                "part": pa.array([self.parts[n] if n >= 0 else None for n in number], pa.string()),
                "row": pa.array(self.row[first:last]),
                "status": pa.array(self.status[first:last]),
                "source": pa.array([self.source(row) for row in span], pa.string()),
                "sha256": pa.array(hexadecimal(self.digest[first:last]), pa.string()),
                "reason": pa.array([self.reasons.get(row) for row in span], pa.string()),
            }
        )

    def _band_rows(self, first: int, last: int) -> pa.Table:
        count = len(self.bands)
        places = [(row, band) for row in range(first, last) for band in range(count)]
        return band_table(
            id_array(np.repeat(self.ids[first:last], count)),
            [self.bands[band] for _, band in places],
            self.band_status[first:last].ravel(),
            [self.band_reasons.get(place) for place in places],
            [self.url(*place) for place in places],
            hexadecimal(self.band_digest[first:last].reshape(-1, 32)),
            [self.beside.get(place) for place in places],
        )


def ids_digest(ids: NDArray[Any]) -> bytes:
    """A digest of object ids in their order."""
    if ids.dtype.kind == "i":
        return hashlib.sha256(np.ascontiguousarray(ids, np.int64).data.cast("B")).digest()
    total = hashlib.sha256()
    for first in range(0, len(ids), ROWS_AT_ONCE):
        total.update(specs.canonical(ids[first : first + ROWS_AT_ONCE].tolist()).encode())
    return total.digest()


def _put(words: dict[Any, str], key: Any, text: str | None) -> None:
    """Keep a text, or forget what was there."""
    if text:
        words[key] = text
    else:
        words.pop(key, None)


def _bytes(sha256: str | None) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex(sha256) if sha256 else bytes(32), np.uint8)
