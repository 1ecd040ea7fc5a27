"""JPEG and PNG through Pillow, every bit kept (also of 16-bit colour, which Pillow reads as 8)."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import PngImagePlugin

from galpipe.archives.images import Header, check_size
from galpipe.archives.trouble import BadImageError, corrupt
from galpipe.status import Status

# Pillow's modes: planes of colour (an alpha plane is no band and is left out), and depth.
MODES = {
    "1": (1, "uint8"), "L": (1, "uint8"), "LA": (1, "uint8"), "P": (3, "uint8"),
    "RGB": (3, "uint8"), "RGBA": (3, "uint8"), "RGBX": (3, "uint8"), "CMYK": (4, "uint8"),
    "YCbCr": (3, "uint8"), "I;16": (1, "float32"), "I;16B": (1, "float32"), "I": (1, "float32"),
}  # fmt: skip
CONVERTED = {"1": "L", "P": "RGB", "YCbCr": "RGB", "RGBX": "RGB"}
DEEP = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}  # high bytes, and how to get the low ones


def read_header(content: bytes) -> Header:
    """Size, planes and type; raises BadImageError."""
    try:
        with _open(content) as picture:
            return _header(picture)
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # Pillow raises whatever its parsers meet in damaged bytes
        raise corrupt(error) from None


def decode(content: bytes) -> NDArray[Any]:
    """Pixels (band, y, x): uint8, or float32 for deeper images; raises BadImageError."""
    try:
        with _open(content) as picture:
            header = _header(picture)
            check_size(header)
            raw = _deep(picture)
            if raw is not None:
                return _decode_deep(content, picture, raw, header.planes)
            if picture.mode in CONVERTED:
                with picture.convert(CONVERTED[picture.mode]) as plain:
                    return _pixels(plain, header.planes)
            return _pixels(picture, header.planes).astype(header.dtype, copy=False)
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # as above
        raise corrupt(error) from None


def _decode_deep(content: bytes, picture: Any, raw: str, planes: int) -> NDArray[np.float32]:
    """16-bit colour: Pillow keeps the high bytes; told that the file is little-endian, the low."""
    high = _pixels(picture, planes).astype(np.float32)
    with _open(content) as again:
        first: Any = again.tile[0]
        again.tile = [first._replace(args=DEEP[raw])]
        low = _pixels(again, planes).astype(np.float32)
    deep: NDArray[np.float32] = high * np.float32(256) + low
    return deep


def _header(picture: Any) -> Header:
    if picture.mode not in MODES:
        raise BadImageError(Status.CORRUPT, f"pixels of the kind {picture.mode} are not read")
    planes, dtype = MODES[picture.mode]
    deep = _deep(picture) is not None
    return Header(planes, picture.height, picture.width, "float32" if deep else dtype)


def _open(content: bytes) -> Any:
    with warnings.catch_warnings():
        # Too large an image is refused by its header, in our own words.
        warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
        return Pillow.open(io.BytesIO(content), formats=("JPEG", "PNG"))


def _deep(picture: Any) -> str | None:
    """The raw mode of a PNG with 16 bits per colour, else None."""
    if not isinstance(picture, PngImagePlugin.PngImageFile) or not picture.tile:
        return None
    raw = picture.tile[0].args
    if raw == "LA;16B":
        raise BadImageError(Status.CORRUPT, "a 16-bit grey PNG with transparency is not read")
    return raw if isinstance(raw, str) and raw in DEEP else None


def _pixels(picture: Any, planes: int) -> NDArray[Any]:
    values = np.asarray(picture)
    if values.ndim == 2:
        return values[np.newaxis]
    return np.moveaxis(values, -1, 0)[:planes]
