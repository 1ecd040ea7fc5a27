"""The simulated camera of Hubble's field: filters, pixels on the sky, and what its files say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]

PIXEL, NATIVE = 0.03, 0.05  # arcsec: of the mosaics, of the camera
RA, DEC = 150.1, 2.2  # degrees, of the middle
PROPOSAL = 99001  # no proposal of the real telescope
EXPOSURES = 4
EXPOSURE = 507.0  # seconds, each
FILTERS = {  # sky in e-/s per native pixel, FWHM in arcsec, PHOTFLAM, PHOTPLAM in Angstrom
    "F606W": (0.13, 0.088, 7.862e-20, 5921.9),
    "F814W": (0.11, 0.096, 7.033e-20, 8045.0),
}


def zero_point(photflam: float, photplam: float) -> float:
    """AB magnitude of one electron per second (ACS Data Handbook, section 5.1.1)."""
    return -2.5 * math.log10(photflam) - 5 * math.log10(photplam) - 2.408


def name_of(filter: str) -> str:
    """The file of the mosaic of a filter."""
    return f"hst_galpipe-field_acs_wfc_{filter.lower()}_drz.fits"


def field_wcs(side: int) -> Doubles:
    """crpix1, crpix2, crval1, crval2, cd1_1, cd1_2, cd2_1, cd2_2 of a mosaic, north up."""
    middle, step = (side + 1) / 2, PIXEL / 3600
    return np.array([middle, middle, RA, DEC, -step, 0.0, 0.0, step])


def sky_of(side: int, x: float, y: float) -> tuple[float, float]:
    """Degrees of a 0-based pixel of a mosaic (Calabretta & Greisen 2002, section 5.1.3)."""
    middle = (side - 1) / 2
    xi, eta = (math.radians((v - middle) * PIXEL / 3600) for v in (x, y))
    xi, pole = -xi, math.radians(DEC)
    down = math.cos(pole) - eta * math.sin(pole)
    dec = math.atan2(math.sin(pole) + eta * math.cos(pole), math.hypot(xi, down))
    return RA + math.degrees(math.atan2(xi, down)), math.degrees(dec)


def pixel_of(side: int, ra: float, dec: float) -> tuple[float, float] | None:
    """The 0-based pixel of a place, on the mosaic or off it; None on the far side of the sky."""
    across, up, pole = (math.radians(v) for v in (ra - RA, dec, DEC))
    depth = math.sin(pole) * math.sin(up) + math.cos(pole) * math.cos(up) * math.cos(across)
    if not depth > 0.1:
        return None
    xi = math.cos(up) * math.sin(across) / depth
    eta = math.cos(pole) * math.sin(up) - math.sin(pole) * math.cos(up) * math.cos(across)
    middle, step = (side - 1) / 2, math.radians(PIXEL / 3600)
    return middle - xi / step, middle + eta / depth / step


def cards(filter: str) -> dict[str, Any]:
    """What the primary header of a product of this filter says."""
    first = filter.startswith("F6")
    return {
        "TELESCOP": "HST", "INSTRUME": "ACS", "DETECTOR": "WFC", "PROPOSID": PROPOSAL,
        "FILTER1": filter if first else "CLEAR1L", "FILTER2": "CLEAR2L" if first else filter,
        "FILTER": filter, "TARGNAME": "GALPIPE-FIELD", "EXPTIME": EXPOSURES * EXPOSURE,
        "SIMULATE": True,
    }  # fmt: skip


def product(filter: str, science: Floats, weight: Floats, wcs: Doubles) -> fits.HDUList:
    """A drizzled product as HAP lays it out: PRIMARY, SCI, WHT."""
    _, _, photflam, photplam = FILTERS[filter]
    place: dict[str, Any] = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}
    names = ("CRPIX1", "CRPIX2", "CRVAL1", "CRVAL2", "CD1_1", "CD1_2", "CD2_1", "CD2_2")
    place.update(zip(names, (float(value) for value in wcs), strict=True))
    primary = fits.PrimaryHDU()
    primary.header.update(cards(filter))
    sci, wht = fits.ImageHDU(science, name="SCI"), fits.ImageHDU(weight, name="WHT")
    sci.header.update({**place, "BUNIT": "ELECTRONS/S"})
    sci.header.update({"PHOTFLAM": photflam, "PHOTPLAM": photplam})
    wht.header.update(place)
    return fits.HDUList([primary, sci, wht])
