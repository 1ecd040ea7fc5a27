"""Centre, axis ratio and position angle from the second moments of the light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

PIXEL_VARIANCE = 1 / 12  # second moment of a square pixel, taken off both axes


@dataclass(frozen=True)
class Shape:
    """Second-moment shapes, each (object,); NaN where there is no light under the aperture.

    x, y: centroid, 0-based pixels; major, minor: rms axes, pixels; angle: of the major axis,
    radians from +x towards +y, in [0, pi); skewness: third moment along the major axis over
    major^3, whose sign tells the heavier tail.
    """

    x: Doubles
    y: Doubles
    major: Doubles
    minor: Doubles
    angle: Doubles
    skewness: Doubles

    @property
    def axis_ratio(self) -> Doubles:
        """Minor over major axis, 0..1."""
        return self.minor / self.major


def second_moments(images: NDArray[np.float32], aperture: NDArray[np.bool_]) -> Shape:
    """Intensity-weighted moments of the positive light under the aperture.

    images, aperture: (object, ny, nx).  Axes follow from the eigenvalues of the covariance of the
    light (Stobie 1980, Bertin & Arnouts 1996 eqs. for A, B and THETA), less the pixel's own 1/12.
    """
    _, ny, nx = images.shape
    weight = np.where(aperture, np.maximum(images, 0), 0).astype(np.float64)
    along_x = weight.sum(axis=1)  # (object, nx)
    along_y = weight.sum(axis=2)  # (object, ny)
    total = along_x.sum(axis=1)
    px, py = np.arange(nx, dtype=np.float64), np.arange(ny, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        x = (along_x * px).sum(axis=1) / total
        y = (along_y * py).sum(axis=1) / total
        dx = px - x[:, None]
        dy = py - y[:, None]
        xx = (along_x * dx**2).sum(axis=1) / total - PIXEL_VARIANCE
        yy = (along_y * dy**2).sum(axis=1) / total - PIXEL_VARIANCE
        cross = (weight * dx[:, None, :]).sum(axis=2)  # (object, ny)
        xy = (cross * dy).sum(axis=1) / total
        half_sum, half_difference = (xx + yy) / 2, (xx - yy) / 2
        root = np.hypot(half_difference, xy)
        least = PIXEL_VARIANCE
        major = np.sqrt(np.maximum(half_sum + root, least))
        minor = np.sqrt(np.maximum(half_sum - root, least))
        angle = np.mod(0.5 * np.arctan2(xy, half_difference), np.pi)
        cos, sin = np.cos(angle), np.sin(angle)
        square = (weight * (dx**2)[:, None, :]).sum(axis=2)
        cube_x = (along_x * dx**3).sum(axis=1)
        cube_y = (along_y * dy**3).sum(axis=1)
        xxy = (square * dy).sum(axis=1)
        xyy = (cross * dy**2).sum(axis=1)
        third = cos**3 * cube_x + 3 * cos**2 * sin * xxy + 3 * cos * sin**2 * xyy + sin**3 * cube_y
        skewness = third / total / major**3
    return Shape(x, y, major, minor, angle, skewness)
