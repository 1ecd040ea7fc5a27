"""The gnomonic projection of SDSS frames, vectorised: sky to pixels and back.

A WCS is eight numbers: crpix1, crpix2, crval1, crval2, cd1_1, cd1_2, cd2_1, cd2_2 in degrees and
FITS conventions (Calabretta & Greisen 2002, section 5.1.3); pixels here are 0-based.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


def to_pixels(wcs: Doubles, ra: Doubles, dec: Doubles) -> tuple[Doubles, Doubles]:
    """0-based pixels of positions in degrees; NaN on the far side of the sky."""
    alpha, delta = np.deg2rad(ra - wcs[2]), np.deg2rad(dec)
    delta0 = np.deg2rad(wcs[3])
    cos = np.sin(delta0) * np.sin(delta) + np.cos(delta0) * np.cos(delta) * np.cos(alpha)
    cos = np.where(cos > 1e-3, cos, np.nan)
    xi = np.rad2deg(np.cos(delta) * np.sin(alpha) / cos)
    north = np.cos(delta0) * np.sin(delta) - np.sin(delta0) * np.cos(delta) * np.cos(alpha)
    eta = np.rad2deg(north / cos)
    a, b, c, d = wcs[4:]
    determinant = a * d - b * c
    x = (d * xi - b * eta) / determinant + wcs[0] - 1
    y = (a * eta - c * xi) / determinant + wcs[1] - 1
    return x, y


def to_sky(wcs: Doubles, x: Doubles, y: Doubles) -> tuple[Doubles, Doubles]:
    """Right ascension (0..360) and declination in degrees of 0-based pixels."""
    u, v = x - (wcs[0] - 1), y - (wcs[1] - 1)
    xi = np.deg2rad(wcs[4] * u + wcs[5] * v)
    eta = np.deg2rad(wcs[6] * u + wcs[7] * v)
    delta0 = np.deg2rad(wcs[3])
    down = np.cos(delta0) - eta * np.sin(delta0)
    ra = wcs[2] + np.rad2deg(np.arctan2(xi, down))
    dec = np.arctan2(np.sin(delta0) + eta * np.cos(delta0), np.hypot(xi, down))
    return ra % 360.0, np.rad2deg(dec)


def local_map(
    of: Doubles, onto: Doubles, x: Doubles, y: Doubles, reach: Doubles
) -> tuple[Doubles, Doubles]:
    """The affine map about pixels (x, y) of one image onto the pixels of another.

    `reach`: (object,) in pixels, the half side over which it is to be right.  Returns where each
    pixel falls, (object, 2) as (x, y), and the matrix (object, 2, 2) of d(x', y')/d(x, y).
    """

    def through(dx: Doubles | float, dy: Doubles | float) -> Doubles:
        return np.stack(to_pixels(onto, *to_sky(of, x + dx, y + dy)), axis=-1)

    span = 2 * reach[:, None]
    columns = [
        (through(reach, 0.0) - through(-reach, 0.0)) / span,
        (through(0.0, reach) - through(0.0, -reach)) / span,
    ]
    return through(0.0, 0.0), np.stack(columns, axis=-1)
