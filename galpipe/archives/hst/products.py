"""The drizzled products of MAST about the objects of a sample, as tiles to cut from."""

from __future__ import annotations

import re
from collections.abc import Sequence

from galpipe.archives.download import Downloader
from galpipe.archives.hst.listed import Listed, circles, files_about
from galpipe.archives.pace import pace_at
from galpipe.archives.spec import Hubble, Products, Tile
from galpipe.errors import InputError

KEY = "archive.pixels"
DRIZZLED = re.compile(r"_dr[cz]\.fits$")
EXPOSURE = re.compile(r"[a-z0-9]{9}")  # ipppssoot, the name of a single exposure
MOST_PRODUCTS = 2000


def tiles_about(spec: Hubble, places: Sequence[tuple[float, float]]) -> tuple[Tile, ...]:
    """The products of every filter about some places (ra, dec in degrees), by name.

    Where a product comes both with and without the correction for charge transfer (drc, drz), the
    one with it.  Raises InputError where MAST gives no usable answer or a filter has none.
    """
    assert isinstance(spec.pixels, Products)
    pixels = spec.pixels
    with Downloader(spec, spec.mast, pace_at(spec.mast, spec.requests_per_minute)) as downloader:
        files = files_about(
            spec, downloader, circles(places), spec.bands, pixels.camera, pixels.proposals, KEY
        )
    tiles: dict[tuple[str, str], Tile] = {}
    for file in files:  # drc comes before drz
        band = next((b for b in spec.bands if b.lower() in file.words), None)
        if band is not None and _fits(pixels, file):
            tiles.setdefault((band, file.name[:-9]), Tile(band=band, image=file.uri))
    if len(tiles) > MOST_PRODUCTS:
        raise InputError(
            f"{KEY}: MAST has {len(tiles)} products there, and at most {MOST_PRODUCTS} are looked "
            "at; name some with archive.pixels.proposals, or divide the sample."
        )
    absent = [b for b in spec.bands if b not in {tile.band for tile in tiles.values()}]
    if absent:
        raise InputError(
            f"{KEY}: MAST has no {pixels.mosaics} product of {pixels.camera} in {absent[0]} there; "
            "mend archive.bands, the camera, mosaics, proposals, or the positions of the sample."
        )
    return tuple(tiles.values())


def _fits(pixels: Products, file: Listed) -> bool:
    """Whether a file is a product of the wanted camera and kind."""
    if not DRIZZLED.search(file.name.lower()) or pixels.camera not in file.name.lower():
        return False
    if pixels.mosaics == "skycell":
        coarse = any(word.startswith("coarse") for word in file.words)
        return file.words[1].startswith("skycell") and coarse == pixels.coarse
    return not file.words[1].startswith("skycell") and not EXPOSURE.fullmatch(file.words[-2])
