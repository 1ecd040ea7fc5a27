"""FITS images: the HDU, its pixels as float32 with NaN kept, and its place on the sky."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from astropy.io import fits

from galpipe.archives.hdus import refuse_endless
from galpipe.archives.images import Header, Image, check_size
from galpipe.archives.linear_wcs import linear_wcs, pixel_scale
from galpipe.archives.trouble import BadImageError, corrupt
from galpipe.status import Status

T = TypeVar("T")
IMAGES = (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU)


def read_header(content: bytes, hdu: int | None) -> Header:
    """Size and planes of the image HDU; `hdu` None takes the first with an image.

    Raises BadImageError.
    """
    return _use(content, hdu, header_of)


def decode(content: bytes, hdu: int | None) -> Image:
    """Pixels (band, y, x) float32, pixel scale and WCS; raises BadImageError."""
    return _use(content, hdu, image_of)


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
