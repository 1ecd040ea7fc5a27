"""FITS images: the HDU, its pixels as float32 with NaN kept, and its place on the sky."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from galpipe.archives.images import Header, Image, check_size, no_wcs
from galpipe.archives.trouble import BadImageError, corrupt
from galpipe.status import Status

T = TypeVar("T")
ENDLESS = re.compile(rb"(?:NAXIS   |TFIELDS )=[ +]*\d{4}")
ARCSEC = 3600.0  # per degree
IMAGES = (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU)


def read_header(content: bytes, hdu: int | None) -> Header:
    """Size and planes of the image HDU; `hdu` None takes the first with an image.

    Raises BadImageError.
    """
    return _use(content, hdu, header_of)


def decode(content: bytes, hdu: int | None) -> Image:
    """Pixels (band, y, x) float32, pixel scale and WCS; raises BadImageError."""
    return _use(content, hdu, image_of)


def refuse_endless(content: bytes) -> None:
    """Raise BadImageError (CORRUPT) of a FITS file with more axes or columns than the format has.

    FITS allows 999 of each; astropy would count to whatever a damaged header says.
    """
    if ENDLESS.search(content):
        raise BadImageError(Status.CORRUPT, "the header tells of more than 999 axes or columns")


def _use(content: bytes, number: int | None, function: Callable[[Any], T]) -> T:
    """Apply a function to the image HDU of a file."""
    refuse_endless(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers older than the standard
            with fits.open(io.BytesIO(content), memmap=False, lazy_load_hdus=True) as hdus:
                return function(_image_hdu(hdus, number))
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # astropy raises whatever its parsers meet in damaged bytes
        raise corrupt(error) from None


def _image_hdu(hdus: Any, number: int | None) -> Any:
    if number is not None:
        try:
            found = hdus[number]
        except IndexError:
            raise BadImageError(Status.CORRUPT, f"the file has no HDU {number}") from None
        if not isinstance(found, IMAGES) or len(found.shape) < 2:
            raise BadImageError(Status.CORRUPT, f"HDU {number} is no image")
        return found
    for found in hdus:
        if isinstance(found, IMAGES) and len(found.shape) >= 2:
            return found
    raise BadImageError(Status.CORRUPT, "no HDU of the file holds an image")


def header_of(hdu: Any) -> Header:
    """Size and planes of the image of one HDU."""
    if len(hdu.shape) < 2:
        raise BadImageError(Status.CORRUPT, "the HDU holds no image")
    shape = _squeezed(hdu.shape)
    return Header(shape[0], shape[1], shape[2], "float32")


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(band, y, x) of an image's shape; leading axes of length one are dropped."""
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) > 3:
        raise BadImageError(Status.CORRUPT, f"the image has {len(shape)} axes")
    return shape if len(shape) == 3 else (1, *shape)


def image_of(hdu: Any) -> Image:
    """The image of one HDU, scaled by BSCALE and BZERO, BLANK as NaN."""
    shape = header_of(hdu)
    check_size(shape)
    pixels = np.asarray(hdu.data).reshape(shape.planes, shape.ny, shape.nx)
    with np.errstate(over="ignore"):
        pixels = pixels.astype(np.float32)
    pixels[~np.isfinite(pixels)] = np.nan
    wcs = linear_wcs(hdu.header)
    return Image(pixels, pixel_scale(wcs), wcs)


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
