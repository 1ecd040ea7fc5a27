"""Pieces of images seen through affine maps: pixels by splines, variances and mask bits.

Single ones, and many of one image: these are the same to the bit, and take less time.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from galpipe.archives.frames import FieldName, Frame
from galpipe.archives.noise import pixel_variance, variance_cuts
from galpipe.archives.splines import Batch, batches, cubic, linear

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bits = NDArray[np.uint16]
MARGIN = 16  # pixels around a resampled piece; a cubic spline forgets its border by 3.7 per pixel
SHARE = 0.01  # of a pixel: a smaller share of its light brings none of its mask bits


def _piece(
    shape: tuple[int, ...], middle: Doubles, matrix: Doubles, side: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """The pixels (x, y), from the first to before the second, that a resampled piece rests on."""
    reach = np.abs(matrix).sum(axis=1) * (side - 1) / 2 + MARGIN
    ny, nx = shape
    low = np.maximum(np.floor(middle - reach), 0).astype(int)
    high = np.minimum(np.ceil(middle + reach) + 1, (nx, ny)).astype(int)
    return None if (high - low < 4).any() else (low, high)


def _area(matrix: Doubles) -> float:
    return abs(float(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]))


def resample(plane: Floats, middle: Doubles, matrix: Doubles, side: int) -> Floats:
    """`side` x `side` pixels of an image, seen through an affine map; NaN off the image.

    `middle` is the 0-based (x, y) that falls on the middle pixel, `matrix` d(x, y) of the image by
    d(x, y) of the result.  Cubic spline; the flux per pixel is scaled by the pixel's area.
    """
    from scipy import ndimage  # half a second, which one band as it stands does not need

    half = (side - 1) / 2
    found = _piece(plane.shape, middle, matrix, side)
    if found is None:
        return np.full((side, side), np.nan, np.float32)
    low, high = found
    piece = plane[low[1] : high[1], low[0] : high[0]].astype(np.float64)
    undefined = ~np.isfinite(piece)
    if undefined.any():
        piece[undefined] = 0.0
    turned = matrix[::-1, ::-1]  # ndimage counts (y, x)
    offset = (middle - low)[::-1] - turned @ np.full(2, half)
    shape = (side, side)
    coefficients = ndimage.spline_filter(piece, order=3, mode="mirror")
    out: Doubles = ndimage.affine_transform(
        coefficients, turned, offset, shape, order=3, mode="constant", cval=np.nan, prefilter=False
    )
    if undefined.any():
        touched = ndimage.affine_transform(
            undefined.astype(np.float64), turned, offset, shape, order=1, mode="nearest"
        )
        out[touched > 1e-6] = np.nan
    scaled: Floats = (out * _area(matrix)).astype(np.float32)
    return scaled


def resample_all(plane: Floats, middle: Doubles, matrix: Doubles, side: int) -> Floats:
    """`resample` for many objects: middle (object, 2), matrix (object, 2, 2)."""
    out = np.empty((len(middle), side, side), np.float32)
    alone = np.ones(len(middle), bool)
    for batch in _together(plane.shape, middle, matrix, side):
        pieces = sliding_window_view(plane, batch.size)[batch.low[:, 1], batch.low[:, 0]]
        if not np.isfinite(pieces).all():
            continue
        seen = cubic(np.ascontiguousarray(pieces.transpose(1, 2, 0), np.float64), batch, side)
        out[batch.rows] = seen * _areas(matrix[batch.rows])
        alone[batch.rows] = False
    for row in np.flatnonzero(alone).tolist():
        out[row] = resample(plane, middle[row], matrix[row], side)
    return out


def resample_variances(
    frame: Frame, name: FieldName, band: str, middle: Doubles, matrix: Doubles, side: int
) -> Floats:
    """`resample_variance` for many objects: middle (object, 2), matrix (object, 2, 2)."""
    out = np.empty((len(middle), side, side), np.float32)
    alone = np.ones(len(middle), bool)
    window = (side + 1, side + 1)
    for batch in _together(frame.pixels.shape, middle, matrix, side):
        corner = batch.low + batch.first[::-1]
        pieces = sliding_window_view(frame.pixels, window)[corner[:, 1], corner[:, 0]]
        if not np.isfinite(pieces).all():
            continue
        variance = variance_cuts(frame, name, band, corner, pieces, np.float64)
        seen = linear(variance, batch, side)
        out[batch.rows] = seen * _areas(matrix[batch.rows]) ** 2
        alone[batch.rows] = False
    for row in np.flatnonzero(alone).tolist():
        out[row] = resample_variance(frame, name, band, middle[row], matrix[row], side)
    return out


def _together(shape: tuple[int, ...], middle: Doubles, matrix: Doubles, side: int) -> list[Batch]:
    """The objects whose pieces lie whole on an image, as far as they are computed together."""
    reach = np.abs(matrix).sum(axis=2) * (side - 1) / 2 + MARGIN
    low = np.floor(middle - reach)
    high = np.ceil(middle + reach) + 1
    whole = np.flatnonzero(((low >= 0) & (high <= shape[::-1])).all(axis=1))
    low, high = low[whole].astype(np.int64), high[whole].astype(np.int64)
    found = batches(low, high, middle[whole], matrix[whole], side)
    return [dataclasses.replace(batch, rows=whole[batch.rows]) for batch in found]


def _areas(matrix: Doubles) -> Doubles:
    """The areas of pixels of the result on the image, (object, 1, 1)."""
    return np.array([_area(one) for one in matrix])[:, None, None]


def resample_variance(
    frame: Frame, name: FieldName, band: str, middle: Doubles, matrix: Doubles, side: int
) -> Floats:
    """The variance seen through an affine map, as `resample` sees the image; NaN off the image.

    It is that of the pixels there, interpolated linearly: what neighbouring pixels share after the
    resampling is not in it.
    """
    from scipy import ndimage

    piece = _piece(frame.pixels.shape, middle, matrix, side)
    if piece is None:
        return np.full((side, side), np.nan, np.float32)
    low, high = piece
    variance = pixel_variance(frame, name, band, low, high)
    turned = matrix[::-1, ::-1]
    offset = (middle - low)[::-1] - turned @ np.full(2, (side - 1) / 2)
    out: Doubles = ndimage.affine_transform(
        variance, turned, offset, (side, side), order=1, mode="constant", cval=np.nan
    )
    scaled: Floats = (out * _area(matrix) ** 2).astype(np.float32)
    return scaled


def resample_bits(bits: Bits, middle: Doubles, matrix: Doubles, side: int, outside: int) -> Bits:
    """Mask bits seen through an affine map, as `resample` sees the image; `outside` off the image.

    A pixel has the bits of every pixel, of the four about the place where it falls, that has a
    share of more than `SHARE` in it when interpolated linearly.
    """
    half = (side - 1) / 2
    steps = np.arange(side) - half
    x = middle[0] + matrix[0, 0] * steps[None, :] + matrix[0, 1] * steps[:, None]
    y = middle[1] + matrix[1, 0] * steps[None, :] + matrix[1, 1] * steps[:, None]
    rows = [np.floor(y + SHARE).astype(np.intp), np.ceil(y - SHARE).astype(np.intp)]
    columns = [np.floor(x + SHARE).astype(np.intp), np.ceil(x - SHARE).astype(np.intp)]
    ny, nx = bits.shape
    found = np.zeros((side, side), np.uint16)
    low, high = (rows[0].min(), columns[0].min()), (rows[1].max(), columns[1].max())
    if min(low) >= 0 and high[0] < ny and high[1] < nx:
        if bits[low[0] : high[0] + 1, low[1] : high[1] + 1].any():
            flat = bits.reshape(-1)
            for row in rows:
                for column in columns:
                    found |= flat.take(row * nx + column)
        return found
    for row in rows:
        for column in columns:
            there = (row >= 0) & (row < ny) & (column >= 0) & (column < nx)
            found[there] |= bits[row[there], column[there]]
            found[~there] |= np.uint16(outside)
    return found
