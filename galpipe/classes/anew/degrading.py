"""The same galaxy under worse conditions: a wider PSF, more noise, less light, another angle.

What an archive gives is degraded, before any preparation.  Images that come stretched (JPEG) are
degraded as they are: what is said of light is then said of their stretched values.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.stamps.background import level_and_scatter

Floats = NDArray[np.float64]

SKY = 0.75  # half-widths from the centre: farther out is sky
COARSEST = 0.5  # smallest scatter believed of integer images, in their units
WIDTHS = 2.0 * np.sqrt(2.0 * np.log(2.0))  # FWHM of a Gaussian over its standard deviation


@dataclass(frozen=True)
class Worse:
    """Conditions of an observation beside those of the archive's own."""

    name: str
    words: str
    psf: float = 1.0  # x the FWHM
    noise: float = 1.0  # x the scatter of the sky
    light: float = 1.0  # x what is above the sky
    turned: bool = False  # by a quarter


def degraded(
    image: NDArray[Any], worse: Worse, fwhm: float, seed: int, object_id: Any
) -> NDArray[Any]:
    """A cutout (band, y, x) as it would be under worse conditions, in the type it came in.

    `fwhm` is the PSF's, in cutout pixels.  A wider PSF is a convolution with a Gaussian of
    FWHM sqrt(psf^2 - 1) fwhm.  The scatter of the sky, which convolution and dimming lessen, is
    brought to `noise` times what it was by Gaussian noise, white in position and as alike between
    bands as the sky's own is (`shared`); that is drawn from the seed, the conditions' name and the
    object's id alone.  NaN stay NaN.
    """
    from scipy.ndimage import gaussian_filter

    values = image.astype(np.float64)
    defined = np.isfinite(values)
    known = np.any(defined, axis=0)
    level, scatter = sky(image)
    above = np.where(defined, values - level[:, None, None], 0.0) * worse.light
    left = np.full(len(values), worse.light)  # of the sky's scatter
    if worse.psf > 1:
        sigma = np.sqrt(worse.psf**2 - 1) * fwhm / WIDTHS
        above = gaussian_filter(above, (0, sigma, sigma), mode="nearest")
        left = left * _kept(sigma)
    missing = np.sqrt(np.maximum(worse.noise**2 - left**2, 0.0)) * scatter
    if missing.any():
        text = f"{seed} {worse.name} {object_id}"
        random = np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))
        common = shared(image, scatter)
        noise = np.sqrt(1 - common) * random.normal(size=above.shape)
        noise += np.sqrt(common) * random.normal(size=above.shape[1:])
        above = above + missing[:, None, None] * noise
    found = np.where(defined & known, above + level[:, None, None], np.nan)
    if worse.turned:
        found = np.rot90(found, axes=(1, 2))
    if image.dtype.kind in "ui":
        limits = np.iinfo(image.dtype)
        found = np.clip(np.rint(found), limits.min, limits.max)
    return np.ascontiguousarray(found.astype(image.dtype))


def sky(image: NDArray[Any]) -> tuple[Floats, Floats]:
    """Level and scatter of the sky of a cutout (band, y, x), band by band; 0 where unknown."""
    values = image.astype(np.float32)
    defined = np.isfinite(values)
    level, scatter = level_and_scatter(np.where(defined, values, np.float32(0)), defined, SKY)
    least = COARSEST if image.dtype.kind in "ui" else 0.0
    return (
        np.nan_to_num(level).astype(np.float64),
        np.maximum(np.nan_to_num(scatter), least).astype(np.float64),
    )


def shared(image: NDArray[Any], scatter: Floats) -> float:
    """The correlation of the sky between bands, 0..1: from the scatter of their mean.

    Bands of a survey are independent; those of a JPEG share their luminance's noise.
    """
    bands = len(image)
    if bands == 1:
        return 0.0
    mean = image.astype(np.float32).mean(axis=0, keepdims=True)
    whole = float(sky(mean)[1][0]) * bands
    alone, together = float((scatter**2).sum()), float(scatter.sum()) ** 2
    return float(np.clip((whole**2 - alone) / (together - alone), 0, 1)) if alone > 0 else 0.0


def _kept(sigma: float) -> float:
    """What convolution with a Gaussian leaves of the scatter of white noise: sqrt(sum k^2)."""
    from scipy.ndimage import gaussian_filter1d

    line = np.zeros(2 * int(4 * sigma + 2) + 1)
    line[len(line) // 2] = 1
    return float((gaussian_filter1d(line, sigma) ** 2).sum())
