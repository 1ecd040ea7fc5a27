"""How fast stamps are read for training: `python benchmarks/reading.py [objects]`.

Warm, uncompressed 3 x 64 x 64 uint8, chunk-shuffled with a row shuffle inside the buffer, every
object once.  All rows of the table come from one run, in turns; images/s as median (lowest to
highest).
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from galpipe.stamps.batches import Selection, Stamps, prefetched
from galpipe.stamps.parts import ArrayLayout, Part, PartLayout, create

REPEATS = 5
BATCH = 256


def write(path: Path, objects: int, shard: int, chunk: int) -> None:
    layout = PartLayout(
        objects, shard, chunk, (ArrayLayout("image", "uint8", (3, 64, 64), ("band", "y", "x")),)
    )
    create(path, layout, np.arange(objects), {"unit_scale": 255.0})
    part, random = Part(path), np.random.default_rng(0)
    for number in range(part.shards):
        rows = part.rows(number)
        images = random.integers(0, 256, (rows.stop - rows.start, 3, 64, 64), np.uint8)
        part.write(number, {"image": images}, {})


def main(objects: int = 20_000) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sides: dict[str, Callable[[int], int]] = {}
        for shard in (512, 4096):
            path = Path(folder) / str(shard)
            write(path, objects, shard, 256)
            sides[f"galpipe, shards of {shard}"] = reader(path, objects)
            sides[f"galpipe, shards of {shard}, 80 % of rows"] = reader(path, objects, 0.8)
            sides[f"galpipe ahead in a thread, shards of {shard}"] = reader(
                path, objects, ahead=True
            )
            sides[f"the same through zarr, shards of {shard}"] = reader(path, objects, plain=False)
        memory = np.random.default_rng(0).integers(0, 256, (objects, 3, 64, 64), np.uint8)
        np.save(Path(folder) / "whole.npy", memory)
        sides["np.load(mmap), rows permuted"] = mapped(Path(folder) / "whole.npy")
        table(sides)


def reader(
    path: Path, objects: int, share: float = 1.0, plain: bool = True, ahead: bool = False
) -> Callable[[int], int]:
    rows = np.flatnonzero(np.random.default_rng(1).random(objects) < share)
    stamps = Stamps([Selection(path, rows)])
    if not plain:
        for source in stamps.sources:
            source.plain = False

    def read(epoch: int) -> int:
        batches = stamps.shuffled(BATCH, 0, epoch)
        count = sum(len(batch) for batch, _ in (prefetched(batches) if ahead else batches))
        assert count == len(rows)
        return count

    return read


def mapped(path: Path) -> Callable[[int], int]:
    def read(epoch: int) -> int:
        images = np.load(path, mmap_mode="r")
        order = np.random.default_rng(epoch).permutation(len(images))
        return sum(len(images[order[i : i + BATCH]]) for i in range(0, len(images), BATCH))

    return read


def table(sides: dict[str, Callable[[int], int]]) -> None:
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(REPEATS + 1):
        for name, read in sides.items():
            begin = time.perf_counter()
            count = read(repeat)
            if repeat:  # the first turn warms the cache
                rates[name].append(count / (time.perf_counter() - begin))
    for name, values in rates.items():
        print(f"{name:50s} {np.median(values):9,.0f} ({min(values):,.0f} to {max(values):,.0f})")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
