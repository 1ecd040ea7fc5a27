"""Which pixels belong to the galaxy, which to its neighbours: sep on the mean of the bands.

Detection follows SExtractor (Bertin & Arnouts 1996) as in sep (Barbary 2016).  Images larger
than `detect_at` pixels are detected on their block means, so that star-forming knots of a
well-resolved galaxy are not taken for neighbours, and the cost does not grow with the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import NDArray
from scipy import ndimage

from galpipe.stamps.background import level_and_scatter
from galpipe.stamps.spec import Segmentation

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

RING = 0.8  # half-widths beyond which the first level and scatter are taken
BORDER_SHARE = 0.05  # of the border; less is a filament of noise that touches it
KERNEL = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32)  # SExtractor's default


@dataclass(frozen=True)
class Segments:
    """Pixels of n objects on images of one shape.

    own: the galaxy's pixels above the threshold; neighbours: others' pixels, grown; each
    (object, ny, nx).  found: a galaxy lies at the centre; truncated: it runs over the border;
    neighbour_count; each (object,).
    """

    own: Bools
    neighbours: Bools
    found: Bools
    truncated: Bools
    neighbour_count: NDArray[np.int32]


def segment(images: Floats, usable: Bools, floor: float, spec: Segmentation) -> Segments:
    """Find the galaxy at the centre of each image and its neighbours.

    images: (object, ny, nx), the mean of the bands; usable: pixels that are defined;
    floor: the smallest scatter taken as real (the quantisation of integer images).
    """
    count, ny, nx = images.shape
    bin_by = -(-max(ny, nx) // spec.detect_at)
    small, small_usable = _block_mean(images, usable, bin_by)
    level, scatter = level_and_scatter(small, small_usable, RING)
    scatter = np.maximum(scatter, floor / bin_by)
    own = np.zeros(small.shape, np.bool_)
    others = np.zeros(small.shape, np.bool_)
    found = np.zeros(count, np.bool_)
    truncated = np.zeros(count, np.bool_)
    neighbours = np.zeros(count, np.int32)
    grow = ndimage.generate_binary_structure(2, 1)
    for i in range(count):
        if not np.isfinite(level[i]) or not small_usable[i].any():
            continue
        detection = np.where(small_usable[i], small[i] - level[i], np.float32(0))
        objects, labels = sep.extract(
            np.ascontiguousarray(detection, np.float32),
            float(spec.threshold * scatter[i]),
            filter_kernel=KERNEL,
            minarea=spec.minimum_pixels,
            deblend_nthresh=spec.deblend_levels,
            deblend_cont=spec.deblend_contrast,
            segmentation_map=True,
        )
        central = _central(labels, spec.reach)
        found[i] = central > 0
        own[i] = (labels == central) & found[i]
        other = (labels > 0) & ~own[i]
        neighbours[i] = len(objects) - int(found[i])
        if neighbours[i]:
            grown = (
                ndimage.binary_dilation(other, grow, iterations=spec.grow) if spec.grow else other
            )
            others[i] = grown & ~own[i]
        truncated[i] = _on_border(own[i]) > BORDER_SHARE
    if bin_by > 1:
        own = own.repeat(bin_by, axis=1).repeat(bin_by, axis=2)[:, :ny, :nx]
        others = others.repeat(bin_by, axis=1).repeat(bin_by, axis=2)[:, :ny, :nx]
    return Segments(own, others, found, truncated, neighbours)


def _central(labels: NDArray[np.int32], reach: float) -> int:
    """The label nearest to the centre, within `reach` half-widths (at least 3 pixels); 0: none."""
    ny, nx = labels.shape
    centre_y, centre_x = (ny - 1) / 2, (nx - 1) / 2
    at_centre = int(labels[int(centre_y + 0.5), int(centre_x + 0.5)])
    if at_centre:
        return at_centre
    radius = max(3.0, reach * max(ny, nx) / 2)
    y0, y1 = max(0, int(centre_y - radius)), int(centre_y + radius) + 2
    x0, x1 = max(0, int(centre_x - radius)), int(centre_x + radius) + 2
    y, x = np.nonzero(labels[y0:y1, x0:x1])
    if not len(y):
        return 0
    distance = np.hypot(y + y0 - centre_y, x + x0 - centre_x)
    nearest = int(distance.argmin())
    return int(labels[y[nearest] + y0, x[nearest] + x0]) if distance[nearest] <= radius else 0


def _on_border(own: Bools) -> float:
    """The fraction of the image's border pixels that are the galaxy's."""
    border = np.concatenate([own[0], own[-1], own[1:-1, 0], own[1:-1, -1]])
    return float(border.mean())


def _block_mean(images: Floats, usable: Bools, by: int) -> tuple[Floats, Bools]:
    """Mean of the usable pixels in blocks of `by` x `by`; the border may cut the last ones."""
    clean = np.where(usable, images, np.float32(0))
    if by == 1:
        return clean, usable
    count, ny, nx = images.shape
    pad = ((0, 0), (0, -ny % by), (0, -nx % by))
    blocks = (count, -(-ny // by), by, -(-nx // by), by)
    number = np.pad(usable, pad).reshape(blocks).sum(axis=(2, 4))
    total = np.pad(clean, pad).reshape(blocks).sum(axis=(2, 4), dtype=np.float64)
    mean = (total / np.maximum(number, 1)).astype(np.float32)
    return mean, number > 0
