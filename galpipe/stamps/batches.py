"""Stamps in batches: shuffled for training, in order for embedding, with bounded memory.

The shuffle has two levels (what reads at hardware speed): the inner chunks of all parts in random
order, then the rows inside a buffer of several chunks.  Every selected row comes exactly once per
epoch, in an order that depends on (seed, epoch) and on the selection alone.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from galpipe.stamps.parts import DATA, Part

Array = NDArray[Any]
Rows = NDArray[np.int64]
T = TypeVar("T")
ABSENT = 2**64 - 1  # a Zarr shard index says so of an inner chunk that was never written


@dataclass(frozen=True)
class Selection:
    """Rows of one part, ascending and without repeats."""

    part: Path
    rows: Rows


@dataclass(frozen=True)
class _Block:
    """The selected rows of one inner chunk."""

    source: int  # which selection
    chunk: int
    rows: Rows  # within the chunk
    place: int  # of the first row, in the order of the selections


class ChunkSource:
    """Reads whole inner chunks of one array of a part into given memory.

    Uncompressed shards are read straight from their files (one `readinto` per chunk), which is
    several times as fast as the general path; anything else goes through zarr.
    """

    def __init__(self, part: Path, array: str) -> None:
        self._part = Part(part)
        self._array = self._part.array(array)
        self._name = array
        self.rows = len(self._part)
        self.chunk = self._part.chunk
        self.shape: tuple[int, ...] = tuple(self._array.shape[1:])
        self.dtype: np.dtype[Any] = np.dtype(self._array.dtype)
        self.unit_scale = float(self._part.group.attrs.get("unit_scale", 1.0))  # type: ignore[arg-type]
        self.plain = _is_plain(part / DATA / array / "zarr.json")
        self._shard = self._part.shard
        self._offsets: dict[int, Array] = {}

    def read(self, chunk: int, into: Array) -> int:
        """Fill `into[:n]`, (chunk, ...), with one inner chunk; n, its number of rows."""
        first = chunk * self.chunk
        count = min(self.chunk, self.rows - first)
        if not (self.plain and self._read_file(chunk, into)):
            into[:count] = self._array[first : first + count]
        return count

    def _read_file(self, chunk: int, into: Array) -> bool:
        shard, within = divmod(chunk, self._shard // self.chunk)
        path = (
            self._part.path
            / DATA
            / self._name
            / "c"
            / "/".join([str(shard)] + ["0"] * len(self.shape))
        )
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:  # zarr stores no shard that is all fill value
            return False
        with file:
            if shard not in self._offsets:
                self._offsets[shard] = _shard_index(file, self._shard // self.chunk)
            offset, length = (int(value) for value in self._offsets[shard][within])
            if offset == ABSENT or length != into.nbytes:
                return False
            file.seek(offset)
            return file.readinto(into.reshape(-1).view(np.uint8).data) == length


class Stamps:
    """One array of stamps over many parts, with an explicit selection of rows."""

    def __init__(
        self, selections: Sequence[Selection], array: str = "image", buffer: int = 16
    ) -> None:
        """`buffer` is the number of inner chunks held (and shuffled together) at once."""
        self.selections = [selection for selection in selections if len(selection.rows)]
        self.sources = [ChunkSource(selection.part, array) for selection in self.selections]
        self.buffer = buffer
        shapes = {(source.shape, source.dtype, source.unit_scale) for source in self.sources}
        if len(shapes) > 1:
            raise ValueError(
                f"{array}: parts of different shapes cannot be read together: {shapes}"
            )
        self._blocks: list[_Block] = []
        for number in range(len(self.sources)):
            self._blocks += self._blocks_of(
                number, sum(len(s.rows) for s in self.selections[:number])
            )

    def __len__(self) -> int:
        return sum(len(selection.rows) for selection in self.selections)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one stamp: (band, y, x)."""
        return self.sources[0].shape

    @property
    def unit_scale(self) -> float:
        """Stored value of brightness 1."""
        return self.sources[0].unit_scale

    def shuffled(
        self, batch: int, seed: int, epoch: int, share: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[Array, Rows]]:
        """Batches of an epoch, (batch, band, y, x), each in its own memory; the last is smaller.

        With the place of each row in the order of the selections.  `share` is (which, of how many)
        where several processes divide an epoch: all shares have as many rows, none in common, and
        the rows that do not go into equal shares sit this epoch out.
        """
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(len(self._blocks))
        blocks = [self._blocks[i] for i in order]
        if share[1] > 1:
            each = len(self) // share[1]
            blocks = list(_cut(blocks, share[0] * each, (share[0] + 1) * each))
        return self._batches(blocks, batch, random)

    def ordered(self, batch: int) -> Iterator[tuple[Array, Rows]]:
        """Batches in the order of the selections, with the place of each row in that order."""
        return self._batches(self._blocks, batch, None)

    def _blocks_of(self, number: int, place: int) -> Iterator[_Block]:
        rows, size = self.selections[number].rows, self.sources[number].chunk
        chunks, starts = np.unique(rows // size, return_index=True)
        for chunk, start, own in zip(chunks, starts, np.split(rows, starts[1:]), strict=True):
            yield _Block(number, int(chunk), own - chunk * size, place + int(start))

    def _batches(
        self, blocks: Sequence[_Block], batch: int, random: np.random.Generator | None
    ) -> Iterator[tuple[Array, Rows]]:
        if not blocks:
            return
        largest = max(source.chunk for source in self.sources)
        # Rows left over from one buffer join the next: only the epoch's last batch is short.
        held = np.empty((self.buffer * largest + batch, *self.shape), self.sources[0].dtype)
        left: Array = held[:0].copy()
        left_places: Rows = np.empty(0, np.int64)
        for begin in range(0, len(blocks), self.buffer):
            group = blocks[begin : begin + self.buffer]
            filled = len(left)
            held[:filled] = left
            slots, places = [np.arange(filled)], [left_places]
            for block in group:
                source = self.sources[block.source]
                source.read(block.chunk, held[filled : filled + source.chunk])
                slots.append(filled + block.rows)
                places.append(np.arange(block.place, block.place + len(block.rows)))
                filled += source.chunk
            slot, where = np.concatenate(slots), np.concatenate(places)
            if random is not None:
                mixed = random.permutation(len(slot))
                slot, where = slot[mixed], where[mixed]
            whole = len(slot) - len(slot) % batch
            for start in range(0, whole, batch):
                chosen = slice(start, start + batch)
                yield held.take(slot[chosen], axis=0), where[chosen]
            left, left_places = held.take(slot[whole:], axis=0), where[whole:]
        if len(left):
            yield left, left_places


def _cut(blocks: Sequence[_Block], begin: int, end: int) -> Iterator[_Block]:
    """The rows number `begin` to `end` of blocks one after the other."""
    first = 0
    for block in blocks:
        rows = slice(max(begin - first, 0), max(end - first, 0))
        own = block.rows[rows]
        if len(own):
            yield replace(block, rows=own, place=block.place + rows.start)
        first += len(block.rows)


def prefetched(items: Iterable[T], depth: int = 3) -> Iterator[T]:
    """The same items in the same order, made ahead by a thread; its errors are raised here.

    Leaving the loop early stops the thread.
    """
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(kind: str, value: Any) -> bool:
        while not stop.is_set():
            try:
                waiting.put((kind, value), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:  # handed to the reader, whose loop it ends
            put("error", error)

    thread = threading.Thread(target=work, name="stamps ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stop.set()
        thread.join()


def _is_plain(metadata: Path) -> bool:
    """Whether an array's shards hold bare little-endian chunks, indexed at their end."""
    facts: dict[str, Any] = json.loads(metadata.read_text())
    codecs = facts["codecs"]
    if len(codecs) != 1 or codecs[0]["name"] != "sharding_indexed":
        return False
    sharding = codecs[0]["configuration"]
    inner = [codec["name"] for codec in sharding["codecs"]]
    endian = sharding["codecs"][0].get("configuration", {}).get("endian", "little")
    index = [codec["name"] for codec in sharding["index_codecs"]]
    return bool(
        inner == ["bytes"]
        and endian == "little"
        and index == ["bytes", "crc32c"]
        and sharding.get("index_location", "end") == "end"
    )


def _shard_index(file: Any, chunks: int) -> Array:
    """(offset, length) of every inner chunk of a shard file, uint64 (chunks, 2)."""
    size = 16 * chunks + 4  # the index, then its checksum
    file.seek(-size, 2)
    return np.frombuffer(file.read(size)[:-4], "<u8").reshape(chunks, 2)
