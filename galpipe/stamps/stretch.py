"""From intensities to the 0..1 that a network reads, with a scaling that was fitted once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.stamps.spec import Asinh, Given, Linear, OwnRange, Stretch

Floats = NDArray[np.float32]


def stretched(values: Floats, scale: NDArray[np.float64], spec: Stretch) -> Floats:
    """Map background-subtracted intensities to 0..1; below the background is 0, above the scale 1.

    values: (..., band, y, x); scale: (band,) intensities that become 1.
    asinh: y = asinh(x / (b s)) / asinh(1 / b), Lupton, Gunn & Szalay (1999).
    """
    if isinstance(spec, OwnRange):
        lowest = values.min(axis=(-3, -2, -1), keepdims=True)
        span = values.max(axis=(-3, -2, -1), keepdims=True) - lowest
        own: Floats = (values - lowest) / np.where(span > 0, span, np.float32(1))
        return own
    scaled = values / scale.astype(np.float32)[:, None, None]
    if isinstance(spec, Asinh):
        softening = np.float32(spec.softening)
        scaled = np.arcsinh(scaled / softening) / np.arcsinh(1 / softening)
    unit: Floats = np.clip(scaled, np.float32(0), np.float32(1))
    return unit


def stored(unit: Floats, dtype: str) -> NDArray[Any]:
    """0..1 as it is stored: uint8 0..255 (rounded to nearest) or float16."""
    if dtype == "uint8":
        unit = np.rint(unit * np.float32(255))
    kept: NDArray[Any] = unit.astype(dtype)
    return kept


def unit_scale(dtype: str) -> float:
    """Stored value over this gives 0..1."""
    return 255.0 if dtype == "uint8" else 1.0


def fitted_scale(brightest: Floats, spec: Stretch) -> list[float]:
    """The scale per band from the brightest pixel of each training stamp, (object, band)."""
    if isinstance(spec, OwnRange):
        return [1.0] * brightest.shape[1]
    if isinstance(spec, Given):
        return [spec.scale] * brightest.shape[1]
    assert isinstance(spec, Asinh | Linear)
    scale = []
    for band in brightest.T:
        good = band[np.isfinite(band) & (band > 0)].astype(np.float64)
        scale.append(float(np.percentile(good, spec.percentile)) if len(good) else 1.0)
    return scale
