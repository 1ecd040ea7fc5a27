"""A shard's file is the one that zarr would write, to the byte, and zarr reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from galpipe.stamps.parts import compressor
from galpipe.stamps.shard_file import write_shard

OBJECTS = 11


def arrays(
    folder: Path, dtype: str, fill: float, chunk: int, shard: int, compress: str
) -> tuple[zarr.Array[Any], zarr.Array[Any]]:
    """Two equal empty arrays, as a part has them, opened anew."""
    found = []
    compressors: Any = {"none": None, "zstd": "auto", "lz4": compressor(dtype)}[compress]
    for name in ("zarr", "ours"):
        group = zarr.open_group(folder / name, mode="w", zarr_format=3)
        group.create_array(
            "x", shape=(OBJECTS, 2, 3), dtype=dtype, chunks=(chunk, 2, 3), shards=(shard, 2, 3),
            fill_value=fill, compressors=compressors,
            config={"write_empty_chunks": True},
        )  # fmt: skip
        opened = zarr.open_group(folder / name, mode="r+")["x"]
        assert isinstance(opened, zarr.Array)
        found.append(opened)
    return found[0], found[1]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("compress", ["none", "zstd", "lz4"])
@pytest.mark.parametrize(("chunk", "shard"), [(1, 4), (2, 4), (4, 4), (3, 12)])
@pytest.mark.parametrize(
    ("dtype", "fill"), [("float32", np.nan), ("float32", 0.0), ("uint8", 0), ("int64", 7)]
)
def test_the_file_is_that_of_zarr(
    tmp_path: Path, dtype: str, fill: float, chunk: int, shard: int, compress: str
) -> None:
    theirs, ours = arrays(tmp_path, dtype, fill, chunk, shard, compress)
    values = np.random.default_rng(1).integers(0, 9, (OBJECTS, 2, 3)).astype(dtype)
    values[3:9] = fill  # whole chunks, and whole shards, that hold nothing
    if dtype == "float32":
        values[4] = -0.0  # is no fill value of 0.0
    for number in range(-(-OBJECTS // shard)):
        rows = slice(number * shard, min((number + 1) * shard, OBJECTS))
        theirs[rows] = values[rows]
        write_shard(tmp_path / "ours" / "x", ours, number, values[rows])
    assert files(tmp_path / "ours") == files(tmp_path / "zarr")
    np.testing.assert_array_equal(np.asarray(ours[:]), values)


def test_a_shard_that_holds_nothing_has_no_file_even_where_one_was(tmp_path: Path) -> None:
    _, ours = arrays(tmp_path, "int64", 7, 1, 4, "lz4")
    full, empty = np.ones((4, 2, 3), np.int64), np.full((4, 2, 3), 7)
    written = write_shard(tmp_path / "ours" / "x", ours, 0, full)
    assert written is not None and written.exists()
    assert write_shard(tmp_path / "ours" / "x", ours, 0, empty) is None
    assert not written.exists()
    np.testing.assert_array_equal(np.asarray(ours[:4]), empty)


def test_another_layout_is_refused(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path, mode="w", zarr_format=3)
    plain = group.create_array("x", shape=(4,), dtype="int64", chunks=(2,))
    with pytest.raises(ValueError, match="not laid out"):
        write_shard(tmp_path / "x", plain, 0, np.zeros(4, np.int64))
