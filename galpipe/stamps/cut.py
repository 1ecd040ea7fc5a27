"""Many stamps from one decoded frame: by pixel or sky position, each with its own WCS.

All stamps that lie wholly on the frame are gathered in one indexing step; only those at the
border are cut one by one.  The linear part of a WCS travels as eight numbers (crpix1, crpix2,
crval1, crval2, cd1_1, cd1_2, cd2_1, cd2_2; FITS conventions, crpix 1-based); a cut only moves
crpix.  Distortions of the frame (SIP, TPV) count for where a sky position lies, not inside a stamp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
WorldToPixel = Callable[[Doubles, Doubles], Any]  # (ra, dec) in degrees to 0-based (x, y)


@dataclass(frozen=True)
class Cuts:
    """n stamps of one frame.

    image: (object, band, size, size) float32, NaN off the frame and where the frame is NaN;
    coverage: fraction of pixels defined in every band, (object,); wcs: (object, 8), NaN without
    one; corner: 0-based (x, y) of the stamp's first pixel on the frame, (object, 2).
    """

    image: NDArray[np.float32]
    coverage: NDArray[np.float32]
    wcs: Doubles
    corner: NDArray[np.int64]


def cut(frame: NDArray[Any], x: Doubles, y: Doubles, size: int, wcs: Doubles | None = None) -> Cuts:
    """Cut square stamps about 0-based pixel positions.

    frame: (band, ny, nx) or (ny, nx), any real dtype; x, y: (object,), rounded to whole pixels so
    that no pixel is interpolated (the middle pixel of an odd size holds the position, as in
    astropy's Cutout2D); NaN positions give empty stamps; wcs: (8,) of the frame, or None.
    """
    if size < 1:
        raise ValueError(f"a stamp has at least one pixel, not {size}")
    planes = frame[None] if frame.ndim == 2 else frame
    bands, ny, nx = planes.shape
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    known = np.isfinite(x) & np.isfinite(y)
    # ceil(position - size/2) is astropy's rule for the first pixel, also for even sizes.
    far = float(2 * (ny + nx + size))
    left = np.ceil(np.clip(np.where(known, x, -far), -far, far) - size / 2).astype(np.int64)
    low = np.ceil(np.clip(np.where(known, y, -far), -far, far) - size / 2).astype(np.int64)
    count = len(x)
    image = np.empty((count, bands, size, size), np.float32)
    inside = (left >= 0) & (low >= 0) & (left + size <= nx) & (low + size <= ny)
    if inside.any():
        windows = sliding_window_view(planes, (size, size), axis=(1, 2))
        whole = np.flatnonzero(inside)
        for band in range(bands):
            image[whole, band] = windows[band, low[whole], left[whole]]
    for k in np.flatnonzero(~inside):
        image[k] = np.nan
        x0, x1 = max(left[k], 0), min(left[k] + size, nx)
        y0, y1 = max(low[k], 0), min(low[k] + size, ny)
        if x0 < x1 and y0 < y1:
            target = image[k, :, y0 - low[k] : y1 - low[k], x0 - left[k] : x1 - left[k]]
            target[...] = planes[:, y0:y1, x0:x1]
    corner = np.stack([left, low], axis=1)
    corner[~known] = 0
    return Cuts(image, _coverage(image, inside, planes.dtype), _moved(wcs, corner, known), corner)


def cut_sky(
    frame: NDArray[Any],
    to_pixel: WorldToPixel,
    ra: Doubles,
    dec: Doubles,
    size: int,
    wcs: Doubles | None = None,
) -> Cuts:
    """As `cut`, about sky positions in degrees, turned into pixels in one call.

    to_pixel: for example `astropy.wcs.WCS(header).all_world2pix` with origin 0, or
    `WCS(header).world_to_pixel_values`.
    """
    x, y = to_pixel(np.asarray(ra, np.float64), np.asarray(dec, np.float64))
    return cut(frame, np.asarray(x), np.asarray(y), size, wcs)


def _coverage(
    image: NDArray[np.float32], inside: NDArray[np.bool_], dtype: np.dtype[Any]
) -> NDArray[np.float32]:
    """Fraction of the pixels that every band defines; integers on the frame always are."""
    coverage = np.ones(len(image), np.float32)
    # One NaN makes the sum NaN: a cheap first look before counting.
    sums = image.sum(axis=(1, 2, 3)) if dtype.kind == "f" else None
    suspect = ~inside if sums is None else ~inside | ~np.isfinite(sums)
    for k in np.flatnonzero(suspect):
        coverage[k] = np.isfinite(image[k]).all(axis=0).mean()
    return coverage


def _moved(wcs: Doubles | None, corner: NDArray[np.int64], known: NDArray[np.bool_]) -> Doubles:
    """The frame's WCS seen from each stamp's own first pixel, (object, 8)."""
    if wcs is None:
        return np.full((len(corner), 8), np.nan)
    moved = np.tile(np.asarray(wcs, np.float64), (len(corner), 1))
    moved[:, :2] -= corner
    moved[~known] = np.nan
    return moved
