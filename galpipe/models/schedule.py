"""What each epoch does: its phase, the weight of its divergence, its learning rate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from galpipe.models.spec import Training

STEPS = 25  # of a shortened training, per epoch
SMALLEST_BATCH = 8


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


def shortened(spec: Training, objects: int) -> Training:
    """The training of a pruned run: a schedule of the same shape with about `pruned` epochs.

    Warm-up and cycles keep their shares; there are fewer cycles where an annealing and a static
    epoch each would be too many.  Batches shrink, so that an epoch over few `objects` still takes
    STEPS of them.
    """
    cycle = spec.annealing + spec.static
    total = spec.warm_up + spec.cycles * cycle
    if spec.pruned is None or spec.pruned >= total:
        return spec
    parts = ((spec.annealing > 0) + (spec.static > 0)) * (spec.cycles > 0)
    share = min(round(spec.warm_up * spec.pruned / total), spec.pruned - parts)
    warm_up = min(spec.warm_up, max(1, share))
    left = spec.pruned - warm_up
    cycles = max(min(spec.cycles, left // max(parts, 1)), min(spec.cycles, 1))
    each = left // max(cycles, 1)
    share = min(round(each * spec.annealing / max(cycle, 1)), each - (spec.static > 0))
    annealing = min(spec.annealing, max(1, share))
    static = min(spec.static, max(1, each - annealing))
    return dataclasses.replace(
        spec,
        warm_up=warm_up,
        cycles=cycles,
        annealing=annealing,
        static=static,
        decay_every=1,
        batch=min(spec.batch, max(SMALLEST_BATCH, objects // STEPS)),
    )


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
