"""How a network learns: the contract between the kinds of models and the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from galpipe.models.network import Batch, Network

if TYPE_CHECKING:
    from galpipe.models.engine.spec import Training
    from galpipe.models.material import Material
    from galpipe.stages import Progress


@dataclass(frozen=True)
class Epoch:
    """What is particular to one pass over the training split."""

    number: int
    phase: str = "training"
    weight: float = 1.0  # of the divergence from the prior
    clipped: bool = True  # whether `clip` and `clip_norm` hold


class Outcome(NamedTuple):
    """What a batch says."""

    loss: Tensor  # the mean over the batch that is descended
    sums: dict[str, Tensor]  # of figures over the batch, without gradients


class Learner(nn.Module, ABC):
    """How one kind of network learns: its loss, its schedule, its figures.

    Random numbers come from torch's own generator, which the engine seeds at every step from the
    training's seed, the epoch and the step.
    """

    watched: ClassVar[str] = "loss"  # the validation figure that tells a better network: lower is

    def __init__(self, network: Network, training: Training) -> None:
        super().__init__()
        self.network: Any = network
        self.training_spec = training

    def epochs(self) -> list[Epoch]:
        """All epochs, in order."""
        return [Epoch(number) for number in range(self.training_spec.epochs)]

    def start(self, material: Material) -> None:
        """Before the first step of a new training: starting points that the galaxies decide.

        A training that goes on does not come here again: what is decided must be in parameters or
        buffers, which are kept.
        """

    def before(self, epoch: Epoch, material: Material) -> None:
        """Before an epoch."""

    @abstractmethod
    def forward(self, batch: Batch, epoch: Epoch) -> Outcome:
        """The loss of a batch, by the network as it learns."""

    @torch.no_grad()
    def judge(self, batches: Iterable[Batch], epoch: Epoch) -> dict[str, float]:
        """Figures of objects that are not learnt from; without gradients, in evaluation mode."""
        sums: dict[str, float] = {}
        count = 0
        for batch in batches:
            outcome = self(batch, epoch)
            told = {"loss": outcome.loss * len(batch.images), **outcome.sums}
            for name, value in told.items():
                sums[name] = sums.get(name, 0.0) + float(value)
            count += len(batch.images)
        return {name: value / count for name, value in sums.items()}

    def finish(self, material: Material, progress: Progress) -> tuple[dict[str, float], list[str]]:
        """After the last step: what is fitted then, the held-out figures, and the alarms."""
        last = self.epochs()[-1]
        return self.judge(material.ordered(material.held_out()), last), []
