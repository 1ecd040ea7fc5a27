"""Sizes, concentrations and brightnesses of stamps and drawings alike, as they are drawn.

Measured on the stretched stamp about its centre, in its own pixels: quantities for comparing
drawings with stamps, not photometry.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]
Floats = NDArray[np.float64]

QUANTITIES = {  # name, and what it is in words
    "half_light_radius": "half-light radius (stamp pixels)",
    "concentration": "concentration 5 log(r80/r20)",
    "brightness": "brightness (mean over the disc, of 0 to 1)",
}
STEP = 0.5  # pixels between the circles of a curve of growth
BORDER = 0.9  # of the inscribed circle's radius; beyond it is the sky


def measured(images: Images) -> dict[str, Floats]:
    """The quantities of stamps (object, band, y, x) in 0..1, one per object; NaN where undefined.

    Curve of growth in circles (Conselice 2003 for the concentration), of the mean of the bands
    less its mean in the ring between 0.9 and 1 of the inscribed circle's radius.
    """
    flat = images.mean(axis=1).astype(np.float64)
    size = flat.shape[-1]
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(x, y)
    limit = size / 2
    ring = (radius > BORDER * limit) & (radius <= limit)
    light = flat - flat[:, ring].mean(axis=1)[:, None, None]
    edges = np.arange(0, BORDER * limit + STEP, STEP)
    # A pixel is shared by the circles that cross it, as a strip of one pixel's width.
    covered = np.clip(edges[:, None] - radius.ravel() + 0.5, 0, 1) * (edges[:, None] > 0)
    growth = light.reshape(len(flat), -1) @ covered.T
    total = growth[:, -1]
    good = total > 0
    share = growth / np.where(good, total, 1.0)[:, None]
    r20, r50, r80 = (
        np.where(good, _radius(share, edges, part), np.nan) for part in (0.2, 0.5, 0.8)
    )
    return {
        "half_light_radius": r50,
        "concentration": 5 * np.log10(r80 / r20),
        "brightness": total / covered[-1].sum(),
    }


def _radius(share: Floats, edges: Floats, part: float) -> Floats:
    """The first radius within which the light reaches a share of the whole."""
    above = np.maximum((share >= part).argmax(axis=1), 1)
    rows = np.arange(len(share))
    low, high = share[rows, above - 1], share[rows, above]
    between = (part - low) / np.where(high > low, high - low, 1.0)
    found: Floats = edges[above - 1] + STEP * np.clip(between, 0, 1)
    return found
