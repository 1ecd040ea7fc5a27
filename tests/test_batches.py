"""Reading stamps: every row once, in a known order, and the fast path equal to zarr's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from galpipe.stamps.batches import ChunkSource, Selection, Stamps, prefetched
from tests import stamped

COUNTS = (150, 70)  # neither a multiple of the chunk


def numbered(count: int, first: int, dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    """Images that say which object they are."""
    codes = np.arange(first, first + count)
    images = np.zeros((count, 2, 4, 4), dtype)
    images[:, 0, 0, 0], images[:, 1, 3, 3] = codes % 251, codes // 251
    images[:, 1, 0] = 7
    return images


def codes(images: np.ndarray[Any, Any]) -> list[int]:
    return [int(i[0, 0, 0]) + 251 * int(i[1, 3, 3]) for i in images]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("parts")
    first = 0
    for number, count in enumerate(COUNTS):
        images = numbered(count, first)
        stamped.write_part(folder / str(number), images, np.arange(count), shard=64, chunk=16)
        first += count
    return [folder / "0", folder / "1"]


def all_of(parts: list[Path]) -> list[Selection]:
    return [Selection(part, np.arange(n)) for part, n in zip(parts, COUNTS, strict=True)]


@given(
    seed=st.integers(0, 50),
    batch=st.integers(1, 300),
    buffer=st.integers(1, 20),
    keep=st.floats(0, 1),
)
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_selected_row_comes_exactly_once(
    parts: list[Path], seed: int, batch: int, buffer: int, keep: float
) -> None:
    random = np.random.default_rng(seed)
    chosen = [np.flatnonzero(random.random(n) < keep) for n in COUNTS]
    stamps = Stamps(
        [Selection(p, rows) for p, rows in zip(parts, chosen, strict=True)], buffer=buffer
    )
    wanted = [*chosen[0].tolist(), *(chosen[1] + COUNTS[0]).tolist()]
    batches = [b for b, _ in stamps.shuffled(batch, seed, epoch=3)]
    assert sorted(code for b in batches for code in codes(b)) == wanted
    assert all(len(b) == batch for b in batches[:-1])
    assert len(stamps) == len(wanted)
    places = [
        (c, int(p))
        for images, where in stamps.ordered(batch)
        for c, p in zip(codes(images), where, strict=True)
    ]
    assert places == [(code, place) for place, code in enumerate(wanted)]


def test_the_order_depends_on_seed_and_epoch_alone(parts: list[Path]) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        stamps = Stamps(all_of(parts), buffer=4)
        return [code for b, _ in stamps.shuffled(32, seed, epoch) for code in codes(b)]

    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(1, 2) != order(2, 1)
    moved = np.abs(np.diff(order(1, 1)))
    assert np.median(moved) > 16  # rows of a chunk do not stay together


def test_what_a_batch_holds_outlives_the_buffer(parts: list[Path]) -> None:
    stamps = Stamps(all_of(parts), buffer=1)
    kept = [b for b, _ in stamps.shuffled(32, 0, 0)]
    again = [b.copy() for b, _ in stamps.shuffled(32, 0, 0)]
    assert all(np.array_equal(a, b) for a, b in zip(kept, again, strict=True))


@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
@pytest.mark.parametrize("compress", [False, True])
def test_the_fast_path_is_zarrs_answer(tmp_path: Path, dtype: Any, compress: bool) -> None:
    images = numbered(150, 0, dtype)
    images[64:128] = 0  # a whole shard of fill value, which zarr does not store
    part = stamped.write_part(
        tmp_path, images, np.arange(150), shard=64, chunk=16, compress=compress, unit_scale=1.0
    )
    source = ChunkSource(tmp_path, "image")
    assert source.plain is not compress
    for chunk in range(10):
        into = np.full((16, 2, 4, 4), 99, dtype)
        count = source.read(chunk, into)
        np.testing.assert_array_equal(
            into[:count], part.read("image", slice(chunk * 16, (chunk + 1) * 16))
        )
    source.plain = False
    np.testing.assert_array_equal(
        np.concatenate([b for b, _ in Stamps([Selection(tmp_path, np.arange(150))]).ordered(50)]),
        images,
    )


def test_a_truncated_shard_is_not_read_as_pixels(tmp_path: Path) -> None:
    stamped.write_part(tmp_path, numbered(64, 0), np.arange(64), shard=64, chunk=16)
    shard = next((tmp_path / "data.zarr" / "image" / "c").rglob("0/0/0/0"))
    shard.write_bytes(shard.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"checksum|shard"):
        ChunkSource(tmp_path, "image").read(0, np.empty((16, 2, 4, 4), np.uint8))


def test_prefetching_keeps_order_and_hands_errors_on() -> None:
    assert list(prefetched(range(100), depth=2)) == list(range(100))

    def failing() -> Any:
        yield 1
        raise OSError("the disk is gone")

    reader = prefetched(failing())
    assert next(reader) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(reader)


def test_prefetching_ends_with_its_reader() -> None:
    made: list[int] = []

    def endless() -> Any:
        number = 0
        while True:
            made.append(number)
            yield number
            number += 1

    reader = prefetched(endless(), depth=2)
    assert [next(reader), next(reader)] == [0, 1]
    reader.close()  # type: ignore[attr-defined]
    count = len(made)
    assert count <= 6
    assert len(made) == count
