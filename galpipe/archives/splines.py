"""Splines of many pieces of an image at once, to the bit those of `scipy.ndimage`.

Where a map moves the pixels of a piece by nearly the same amount, all of them lie between the same
neighbours, and a spline is a sum of shifted pieces: no pixel needs to be looked up by itself.  The
arithmetic is that of ndimage, operation by operation (spline_filter with mode "mirror",
affine_transform; Unser, Aldroubi & Eden 1993), and takes a third of its time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Places = NDArray[np.int64]
AT_ONCE = 32  # pieces computed together, so that they stay in the CPU's cache
POLE = -0.26794919243112270647  # sqrt(3) - 2, of the cubic B-spline
LINES = 4  # lines of all results, or results of all lines, computed together: likewise
NEAR = 1e-6  # pixels: what falls closer to a pixel than this is left to ndimage


@dataclass(frozen=True)
class Batch:
    """Objects whose pieces have one size and whose pixels fall between the same neighbours.

    rows: which objects, (n,); low: the pieces' first pixels (x, y), (n, 2); size: (y, x) of a
    piece; matrix: (n, 2, 2) and offset: (n, 2), both as (y, x), from pixels of the result to those
    of the piece; first: (y, x), the pixel of the piece before the result's first.
    """

    rows: Places
    low: Places
    size: tuple[int, int]
    matrix: Doubles
    offset: Doubles
    first: tuple[int, int]


def batches(low: Places, high: Places, middle: Doubles, matrix: Doubles, side: int) -> list[Batch]:
    """Those of the objects that can be computed together; each at most once.

    low, high: (object, 2), the first pixel (x, y) of each piece and the one behind its last;
    middle, matrix: as `galpipe.archives.resampling.resample` has them, (object, 2) and
    (object, 2, 2); `side` of the result.
    """
    turned = matrix[:, ::-1, ::-1]
    # The expressions of `resample`, object by object: another order of sums is another offset.
    offset = (middle - low)[:, ::-1].astype(np.float64)
    for row, one in enumerate(turned):
        offset[row] -= one @ np.full(2, (side - 1) / 2)
    drift = turned - np.eye(2)
    reach = (side - 1) * np.minimum(drift, 0).sum(axis=2), (side - 1) * np.maximum(drift, 0).sum(2)
    least, most = offset + reach[0], offset + reach[1]
    first = np.floor(least).astype(np.int64)
    size = (high - low)[:, ::-1]
    inner = (least - first > NEAR) & (first + 1 - most > NEAR)
    inner &= (first >= 1) & (first + side + 2 <= size)
    keys = np.concatenate([size, first], axis=1)
    keys[~inner.all(axis=1)] = -1
    found = []
    for key in np.unique(keys, axis=0):
        rows = np.flatnonzero((keys == key).all(axis=1))
        for part in np.split(rows, range(AT_ONCE, len(rows), AT_ONCE)) if key[0] >= 0 else ():
            found.append(
                Batch(part, low[part], (int(key[0]), int(key[1])), turned[part], offset[part],
                      (int(key[2]), int(key[3])))
            )  # fmt: skip
    return found


def cubic(pieces: Doubles, batch: Batch, side: int) -> Doubles:
    """Cubic splines through pieces, seen through the maps of a batch.

    pieces: (y, x, object), which is overwritten; returns (object, side, side).
    """
    _filter(pieces)
    coefficients = np.ascontiguousarray(pieces.transpose(1, 0, 2))
    _filter(coefficients)
    y, x = batch.first
    steps = np.arange(side, dtype=np.float64)
    found = np.empty((side, side, pieces.shape[2]))  # (x, y, object)
    for begin in range(0, side, LINES):
        lines = slice(begin, min(begin + LINES, side))
        shares = _shares(batch, steps[:, None], steps[lines, None, None], ...)
        up, across = (_cubic_weights(one) for one in shares)
        total = np.zeros_like(up[0])
        term = np.empty_like(total)
        for j in range(4):
            for i in range(4):
                first = lines.start + x - 1 + i, y - 1 + j
                near = coefficients[first[0] :, first[1] :][: len(total), :side]
                np.multiply(near, up[j], out=term)
                term *= across[i]
                total += term
        found[lines] = total
    return found.transpose(2, 1, 0)


def linear(pieces: Doubles, batch: Batch, side: int) -> Doubles:
    """Linear interpolation, (object, side, side), of pieces (object, side + 1, side + 1).

    These pieces begin at the pixel `first` of those of the batch.
    """
    steps = np.arange(side, dtype=np.float64)
    found = np.zeros((len(pieces), side, side))
    for begin in range(0, len(pieces), LINES):
        some = np.arange(begin, min(begin + LINES, len(pieces)))
        shares = _shares(batch, steps[:, None], steps, some[:, None, None])
        up, across = (_linear_weights(one) for one in shares)
        term = np.empty_like(up[0])
        for j in range(2):
            for i in range(2):
                near = pieces[some[0] : some[-1] + 1, j : j + side, i : i + side]
                np.multiply(near, up[j], out=term)
                term *= across[i]
                found[some[0] : some[-1] + 1] += term
    return found


def _filter(lines: Doubles) -> None:
    """Turn samples, along the first axis, into the coefficients of their cubic splines."""
    count = len(lines)
    lines *= (1.0 - POLE) * (1.0 - 1.0 / POLE)
    last = POLE ** (count - 1)
    start = lines[0] + last * lines[-1]
    power = POLE
    for k in range(1, count - 1):
        start += power * (lines[k] + last * lines[count - 1 - k])
        power *= POLE
    lines[0] = start / (1.0 - last * last)
    term = np.empty_like(lines[0])
    for k in range(1, count):
        np.multiply(lines[k - 1], POLE, out=term)
        lines[k] += term
    lines[-1] = (POLE * lines[-2] + lines[-1]) * POLE / (POLE * POLE - 1.0)
    for k in range(count - 2, -1, -1):
        np.subtract(lines[k + 1], lines[k], out=term)
        np.multiply(term, POLE, out=lines[k])


def _shares(batch: Batch, y: Doubles, x: Doubles, objects: Any) -> tuple[Doubles, Doubles]:
    """How far, 0..1, the result's pixels (y, x) lie behind their neighbour, along y and along x.

    `objects`: an index of some, of the shape that they are to have beside `y` and `x`.
    """
    found = []
    for axis, own in ((0, y), (1, x)):
        place = batch.offset[:, axis][objects] + y * batch.matrix[:, axis, 0][objects]
        place = place + x * batch.matrix[:, axis, 1][objects]
        place -= batch.first[axis] + own
        found.append(place)
    return found[0], found[1]


def _cubic_weights(share: Doubles) -> tuple[Doubles, Doubles, Doubles, Doubles]:
    left = 1.0 - share
    first, second, third = left * left, _inner(share), _inner(left)
    first *= left
    first /= 6.0
    last = 1.0 - first
    last -= second
    last -= third
    return first, second, third, last


def _inner(share: Doubles) -> Doubles:
    """The cubic B-spline less than a pixel away: (3 s^2 (s - 2) + 4) / 6."""
    found = share * share
    found *= share - 2.0
    found *= 3.0
    found += 4.0
    found /= 6.0
    return found


def _linear_weights(share: Doubles) -> tuple[Doubles, Doubles]:
    first = 1.0 - share
    return first, 1.0 - first
