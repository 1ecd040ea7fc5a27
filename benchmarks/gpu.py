"""Whether a GPU ever waits for galpipe: training and embedding beside their arithmetic alone.

    python -m benchmarks.gpu [--objects 32768] [--only vade] [--device cuda]

Three networks on blurred noise: VaDE's default and AstroVaDEr's own (`astrovader-paper.toml`) on
stamps of 128 pixels, the residual classifier of `gz5-residual.toml` on stamps of 64 pixels in
three bands.  Training: epochs as a survey trains, reading a part of uint8 stamps from the disk,
beside the same steps on a batch that lies on the GPU; what the epochs take longer is the time that
the GPU waits.  Embedding: the whole stage, its vectors written, beside forward passes alone on
float tensors that lie on the GPU.  To reach: waiting below 10 %, embedding at 0.9 or more.
`--device cpu` tries the command itself where there is no GPU; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.training import plant
from galpipe import spec
from galpipe.classes.embedding import embed
from galpipe.models import checkpoints, kinds
from galpipe.models.engine.arithmetic import fixed_arithmetic
from galpipe.models.engine.group import Group
from galpipe.models.engine.loop import Fitting
from galpipe.models.engine.spec import Training
from galpipe.models.engine.step import Stepper
from galpipe.models.learner import Epoch
from galpipe.models.material import Material
from galpipe.models.spec import Embedding, VaDE
from galpipe.models.splits import Splits
from galpipe.models.vade.spec import Annealing
from galpipe.stages import Context
from galpipe.stamps.batches import Selection
from galpipe.workspace import Ref, Workspace

SURVEYS = Path(__file__).parents[1] / "deploy" / "surveys"
EPOCHS = 4  # the first of which is not counted: it finds memory and algorithms
ONCE = Annealing(warm_up=0, cycles=1, annealing=0, static=EPOCHS)
CLASSES = 5
NO_GPU = (
    "benchmarks.gpu: this machine has no GPU that torch can use; run it where there is one, or try "
    "the command with --device cpu."
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Whether a GPU ever waits for galpipe.")
    parser.add_argument("--objects", type=int, default=32768, help="stamps per epoch")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--only", choices=["vade", "astrovader", "residual"], help="one network")
    given = parser.parse_args()
    device = torch.device(given.device)
    if given.device == "cuda":
        if not torch.cuda.is_available():
            print(NO_GPU, file=sys.stderr)
            return 2
        device = torch.device("cuda", torch.cuda.current_device())
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    few = {"initialisation_images": 1000, "initialisation_restarts": 1, "schedule": ONCE}
    paper, as_published = surveyed("astrovader-paper")
    encoder, its_own = surveyed("gz5-residual")
    networks: dict[str, tuple[str, Any, Training, int, int]] = {
        "vade": ("VaDE, 128 pixels", VaDE(**few), Training(), 1, 128),
        "astrovader": (
            "AstroVaDEr, 128 pixels",
            dataclasses.replace(paper, view="masked", **few), as_published, 1, 128,
        ),
        "residual": ("residual, 64 pixels", encoder, its_own, 3, 64),
    }  # fmt: skip
    for name in [given.only] if given.only else networks:
        measure(*networks[name], given.objects, device)
    return 0


def surveyed(name: str) -> tuple[Any, Training]:
    """The network of a survey file, and how it is trained there."""
    survey = tomllib.loads((SURVEYS / f"{name}.toml").read_text())
    training = spec.load(Training, survey["training"], "training")
    return kinds.spec_of(survey["model"], "model"), training


def measure(
    name: str, model: Any, training: Training, bands: int, size: int, objects: int, device: Any
) -> None:
    """Train and embed with one network, and print a line."""
    training = dataclasses.replace(training, device=device.type, epochs=EPOCHS)
    with tempfile.TemporaryDirectory() as folder, fixed_arithmetic(training.threads):
        workspace = Workspace.open(Path(folder) / "workspace")
        stamps = plant(workspace, objects, bands, size)
        part = workspace.place(Ref("stamp-part", "part"))
        fitting = begun(Path(folder), part, model, training, objects, device)
        seconds, asked = trained(fitting)
        alone = resident_training(fitting)
        trained_at = objects / np.median(seconds)
        waiting = max(0.0, 1 - alone / float(np.median(seconds)))
        ref = Ref("model", "network0")
        checkpoints.save_model(workspace.begin(ref), fitting.network)
        workspace.commit(ref, None, {})
        ratios, embedded_at = embedding(workspace, ref, stamps, objects, device)
    print(
        f"{name}: training {trained_at:,.0f} stamps/s, the GPU waits {100 * waiting:.1f} % of the "
        f"time (the loop for stamps {100 * asked:.1f} %); embedding {embedded_at:,.0f} stamps/s, "
        f"{np.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) of the forward alone"
    )


def begun(
    folder: Path, part: Path, model: Any, training: Training, objects: int, device: torch.device
) -> Fitting:
    """A training with nothing to judge, of classes that are noise."""
    rows = {"train": np.arange(objects)}
    rows |= {"validation": np.empty(0, int), "test": np.empty(0, int)}
    splits = Splits.of({name: [Selection(part, own)] for name, own in rows.items()}, rows)
    values = {want.name: np.arange(objects) % CLASSES for want in kinds.wanted(model)}
    names = [str(number) for number in range(CLASSES)]
    each = [objects // CLASSES + 1] * CLASSES
    facts = {want.name: {"names": names, "objects": each} for want in kinds.wanted(model)}
    material = Material(splits, values, "image", training, device)
    torch.manual_seed(0)
    network = kinds.network_of(model, material.bands, material.size, facts)
    learner = kinds.learner_of(network.to(device).eval(), training).to(device)
    return Fitting(learner, material, training, folder, print)


def trained(fitting: Fitting) -> tuple[list[float], float]:
    """Seconds of every epoch but the first, and the share of them that the loop asked for stamps.

    The share is an upper bound of the GPU's: it has steps in hand while the loop waits.
    """
    speeds: list[Mapping[str, float]] = []
    fitting.run(lambda epoch, record, speed: speeds.append(speed))
    counted = speeds[1:]
    share = float(np.median([speed["waiting_share"] for speed in counted]))
    return [speed["epoch_seconds"] for speed in counted], share


def resident_training(fitting: Fitting) -> float:
    """Seconds of as many steps as an epoch has, on one batch that lies on the device."""
    material, learner = fitting.material, fitting.learner
    steps = Stepper(learner, fitting.training, material.unit_scale, material.device, Group())
    steps.ready()
    stored, targets = next(iter(material.shuffled(0)))
    there = {name: value.to(material.device) for name, value in targets.items()}
    lying = stored.to(material.device)
    epoch: Epoch = learner.epochs()[-1]
    learner.train()

    def pass_over() -> None:
        for step in range(material.steps):
            steps.take(lying, there, epoch, step, fitting.state.accumulate)

    pass_over()
    took = [timed(pass_over, material.device) for _ in range(EPOCHS - 1)]
    learner.eval()
    return float(np.median(took))


def embedding(
    workspace: Workspace, model: Ref, stamps: Ref, objects: int, device: Any
) -> tuple[list[float], float]:
    """The stage's throughput in that of the forward passes alone, run by run; stamps a second."""
    settings = Embedding(device=device.type)
    network = checkpoints.load_model(workspace.place(model)).to(device)
    batch = torch.rand(settings.micro_batch, network.bands, network.size, network.size)
    batch = batch.to(device)
    bare, ours = [], []

    @torch.inference_mode()
    def alone() -> None:
        for _ in range(0, objects, settings.micro_batch):
            network.embed(batch, None)

    for repeat in range(EPOCHS):
        other = Ref("model", f"network{repeat}")  # another address, so that it is made anew
        if repeat:
            workspace.place(other).symlink_to(workspace.place(model))
        bare.append(timed(alone, device))
        stage = functools.partial(embed, Context(workspace), settings, other, stamps)
        ours.append(timed(stage, device))
    ratios = [one / two for one, two in zip(bare[1:], ours[1:], strict=True)]
    return ratios, objects / float(np.median(ours[1:]))


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds, until the device has nothing left to do."""
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
