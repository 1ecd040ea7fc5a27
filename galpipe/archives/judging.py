"""Whether the pixels of an object can be used, and how many of them are defined."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.status import Status


def judge(pixels: NDArray[Any]) -> tuple[Status, str | None, float]:
    """Whether an image (band, y, x) can be used, why not, and its coverage (0..1).

    The coverage is the fraction of pixels that are defined in every band.
    """
    if pixels.dtype == np.uint8:
        low, high = pixels.min(), pixels.max()
        coverage = 1.0
    elif np.isfinite(low := pixels.min()) and np.isfinite(high := pixels.max()):
        coverage = 1.0  # a single undefined pixel would be seen in one of the two
    else:
        defined = np.isfinite(pixels)
        coverage = float(defined.all(axis=0).mean())
        absent = ~defined.any(axis=(1, 2))
        if absent.all():
            return Status.BLANK, "all pixels are undefined", coverage
        if absent.any():
            return Status.MISSING_BAND, "a band has no defined pixel", coverage
        low, high = np.nanmin(pixels), np.nanmax(pixels)
    if low == high:
        return Status.BLANK, f"all pixels are {low:g}", coverage
    return (Status.OK if coverage == 1 else Status.OK | Status.EDGE), None, coverage
