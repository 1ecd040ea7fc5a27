"""The noise of drizzled images: correlated between pixels, and weighted by exposure time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

CLIP = 3.0  # sigma
ROUNDS = 20
FEWEST = 50  # pixels of sky from which a scatter can be told


def correlation(pixel_scale: float, camera_pixel: float, pixfrac: float) -> float:
    """By how much the scatter of single pixels falls short of the noise of large areas.

    Casertano et al. (2000, AJ 120, 2747), appendix A: r = p / s with the drop's side p and the
    image's pixel s, in the camera's pixels; r / (1 - 1/(3r)) from r = 1 on, else 1 / (1 - r/3).
    """
    r = pixfrac * camera_pixel / pixel_scale
    return r / (1 - 1 / (3 * r)) if r >= 1 else 1 / (1 - r / 3)


def sky_of(pixels: Floats, exposure: Floats | None) -> tuple[float, float]:
    """Level and scatter of the sky of an image (y, x), in its units, at its median exposure.

    From the pixels within 3 sigma of their median, again and again.  exposure: seconds, None where
    it is not known.  NaN where fewer than 50 pixels are defined or they do not scatter.
    """
    known = np.isfinite(pixels)
    values = pixels[known].astype(np.float64)
    depth = np.ones_like(values)
    if exposure is not None and known.any():
        depth = np.sqrt(exposure[known] / np.median(exposure[known]))
    if len(values) < FEWEST:
        return np.nan, np.nan
    level, sigma = float(np.median(values)), np.inf
    kept = np.ones(len(values), bool)
    for _ in range(ROUNDS):
        level = float(np.median(values[kept]))
        scaled = (values - level) * depth
        sigma = 1.4826 * float(np.median(np.abs(scaled[kept])))
        inside = np.abs(scaled) <= CLIP * sigma
        if not inside.sum() >= FEWEST or (inside == kept).all():
            break
        kept = inside
    return level, sigma if sigma > 0 else float("nan")


def variance_of(
    pixels: Floats, exposure: Floats, level: float, scatter: float, factor: float
) -> Floats:
    """The variance of every pixel (y, x) as it counts in sums over many, in squared units.

    Sky and read-out: the measured scatter times the correlation factor, by exposure; the source's
    own counts: its rate, averaged over 3 x 3 pixels, by exposure.  pixels: electrons per second;
    exposure: seconds.  NaN where a pixel is undefined.
    """
    known = np.isfinite(pixels)
    if not known.any() or not np.isfinite(scatter):
        return np.full(pixels.shape, np.nan, np.float32)
    seconds = np.where(known, exposure, 1.0).astype(np.float64)
    rate = np.where(known, pixels, level).astype(np.float64) - level
    source = np.maximum(ndimage.uniform_filter(rate, 3, mode="nearest"), 0)
    typical = float(np.median(seconds[known]))
    found = ((factor * scatter) ** 2 * typical + source) / seconds
    return np.where(known, found, np.nan).astype(np.float32)
