"""What each epoch of VaDE does: its phase and the weight of its divergence."""

from __future__ import annotations

import dataclasses

from galpipe.models.learner import Epoch
from galpipe.models.vade.spec import Annealing


def length(spec: Annealing) -> int:
    """Epochs of the whole schedule (AstroVaDEr: 100 + 5 x (25 + 25))."""
    return spec.warm_up + spec.cycles * (spec.annealing + spec.static)


def epochs(spec: Annealing) -> list[Epoch]:
    """All epochs of a training, in order."""
    return [_epoch(spec, number) for number in range(length(spec))]


def shortened(spec: Annealing, epochs: int) -> Annealing:
    """A schedule of the same shape with about so many epochs.

    Warm-up and cycles keep their shares; there are fewer cycles where an annealing and a static
    epoch each would be too many.
    """
    cycle, total = spec.annealing + spec.static, length(spec)
    if epochs >= total:
        return spec
    parts = ((spec.annealing > 0) + (spec.static > 0)) * (spec.cycles > 0)
    share = min(round(spec.warm_up * epochs / total), epochs - parts)
    warm_up = min(spec.warm_up, max(1, share))
    left = epochs - warm_up
    cycles = max(min(spec.cycles, left // max(parts, 1)), min(spec.cycles, 1))
    each = left // max(cycles, 1)
    share = min(round(each * spec.annealing / max(cycle, 1)), each - (spec.static > 0))
    annealing = min(spec.annealing, max(1, share))
    static = min(spec.static, max(1, each - annealing))
    return dataclasses.replace(
        spec, warm_up=warm_up, cycles=cycles, annealing=annealing, static=static
    )


def _epoch(spec: Annealing, number: int) -> Epoch:
    if number < spec.warm_up:
        return Epoch(number, "warm-up", spec.warm_up_weight, clipped=False)
    place = (number - spec.warm_up) % (spec.annealing + spec.static)
    if place < spec.annealing:
        rise = ((place + 1) / spec.annealing) ** spec.power
        return Epoch(number, "annealing", spec.mixture_weight * (rise + spec.warm_up_weight))
    return Epoch(number, "static", spec.mixture_weight * spec.static_weight)
