"""Fetch and write the objects of a shard from a VO archive.  Runs in any process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.judging import judge
from galpipe.archives.spec import Vo
from galpipe.archives.vo import images
from galpipe.archives.vo.access import Access
from galpipe.archives.vo.images import Fetched
from galpipe.archives.vo.located import Place
from galpipe.stamps.parts import Part
from galpipe.status import Status

FACTS = ("sha256", "status", "reason", "source", "bands")  # of a shard, by row


@dataclass(frozen=True)
class VoWork:
    """One shard of a part and the objects that fill it, in row order; small and picklable."""

    spec: Vo
    part: str  # path of the part
    shard: int
    places: tuple[Place, ...]


def fetch_shard(work: VoWork) -> int:
    """Fetch and write one shard; returns how many objects it has.

    What is wrong with one object becomes its status and reason, kept in the shard's marker.
    """
    part = Part(work.part)
    rows = _Rows(part, work.places)
    pool = ThreadPoolExecutor(work.spec.connections, "fetch")
    try:
        with Access(work.spec) as access:
            for row, fetched in enumerate(_in_order(pool, access, work.places)):
                rows.put(row, fetched)
    finally:  # nothing is under way where all went well; an interrupted run does not wait
        pool.shutdown(wait=False, cancel_futures=True)
    rows.write(part, work.shard)
    return len(work.places)


def _in_order(
    pool: ThreadPoolExecutor, access: Access, places: Sequence[Place]
) -> Iterator[Fetched]:
    """What is fetched of each object, a few of them ahead of the one that is needed."""
    ahead = 2 * access.spec.connections
    begun = [pool.submit(images.fetch, access, place) for place in places[:ahead]]
    for number in range(len(places)):
        found = begun[number].result()
        if number + ahead < len(places):
            begun.append(pool.submit(images.fetch, access, places[number + ahead]))
        begun[number] = None  # type: ignore[call-overload]  # its pixels are in the store
        yield found


class _Rows:
    """The arrays of one shard, filled row by row."""

    def __init__(self, part: Part, places: Sequence[Place]) -> None:
        number = len(places)
        image = part.array("image")
        empty = np.nan if image.dtype.kind == "f" else 0
        nan = np.full(number, np.nan, np.float32)
        self._places = places
        self._arrays: dict[str, NDArray[Any]] = {
            "image": np.full((number, *image.shape[1:]), empty, image.dtype),
            "ny": np.zeros(number, np.int32),
            "nx": np.zeros(number, np.int32),
            "status": np.zeros(number, np.int32),
            "ra": np.array([place.ra for place in places]),
            "dec": np.array([place.dec for place in places]),
            "pixel_scale": nan.copy(),
            "coverage": np.zeros(number, np.float32),
            "noise": nan.copy(),
            "psf_fwhm": nan.copy(),
            "wcs": np.full((number, 8), np.nan),
        }
        self._facts: dict[str, list[Any]] = {name: [None] * number for name in FACTS}

    def put(self, row: int, fetched: Fetched) -> None:
        """Put what was fetched of one object into its row."""
        status, reason, arrays = fetched.status, fetched.reason, self._arrays
        if fetched.stamp is not None:
            pixels = fetched.stamp.pixels
            status, reason, arrays["coverage"][row] = judge(pixels)
            ny, nx = pixels.shape[1:]
            arrays["image"][row, :, :ny, :nx] = pixels
            arrays["ny"][row], arrays["nx"][row] = ny, nx
            arrays["pixel_scale"][row] = fetched.stamp.pixel_scale
            arrays["wcs"][row] = fetched.stamp.wcs
            self._facts["sha256"][row] = fetched.stamp.digest
            short = self._places[row].cut_short
            if status & Status.OK and short is not None:
                status, reason = status | Status.EDGE, short
        arrays["status"][row] = int(status)
        self._facts["status"][row] = int(status)
        self._facts["reason"][row], self._facts["source"][row] = reason, fetched.source
        self._facts["bands"][row] = {
            band: [int(end.status), end.reason, end.source, end.digest]
            for band, end in fetched.bands.items()
        }

    def write(self, part: Part, shard: int) -> None:
        """Write the shard whole and commit it."""
        part.write(shard, self._arrays, self._facts)
