"""Diffusion coordinates: where an object lies among the others, by steps between neighbours.

Coifman & Lafon (2006, Appl. Comput. Harmon. Anal. 21, 5) with the local widths of Zelnik-Manor &
Perona (2004, NIPS 17); objects that were not among the landmarks by Nystroem's extension (Bengio
et al. 2004, NIPS 16).  Along these axes lie the largest gaps of a population that a mixture of
Gaussians in the measured columns would tile instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WIDTH = 8  # the neighbour whose distance is an object's own width
NARROWEST = 1e-9  # of the median width: of objects that stand on each other
BLOCK = 512  # objects whose distances are held at once


@dataclass(frozen=True)
class Diffusion:
    """Landmarks, and their coordinates."""

    landmarks: Floats  # (landmark, dimension)
    widths: Floats  # (landmark) distance to the WIDTH-th neighbour
    axes: Floats  # (landmark, axis) coordinates over eigenvalue
    spread: Floats  # (axis) by which coordinates are divided: those of training objects have 1
    neighbours: int

    def apply(self, x: Floats) -> Floats:
        """Coordinates (object, axis) of x (object, dimension); the same bits in any batch."""
        found = np.zeros((len(x), self.axes.shape[1]))
        for start in range(0, len(x), BLOCK):
            some = slice(start, start + BLOCK)
            near, weights = self._nearest(x[some])
            total = np.zeros(len(near))
            mean = np.zeros((len(near), self.axes.shape[1]))
            for k in range(near.shape[1]):  # in a fixed order, object by object
                total = total + weights[:, k]
                mean = mean + weights[:, k, None] * self.axes[near[:, k]]
            found[some] = mean / total[:, None] / self.spread
        return found

    def _nearest(self, x: Floats) -> tuple[NDArray[np.int64], Floats]:
        """The nearest landmarks of each object, nearest first, and their weights."""
        near, distance = nearest(x, self.landmarks, self.neighbours)
        width = np.maximum(distance[:, min(WIDTH, distance.shape[1]) - 1], self.widths.min())
        # Relative to the nearest one, so that the weights of a far object do not all vanish.
        exponent = distance**2 / (width[:, None] * self.widths[near])
        return near, np.exp(exponent.min(axis=1, keepdims=True) - exponent)


def fit_diffusion(x: Floats, *, axes: int, neighbours: int, landmarks: int) -> Diffusion:
    """Coordinates of training objects (object, dimension), three or more.

    At most `landmarks` of them are taken, evenly along their order.  The first coordinate, which
    all share, is left out.  The sign of an axis is that of its largest entry.
    """
    from scipy.sparse import csr_array, diags_array
    from scipy.sparse.linalg import eigsh

    taken = x if len(x) <= landmarks else x[np.arange(landmarks) * len(x) // landmarks]
    count = len(taken)
    axes, neighbours = min(axes, count - 2), min(neighbours, count - 1)
    near, distance = nearest(taken, taken, neighbours + 1)  # itself among them
    widths = distance[:, min(WIDTH, neighbours)]
    positive = widths[widths > 0]
    least = NARROWEST * float(np.median(positive)) if len(positive) else 1.0
    widths = np.maximum(widths, least)
    weights = np.exp(-(distance**2) / (widths[:, None] * widths[near]))
    rows = np.repeat(np.arange(count), near.shape[1])
    one_way = csr_array((weights.ravel(), (rows, near.ravel())), shape=(count, count))
    both = one_way.maximum(one_way.T)
    root = np.sqrt(np.asarray(both.sum(axis=1)).ravel())
    symmetric = diags_array(1 / root) @ both @ diags_array(1 / root)
    values, vectors = eigsh(symmetric.tocsr(), k=axes + 1, v0=np.ones(count))
    order = np.argsort(-values, kind="stable")[1:]
    coordinates = vectors[:, order] / root[:, None]
    top = np.abs(coordinates).argmax(axis=0)
    coordinates = coordinates * np.sign(coordinates[top, np.arange(axes)])
    over = coordinates / values[order]
    fitted = Diffusion(taken.copy(), widths, over, np.ones(axes), neighbours + 1)
    spread = fitted.apply(taken).std(axis=0)
    return Diffusion(
        fitted.landmarks, widths, over, np.where(spread > 0, spread, 1.0), neighbours + 1
    )


def nearest(x: Floats, landmarks: Floats, count: int) -> tuple[NDArray[np.int64], Floats]:
    """The `count` nearest landmarks of each object, and their distances, the nearest first.

    Differences are summed dimension by dimension, without BLAS: no batch changes a bit.
    """
    near = np.empty((len(x), count), np.int64)
    distance = np.empty((len(x), count))
    columns = np.ascontiguousarray(landmarks.T)
    for start in range(0, len(x), BLOCK):
        some = x[start : start + BLOCK]
        squared = np.zeros((len(some), len(landmarks)))
        for j, column in enumerate(columns):
            squared += (some[:, j, None] - column) ** 2
        chosen = np.argpartition(squared, count - 1, axis=1)[:, :count]
        chosen.sort(axis=1)  # equal distances by the landmarks' order
        own = np.take_along_axis(squared, chosen, axis=1)
        order = np.argsort(own, axis=1, kind="stable")
        near[start : start + BLOCK] = np.take_along_axis(chosen, order, axis=1)
        distance[start : start + BLOCK] = np.sqrt(np.take_along_axis(own, order, axis=1))
    return near, distance
