"""Cutouts of mosaics: which tile holds an object, and the piece of it that is read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.download import Downloader
from galpipe.archives.hst.planes import Facts, Plane, facts_of, plane
from galpipe.archives.hst.ranged import Blocks, ImageAt, headers_of
from galpipe.archives.projection import to_pixels
from galpipe.archives.spec import Hubble, Mosaic, Tile
from galpipe.archives.trouble import BadImageError
from galpipe.status import Status

Doubles = NDArray[np.float64]

MOST_FILES = 16  # that keep blocks in memory
MARGIN = 20  # pixels around a piece, for what is resampled
DOWNLOADS = "/api/v0.1/Download/file?uri="


@dataclass(frozen=True)
class OpenTile:
    """A tile whose headers were read; small and picklable."""

    tile: Tile
    facts: Facts
    image: ImageAt
    weight: ImageAt

    @property
    def place_of_weight(self) -> str:
        """The file of the exposure times."""
        return self.tile.weight or self.tile.image

    def depth(self, ra: float, dec: float) -> float:
        """Pixels from a place to the tile's nearest edge; negative off it."""
        x, y = to_pixels(self.facts.wcs, np.array([ra]), np.array([dec]))
        if not (np.isfinite(x[0]) and np.isfinite(y[0])):
            return -np.inf
        nx, ny = self.image.nx, self.image.ny
        return float(min(x[0] + 0.5, nx - 0.5 - x[0], y[0] + 0.5, ny - 0.5 - y[0]))


def address_of(spec: Hubble, place: str) -> str:
    """Where a tile's file is read."""
    if place.startswith("mast:"):
        return spec.mast.rstrip("/") + DOWNLOADS + quote(place, safe="")
    if place.startswith("s3://"):
        return f"{spec.s3.rstrip('/')}/{place.removeprefix('s3://')}"
    return f"{spec.files.rstrip('/')}/{place}"


def open_tiles(spec: Hubble, downloader: Downloader) -> list[OpenTile]:
    """The tiles of a mosaic, their headers read; raises BadImageError, naming the tile."""
    assert isinstance(spec.pixels, Mosaic)
    opened = []
    for tile in spec.pixels.tiles:
        try:
            opened.append(_open(spec, downloader, tile))
        except BadImageError as error:
            raise BadImageError(error.status, f"{tile.image}: {error.reason}") from None
    return opened


def _open(spec: Hubble, downloader: Downloader, tile: Tile) -> OpenTile:
    names = ("SCI",) if tile.weight is not None else ("SCI", "WHT")
    primary, found = headers_of(downloader, address_of(spec, tile.image), names)
    if tile.weight is not None:
        _, weights = headers_of(downloader, address_of(spec, tile.weight), ("WHT", "SCI"))
        if not weights:
            raise BadImageError(Status.CORRUPT, "the file of weights holds no image")
        found["WHT"] = weights.get("WHT") or weights["SCI"]
    if "SCI" not in found or "WHT" not in found:
        raise BadImageError(Status.CORRUPT, f"no HDU {'SCI' if 'SCI' not in found else 'WHT'}")
    header, image = found["SCI"]
    weight = found["WHT"][1]
    if (image.nx, image.ny) != (weight.nx, weight.ny):
        raise BadImageError(Status.CORRUPT, "the weight has another shape than the image")
    facts = facts_of(header, primary)
    if facts.filter and facts.filter != tile.band.upper():
        raise BadImageError(Status.CORRUPT, f"the header says filter {facts.filter}")
    if not np.isfinite(facts.wcs).all() or not np.any(facts.wcs[4:]):
        raise BadImageError(Status.CORRUPT, "no usable WCS")
    return OpenTile(tile, facts, image, weight)


class Files:
    """The files of tiles, opened when they are wanted; the last used keep some blocks in memory."""

    def __init__(self, spec: Hubble, tiles: list[OpenTile], downloader: Downloader) -> None:
        self._spec, self._downloader = spec, downloader
        self._open: OrderedDict[str, Blocks] = OrderedDict()
        self._lock = threading.Lock()
        self._ends: dict[str, int] = {}
        for one in tiles:
            for place, image in ((one.tile.image, one.image), (one.place_of_weight, one.weight)):
                self._ends[place] = max(self._ends.get(place, 0), image.end)

    def __getitem__(self, place: str) -> Blocks:
        with self._lock:
            if place not in self._open:
                url, block = address_of(self._spec, place), self._spec.block * 1024
                self._open[place] = Blocks(self._downloader, url, block, self._ends[place])
            self._open.move_to_end(place)
            while len(self._open) > MOST_FILES:
                self._open.popitem(last=False)
            return self._open[place]


def tiles_of(spec: Hubble, tiles: list[OpenTile], ra: float, dec: float) -> dict[str, OpenTile]:
    """In each filter the tile in which a place lies deepest; filters without one are absent."""
    chosen: dict[str, tuple[float, OpenTile]] = {}
    for tile in tiles:
        depth = tile.depth(ra, dec)
        band = tile.tile.band
        if depth > 0 and (band not in chosen or depth > chosen[band][0]):
            chosen[band] = depth, tile
    return {band: chosen[band][1] for band in spec.bands if band in chosen}


def piece_of(spec: Hubble, files: Files, tile: OpenTile, ra: float, dec: float, side: int) -> Plane:
    """The piece of a tile about a place that a stamp of `side` pixels needs; BadImageError.

    files: by place, as of the tile.
    """
    x, y = to_pixels(tile.facts.wcs, np.array([ra]), np.array([dec]))
    ratio = spec.pixel_scale / max(_scale(tile.facts.wcs), spec.pixel_scale / 4)
    half = int(np.ceil(side / 2 * max(ratio, 1.0))) + (MARGIN if len(spec.bands) > 1 else 2)
    column, row = round(float(x[0])), round(float(y[0]))
    columns = range(max(column - half, 0), min(column + half + 1, tile.image.nx))
    rows = range(max(row - half, 0), min(row + half + 1, tile.image.ny))
    pixels = tile.image.read(files[tile.tile.image], columns, rows)
    exposure = tile.weight.read(files[tile.place_of_weight], columns, rows)
    wcs = tile.facts.wcs.copy()
    wcs[:2] -= (columns.start, rows.start)
    facts = Facts(**{**vars(tile.facts), "wcs": wcs})
    return plane(facts, pixels, exposure, tile.tile.image)


def _scale(wcs: Doubles) -> float:
    return float(np.sqrt(abs(wcs[4] * wcs[7] - wcs[5] * wcs[6]))) * 3600
