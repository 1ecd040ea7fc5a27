"""What takes the place of masked neighbours: the galaxy's own opposite side.

A masked pixel gets the value of the pixel opposite the galaxy's centre where that one is good:
galaxies are nearly symmetric under a half turn, and the sky there has the right noise, so a
network sees neither a hole nor a smooth patch.  Where both sides are masked or undefined the
pixel gets 0, the background.  Nothing is random.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


def fill_masked(
    images: Floats,
    masked: Bools,
    usable: Bools,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
) -> Floats:
    """A copy of background-subtracted images with masked pixels filled from the opposite side.

    images: (object, band, ny, nx); masked, usable: (object, ny, nx); x, y: centres, (object,).
    """
    filled = images.copy()
    count, bands, ny, nx = images.shape
    flat = filled.reshape(count, bands, ny * nx)
    source = images.reshape(count, bands, ny * nx)
    good = (usable & ~masked).reshape(count, ny * nx)
    for i in np.flatnonzero(masked.reshape(count, -1).any(axis=1)):
        holes = np.flatnonzero(masked[i])
        rows, columns = np.divmod(holes, nx)
        rows = int(np.rint(2 * y[i])) - rows
        columns = int(np.rint(2 * x[i])) - columns
        on = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
        partner = np.where(on, rows * nx + columns, 0)
        take = on & good[i, partner]
        flat[i][:, holes] = np.where(take, source[i][:, partner], np.float32(0))
    return filled
