"""What stamps of Hubble will cost: requests to a cutout service, or pieces of mosaics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from galpipe.archives.bill import Cost
from galpipe.archives.hst.fetching import MARGIN
from galpipe.archives.hst.mosaics import OpenTile
from galpipe.archives.hst.ranged import LARGEST_PIECE, ImageAt
from galpipe.archives.hst.request import Target
from galpipe.archives.projection import to_pixels
from galpipe.archives.spec import Hapcut, Hubble, Zcut

PIXEL_BYTES = {"hapcut": 8.0, "zcut": 4.0}  # of a filter's image, and of its exposure times
HEADER_BYTES = 4 * 2880  # of the HDUs of a filter


def estimate(spec: Hubble, targets: Sequence[Target], tiles: Sequence[OpenTile]) -> Cost:
    """What some objects will take.

    A cutout service is asked once per object, for an image of each filter that reaches a little
    further than the stamp.  Of mosaics (`tiles`, opened) each block that holds a row of a stamp is
    read once, and neighbouring blocks come in one request of at most 16 MiB.
    """
    if isinstance(spec.pixels, Hapcut | Zcut):
        item = PIXEL_BYTES[spec.pixels.kind]
        sides = np.array([target.side + 2 * MARGIN for target in targets], np.float64)
        size = float((sides**2 * item + HEADER_BYTES).sum()) * len(spec.bands)
        return Cost(len(targets), len(targets), size, spec.requests_per_minute)
    ra, dec = (np.array([getattr(one, key) for one in targets]) for key in ("ra", "dec"))
    half = np.array([one.side // 2 + 1 for one in targets]) + MARGIN * (len(spec.bands) > 1)
    requests, size, block = 0, 0.0, spec.block * 1024
    for tile in tiles:
        x, y = to_pixels(tile.facts.wcs, ra, dec)
        with np.errstate(invalid="ignore"):
            on = (x > -0.5) & (y > -0.5) & (x < tile.image.nx - 0.5) & (y < tile.image.ny - 0.5)
        for image in (tile.image, tile.weight):
            blocks = _blocks(image, x[on], y[on], half[on], block)
            runs = np.split(blocks, np.flatnonzero(np.diff(blocks) > 1) + 1) if len(blocks) else []
            requests += sum(-(-len(run) // max(LARGEST_PIECE // block, 1)) for run in runs)
            size += len(blocks) * block
    return Cost(len(targets), requests, size)


def _blocks(
    image: ImageAt,
    x: np.ndarray[tuple[int], np.dtype[np.float64]],
    y: np.ndarray[tuple[int], np.dtype[np.float64]],
    half: np.ndarray[tuple[int], np.dtype[np.int64]],
    block: int,
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The numbers of the blocks that hold the rows of squares about some places, in order."""
    found = np.zeros(image.end // block + 2, np.int64)  # how many rows begin less how many ended
    for step in range(-int(half.max(initial=0)), int(half.max(initial=0)) + 1):
        row = np.rint(y).astype(np.int64) + step
        used = (np.abs(step) <= half) & (row >= 0) & (row < image.ny)
        column = np.rint(x).astype(np.int64)
        first = np.maximum(column - half, 0)
        last = np.minimum(column + half, image.nx - 1)
        begin = image.offset + (row * image.nx + first) * image.item
        end = image.offset + (row * image.nx + last + 1) * image.item - 1
        np.add.at(found, begin[used] // block, 1)
        np.add.at(found, end[used] // block + 1, -1)
    blocks: np.ndarray[tuple[int], np.dtype[np.int64]] = np.flatnonzero(np.cumsum(found) > 0)
    return blocks
