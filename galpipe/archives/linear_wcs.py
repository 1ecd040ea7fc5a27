"""The linear part of a celestial WCS: eight numbers, from the cards of a header."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.images import no_wcs

ARCSEC = 3600.0  # per degree


def pixel_scale(wcs: NDArray[np.float64]) -> float:
    """Arcsec per pixel: the root of the pixel's area, sqrt(|det CD|); NaN without a WCS."""
    scale = float(np.sqrt(abs(wcs[4] * wcs[7] - wcs[5] * wcs[6]))) * ARCSEC
    return scale if scale > 0 else float("nan")


def linear_wcs(header: Any) -> NDArray[np.float64]:
    """The linear part of a celestial WCS (Calabretta & Greisen 2002), (8,) float64, degrees.

    NaN throughout where the axes are not right ascension and declination, in this order.
    Distortion terms are left out.
    """
    wcs = no_wcs()
    try:
        if not (
            str(header["CTYPE1"]).startswith("RA--") and str(header["CTYPE2"]).startswith("DEC-")
        ):
            return wcs
        reference = [float(header[key]) for key in ("CRPIX1", "CRPIX2", "CRVAL1", "CRVAL2")]
        if any(f"CD{i}_{j}" in header for i in (1, 2) for j in (1, 2)):
            matrix = [float(header.get(f"CD{i}_{j}", 0.0)) for i in (1, 2) for j in (1, 2)]
        else:
            matrix = _matrix_of_steps(header)
    except (KeyError, ValueError, TypeError):
        return wcs
    wcs[:] = [*reference, *matrix]
    return wcs


def _matrix_of_steps(header: Any) -> list[float]:
    """CD from CDELT with PC, or with the older CROTA2 (Calabretta & Greisen 2002, section 6.1)."""
    step = (float(header["CDELT1"]), float(header["CDELT2"]))
    if any(f"PC{i}_{j}" in header for i in (1, 2) for j in (1, 2)):
        return [
            step[i - 1] * float(header.get(f"PC{i}_{j}", float(i == j)))
            for i in (1, 2)
            for j in (1, 2)
        ]
    angle = np.deg2rad(float(header.get("CROTA2", 0.0)))
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    return [step[0] * cos, -step[1] * sin, step[0] * sin, step[1] * cos]
