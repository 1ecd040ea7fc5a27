"""The file of a whole shard, as zarr would write it: inner chunks, their index, its checksum.

Zarr encodes an inner chunk at a time, some tenths of a millisecond each, whatever its size; a shard
of cutouts has a chunk per object and array, and that was half the time of a retrieval.  The file
is that of the codec `sharding_indexed` (Zarr v3, sharding codec 1.0) with chunks along the first
dimension alone, and the same to the byte.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs.abc import Codec  # type: ignore[import-untyped]
from numcodecs.blosc import Blosc  # type: ignore[import-untyped]
from numcodecs.zstd import Zstd  # type: ignore[import-untyped]
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, ShardingCodec, ZstdCodec
from zarr.core.metadata import ArrayV3Metadata

ABSENT = 2**64 - 1  # what the index says of an inner chunk that holds nothing but the fill value


def write_shard(
    path: Path, array: zarr.Array[Any], shard: int, values: NDArray[Any]
) -> Path | None:
    """Write one shard of an array below `path`, its folder; returns its file.

    `values`: (rows, ...) of the array's type, the rows of this shard, of which the array's last one
    may have fewer.  A shard that is all fill value has no file: None.  The file is in its place
    whole, but not yet on the disk for certain.  Raises ValueError where the array
    is not laid out as `galpipe.stamps.parts.create` does.
    """
    compressor = _compressor(array)
    chunk = array.chunks[0]
    place = path / "c" / "/".join([str(shard), *["0"] * (values.ndim - 1)])
    count = -(-len(values) // chunk)
    if count * chunk > len(values):
        whole = np.full((count * chunk, *values.shape[1:]), array.fill_value, values.dtype)
        whole[: len(values)] = values
        values = whole
    shards = array.shards
    assert shards is not None
    index = np.full((shards[0] // chunk, 2), ABSENT, "<u8")
    pieces: list[Any] = []
    end = 0
    for number in np.flatnonzero(~_all_fill(values.reshape(count, -1), array.fill_value)).tolist():
        piece = values[number * chunk : (number + 1) * chunk].reshape(-1).view(np.uint8).data
        if compressor is not None:
            piece = compressor.encode(piece)
        index[number] = end, len(piece)
        end += len(piece)
        pieces.append(piece)
    if not pieces:
        place.unlink(missing_ok=True)
        return None
    table = index.tobytes()
    checksum = google_crc32c.value(table).to_bytes(4, "little")
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f"{place.name}.{uuid.uuid4().hex}.partial")
    partial.write_bytes(b"".join([*pieces, table, checksum]))
    partial.replace(place)
    return place


def _compressor(array: zarr.Array[Any]) -> Codec | None:
    """What compresses the inner chunks, if anything; ValueError where the layout is another."""
    metadata = array.metadata
    codecs = metadata.codecs if isinstance(metadata, ArrayV3Metadata) else ()
    if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec):
        sharding = codecs[0]
        names = [type(codec).__name__ for codec in (*sharding.codecs, *sharding.index_codecs)]
        ends = [
            codec.endian.value
            for codec in (*sharding.codecs, *sharding.index_codecs)
            if isinstance(codec, BytesCodec) and codec.endian is not None
        ]
        plain = (
            array.chunks[1:] == array.shape[1:]
            and array.dtype.isnative
            and set(ends) <= {"little"}
            and sharding.index_location.value == "end"
        )
        if plain and names == ["BytesCodec", "BytesCodec", "Crc32cCodec"]:
            return None
        if plain and names in (
            ["BytesCodec", "BloscCodec", "BytesCodec", "Crc32cCodec"],
            ["BytesCodec", "ZstdCodec", "BytesCodec", "Crc32cCodec"],  # of parts made before LZ4
        ):
            return _numcodec(sharding.codecs[1])
    raise ValueError(f"{array.path}: not laid out as an array of a part")


def _numcodec(codec: Any) -> Codec:
    """The codec as numcodecs has it, which zarr's own calls."""
    if isinstance(codec, ZstdCodec):
        return Zstd(level=codec.level, checksum=codec.checksum)
    assert isinstance(codec, BloscCodec)
    # zarr.codecs makes Blosc work without threads, without which its bytes would differ by chance.
    return Blosc(
        cname=codec.cname.value, clevel=codec.clevel, blocksize=codec.blocksize,
        shuffle=("noshuffle", "shuffle", "bitshuffle").index(codec.shuffle.value),
        typesize=codec.typesize,
    )  # fmt: skip


def _all_fill(chunks: NDArray[Any], fill: Any) -> NDArray[np.bool_]:
    """Which chunks, (chunk, values), hold nothing but the fill value."""
    # Most are told by their first value.
    same = np.isnan(chunks[:, 0]) if fill != fill else chunks[:, 0] == fill
    for number in np.flatnonzero(same).tolist():
        values = chunks[number]
        if fill != fill:
            same[number] = bool(np.isnan(values).all())
        else:  # -0.0 is another value than 0.0
            same[number] = bool((values == fill).all()) and values.tobytes() == (
                np.full(len(values), fill, values.dtype).tobytes()
            )
    found: NDArray[np.bool_] = same
    return found
