"""A network with everything that makes a training hard to go on with: batch norm, dropout, a head
that only the learner has, a buffer that the galaxies decide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from galpipe.models.engine.group import Group
from galpipe.models.engine.loop import Fitting
from galpipe.models.engine.spec import Training
from galpipe.models.learner import Epoch, Learner, Outcome
from galpipe.models.material import Material
from galpipe.models.network import Batch, Network, Output
from galpipe.models.splits import Splits
from galpipe.spec import spec
from galpipe.stamps.batches import Selection
from tests import stamped

Rows = np.ndarray[Any, Any]


@spec
class Small:
    """The network's settings."""

    kind: str = "small"
    dropout: float = 0.2


class SmallNetwork(Network):
    def __init__(self, settings: Small, bands: int, size: int) -> None:
        super().__init__(settings, bands, size, {})
        self.layers = nn.Sequential(
            nn.Conv2d(bands, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
            nn.Dropout(settings.dropout), nn.Linear(4 * (size // 2) ** 2, 3),
        )  # fmt: skip
        self.register_buffer("average", torch.zeros(bands, size, size))

    @property
    def latent(self) -> int:
        return 3

    def outputs(self) -> tuple[Output, ...]:
        return (Output("vector", (3,), ("latent",)),)

    def embed(self, images_BAYX: Tensor, conditions_BK: Tensor | None) -> dict[str, Tensor]:
        return {"vector": self.layers(images_BAYX - self.average)}


class SmallLearner(Learner):
    """Three classes by cross entropy, through a head of the learner's own."""

    network: SmallNetwork

    def __init__(
        self,
        network: SmallNetwork,
        training: Training,
        seen: Callable[[Batch, Epoch], None] = lambda batch, epoch: None,
    ) -> None:
        super().__init__(network, training)
        self.head = nn.Linear(3, 3)
        self.seen = seen

    def start(self, material: Material) -> None:
        images = torch.cat([batch.images for batch in material.ordered("train")])
        self.network.average.copy_(images.mean(0))  # type: ignore[operator]

    def before(self, epoch: Epoch, material: Material) -> None:
        if epoch.number == 2:  # something set anew in the middle, with random numbers
            with torch.no_grad():
                self.head.bias.copy_(0.1 * torch.randn(3))

    def forward(self, batch: Batch, epoch: Epoch) -> Outcome:
        if self.training:
            self.seen(batch, epoch)
        scores = self.head(self.network.embed(batch.shown, None)["vector"])
        loss = nn.functional.cross_entropy(scores.float(), batch.targets["kind"])
        right = (scores.argmax(1) == batch.targets["kind"]).sum()
        return Outcome(loss, {"right": right.float()})


def plant(folder: Path, count: int = 200) -> Path:
    """A part of discs, needles and rings."""
    if not folder.exists():
        folder.mkdir(parents=True)
        stamped.write_part(folder, stamped.galaxies(count), np.arange(count), shard=64, chunk=16)
    return folder


def splits_of(part: Path, train: Rows, validation: Rows | None = None) -> Splits:
    """The given rows of a part as splits."""
    rows = {
        "train": train,
        "validation": np.empty(0, int) if validation is None else validation,
        "test": np.empty(0, int),
    }
    return Splits.of({name: [Selection(part, own)] for name, own in rows.items()}, rows)


def fitting(
    folder: Path,
    part: Path,
    training: Training,
    *,
    objects: int = 90,
    validation: int = 30,
    seen: Callable[[Batch, Epoch], None] = lambda batch, epoch: None,
    say: Callable[[str], None] = lambda text: None,
    group: Group | None = None,
    device: str = "cpu",
    dropout: float = 0.2,
) -> Fitting:
    """A training of the small network on the first rows of a part, as it is kept in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    train, judged = np.arange(objects), np.arange(objects, objects + validation)
    everything = np.arange(objects + validation)
    values = {"kind": everything % 3, "row": everything}
    group = group or Group()
    material = Material(
        splits_of(part, train, judged), values, "image", training, torch.device(device),
        (group.rank, group.size),
    )  # fmt: skip
    torch.manual_seed(training.seed)
    network = SmallNetwork(Small(dropout=dropout), material.bands, material.size)
    learner = SmallLearner(network.to(device).eval(), training, seen).to(device)
    return Fitting(learner, material, training, folder, say, group)
