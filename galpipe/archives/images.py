"""The bytes of an image file to pixels: JPEG, PNG and FITS, told apart by their first bytes.

Pixels stay as stored: row 0 is the first row of the file, which is the top of a JPEG or PNG and
the bottom (smallest y) of a FITS image, so that position angles of the two have opposite senses.
"""

from __future__ import annotations

import bz2
import zlib
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.trouble import BadImageError
from galpipe.status import Status

LARGEST_SIDE = 4096  # pixels
LARGEST_CONTENT = 2**30  # bytes, once decompressed
SUFFIXES = (".jpg", ".jpeg", ".png", ".fits", ".fit", ".fts")
COMPRESSED = (".gz", ".bz2", ".fz")


def no_wcs() -> NDArray[np.float64]:
    """The WCS row of an image that has none."""
    return np.full(8, np.nan)


@dataclass(frozen=True)
class Header:
    """What an image says of itself before it is decoded."""

    planes: int
    ny: int
    nx: int
    dtype: str  # of the store: uint8 for images of bytes, float32 for all others


@dataclass(frozen=True)
class Image:
    """A decoded image: `pixels` (band, y, x) uint8 or float32, undefined ones NaN.

    `pixel_scale` in arcsec per pixel and `wcs` (crpix1, crpix2, crval1, crval2, cd1_1, cd1_2,
    cd2_1, cd2_2; FITS convention, degrees) are NaN where the file has none.
    """

    pixels: NDArray[Any]
    pixel_scale: float = float("nan")
    wcs: NDArray[np.float64] = field(default_factory=no_wcs)


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image file."""
    path = PurePosixPath(name.lower())
    if path.suffix in COMPRESSED:
        return path.suffix == ".fz" or path.with_suffix("").suffix in SUFFIXES
    return path.suffix in SUFFIXES


def stem(name: str) -> str:
    """The name of an image file without folders and suffixes: what an object's id may match."""
    base = PurePosixPath(name).name
    for suffixes in (COMPRESSED, SUFFIXES):
        for suffix in suffixes:
            if base.lower().endswith(suffix):
                base = base[: -len(suffix)]
                break
    return base


def read_header(content: bytes, hdu: int | None) -> Header:
    """Size, planes and type of an image from its header; raises BadImageError."""
    kind, content = _open(content)
    if kind == "fits":
        from galpipe.archives import fits_images

        header = fits_images.read_header(content, hdu)
    else:
        from galpipe.archives import raster_images

        header = raster_images.read_header(content)
    check_size(header)
    return header


def decode(content: bytes, hdu: int | None) -> Image:
    """All pixels of an image; raises BadImageError where it is unreadable, cut off or too large."""
    kind, content = _open(content)
    if kind == "fits":
        from galpipe.archives import fits_images

        return fits_images.decode(content, hdu)
    from galpipe.archives import raster_images

    return Image(raster_images.decode(content))


def check_size(header: Header) -> None:
    """Refuse what no cutout can be."""
    if max(header.ny, header.nx) > LARGEST_SIDE:
        raise BadImageError(
            Status.CORRUPT,
            f"{header.nx} x {header.ny} pixels; a cutout has at most {LARGEST_SIDE} on a side",
        )
    if min(header.planes, header.ny, header.nx) < 1:
        raise BadImageError(Status.CORRUPT, "the image has no pixels")
    if 4 * header.planes * header.ny * header.nx > LARGEST_CONTENT:
        raise BadImageError(Status.CORRUPT, f"{header.planes} planes, more than 1 GiB of pixels")


def _open(content: bytes) -> tuple[str, bytes]:
    """The format of an image, and its bytes decompressed."""
    if content.startswith(b"\x1f\x8b"):
        content = _decompress(zlib.decompressobj(wbits=31), content)
    elif content.startswith(b"BZh"):
        content = _decompress(bz2.BZ2Decompressor(), content)
    if content.startswith(b"\xff\xd8"):
        return "jpeg", content
    if content.startswith(b"\x89PNG"):
        return "png", content
    if content.startswith(b"SIMPLE  ="):
        return "fits", content
    raise BadImageError(
        Status.CORRUPT, "the file is empty" if not content else "not a JPEG, PNG or FITS image"
    )


def _decompress(decompressor: Any, content: bytes) -> bytes:
    try:
        plain: bytes = decompressor.decompress(content, LARGEST_CONTENT)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise BadImageError(Status.CORRUPT, f"damaged compression ({error})") from None
    if len(plain) >= LARGEST_CONTENT:
        raise BadImageError(Status.CORRUPT, "larger than 1 GiB once decompressed")
    if not decompressor.eof:
        raise BadImageError(Status.CORRUPT, "truncated within its compression")
    return plain
