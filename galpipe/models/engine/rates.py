"""The learning rate of every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import assert_never

from galpipe.models.engine.spec import (
    Constant,
    Cosine,
    Exponential,
    OneCycle,
    Plateau,
    Training,
)


def rate_at(
    spec: Training, step: int, steps: int, epochs: int, watched: Sequence[float] = ()
) -> float:
    """The learning rate of step number `step` (from 0), with `steps` per epoch and `epochs`.

    `watched` are the validation figures of the epochs before (lower is better), for `plateau`.
    """
    done = step / max(steps * epochs - 1, 1)  # 0 at the first step, 1 at the last
    match spec.rate:
        case Exponential(final=final, every=every):
            epoch = step // steps // every * every
            return float(spec.learning_rate * (final / spec.learning_rate) ** (epoch / epochs))
        case Cosine(rise=rise, final=final):
            if done < rise:
                return spec.learning_rate * min(1.0, (done + 1 / (steps * epochs)) / rise)
            return final + (spec.learning_rate - final) * _down((done - rise) / (1 - rise))
        case OneCycle(rise=rise, first=first, final=final):
            if done < rise:
                return spec.learning_rate * (first + (1 - first) * (1 - _down(done / rise)))
            fall = _down((done - rise) / (1 - rise))
            return spec.learning_rate * (final + (1 - final) * fall)
        case Plateau(factor=factor, patience=patience):
            return float(spec.learning_rate * factor ** falls(watched, patience))
        case Constant():
            return spec.learning_rate
    assert_never(spec.rate)


def falls(watched: Sequence[float], patience: int) -> int:
    """How often a figure (lower is better) has gone `patience` epochs without a better one."""
    best, since, count = math.inf, 0, 0
    for figure in watched:
        best, since = (figure, 0) if figure < best else (best, since + 1)
        if since == patience:
            count, since = count + 1, 0
    return count


def _down(share: float) -> float:
    """Half a cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0)))
