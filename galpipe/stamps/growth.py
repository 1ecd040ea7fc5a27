"""Curves of growth: flux and area within circles or ellipses, for many objects at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

KNOTS_PER_PIXEL = 2
PETROSIAN_RATIO = 0.2
INNER, OUTER = 0.8, 1.25  # annulus of the Petrosian ratio, in radii (Blanton et al. 2001)


@dataclass(frozen=True)
class Growth:
    """Flux and the area on the image within radius k/2 pixels, each (object, knot)."""

    flux: Doubles
    area: Doubles

    def at(self, radius: Doubles) -> tuple[Doubles, Doubles]:
        """Flux and area within a radius in pixels, (object,), clipped to the last knot."""
        last = self.flux.shape[1] - 1
        position = np.clip(np.nan_to_num(radius) * KNOTS_PER_PIXEL, 0, last)
        low = np.minimum(position.astype(np.int64), last - 1)
        weight = position - low
        rows = np.arange(len(radius))
        return (
            self.flux[rows, low] * (1 - weight) + self.flux[rows, low + 1] * weight,
            self.area[rows, low] * (1 - weight) + self.area[rows, low + 1] * weight,
        )


def curve_of_growth(images: Floats, radius: Floats, reach: int) -> Growth:
    """Sum the pixels within growing radii.

    images, radius of each pixel: (object, pixel).  A pixel
    at distance r lies within R by the fraction R - r + 1/2, clipped to 0..1.  reach: the last
    radius in pixels; it must not depend on the other objects, so that they do not matter.
    """
    count = len(images)
    knots = reach * KNOTS_PER_PIXEL + 4
    scaled = np.minimum(radius, np.float32(reach)) * np.float32(KNOTS_PER_PIXEL)
    first = np.ceil(scaled - np.float32(KNOTS_PER_PIXEL / 2)).astype(np.int64)
    np.maximum(first, 1, out=first)
    at_first = np.minimum((first - scaled) / np.float32(KNOTS_PER_PIXEL) + np.float32(0.5), 1)
    at_second = np.minimum(at_first + np.float32(1 / KNOTS_PER_PIXEL), 1)
    index = (first + np.arange(count)[:, None] * knots).ravel()
    shape = (count, knots)

    def grown(values: Floats) -> Doubles:
        total = np.bincount(index, (values * at_first).ravel(), count * knots).reshape(shape)
        second = np.bincount(index, (values * (at_second - at_first)).ravel(), count * knots)
        third = np.bincount(index, (values * (1 - at_second)).ravel(), count * knots)
        total[:, 1:] += second.reshape(shape)[:, :-1]
        total[:, 2:] += third.reshape(shape)[:, :-2]
        return np.cumsum(total, axis=1)

    return Growth(grown(images), grown(np.ones((1, 1), np.float32)))


def petrosian(growth: Growth, smallest: float = 1.0) -> Doubles:
    """The radius in pixels where the Petrosian ratio first falls to 0.2, (object,).

    Ratio of the mean surface brightness in the annulus 0.8-1.25 R to that within R (Petrosian
    1976; Blanton et al. 2001 eq. 3).  The largest radius measured where it never falls so far;
    NaN where there is no light.
    """
    count, knots = growth.flux.shape
    radii = np.arange(knots) / KNOTS_PER_PIXEL
    inner, outer = _interpolated(growth, radii * INNER), _interpolated(growth, radii * OUTER)
    with np.errstate(invalid="ignore", divide="ignore"):
        local = (outer[0] - inner[0]) / (outer[1] - inner[1])
        ratio = local / (growth.flux / growth.area)
    start = int(np.ceil(smallest * KNOTS_PER_PIXEL))
    ended = inner[1] >= growth.area[:, -1:] * (1 - 1e-12)  # no pixel lies farther out
    below = (ratio <= PETROSIAN_RATIO) | ended
    below[:, :start] = False
    below[:, -1] = True
    k = below.argmax(axis=1)
    rows = np.arange(count)
    before, after = ratio[rows, k - 1], ratio[rows, k]
    with np.errstate(invalid="ignore", divide="ignore"):
        step = np.clip((before - PETROSIAN_RATIO) / (before - after), 0, 1)
    step = np.where(np.isfinite(step), step, 0.0)
    radius = (k - 1 + step) / KNOTS_PER_PIXEL
    return np.where(growth.flux[rows, k] > 0, radius, np.nan)


def _interpolated(growth: Growth, radii: Doubles) -> tuple[Doubles, Doubles]:
    """Flux and area at radii common to all objects, each (object, len(radii))."""
    last = growth.flux.shape[1] - 1
    position = np.clip(radii * KNOTS_PER_PIXEL, 0, last)
    low = np.minimum(position.astype(np.int64), last - 1)
    weight = position - low

    def at(values: Doubles) -> Doubles:
        between: Doubles = values[:, low] * (1 - weight) + values[:, low + 1] * weight
        return between

    return at(growth.flux), at(growth.area)


def radius_of_fraction(growth: Growth, total: Doubles, fraction: float) -> Doubles:
    """The radius in pixels that holds a fraction of the total flux, (object,); NaN without light.

    Between knots flux is taken to grow linearly with the area, as for a locally flat profile.
    """
    monotone = np.maximum.accumulate(growth.flux, axis=1)
    target = fraction * total
    reached = monotone >= target[:, None]
    reached[:, -1] = True
    k = np.maximum(reached.argmax(axis=1), 1)
    rows = np.arange(len(total))
    low, high = monotone[rows, k - 1], monotone[rows, k]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.clip((target - low) / (high - low), 0, 1)
    part = np.where(np.isfinite(part), part, 0.0)
    square = (k - 1) ** 2 + part * (2 * k - 1)
    return np.where(total > 0, np.sqrt(square) / KNOTS_PER_PIXEL, np.nan)
