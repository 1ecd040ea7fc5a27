"""The tiles of mosaics and products: their headers, and the files their pixels are read from."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.download import Downloader
from galpipe.archives.hst.planes import Facts, facts_of
from galpipe.archives.hst.ranged import Blocks, ImageAt, Readable, headers_of, piece
from galpipe.archives.hst.stamp import SCALE_WITHIN
from galpipe.archives.hst.whole import Kept, kept
from galpipe.archives.linear_wcs import pixel_scale
from galpipe.archives.projection import to_pixels
from galpipe.archives.spec import Hubble, Products, Tile
from galpipe.archives.trouble import BadImageError, NoPiecesError
from galpipe.status import Status

Doubles = NDArray[np.float64]

MOST_FILES = 16  # that keep blocks in memory
DOWNLOADS = "/api/v0.1/Download/file?uri="


@dataclass(frozen=True)
class OpenTile:
    """A tile whose headers were read; small and picklable."""

    tile: Tile
    facts: Facts
    image: ImageAt
    weight: ImageAt
    whole: bool = False  # the archive gives its file only whole

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


def open_tiles(
    spec: Hubble,
    downloader: Downloader,
    tiles: Sequence[Tile],
    folder: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[OpenTile]:
    """Tiles with their headers read; raises BadImageError, naming the tile.

    Of products that the archive listed, those that are of no use or have other pixels than the
    survey wants are left out, and `say` is told; where the archive gives a file only whole, it is
    kept below `folder`.
    """
    listed = isinstance(spec.pixels, Products)

    def opened(tile: Tile) -> OpenTile | str:
        try:
            try:
                found = _open(spec, downloader, tile)
            except NoPiecesError:
                if not listed or folder is None:
                    raise
                found = _open(spec, downloader, tile, folder)
        except BadImageError as error:
            if listed and error.status != Status.FAILED:
                return f"{tile.image}: {error.reason}"
            raise BadImageError(error.status, f"{tile.image}: {error.reason}") from None
        if not listed:
            return found
        scale = pixel_scale(found.facts.wcs)
        if abs(scale / spec.pixel_scale - 1) > SCALE_WITHIN:
            return f"{tile.image}: pixels of {scale:.4g} arcsec"
        return found

    pool = ThreadPoolExecutor(spec.connections, "open")
    try:
        found = list(pool.map(opened, tiles))
    finally:  # after the first that is of no use the others are not asked for
        pool.shutdown(cancel_futures=True)
    for one in found:
        if isinstance(one, str):
            say(f"left out: {one}")
    good = [one for one in found if isinstance(one, OpenTile)]
    if not good:
        left = next(one for one in found if isinstance(one, str))
        raise BadImageError(
            Status.CORRUPT, f"no product has pixels of {spec.pixel_scale:g} arcsec ({left})"
        )
    return good


def _open(spec: Hubble, downloader: Downloader, tile: Tile, folder: Path | None = None) -> OpenTile:
    def reader(place: str) -> Callable[[range], bytes]:
        url = address_of(spec, place)
        if folder is not None:
            return Kept(kept(folder, downloader, url)).piece
        return lambda span: piece(downloader, url, span, short=True)

    names = ("SCI",) if tile.weight is not None else ("SCI", "WHT")
    primary, found = headers_of(reader(tile.image), names)
    if tile.weight is not None:
        _, weights = headers_of(reader(tile.weight), ("WHT", "SCI"))
        if not weights:
            raise BadImageError(Status.CORRUPT, "the file of weights holds no image")
        found["WHT"] = weights.get("WHT") or weights["SCI"]
    if "SCI" not in found or "WHT" not in found:
        raise BadImageError(Status.CORRUPT, f"no HDU {'SCI' if 'SCI' not in found else 'WHT'}")
    header, image = found["SCI"]
    weight = found["WHT"][1]
    facts = facts_of(header, primary)
    _check(tile, facts, image, weight)
    return OpenTile(tile, facts, image, weight, folder is not None)


def _check(tile: Tile, facts: Facts, image: ImageAt, weight: ImageAt) -> None:
    """Refuse what is not the image of a filter with its exposure times and a place on the sky."""
    if (image.nx, image.ny) != (weight.nx, weight.ny):
        raise BadImageError(Status.CORRUPT, "the weight has another shape than the image")
    if facts.filter and facts.filter != tile.band.upper():
        raise BadImageError(Status.CORRUPT, f"the header says filter {facts.filter}")
    if not np.isfinite(facts.wcs).all() or not np.any(facts.wcs[4:]):
        raise BadImageError(Status.CORRUPT, "no usable WCS")


class Files:
    """The files of tiles, opened when they are wanted; the last used keep some blocks in memory.

    `folder`: where files that come only whole are kept.
    """

    def __init__(
        self,
        spec: Hubble,
        tiles: Sequence[OpenTile],
        downloader: Downloader,
        folder: Path | None = None,
    ) -> None:
        self._spec, self._downloader, self._folder = spec, downloader, folder
        self._open: OrderedDict[str, Readable] = OrderedDict()
        self._lock = threading.Lock()
        self._ends: dict[str, int] = {}
        self._whole: set[str] = set()
        for one in tiles:
            for place, image in ((one.tile.image, one.image), (one.place_of_weight, one.weight)):
                self._ends[place] = max(self._ends.get(place, 0), image.end)
                if one.whole:
                    self._whole.add(place)

    def __getitem__(self, place: str) -> Readable:
        with self._lock:
            if place not in self._open:
                self._open[place] = self.fresh(place)
            self._open.move_to_end(place)
            while len(self._open) > MOST_FILES:
                self._open.popitem(last=False)
            return self._open[place]

    def fresh(self, place: str) -> Readable:
        """A file opened for one use, whose blocks are kept apart; raises BadImageError."""
        url = address_of(self._spec, place)
        if place in self._whole:
            assert self._folder is not None
            return Kept(kept(self._folder, self._downloader, url))
        return Blocks(self._downloader, url, self._spec.block * 1024, self._ends[place])
