"""Retrieval of Hubble images: which part is to be made, its shards, and what they cost."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from galpipe.archives.download import Downloader
from galpipe.archives.framecache import FrameCache
from galpipe.archives.hst import whole
from galpipe.archives.hst.bill import estimate
from galpipe.archives.hst.fetching import HAPCUT, ZCUT, FetchWork, address_of, fetch_shard
from galpipe.archives.hst.mosaics import OpenTile, open_tiles
from galpipe.archives.hst.products import tiles_about
from galpipe.archives.hst.request import Target, locate
from galpipe.archives.hst.serving import answering
from galpipe.archives.hst.stars import SIDE as PSF_SIDE
from galpipe.archives.ledger import Told
from galpipe.archives.one_by_one import ListedPart, OneByOne
from galpipe.archives.planning import part_layout
from galpipe.archives.provider import Unfinished, Work
from galpipe.archives.spec import Hapcut, Hst, HstSky, Hubble, Mosaic, Products
from galpipe.archives.trouble import BadImageError
from galpipe.errors import InputError
from galpipe.stages import Context
from galpipe.stamps.parts import ArrayLayout, PartLayout

UNITS = {"exposure": "s", "zero_point": "mag(AB) of 1 electron/s"}


class HubbleArchive(OneByOne[Target]):
    """Images of the Hubble Space Telescope, by MAST or by mosaics."""

    spec: Hst | HstSky
    mend = "mend the positions of the sample, or archive.bands, archive.pixels and the addresses"

    def __init__(self, spec: Hst | HstSky, catalogue: pq.ParquetFile) -> None:
        """Raises InputError where the size follows a column that is not there."""
        table = catalogue.read()
        super().__init__(spec, table["object_id"], locate(spec, table))

    def shape(self, side: int, objects: int) -> tuple[PartLayout, list[Any]]:
        """The layout of a part of stamps of at most `side` pixels, and what addresses it."""
        spec = self.spec
        psf = PSF_SIDE if isinstance(spec.pixels, Mosaic | Products) and spec.pixels.psf else 0
        layout = part_layout(
            spec, objects, "float32", side, psf, psf_bands=True, variance=spec.variance
        )
        bands, nan = (len(spec.bands),), float("nan")
        arrays = [
            *layout.arrays,
            *(
                ArrayLayout(name, "float32", bands, ("band",), nan, attributes=(("unit", unit),))
                for name, unit in UNITS.items()
            ),
            ArrayLayout("proposal", "int32", bands, ("band",), -1),
        ]
        layout = dataclasses.replace(layout, arrays=tuple(arrays))
        return layout, [side, layout.shard, spec.variance]

    def attributes(self) -> Mapping[str, Any]:
        """What is kept with the arrays of a part."""
        return {
            "bands": list(self.spec.bands),
            "unit": "electron/s/pixel",
            "rows": "y up, as in FITS",
            "rights": self.spec.rights,
        }

    @contextlib.contextmanager
    def work(
        self, context: Context, unfinished: Sequence[Unfinished[ListedPart[Target]]]
    ) -> Iterator[Work]:  # fmt: skip
        """The shards that are not there, and their bill."""
        with answering(context, self.spec) as spec:
            tiles = self._tiles(context, spec, unfinished)
            items = [
                FetchWork(
                    spec, str(one.part.path), shard,
                    one.planned.targets[one.part.rows(shard)], tiles,
                )
                for one in unfinished
                for shard in one.missing
            ]  # fmt: skip
            cost = estimate(spec, [target for item in items for target in item.targets], tiles)
            yield Work(fetch_shard, items, cost.told(spec, isinstance(spec, HstSky)))

    def _tiles(
        self, context: Context, spec: Hubble, unfinished: Sequence[Unfinished[ListedPart[Target]]]
    ) -> tuple[OpenTile, ...]:
        """The tiles of a mosaic, or the products about the objects, with their headers read.

        Raises InputError where one is no good.
        """
        if not isinstance(spec.pixels, Mosaic | Products) or not unfinished:
            return ()
        if isinstance(spec.pixels, Mosaic):
            tiles, key = spec.pixels.tiles, "archive.pixels.tiles"
        else:
            places = [(t.ra, t.dec) for one in unfinished for t in one.planned.targets]
            tiles, key = tiles_about(spec, places), "archive.pixels"
        folder = unfinished[0].part.path
        try:
            with Downloader(spec, address_of(spec)) as downloader:
                return tuple(open_tiles(spec, downloader, tiles, folder, context.progress.say))
        except BadImageError as error:
            raise InputError(f"{key}: {error.reason}; mend the tile, or run again later.") from None

    def told(self, facts: Mapping[str, Any], at: int, row: int) -> list[Told]:
        """How the bands of an object ended; without pixels, with the address that was asked."""
        told = super().told(facts, at, row)
        if told is not None:
            return list(told)
        status, sha256, reason = (facts[key][at] for key in ("status", "sha256", "reason"))
        source = facts["source"][at]
        return [
            Told(status, sha256, reason, None, source or self._asked(row, band))
            for band in self.spec.bands
        ]

    def _asked(self, row: int, band: str) -> str | None:
        """What is asked for an object in a band; None where its place among tiles decides it."""
        pixels, target = self.spec.pixels, self.targets[row]
        if isinstance(pixels, Mosaic):
            images = [tile.image for tile in pixels.tiles if tile.band == band]
            return images[0] if len(images) == 1 else None
        if isinstance(pixels, Products):
            return None
        service = HAPCUT if isinstance(pixels, Hapcut) else ZCUT
        return f"{service.lstrip('/')}?ra={target.ra!r}&dec={target.dec!r}"

    def tidy(self, path: Path) -> None:
        """Drop what was kept beside a part while it was made: whole files, PSFs of fields."""
        whole.clear(path)
        FrameCache(path, 0).clear()
