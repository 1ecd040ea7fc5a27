"""What galpipe adds to the network's own arithmetic, on one core.

    python -m benchmarks.training [objects]

Both sides in one run, in turns of a batch, on the same module and batches: a plain loop over float
tensors in memory (forward, backward, Adam; for embedding forward alone) against epochs of a
training (reading, shuffling, mirroring, seeds, sums, the state kept after each) and the embedding
stage, which read uint8 stamps from a part.  Before every batch of galpipe's comes one of the bare
loop, so that a busy machine disturbs both alike.  Ratios of the processor time of all threads,
which is what a core that has nothing else to do needs: median (lowest to highest) of the epochs.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from galpipe.classes.embedding import embed
from galpipe.models import checkpoints, kinds
from galpipe.models.engine.arithmetic import fixed_arithmetic
from galpipe.models.engine.loop import Fitting
from galpipe.models.engine.spec import Constant, Training
from galpipe.models.learner import Epoch
from galpipe.models.material import Material
from galpipe.models.network import Batch
from galpipe.models.spec import Embedding, VaDE
from galpipe.models.splits import Splits
from galpipe.models.vade.spec import Annealing
from galpipe.stages import Context
from galpipe.stamps.batches import Selection, Stamps
from galpipe.stamps.parts import ArrayLayout, Part, PartLayout, create
from galpipe.workspace import Ref, Workspace

REPEATS = 5
EPOCH = Epoch(0, "static", 0.3)

Turn = tuple[float, float]  # seconds of the bare side and of galpipe's, in one epoch


def main(objects: int = 5120) -> None:
    training = Training(threads=1, learning_rate=1e-6, rate=Constant())
    embedding = Embedding(threads=1, shard=1024)
    with tempfile.TemporaryDirectory() as folder, fixed_arithmetic(1):
        workspace = Workspace.open(Path(folder) / "workspace")
        stamps = plant(workspace, objects)
        path = workspace.place(Ref("stamp-part", "part"))
        images = np.concatenate(
            [b for b, _ in Stamps([Selection(path, np.arange(objects))]).ordered(256)]
        )
        tensors = torch.from_numpy(images).float() / 255
        fitting = begun(Path(folder), path, objects, training)
        report("training", training_turns(fitting, tensors, training))
        model = Ref("model", "network")
        checkpoints.save_model(workspace.begin(model), fitting.network)
        workspace.commit(model, None, {})
        report("embedding", embedding_turns(workspace, model, stamps, tensors, embedding))


def begun(folder: Path, path: Path, objects: int, training: Training) -> Fitting:
    """A training of REPEATS + 1 epochs with nothing to judge."""
    rows = {"train": np.arange(objects)}
    rows |= {"validation": np.empty(0, int), "test": np.empty(0, int)}
    splits = Splits.of({name: [Selection(path, own)] for name, own in rows.items()}, rows)
    material = Material(splits, {}, "image", training, torch.device("cpu"))
    schedule = Annealing(warm_up=0, cycles=1, annealing=0, static=REPEATS + 1)
    torch.manual_seed(0)
    network = kinds.network_of(VaDE(schedule=schedule), 1, 64, {})
    return Fitting(kinds.learner_of(network.eval(), training), material, training, folder, print)


class Bare:
    """The plain loop, one batch at a time, and what it has taken."""

    def __init__(self, step: Callable[[torch.Tensor], None], tensors: torch.Tensor, batch: int):
        self._step, self._batches = step, itertools.cycle(tensors.split(batch))
        self.seconds = 0.0

    def batch(self, *_: object) -> None:
        """One batch, on this thread alone, with torch as it comes."""
        torch.use_deterministic_algorithms(False)
        begin = time.thread_time()
        self._step(next(self._batches))
        self.seconds += time.thread_time() - begin
        torch.use_deterministic_algorithms(True)

    def turn(self, begin: float) -> Turn:
        """The bare side's seconds, and what else the processor has done since `begin`."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds, time.process_time() - begin - seconds


def training_turns(fitting: Fitting, tensors: torch.Tensor, training: Training) -> list[Turn]:
    """Epochs of a training, with a bare step by a copy of its learner before every forward pass."""
    learner = fitting.learner
    twin = kinds.learner_of(kinds.network_of(learner.network.spec, 1, 64, {}), training)
    twin.load_state_dict(learner.state_dict())
    twin.train()
    optimiser = torch.optim.Adam(twin.parameters(), lr=1e-6)

    def step(x: torch.Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        twin(Batch(x), EPOCH).loss.backward()
        optimiser.step()

    bare, turns, begin = Bare(step, tensors, training.batch), [], [time.process_time()]

    def tell(epoch: Epoch, record: Mapping[str, Any], speed: Mapping[str, float]) -> None:
        turns.append(bare.turn(begin[0]))
        begin[0] = time.process_time()

    hook = learner.register_forward_pre_hook(bare.batch)
    fitting.run(tell)
    hook.remove()
    return turns


def embedding_turns(
    workspace: Workspace, model: Ref, stamps: Ref, tensors: torch.Tensor, settings: Embedding
) -> list[Turn]:
    """Whole embeddings, with the bare forward passes of as many images before every shard."""
    network = checkpoints.load_model(workspace.place(model))

    @torch.inference_mode()
    def step(x: torch.Tensor) -> None:
        network.embed(x, None)

    bare, turns = Bare(step, tensors, settings.micro_batch), []

    def interleaved(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            for _ in range(0, len(item.usable), settings.micro_batch):
                bare.batch()
            yield function(item)

    for repeat in range(REPEATS + 1):
        other = Ref("model", f"network{repeat}")  # another address, so that it is made anew
        workspace.place(other).symlink_to(workspace.place(model))
        begin = time.process_time()
        embed(Context(workspace, network_map=interleaved), settings, other, stamps)
        turns.append(bare.turn(begin))
    return turns


def plant(workspace: Workspace, objects: int, bands: int = 1, size: int = 64) -> Ref:
    """Blurred noise as committed stamps, in the shards and chunks of the default preparation."""
    part, stamps = Ref("stamp-part", "part"), Ref("stamps", "all")
    arrays = (
        ArrayLayout("image", "uint8", (bands, size, size), ("band", "y", "x")),
        ArrayLayout("status", "int32"),
    )
    path = workspace.begin(part)
    create(path, PartLayout(objects, 512, 256, arrays), np.arange(objects), {"unit_scale": 255.0})
    made, random = Part(path), np.random.default_rng(0)
    for number in range(made.shards):
        count = made.rows(number).stop - made.rows(number).start
        coarse = random.integers(0, 256, (count, bands, size // 8, size // 8), np.uint8)
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


def report(name: str, turns: list[Turn]) -> None:
    bare, ours = np.array(turns[1:]).T  # the first turn warms up
    ratios = bare / ours
    print(
        f"{name:10s} bare {np.median(bare):6.2f} s  galpipe {np.median(ours):6.2f} s  "
        f"galpipe's throughput is {np.median(ratios):.3f} ({ratios.min():.3f} to "
        f"{ratios.max():.3f}) of the bare one"
    )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
