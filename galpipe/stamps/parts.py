"""A part: an immutable increment of a store, a Zarr v3 group committed shard by shard.

    <part>/
      data.zarr/          a Zarr v3 group; every array's first dimension is `object`
      layout.json         objects, shard and chunk: the empty part is made
      shards/00000.json   a committed shard: digests of its bytes, counts by status
      manifest.json       the part is whole (written by the workspace)

Each shard is written whole by exactly one task, then fsynced, then its marker is renamed into
place.  A shard without a marker does not exist, whatever its arrays hold.  No array is resized.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray
from zarr.codecs import BloscCodec

from galpipe.spec import digest
from galpipe.stamps.shard_file import write_shard
from galpipe.workspace import write_json

Array = NDArray[Any]
DATA = "data.zarr"
SYNCING = 8  # files brought to the disk at once: a file system does them together


@dataclass(frozen=True)
class ArrayLayout:
    """One array of a part, beside its leading dimension `object`."""

    name: str
    dtype: DTypeLike
    shape: tuple[int, ...] = ()  # of one object
    dims: tuple[str, ...] = ()  # names of these dimensions
    fill: float | int = 0  # value of an object without data
    compress: bool = False  # LZ4 of shuffled bytes: for raw stores and padded images
    attributes: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class PartLayout:
    """Shape of a part: `objects` rows in shards of `shard`, in inner chunks of `chunk`."""

    objects: int
    shard: int
    chunk: int
    arrays: tuple[ArrayLayout, ...]

    @property
    def shards(self) -> int:
        return -(-self.objects // self.shard)


def create(
    path: Path,
    layout: PartLayout,
    object_ids: Sequence[int] | Sequence[str] | Array,
    attributes: Mapping[str, Any],
    columns: Sequence[str] = (),
) -> None:
    """Make the empty part, with the object ids whole; a part made before is kept as it is.

    `columns` names the entries of the dimension `column`, where an array has one.
    """
    if (path / "layout.json").exists():
        return
    path.mkdir(parents=True, exist_ok=True)
    group = zarr.open_group(path / DATA, mode="w", zarr_format=3, attributes=dict(attributes))
    shard = min(layout.shard, max(layout.objects, 1))
    chunk = min(layout.chunk, shard)
    shard = -(-shard // chunk) * chunk
    for array in layout.arrays:
        compressors: Any = compressor(array.dtype) if array.compress else None
        group.create_array(
            array.name,
            shape=(layout.objects, *array.shape),
            dtype=array.dtype,
            chunks=(chunk, *array.shape),
            shards=(shard, *array.shape),
            fill_value=array.fill,
            compressors=compressors,
            dimension_names=("object", *array.dims),
            attributes=dict(array.attributes),
            config={"write_empty_chunks": True},
        )
    _write_names(group, "object_id", object_ids, "object")
    if columns:
        _write_names(group, "column", list(columns), "column")
    (path / "shards").mkdir(exist_ok=True)
    facts = {"objects": layout.objects, "shard": shard, "chunk": chunk}
    write_json(path / "layout.json", facts)


def compressor(dtype: DTypeLike) -> BloscCodec:
    """What compresses the inner chunks of pixels: LZ4 after a shuffle of their bytes.

    It takes a sixth of zstd's time; of resampled images it leaves as much, of variances less, and
    of images that are still rounded as the archive rounds them up to 1.6 times as much.
    """
    return BloscCodec(
        typesize=np.dtype(dtype).itemsize, cname="lz4", clevel=5, shuffle="shuffle", blocksize=0
    )


def _write_names(group: zarr.Group, name: str, values: Any, dimension: str) -> None:
    """A whole one-dimensional array of ids or names, in one chunk."""
    array = np.asarray(values)
    count = max(len(array), 1)
    with warnings.catch_warnings():
        # str arrays have no final Zarr v3 specification yet; they are stable in zarr-python.
        warnings.simplefilter("ignore")
        if array.dtype.kind in "OUT":
            target = group.create_array(
                name, shape=array.shape, dtype=str, chunks=(count,), dimension_names=(dimension,)
            )
            target[:] = array.astype(object)
        else:
            target = group.create_array(
                name,
                shape=array.shape,
                dtype=array.dtype,
                chunks=(count,),
                dimension_names=(dimension,),
            )
            target[:] = array


class Part:
    """A part opened for reading, or for writing shards nobody else writes."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        facts = json.loads((self.path / "layout.json").read_text())
        self.objects: int = facts["objects"]
        self.shard: int = facts["shard"]
        self.chunk: int = facts["chunk"]
        self.group = zarr.open_group(self.path / DATA, mode="r+", zarr_format=3)
        self._arrays: dict[str, zarr.Array[Any]] = {}

    def __len__(self) -> int:
        return self.objects

    @property
    def shards(self) -> int:
        return -(-self.objects // self.shard)

    def rows(self, shard: int) -> slice:
        """The rows of one shard."""
        return slice(shard * self.shard, min((shard + 1) * self.shard, self.objects))

    def array(self, name: str) -> zarr.Array[Any]:
        if name not in self._arrays:
            found = self.group[name]
            assert isinstance(found, zarr.Array)
            self._arrays[name] = found
        return self._arrays[name]

    def read(self, name: str, rows: slice = slice(None)) -> Array:
        """One array as numpy, (rows, ...)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(self.array(name)[rows])

    @property
    def object_ids(self) -> Array:
        """The ids, int64 or str objects, in row order."""
        return self.read("object_id")

    def marker(self, shard: int) -> Path:
        return self.path / "shards" / f"{shard:05d}.json"

    def missing(self) -> list[int]:
        """The shards that are not committed yet."""
        return [shard for shard in range(self.shards) if not self.marker(shard).exists()]

    def write(self, shard: int, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
        """Write one shard whole and commit it; `facts` are plain JSON kept in its marker."""
        rows = self.rows(shard)
        digests, files = {}, []
        for name, values in arrays.items():
            target = self.array(name)
            values = np.ascontiguousarray(values, dtype=target.dtype)
            expected = (rows.stop - rows.start, *target.shape[1:])
            if values.shape != expected:
                raise ValueError(f"{name}: shape {values.shape} where the shard takes {expected}")
            file = write_shard(self.path / DATA / name, target, shard, values)
            if file is not None:  # else it is all fill value; the marker says that it is there
                files.append(file)
            digests[name] = hashlib.sha256(values.data).hexdigest()
        with ThreadPoolExecutor(SYNCING) as pool:
            list(pool.map(_sync, files))
        write_json(self.marker(shard), {"digests": digests, "facts": dict(facts)})

    def facts(self) -> Iterator[dict[str, Any]]:
        """The facts of every committed shard, in order."""
        for shard in range(self.shards):
            yield json.loads(self.marker(shard).read_text())["facts"]

    def content(self) -> str:
        """A digest of all bytes of the part: equal content, equal digest."""
        markers = [json.loads(self.marker(shard).read_text()) for shard in range(self.shards)]
        return digest([marker["digests"] for marker in markers])


def _sync(path: Path) -> None:
    """Bring a written shard to the disk before its marker says that it is there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
