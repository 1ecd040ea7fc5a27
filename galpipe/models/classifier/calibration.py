"""Probabilities that mean what they say: temperature scaling.

Shapes: N objects, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

FEWEST = 50  # objects to fit a temperature to; with fewer it stays 1
COLDEST, HOTTEST = 0.05, 20.0
ITERATIONS = 100
SMALLEST_STEP = 1e-6
CONVERGED = 1e-13  # nats
TINY = 1e-12  # added to a curvature that may vanish
PULL = 1e-3  # of the squared offsets, so that a class without objects stays where it was


def fitted(scores_NC: Tensor, labels_N: Tensor, offsets: bool) -> tuple[float, Tensor]:
    """Temperature, and offset per class (C), that make the labels likeliest; in float64.

    Guo et al. 2017, section 4.2; with offsets, Alexandari et al. 2020.  Convex in 1 / T and the
    offsets, so that Newton's iterations from 1 and 0 find the one minimum.
    """
    scores, labels = scores_NC.double().cpu(), labels_N.cpu()
    true = functional.one_hot(labels, scores.shape[1]).double()
    cold, added = 1.0, torch.zeros(scores.shape[1], dtype=torch.float64)  # 1 / temperature

    def loss(cold: float, added: Tensor) -> float:
        likely = functional.cross_entropy(cold * scores + added, labels)
        return float(likely + PULL * (added**2).sum())

    here = loss(cold, added)
    for _ in range(ITERATIONS):
        chance = torch.softmax(cold * scores + added, 1)
        step = _newton(scores, chance, chance - true, added if offsets else None)
        size = 1.0
        while True:
            colder = min(max(cold - size * float(step[0]), 1 / HOTTEST), 1 / COLDEST)
            moved = added - size * step[1:] if offsets else added
            there = loss(colder, moved)
            if there <= here or size < SMALLEST_STEP:
                break
            size /= 2
        if there > here:
            break
        done = here - there < CONVERGED
        here, cold, added = there, colder, moved
        if done:
            break
    return 1 / cold, added - added.mean()


def _newton(scores_NC: Tensor, chance_NC: Tensor, off_NC: Tensor, added_C: Tensor | None) -> Tensor:
    """Newton's step in 1 / temperature, and in the offsets where there are some."""
    mean = (chance_NC * scores_NC).sum(1)
    variance = ((chance_NC * scores_NC**2).sum(1) - mean**2).mean()
    slope = (off_NC * scores_NC).sum(1).mean()
    if added_C is None:
        return (slope / (variance + TINY))[None]
    classes = len(added_C)
    curvature = torch.empty(1 + classes, 1 + classes, dtype=torch.float64)
    curvature[0, 0] = variance
    curvature[0, 1:] = curvature[1:, 0] = (chance_NC * (scores_NC - mean[:, None])).mean(0)
    curvature[1:, 1:] = torch.diag(chance_NC.mean(0)) - chance_NC.T @ chance_NC / len(chance_NC)
    curvature[1:, 1:] += 2 * PULL * torch.eye(classes, dtype=torch.float64)
    curvature += TINY * torch.eye(1 + classes, dtype=torch.float64)
    gradient = torch.cat([slope[None], off_NC.mean(0) + 2 * PULL * added_C])
    solved: Tensor = torch.linalg.solve(curvature, gradient)
    return solved
