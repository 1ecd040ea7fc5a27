"""The local background: level and scatter, from pixels away from the object."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

NORMAL_16 = 0.15865525393145707  # a normal distribution has this much below mean - sigma
FEWEST = 32  # pixels that a level is taken from


def masked_quantiles(values: Floats, mask: Bools, fractions: tuple[float, ...]) -> Floats:
    """Quantiles of the pixels under `mask`, object by object.

    values, mask: (object, ...).  Returns (fraction, object), linearly interpolated between
    order statistics; NaN where an object has no pixel under its mask.
    """
    objects = len(values)
    if values[:1].size == 0:  # no pixel is asked for
        return np.full((len(fractions), objects), np.nan, np.float32)
    flat = np.where(mask, values, np.float32(np.inf)).reshape(objects, -1)
    count = mask.reshape(objects, -1).sum(axis=1)
    longest = max(int(count.max(initial=0)), 1)
    flat = np.sort(flat, axis=1)[:, :longest]
    rows = np.arange(objects)
    found = np.full((len(fractions), objects), np.nan, np.float32)
    for k, fraction in enumerate(fractions):
        position = fraction * np.maximum(count - 1, 0)
        low = position.astype(np.int64)
        high = np.minimum(low + 1, np.maximum(count - 1, 0))
        weight = (position - low).astype(np.float32)
        with np.errstate(invalid="ignore"):  # inf - inf where an object has no pixel
            value = flat[rows, low] * (1 - weight) + flat[rows, high] * weight
        found[k] = np.where(count > 0, value, np.nan)
    return found


def frame_radius(ny: int, nx: int) -> Floats:
    """Distance from the centre of an image in units of its half-width, (ny, nx).

    The larger of the two axes counts, so 1 is the border of the image on every side.
    """
    y = np.abs(np.arange(ny) - (ny - 1) / 2) / (ny / 2)
    x = np.abs(np.arange(nx) - (nx - 1) / 2) / (nx / 2)
    radius: Floats = np.maximum(y[:, None], x[None, :]).astype(np.float32)
    return radius


def level_and_scatter(images: Floats, usable: Bools, inner: float) -> tuple[Floats, Floats]:
    """Median and scatter of the usable pixels farther out than `inner` half-widths.

    images, usable: (object, ny, nx).  The scatter is median minus 16th percentile, which sources
    in the annulus hardly touch (they are positive).  Where fewer than 32 pixels are left, all
    usable pixels are taken, and the level is their 16th percentile: the galaxy fills the image.
    Returns two arrays (object,); NaN where nothing is usable.
    """
    annulus = np.flatnonzero((frame_radius(*images.shape[1:]) > inner).ravel())
    flat, good = images.reshape(len(images), -1), usable.reshape(len(images), -1)
    low, middle = masked_quantiles(flat[:, annulus], good[:, annulus], (NORMAL_16, 0.5))
    few = np.flatnonzero(good[:, annulus].sum(axis=1) < FEWEST)
    if len(few):
        low[few], middle[few] = masked_quantiles(flat[few], good[few], (NORMAL_16, 0.5))
        return np.where(np.isin(np.arange(len(flat)), few), low, middle), middle - low
    return middle, middle - low
