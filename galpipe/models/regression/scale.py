"""A scale of values: numbers to distributions over it, and back.

Shapes: B objects, S values of the scale, P kinds that stand apart from it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from galpipe.models.regression.spec import Regression

SAME = 1e-4  # two numbers closer than this are the same value of the table


class Summary(NamedTuple):
    """A distribution over the scale in two numbers, each (B,)."""

    value: Tensor  # its mean
    scatter: Tensor  # its standard deviation


def apart_of(spec: Regression, values_B: Tensor) -> Tensor:
    """Which kind that stands apart each value marks, (B,) int64; -1: none, it lies on the scale."""
    found = torch.full(values_B.shape, -1, dtype=torch.int64, device=values_B.device)
    for number, kind in enumerate(spec.apart):
        found[(values_B - kind.value).abs() < SAME] = number
    return found


def distribution(
    spec: Regression, scale_S: Tensor, values_B: Tensor, limits_B2: Tensor | None
) -> Tensor:
    """What a known value says, (B, S + P), rows sum to 1.

    On the scale a normal distribution about the value, whose variance is width^2 plus that of the
    limits, half their distance squared; for a kind that stands apart, certainty.
    """
    half = torch.zeros_like(values_B)
    if limits_B2 is not None:
        half = torch.nan_to_num(limits_B2[:, 1] - limits_B2[:, 0], nan=0.0).clamp(min=0) / 2
    sigma = torch.sqrt(spec.width**2 + half**2)
    # From the nearest value on, so that a narrow sigma leaves one value rather than none.
    away = (scale_S - values_B[:, None]) ** 2
    away = away - away.min(1, keepdim=True).values
    along = torch.softmax(-0.5 * away / sigma[:, None] ** 2, 1)
    beside = torch.nn.functional.one_hot(apart_of(spec, values_B) + 1, 1 + len(spec.apart))
    beside = beside.to(along.dtype)
    return torch.cat([along * beside[:, :1], beside[:, 1:]], 1)


def summary(scale_S: Tensor, probability_BT: Tensor) -> Summary:
    """Mean and scatter of the distribution along the scale, as if nothing stood apart."""
    along = probability_BT[:, : len(scale_S)]
    along = along / along.sum(1, keepdim=True).clamp(min=1e-30)
    mean = (along * scale_S).sum(1)
    variance = (along * (scale_S - mean[:, None]) ** 2).sum(1)
    return Summary(mean, variance.clamp(min=0).sqrt())


def label_names(spec: Regression) -> tuple[str, ...]:
    """Labels: the parts of the scale, then the kinds that stand apart; none without ranges."""
    if not spec.ranges:
        return ()
    return (*(one.name for one in spec.ranges), *(one.name for one in spec.apart))


def membership(spec: Regression) -> Tensor:
    """Which label every value of the scale and every kind has, (S + P, labels), zeros and ones."""
    names = label_names(spec)
    found = torch.zeros(len(spec.scale) + len(spec.apart), len(names))
    for number, value in enumerate(spec.scale):
        found[number, next(k for k, one in enumerate(spec.ranges) if value <= one.upto)] = 1
    for number in range(len(spec.apart)):
        found[len(spec.scale) + number, len(spec.ranges) + number] = 1
    return found
