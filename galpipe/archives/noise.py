"""The noise of SDSS frames: gains and dark variances of the camera, variances of pixels.

The variance in counts is (light and sky) / gain + dark variance (SDSS data model: frame).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.frames import FieldName, Frame

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Places = NDArray[np.int64]
AT_ONCE = 16  # cutouts whose variances are computed together, so that they stay in the CPU's cache
# Electrons per count and dark variance in counts squared, rows camcol 1-6, columns ugriz, of the
# SDSS data model of frames.
GAIN = (
    (1.62, 3.32, 4.71, 5.165, 4.745),
    (1.595, 3.855, 4.6, 6.565, 5.155),
    (1.59, 3.845, 4.72, 4.86, 4.885),
    (1.6, 3.995, 4.76, 4.885, 4.775),
    (1.47, 4.05, 4.725, 4.64, 3.48),
    (2.17, 4.035, 4.895, 4.76, 4.69),
)
LATER_GAIN = {(2, "u"): (1100, 1.825)}  # (camcol, band): after this run, another value
DARK_VARIANCE = (
    (9.61, 15.6025, 1.8225, 7.84, 0.81),
    (12.6025, 1.44, 1.0, 5.76, 1.0),
    (8.7025, 1.3225, 1.3225, 4.6225, 1.0),
    (12.6025, 1.96, 1.3225, 6.25, 9.61),
    (9.3025, 1.1025, 0.81, 7.84, 1.8225),
    (7.0225, 1.8225, 0.9025, 5.0625, 1.21),
)
LATER_DARK_VARIANCE = {
    (2, "i"): (1500, 6.25), (4, "i"): (1500, 7.5625), (4, "z"): (1500, 12.6025),
    (5, "z"): (1500, 2.1025),
}  # fmt: skip


def sky_sigma(frame: Frame, name: FieldName, band: str, x: Doubles, y: Doubles) -> Doubles:
    """The noise of the sky at 0-based pixels, in nanomaggies per pixel (SDSS data model: frame).

    The variance in counts is sky / gain + dark variance.  NaN off the frame.
    """
    ny, nx = frame.pixels.shape
    known = (x > -0.5) & (y > -0.5) & (x < nx - 0.5) & (y < ny - 0.5)
    column = np.clip(np.rint(np.where(known, x, 0)), 0, nx - 1).astype(int)
    row = np.clip(np.rint(np.where(known, y, 0)), 0, ny - 1).astype(int)
    up = frame.sky_y[np.minimum(row, len(frame.sky_y) - 1)]
    sky = _at(frame.sky.astype(np.float64), frame.sky_x[column], up)
    gain = _constant(GAIN, LATER_GAIN, name, band)
    dark = _constant(DARK_VARIANCE, LATER_DARK_VARIANCE, name, band)
    sigma = frame.calibration[column] * np.sqrt(np.maximum(sky, 0) / gain + dark)
    return np.where(known, sigma, np.nan)


def _constant(
    table: tuple[tuple[float, ...], ...],
    later: Mapping[tuple[int, str], tuple[int, float]],
    name: FieldName,
    band: str,
) -> float:
    run, value = later.get((name.camcol, band), (None, 0.0))
    if run is not None and name.run > run:
        return value
    return table[name.camcol - 1]["ugriz".index(band)]


def pixel_variance(
    frame: Frame, name: FieldName, band: str, low: NDArray[np.int64], high: NDArray[np.int64]
) -> Doubles:
    """The variance of a piece of a frame, (y, x), from pixel (x, y) `low` to before `high`.

    In nanomaggies squared: (dn / gain + dark variance) times the calibration squared, where dn are
    the counts of light and sky (SDSS data model: frame).
    """
    rows, columns = slice(low[1], high[1]), slice(low[0], high[0])
    first, second, share = _between(frame.sky_x[columns], frame.sky.shape[1])
    start = int(first.min())
    grid = frame.sky[:, start : int(second.max()) + 1].astype(np.float64)
    sky = _lines(grid, frame.sky_y[rows])
    sky = sky[:, first - start] * (1 - share) + sky[:, second - start] * share
    counts = frame.pixels[rows, columns] / frame.calibration[columns] + sky
    return _of_counts(counts, frame.calibration[columns], name, band)


def _of_counts(counts: Doubles, calibration: Doubles, name: FieldName, band: str) -> Doubles:
    """The variance of pixels, in nanomaggies squared, of their counts of light and sky."""
    gain = _constant(GAIN, LATER_GAIN, name, band)
    dark = _constant(DARK_VARIANCE, LATER_DARK_VARIANCE, name, band)
    variance = np.maximum(counts, 0)
    variance /= gain
    variance += dark
    variance *= calibration**2
    return variance


def _between(places: Doubles, count: int) -> tuple[Places, Places, Doubles]:
    """Between which of `count` rows of a grid places lie, and the share of the second."""
    places = np.clip(places, 0, count - 1)
    first = np.minimum(places.astype(np.int64), max(count - 2, 0))
    return first, np.minimum(first + 1, count - 1), places - first


def _lines(grid: Doubles, places: Doubles) -> Doubles:
    """Rows of a grid, interpolated linearly at places between them."""
    first, second, share = _between(places, len(grid))
    found: Doubles = grid[first] * (1 - share[:, None]) + grid[second] * share[:, None]
    return found


def variance_cut(
    frame: Frame, name: FieldName, band: str, corner: NDArray[np.int64], side: int
) -> Floats:
    """The variance of the pixels of a cutout at whole pixels; NaN off the frame."""
    out = np.full((side, side), np.nan, np.float32)
    shape = np.array(frame.pixels.shape[::-1])
    low, high = np.maximum(corner, 0), np.minimum(corner + side, shape)
    if (high > low).all():
        x0, y0 = low - corner
        x1, y1 = high - corner
        out[y0:y1, x0:x1] = pixel_variance(frame, name, band, low, high)
    return out


def variance_cuts(
    frame: Frame,
    name: FieldName,
    band: str,
    corner: NDArray[np.int64],
    images: Floats,
    dtype: type[np.floating[Any]] = np.float32,
) -> NDArray[Any]:
    """The variances of cutouts at whole pixels, as `variance_cut` has them, (object, y, x).

    `corner`: (object, 2), the first pixels (x, y); `images`: the cutouts' pixels, (object, y, x).
    """
    out = np.empty(images.shape, dtype)
    side = images.shape[-1]
    steps = np.arange(side)
    whole = ((corner >= 0) & (corner + side <= frame.pixels.shape[::-1])).all(axis=1)
    for row in np.flatnonzero(~whole).tolist():
        out[row] = variance_cut(frame, name, band, corner[row], side)
    grid = frame.sky.astype(np.float64)
    inner = np.flatnonzero(whole)
    for begin in range(0, len(inner), AT_ONCE):
        rows = inner[begin : begin + AT_ONCE]
        x, y = (corner[rows, axis, None] + steps for axis in (0, 1))
        calibration = frame.calibration[x][:, None]
        counts = images[rows] / calibration
        counts += _sky(grid, frame.sky_x[x], frame.sky_y[y])
        out[rows] = _of_counts(counts, calibration, name, band)
    return out


def _at(grid: Doubles, x: Doubles, y: Doubles) -> Doubles:
    """The values of a grid at single places, interpolated linearly; the nearest ones beyond it."""
    left, right, across = _between(x, grid.shape[1])
    first, second, up = _between(y, len(grid))
    down, back = 1 - up, 1 - across
    found: Doubles = grid[first, left] * down * back
    found += grid[first, right] * down * (1 - back)
    found += grid[second, left] * (1 - down) * back
    found += grid[second, right] * (1 - down) * (1 - back)
    return found


def _sky(grid: Doubles, x: Doubles, y: Doubles) -> Doubles:
    """The sky of cutouts, (object, y, x), at their columns' and rows' places on its grid."""
    count, side = x.shape
    left, right, across = _between(x, grid.shape[1])
    first, second, up = _between(y, len(grid))
    start = left.min(axis=1)
    width = int((right.max(axis=1) - start).max()) + 1
    columns = np.minimum(start[:, None] + np.arange(width), grid.shape[1] - 1)[:, None]
    lines = grid[first[:, :, None], columns] * (1 - up[:, :, None])
    lines += grid[second[:, :, None], columns] * up[:, :, None]
    line = (np.arange(count * side) * width).reshape(count, side, 1)
    flat = lines.reshape(-1)
    sky: Doubles = flat.take(line + (left - start[:, None])[:, None])
    sky *= (1 - across)[:, None]
    after: Doubles = flat.take(line + (right - start[:, None])[:, None])
    after *= across[:, None]
    sky += after
    return sky
