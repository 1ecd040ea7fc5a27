"""The point-spread function of a filter in a field, from the field's own stars."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from galpipe.archives.framecache import FrameCache
from galpipe.archives.hst.mosaics import Files, OpenTile
from galpipe.archives.hst.stars import APERTURE, FEWEST, PAD, SIDE, Candidate, candidates, stars_of
from galpipe.archives.linear_wcs import pixel_scale
from galpipe.archives.projection import local_map
from galpipe.archives.resampling import resample
from galpipe.archives.trouble import BadImageError
from galpipe.status import Status

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

WANTED = 30  # stars: enough of them end the search
STRIP = 4_000_000  # pixels of a tile that are looked at at once
MOST_PIXELS = 32_000_000  # of a tile that are looked at at all
CLIP = 3.0  # scatters by which a star may differ from the others
SAME_GRID = 0.02  # relative: pixels closer to the stamp's than this are taken as they are
CACHED = 64 * 2**20  # bytes of point-spread functions kept beside a part


class FieldPsfs:
    """The point-spread functions of tiles, each made once for a part, by whoever wants it first."""

    def __init__(self, part: Path, files: Files) -> None:
        self._cache = FrameCache(part, CACHED)
        self._files = files

    def of(self, tile: OpenTile) -> Floats | None:
        """(SIDE, SIDE) in the tile's pixels, sum 1; None where too few stars tell it.

        Raises BadImageError where the tile cannot be read.
        """
        name = f"psf-{hashlib.sha256(tile.tile.image.encode()).hexdigest()[:32]}"

        def made() -> tuple[Floats | None, bytes]:
            found = psf_of(self._files, tile)
            content = io.BytesIO()
            np.save(content, np.zeros(0, np.float32) if found is None else found)
            return found, content.getvalue()

        return self._cache.get(name, _kept, made)


def _kept(content: bytes) -> Floats | None:
    """A point-spread function as it was kept."""
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        raise BadImageError(Status.CORRUPT, "a damaged file") from None
    return None if found.shape != (SIDE, SIDE) else found.astype(np.float32)


def psf_of(files: Files, tile: OpenTile) -> Floats | None:
    """The point-spread function of a tile, from its middle outwards until enough stars are found.

    As `FieldPsfs.of`.  At most 32 million pixels of the tile are read.
    """
    scale = pixel_scale(tile.facts.wcs)
    blocks = files.fresh(tile.tile.image)
    found: list[Candidate] = []
    for rows in strips(tile.image.nx, tile.image.ny):
        image = tile.image.read(blocks, range(tile.image.nx), rows)
        found += candidates(image / np.float32(tile.facts.per_second), scale)
        if len(stars_of(found)) >= WANTED:
            break
    stars = stars_of(found)
    return stacked(stars, APERTURE / scale) if stars else None


def strips(nx: int, ny: int) -> Iterator[range]:
    """Whole rows of an image, some at a time, from its middle outwards."""
    height = min(max(STRIP // nx, 4 * SIDE), ny)
    starts = range(0, ny, height)
    order = sorted(starts, key=lambda start: (abs(start + height / 2 - ny / 2), start))
    for start in order[: max(1, MOST_PIXELS // (nx * height))]:
        yield range(start, min(start + height, ny))


def stacked(stars: Sequence[Candidate], aperture: float) -> Floats | None:
    """The median of stars, shifted to the middle pixel and of one light; (SIDE, SIDE) with sum 1.

    aperture: radius in pixels within which stars are made alike.  Stars that differ from the others
    by more than three times the usual are left out; None where fewer than five stay.
    """
    middle = (SIDE + 2 * PAD) // 2
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    inside = np.hypot(x, y) <= aperture
    images = []
    for star in stars:
        shift = (middle - star.y, middle - star.x)
        moved = ndimage.shift(star.pixels.astype(np.float64), shift, order=3, mode="nearest")
        image = moved[PAD:-PAD, PAD:-PAD]
        images.append(image / image[inside].sum())
    whole = np.stack(images)
    typical = np.median(whole, axis=0)
    differs = np.sqrt(((whole - typical)[:, inside] ** 2).sum(axis=1))
    usual = float(np.median(differs))
    kept = whole[differs <= CLIP * usual]
    if len(kept) < FEWEST:
        return None
    image = np.median(kept, axis=0)
    made: Floats = (image / image.sum()).astype(np.float32)
    return made


def on_stamp(psf: Floats, tile: Doubles, stamp: Doubles, side: int) -> Floats:
    """A point-spread function in the pixels of a stamp of `side` pixels; tile, stamp: their WCS."""
    half = np.array([(side - 1) / 2])
    _, matrix = local_map(stamp, tile, half, half, np.maximum(half, 1.0))
    if np.abs(matrix[0] - np.eye(2)).max() < SAME_GRID:
        return psf
    centre = np.full(2, (SIDE - 1) / 2)
    seen = np.nan_to_num(resample(psf, centre, matrix[0], SIDE))
    whole: Floats = (seen / seen.sum()).astype(np.float32)
    return whole
