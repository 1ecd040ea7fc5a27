"""What galpipe adds to the network's own arithmetic.

    python benchmarks/training.py [objects [threads]]

Both sides in one run, in turns, on the same module, threads and batches: a plain loop over float
tensors in memory (forward, backward, Adam; for embedding forward alone) against the training
epoch and the embedding stage, which read uint8 stamps from a part.  Ratios of the seconds, as
median (lowest to highest) over the repeats, and of the processor time of all threads, which a
busy machine disturbs less.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from galpipe.models.schedule import epochs

from galpipe.classes.embedding import embed
from galpipe.models import checkpoints, engine, initialisation
from galpipe.models.spec import Embedding, Training, VaDE
from galpipe.models.vade import Network, mixture_divergence
from galpipe.stages import Context
from galpipe.stamps.batches import Selection, Stamps, prefetched
from galpipe.stamps.parts import ArrayLayout, Part, PartLayout, create
from galpipe.workspace import Ref, Workspace

REPEATS = 5
TRAINING = Training()
EMBEDDING = Embedding()


def main(objects: int = 2560, threads: int = TRAINING.threads) -> None:
    global EMBEDDING
    EMBEDDING = Embedding(threads=threads)
    with tempfile.TemporaryDirectory() as folder, engine.fixed_arithmetic(threads):
        workspace = Workspace.open(Path(folder) / "workspace")
        stamps = plant(workspace, objects)
        network = Network(VaDE(), bands=1, size=64)
        path = workspace.place(Ref("stamp-part", "part"))
        images = np.concatenate(
            [b for b, _ in Stamps([Selection(path, np.arange(objects))]).ordered(256)]
        )
        pixels = images[:1000].reshape(1000, -1).astype(np.float32) / 255
        initialisation.start_linear(network, pixels, TRAINING.reconstruction, 0)
        model = Ref("model", "network")
        checkpoints.save_model(workspace.begin(model), network)
        workspace.commit(model, None, {})
        tensors = torch.from_numpy(images).float() / 255
        compare("training", bare_training(network, tensors), training(network, path, objects))
        still = checkpoints.load_model(workspace.place(model))
        compare("embedding", bare_embedding(still, tensors), embedding(workspace, model, stamps))


def bare_training(network: Network, tensors: torch.Tensor) -> Callable[[int], None]:
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-6)

    def run(_: int) -> None:
        for start in range(0, len(tensors), TRAINING.batch):
            x = tensors[start : start + TRAINING.batch]
            posterior = network.encode(x)
            latent = posterior.sample(torch.randn_like(posterior.mean))
            squared = ((network.decode(latent) - x) ** 2).flatten(1).sum(1).mean()
            divergence = mixture_divergence(network.mixture, posterior, None).mean()
            optimiser.zero_grad(set_to_none=True)
            (TRAINING.reconstruction * squared + divergence).backward()
            optimiser.step()

    return run


def training(network: Network, path: Path, objects: int) -> Callable[[int], None]:
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-6)
    stamps = Stamps([Selection(path, np.arange(objects))], buffer=TRAINING.buffer)
    epoch = epochs(TRAINING)[-1]

    def run(repeat: int) -> None:
        batches = prefetched(stamps.shuffled(TRAINING.batch, 0, repeat))
        engine.run_epoch(network, optimiser, batches, stamps.unit_scale, TRAINING, epoch)

    return run


def bare_embedding(network: Network, tensors: torch.Tensor) -> Callable[[int], None]:
    @torch.no_grad()
    def run(_: int) -> None:
        for start in range(0, len(tensors), EMBEDDING.micro_batch):
            network.decode(network.encode(tensors[start : start + EMBEDDING.micro_batch]).mean)

    return run


def embedding(workspace: Workspace, model: Ref, stamps: Ref) -> Callable[[int], None]:
    def run(repeat: int) -> None:
        other = Ref("model", f"network{repeat}")  # another address, so that it is made anew
        workspace.place(other).symlink_to(workspace.place(model))
        embed(Context(workspace), EMBEDDING, other, stamps)

    return run


def plant(workspace: Workspace, objects: int) -> Ref:
    """Blurred noise as committed stamps, in the shards and chunks of the default preparation."""
    part, stamps = Ref("stamp-part", "part"), Ref("stamps", "all")
    arrays = (
        ArrayLayout("image", "uint8", (1, 64, 64), ("band", "y", "x")),
        ArrayLayout("status", "int32"),
    )
    path = workspace.begin(part)
    create(path, PartLayout(objects, 512, 256, arrays), np.arange(objects), {"unit_scale": 255.0})
    made, random = Part(path), np.random.default_rng(0)
    for number in range(made.shards):
        count = made.rows(number).stop - made.rows(number).start
        coarse = random.integers(0, 256, (count, 1, 8, 8), np.uint8)
        images = coarse.repeat(8, 2).repeat(8, 3)
        made.write(number, {"image": images, "status": np.ones(count, np.int32)}, {})
    workspace.commit(part, None, {})
    index = {
        "object_id": np.arange(objects),
        "part": ["part"] * objects,
        "row": np.arange(objects, dtype=np.int32),
        "status": np.ones(objects, np.int32),
    }
    pq.write_table(pa.table(index), workspace.begin(stamps) / "index.parquet")
    parts = [{"part": "part", "cutouts": "none", "objects": objects}]
    return workspace.commit(stamps, None, {}, parts=parts)


def compare(name: str, bare: Callable[[int], None], ours: Callable[[int], None]) -> None:
    seconds: list[tuple[float, float]] = []
    processor: list[float] = []
    for repeat in range(REPEATS + 1):
        turn, busy = [], []
        for side in (bare, ours):
            begin, began = time.perf_counter(), time.process_time()
            side(repeat)
            turn.append(time.perf_counter() - begin)
            busy.append(time.process_time() - began)
        if repeat:  # the first turn warms up
            seconds.append((turn[0], turn[1]))
            processor.append(busy[1] / busy[0])
    ratios = [ours / bare for bare, ours in seconds]
    best = min(s[1] for s in seconds) / min(s[0] for s in seconds)
    print(
        f"{name:10s} bare {np.median([s[0] for s in seconds]):6.2f} s  "
        f"galpipe {np.median([s[1] for s in seconds]):6.2f} s  "
        f"ratio {np.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), "
        f"of the fastest turns {best:.3f}, of processor time {np.median(processor):.3f}"
    )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
