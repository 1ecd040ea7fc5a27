"""From cutout to stamp in one pass: recentring, rotation, scaling, averaging where it shrinks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Frames:
    """Where the stamps of n objects lie on their cutouts, each (object,).

    x, y: centre, 0-based cutout pixels; angle: direction of the stamp's +x axis on the cutout,
    radians from +x towards +y; step: cutout pixels per stamp pixel.
    """

    x: Doubles
    y: Doubles
    angle: Doubles
    step: Doubles


def stamp_grid(size: int) -> Doubles:
    """Offsets of a stamp's pixel centres from its own centre, in stamp pixels, (size,)."""
    return np.arange(size, dtype=np.float64) - (size - 1) / 2


def inscribed_disc(size: int) -> NDArray[np.bool_]:
    """The pixels of a stamp that any rotation keeps, (size, size)."""
    grid = stamp_grid(size)
    return np.hypot(grid[:, None], grid[None, :]) <= size / 2


def resample(
    planes: Floats, x: float, y: float, angle: float, step: float, size: int, order: int
) -> Floats:
    """Resample planes of one object, (plane, ny, nx), to (plane, size, size).

    Surface brightness is conserved: each stamp pixel is the mean of ceil(step) x ceil(step)
    interpolated points inside it, which keeps noise and stars from aliasing where the image
    shrinks.  order: 1 linear, 3 cubic spline.  Points off the image are 0.
    """
    points = max(1, int(np.ceil(step - 1e-6)))
    fine = step / points
    cos, sin = np.cos(angle) * fine, np.sin(angle) * fine
    matrix = np.array([[cos, sin], [-sin, cos]])  # (row, column) of the stamp to (y, x)
    middle = (size * points - 1) / 2
    offset = np.array([y, x]) - matrix @ np.array([middle, middle])
    wide = size * points
    result = np.empty((len(planes), size, size), np.float32)
    off = _off_image(matrix, offset, wide, planes.shape[1:])
    beyond = "nearest" if order == 1 else "mirror"  # for the outer half of the border's pixels
    for k, plane in enumerate(planes):
        sampled = ndimage.affine_transform(
            plane, matrix, offset, (wide, wide), np.float32, order, beyond
        )
        if off is not None:
            sampled[off] = 0
        if points > 1:
            sampled = sampled.reshape(size, points, size, points).mean(axis=(1, 3))
        result[k] = sampled
    return result


def _off_image(
    matrix: Doubles, offset: Doubles, wide: int, shape: tuple[int, ...]
) -> NDArray[np.bool_] | None:
    """Which of wide x wide points lie on no pixel of the image; None where all do."""
    steps = np.arange(wide)
    y = offset[0] + matrix[0, 0] * steps[:, None] + matrix[0, 1] * steps[None, :]
    x = offset[1] + matrix[1, 0] * steps[:, None] + matrix[1, 1] * steps[None, :]
    slack = 0.5 + 1e-6  # a pixel reaches half a pixel from its centre
    corners = np.ix_([0, -1], [0, -1])
    lowest = min(y[corners].min(), x[corners].min())
    if (
        lowest >= -slack
        and y[corners].max() < shape[0] - 1 + slack
        and x[corners].max() < shape[1] - 1 + slack
    ):
        return None
    off: NDArray[np.bool_] = (
        (y < -slack) | (x < -slack) | (y > shape[0] - 1 + slack) | (x > shape[1] - 1 + slack)
    )
    return off


def covered(usable: NDArray[np.bool_], frames: Frames, size: int) -> Floats:
    """Fraction of each stamp's inscribed disc that usable cutout pixels cover, (object,).

    usable: (object, ny, nx).  The corners are left out: rotation brings them in and out.
    """
    count, ny, nx = usable.shape
    rows, columns = np.nonzero(inscribed_disc(size))
    grid = stamp_grid(size)
    u = (grid[columns] * frames.step[:, None]).astype(np.float32)
    v = (grid[rows] * frames.step[:, None]).astype(np.float32)
    cos = np.cos(frames.angle).astype(np.float32)[:, None]
    sin = np.sin(frames.angle).astype(np.float32)[:, None]
    column = np.rint(u * cos - v * sin + frames.x.astype(np.float32)[:, None]).astype(np.int32)
    row = np.rint(u * sin + v * cos + frames.y.astype(np.float32)[:, None]).astype(np.int32)
    on = (row >= 0) & (row < ny) & (column >= 0) & (column < nx)
    index = np.where(on, row * nx + column, 0)
    good = np.take_along_axis(usable.reshape(count, -1), index, axis=1) & on
    fraction: Floats = good.mean(axis=1, dtype=np.float64).astype(np.float32)
    return fraction
