"""Which tiles hold an object, and the pieces of them that its stamp is made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.hst.mosaics import Files, OpenTile
from galpipe.archives.hst.planes import Facts, Plane, plane
from galpipe.archives.projection import to_pixels
from galpipe.archives.spec import Hubble, Products
from galpipe.archives.trouble import BadImageError

Doubles = NDArray[np.float64]

MARGIN = 20  # pixels around a piece, for what is resampled
SAME_PLACE = 1e-9  # degrees between the tangent points of one grid
SAME_STEP = 1e-6  # relative, between the pixels of one grid


def holding(
    spec: Hubble, tiles: Sequence[OpenTile], ra: float, dec: float
) -> dict[str, list[OpenTile]]:
    """In each filter the tiles whose pixels hold a place; filters without one are absent.

    The best first: of a mosaic the tile in which it lies deepest; of products the one with the
    longest exposure, then by name.
    """
    found: dict[str, list[tuple[float, OpenTile]]] = {}
    for tile in tiles:
        depth = tile.depth(ra, dec)
        if depth > 0 and tile.tile.band in spec.bands:
            found.setdefault(tile.tile.band, []).append((depth, tile))
    if isinstance(spec.pixels, Products):
        for those in found.values():
            those.sort(key=lambda one: (-np.nan_to_num(one[1].facts.exposure), one[1].tile.image))
    else:
        for those in found.values():
            those.sort(key=lambda one: -one[0])
    return {band: [tile for _, tile in found[band]] for band in spec.bands if band in found}


def pieces(
    spec: Hubble, files: Files, tiles: Sequence[OpenTile], held: Sequence[OpenTile],
    ra: float, dec: float, side: int,
) -> Iterator[tuple[OpenTile, Plane]]:  # fmt: skip
    """The pieces of one filter's tiles that a stamp is made from, each read when it is asked for.

    First that of the best of `held` that has seen the place itself (the best of all where none
    has), then those that can complete it: of tiles near by, and of products those on its own grid.
    Raises BadImageError.
    """
    first, passed = None, []
    for tile in held:
        found = piece_of(spec, files, tile, ra, dec, side)
        if _seen(found, ra, dec):
            first = tile, found
            break
        passed.append((tile, found))
    first = first or passed.pop(0)
    yield first
    done = {id(first[0])}
    listed = isinstance(spec.pixels, Products)
    for one in passed:
        done.add(id(one[0]))
        if not listed or same_grid(first[0].facts.wcs, one[0].facts.wcs):
            yield one
    near = [
        (tile.depth(ra, dec), tile)
        for tile in tiles
        if tile.tile.band == first[0].tile.band and id(tile) not in done
        if not listed or same_grid(first[0].facts.wcs, tile.facts.wcs)
    ]
    for depth, tile in sorted(near, key=lambda one: (-one[0], one[1].tile.image)):
        if depth > 1 - _reach(spec, tile, side):
            yield tile, piece_of(spec, files, tile, ra, dec, side)


def _seen(found: Plane, ra: float, dec: float) -> bool:
    """Whether the pixel at a place was exposed."""
    x, y = to_pixels(found.facts.wcs, np.array([ra]), np.array([dec]))
    return bool(np.isfinite(found.pixels[round(float(y[0])), round(float(x[0]))]))


def same_grid(one: Doubles, other: Doubles) -> bool:
    """Whether two images have their pixels in common, or would if they went on."""
    step = np.abs(one[4:]).max()
    apart = (one[:2] - other[:2]) - np.rint(one[:2] - other[:2])
    return bool(
        (np.abs(one[2:4] - other[2:4]) < SAME_PLACE).all()
        and (np.abs(one[4:] - other[4:]) < SAME_STEP * step).all()
        and (np.abs(apart) < 1e-3).all()
    )


def _reach(spec: Hubble, tile: OpenTile, side: int) -> int:
    """Pixels of a tile from the middle of a stamp to the edge of the piece that it needs."""
    scale = float(np.sqrt(abs(np.linalg.det(tile.facts.wcs[4:].reshape(2, 2))))) * 3600
    ratio = spec.pixel_scale / max(scale, spec.pixel_scale / 4)
    return int(np.ceil(side / 2 * max(ratio, 1.0))) + (MARGIN if len(spec.bands) > 1 else 2)


def piece_of(spec: Hubble, files: Files, tile: OpenTile, ra: float, dec: float, side: int) -> Plane:
    """The piece of a tile about a place that a stamp of `side` pixels needs; BadImageError.

    The place may lie off the tile, not farther than the piece reaches.
    """
    x, y = to_pixels(tile.facts.wcs, np.array([ra]), np.array([dec]))
    half = _reach(spec, tile, side)
    column, row = round(float(x[0])), round(float(y[0]))
    columns = range(max(column - half, 0), min(column + half + 1, tile.image.nx))
    rows = range(max(row - half, 0), min(row + half + 1, tile.image.ny))
    try:
        pixels = tile.image.read(files[tile.tile.image], columns, rows)
        exposure = tile.weight.read(files[tile.place_of_weight], columns, rows)
    except BadImageError as error:
        raise BadImageError(error.status, f"{tile.tile.image}: {error.reason}") from None
    wcs = tile.facts.wcs.copy()
    wcs[:2] -= (columns.start, rows.start)
    facts = Facts(**{**vars(tile.facts), "wcs": wcs})
    return plane(facts, pixels, exposure, tile.tile.image)
