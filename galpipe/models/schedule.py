"""What each epoch does: its phase, the weight of its divergence, its learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from galpipe.models.spec import Training


@dataclass(frozen=True)
class Epoch:
    """The settings of one epoch."""

    number: int
    phase: Literal["warm-up", "annealing", "static"]
    weight: float  # of the divergence from the prior
    learning_rate: float


def epochs(spec: Training) -> list[Epoch]:
    """All epochs of a training, in order (AstroVaDEr: 100 + 5 x (25 + 25))."""
    total = spec.warm_up + spec.cycles * (spec.annealing + spec.static)
    return [_epoch(spec, number, total) for number in range(total)]


def _epoch(spec: Training, number: int, total: int) -> Epoch:
    steps = number // spec.decay_every * spec.decay_every
    rate = spec.learning_rate * (spec.final_learning_rate / spec.learning_rate) ** (steps / total)
    if number < spec.warm_up:
        return Epoch(number, "warm-up", spec.warm_up_weight, rate)
    place = (number - spec.warm_up) % (spec.annealing + spec.static)
    if place < spec.annealing:
        rise = ((place + 1) / spec.annealing) ** spec.annealing_power
        weight = spec.mixture_weight * (rise + spec.warm_up_weight)
        return Epoch(number, "annealing", weight, rate)
    return Epoch(number, "static", spec.mixture_weight * spec.static_weight, rate)
