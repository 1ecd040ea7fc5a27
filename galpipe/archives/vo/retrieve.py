"""Retrieval from VO archives: which part is to be made, its shards, and what they cost."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe.archives.bill import DOCUMENT_BYTES, JPEG_BYTES_PER_PIXEL, Cost
from galpipe.archives.ledger import Told
from galpipe.archives.one_by_one import ListedPart, OneByOne
from galpipe.archives.planning import part_layout
from galpipe.archives.provider import Unfinished, Work
from galpipe.archives.spec import Hips, Soda, Vo
from galpipe.archives.vo.access import token_of
from galpipe.archives.vo.fetching import VoWork, fetch_shard
from galpipe.archives.vo.images import DISCOVERED, MARGIN, BandEnd
from galpipe.archives.vo.located import Place, locate
from galpipe.archives.vo.standing import answering
from galpipe.errors import InputError
from galpipe.stages import Context
from galpipe.stamps.parts import PartLayout

HEADER_BYTES = 2 * 2880  # of a small FITS image


class VirtualObservatory(OneByOne[Place]):
    """An archive that speaks the protocols of the Virtual Observatory."""

    spec: Vo
    mend = "mend the positions of the sample, or archive.pixels and the addresses of the archive"

    def __init__(self, spec: Vo, catalogue: pq.ParquetFile) -> None:
        """Raises InputError where the size follows a column that is not there."""
        table = catalogue.read()
        super().__init__(spec, table["object_id"], locate(spec, table))

    @property
    def _colour(self) -> bool:
        return isinstance(self.spec.pixels, Hips) and self.spec.pixels.format == "jpeg"

    def plan(
        self, context: Context, rows: NDArray[np.int64], after: str | None
    ) -> list[ListedPart[Place]]:  # fmt: skip
        """One part; raises InputError where the archive cannot be asked at all."""
        token_of(self.spec)
        key = "hips2fits" if isinstance(self.spec.pixels, Hips) else "sia"
        if self.spec.embedded is None and not getattr(self.spec, key):
            raise InputError(
                f"archive.{key}: cutouts of kind {self.spec.pixels.kind!r} need the address of the "
                "service; name it."
            )
        return super().plan(context, rows, after)

    def shape(self, side: int, objects: int) -> tuple[PartLayout, list[Any]]:
        """The layout of a part of stamps of at most `side` pixels, and what addresses it."""
        dtype = "uint8" if self._colour else "float32"
        layout = part_layout(self.spec, objects, dtype, side, 0)
        return layout, [dtype, side, layout.shard]

    def attributes(self) -> Mapping[str, Any]:
        """What is kept with the arrays of a part."""
        return {
            "bands": list(self.spec.bands),
            "unit": "as in the source",
            "rows": "y down, as in JPEG" if self._colour else "y up, as in FITS",
            "rights": self.spec.rights,
            "service": self.spec.service,
            "resampled": isinstance(self.spec.pixels, Hips),
        }

    @contextlib.contextmanager
    def work(
        self, context: Context, unfinished: Sequence[Unfinished[ListedPart[Place]]]
    ) -> Iterator[Work]:  # fmt: skip
        """The shards that are not there, and their bill."""
        with answering(context, self.spec) as spec:
            items = [
                VoWork(spec, str(one.part.path), shard, one.planned.targets[one.part.rows(shard)])
                for one in unfinished
                for shard in one.missing
            ]
            cost = estimate(spec, [place for item in items for place in item.places])
            yield Work(fetch_shard, items, cost.told(spec, spec.embedded is not None))

    def told(self, facts: Mapping[str, Any], at: int, row: int) -> list[Told]:
        """How the bands of an object ended; one that nothing is told of ends as the object.

        Where no image was found, the address is that of the query for one.
        """
        status, reason, ends = facts["status"][at], facts["reason"][at], facts["bands"][at]
        place = self.targets[row]
        asked = f"sia?POS=CIRCLE {place.ra!r} {place.dec!r} {DISCOVERED!r}"
        told = []
        for band in self.spec.bands:
            end = BandEnd(*ends.get(band, (status, reason)))
            told.append(Told(end.status, end.digest, end.reason, None, end.source or asked))
        return told


def estimate(spec: Vo, places: Sequence[Place]) -> Cost:
    """What some objects will take.

    SODA: a query per collection, and in each band a DataLink, unless the service is named, and a
    piece of an image, square about the circle that is asked for.  hips2fits: an image per map.
    """
    pixels, count = spec.pixels, len(places)
    if isinstance(pixels, Hips):
        item, header = (JPEG_BYTES_PER_PIXEL, 0) if pixels.format == "jpeg" else (4.0, HEADER_BYTES)
        size = sum(place.side**2 * item + header for place in places) * len(pixels.maps)
        return Cost(count, count * len(pixels.maps), size, spec.requests_per_minute)
    documents = _documents(spec, pixels)
    requests = documents + len(spec.bands)
    side = [
        2 * math.sqrt(2) * (MARGIN + math.sqrt(2) * p.half / pixels.pixel_scale) for p in places
    ]
    size = sum(4 * pixel**2 + HEADER_BYTES for pixel in side) * len(spec.bands)
    size += count * documents * DOCUMENT_BYTES
    return Cost(count, count * requests, size, spec.requests_per_minute)


def _documents(spec: Vo, pixels: Soda) -> int:
    """Answers per object that describe images and services."""
    bands = len(spec.bands)
    return len({pixels.asked(place)[0] for place in range(bands)}) + (0 if spec.soda else bands)
