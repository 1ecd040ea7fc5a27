"""The width of a point-spread function given as an image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FINER = 8  # sub-pixels per pixel
HALF_WIDTH = 12  # pixels around the peak that are looked at


def psf_fwhm(psf: NDArray[Any]) -> float:
    """FWHM in pixels of a PSF image (y, x): the diameter of the circle with the area above half
    of the peak, on a cubic spline through the pixels.  NaN where there is no peak.
    """
    from scipy.ndimage import zoom  # a third of a second, which images without a PSF do not need

    values = np.nan_to_num(np.asarray(psf, np.float64))
    if values.ndim != 2 or min(values.shape) < 4 or not values.max() > 0:
        return float("nan")
    y, x = np.unravel_index(int(values.argmax()), values.shape)
    near = values[
        max(int(y) - HALF_WIDTH, 0) : int(y) + HALF_WIDTH + 1,
        max(int(x) - HALF_WIDTH, 0) : int(x) + HALF_WIDTH + 1,
    ]
    finer = zoom(near, FINER, order=3, mode="grid-constant", grid_mode=True)
    area = np.count_nonzero(finer > finer.max() / 2) / FINER**2
    return float(2 * np.sqrt(area / np.pi))
