"""Fetch and write the cutouts of one shard of a part.  Runs in any process."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.download import Downloader
from galpipe.archives.hst.answers import read_answer
from galpipe.archives.hst.fetched import Fetched, finished
from galpipe.archives.hst.field_psf import FieldPsfs
from galpipe.archives.hst.mosaics import Files, OpenTile
from galpipe.archives.hst.planes import Plane
from galpipe.archives.hst.request import Target
from galpipe.archives.hst.tiled import from_tiles
from galpipe.archives.judging import judge
from galpipe.archives.pace import Pace, pace_at
from galpipe.archives.spec import Hapcut, Hubble, Mosaic, Products, Zcut
from galpipe.archives.trouble import BadImageError
from galpipe.stamps.parts import Part
from galpipe.status import Status

HAPCUT = "/hapcut/api/v0.1/astrocut"
ZCUT = "/zcut/api/v0.1/astrocut"
MARGIN = 20  # pixels asked for around a stamp, for what is resampled
COARSE = "coarse"


@dataclass(frozen=True)
class FetchWork:
    """A shard of a part and the objects that fill it, in row order; small and picklable."""

    spec: Hubble
    part: str  # path of the part
    shard: int
    targets: tuple[Target, ...]
    tiles: tuple[OpenTile, ...]  # of a mosaic, or products


def fetch_shard(work: FetchWork) -> int:
    """Fetch and write the objects of a shard; returns how many there are.

    What is wrong with one object becomes its status and reason, kept in the shard's marker.
    """
    part = Part(work.part)
    rows = _Rows(part, work.spec, work.targets)
    address = address_of(work.spec)
    pool = ThreadPoolExecutor(work.spec.connections, "fetch")
    try:
        with Downloader(work.spec, address, pace_of(work.spec)) as downloader:
            for row, fetched in _in_order(pool, _fetching(work, downloader), _order(work)):
                rows.put(row, fetched)
    finally:  # nothing is under way where all went well; an interrupted run does not wait
        pool.shutdown(wait=False, cancel_futures=True)
    rows.write(part, work.shard)
    return len(work.targets)


def address_of(spec: Hubble) -> str:
    """The address that most requests go to."""
    if not isinstance(spec.pixels, Mosaic):  # products are MAST's
        return spec.mast
    place = spec.pixels.tiles[0].image
    return spec.mast if place.startswith("mast:") else spec.s3 if "://" in place else spec.files


def pace_of(spec: Hubble) -> Pace | None:
    """The pace of the cutout services; pieces of files are not paced."""
    if isinstance(spec.pixels, Mosaic | Products):
        return None
    return pace_at(spec.mast, spec.requests_per_minute)


def _order(work: FetchWork) -> list[int]:
    """The rows of a shard in the order in which they are fetched: in a mosaic from south up."""
    rows = list(range(len(work.targets)))
    if work.tiles:
        rows.sort(key=lambda row: (work.targets[row].dec, work.targets[row].ra))
    return rows


def _fetching(work: FetchWork, downloader: Downloader) -> Callable[[int], Fetched]:
    """What fetches the object of a row."""
    spec = work.spec
    part = Path(work.part)
    files = Files(spec, work.tiles, downloader, part)
    psfs = None
    if isinstance(spec.pixels, Mosaic | Products) and spec.pixels.psf:
        psfs = FieldPsfs(part, files)

    def fetch(row: int) -> Fetched:
        target = work.targets[row]
        try:
            if isinstance(spec.pixels, Mosaic | Products):
                return from_tiles(spec, work.tiles, files, psfs, target)
            return _from_service(spec, downloader, target)
        except BadImageError as error:
            return Fetched(error.status, error.reason)

    return fetch


def _in_order(
    pool: ThreadPoolExecutor, fetch: Callable[[int], Fetched], rows: Sequence[int]
) -> Iterator[tuple[int, Fetched]]:
    """What is fetched for each row, some of them ahead of the one that is needed."""
    begun: deque[tuple[int, Future[Fetched]]] = deque()
    ahead = 2 * pool._max_workers
    for row in rows:
        begun.append((row, pool.submit(fetch, row)))
        if len(begun) > ahead:
            first, future = begun.popleft()
            yield first, future.result()
    for first, future in begun:
        yield first, future.result()


def _from_service(spec: Hubble, downloader: Downloader, target: Target) -> Fetched:
    """The cutout of an object by one request to a cutout service."""
    side = (target.side + 2 * MARGIN) * spec.pixel_scale / 3600
    asked: dict[str, str | int | float] = {
        "ra": target.ra, "dec": target.dec, "x": side, "y": side, "units": "d",
    }  # fmt: skip
    digest: list[str] = []

    def read(content: bytes) -> list[Plane] | None:
        found = read_answer(content)
        digest[:] = [hashlib.sha256(content).hexdigest()]
        return found

    address = spec.mast.rstrip("/")
    if isinstance(spec.pixels, Zcut):
        wanted = {**asked, "survey": spec.pixels.survey, "format": "fits"}
        planes = downloader.fetch(address + ZCUT, read, wanted)
    else:
        planes = downloader.fetch(address + HAPCUT, read, method="POST", json=asked)
    if planes is None:
        return Fetched(Status.NO_COVERAGE, "the archive has no image there")
    chosen, problem = choose(spec, planes, target)
    if problem is not None:
        return Fetched(*problem, sha256=digest[0])
    return finished(spec, {band: [plane] for band, plane in chosen.items()}, target)


def choose(
    spec: Hubble, planes: Sequence[Plane], target: Target
) -> tuple[dict[str, Plane], tuple[Status, str] | None]:
    """The image of each filter among those of an answer, and what is wrong where one is missing.

    An image counts where its header names the filter and the camera; where several do, the one
    with the most pixels seen.  Where its file's name says another filter, it is not believed.
    """
    assert isinstance(spec.pixels, Hapcut | Zcut)
    coarse = isinstance(spec.pixels, Hapcut) and spec.pixels.coarse
    best: dict[str, tuple[int, str, Plane]] = {}
    for plane in planes:
        words = plane.name.lower().rsplit(".", 1)[0].split("_")
        band = next((b for b in spec.bands if b.upper() == plane.facts.filter), None)
        if band is None or plane.facts.camera != spec.pixels.camera:
            continue
        if isinstance(spec.pixels, Hapcut):
            if (COARSE in words) != coarse:
                continue
            if band.lower() not in words:
                reason = f"the file {plane.name[:80]!r} holds {plane.facts.filter}"
                return {}, (Status.CORRUPT, reason)
        seen = int(np.isfinite(plane.pixels).sum())
        if band not in best or (seen, plane.name) > best[band][:2]:
            best[band] = seen, plane.name, plane
    missing = [band for band in spec.bands if band not in best]
    if missing:
        told = Counter(f"{p.facts.camera} {p.facts.filter}" for p in planes)
        reason = f"no {', '.join(missing)} of {spec.pixels.camera} (there is {', '.join(told)})"
        status = Status.MISSING_BAND if planes else Status.NO_COVERAGE
        return {}, (status, reason[:200])
    return {band: found[2] for band, found in best.items()}, None


class _Rows:
    """The arrays of one shard, filled row by row."""

    def __init__(self, part: Part, spec: Hubble, targets: Sequence[Target]) -> None:
        number, bands = len(targets), len(spec.bands)
        image = part.array("image")
        nan = np.full(number, np.nan, np.float32)
        planes = np.full((number, bands), np.nan, np.float32)
        self._targets = targets
        self._arrays: dict[str, NDArray[Any]] = {
            "image": np.full((number, *image.shape[1:]), np.nan, np.float32),
            "ny": np.zeros(number, np.int32),
            "nx": np.zeros(number, np.int32),
            "status": np.zeros(number, np.int32),
            "ra": np.array([target.ra for target in targets]),
            "dec": np.array([target.dec for target in targets]),
            "pixel_scale": nan.copy(),
            "coverage": np.zeros(number, np.float32),
            "noise": nan.copy(),
            "psf_fwhm": nan.copy(),
            "wcs": np.full((number, 8), np.nan),
            "exposure": planes.copy(),
            "zero_point": planes.copy(),
            "proposal": np.full((number, bands), -1, np.int32),
        }
        if spec.variance:
            self._arrays["variance"] = np.full(
                (number, *image.shape[1:]), np.nan, np.float32
            )  # fmt: skip
        if "psf" in part.group:
            self._arrays["psf"] = np.zeros((number, *part.array("psf").shape[1:]), np.float32)
        self._facts: dict[str, list[Any]] = {
            name: [None] * number for name in ("sha256", "reason", "source", "status", "bands")
        }

    def put(self, row: int, fetched: Fetched) -> None:
        """Put what was fetched of one object into its row."""
        status, reason, arrays, stamp = fetched.status, fetched.reason, self._arrays, fetched.stamp
        if stamp is not None:
            known, also = fetched.status & ~Status.OK, reason
            status, reason, arrays["coverage"][row] = judge(stamp.pixels)
            if status & Status.OK:
                status, reason = status | known, reason or also
            ny, nx = stamp.pixels.shape[1:]
            arrays["image"][row, :, :ny, :nx] = stamp.pixels
            if "variance" in arrays:
                arrays["variance"][row, :, :ny, :nx] = stamp.variance
            arrays["ny"][row], arrays["nx"][row] = ny, nx
            for name in ("pixel_scale", "noise", "wcs", "exposure", "zero_point", "proposal"):
                arrays[name][row] = getattr(stamp, name)
            if fetched.psf is not None:
                arrays["psf"][row], arrays["psf_fwhm"][row] = fetched.psf, fetched.psf_fwhm
            short = self._targets[row].cut_short
            if status & Status.OK and short is not None:
                status, reason = status | Status.EDGE, short
        arrays["status"][row] = int(status)
        told = (fetched.sha256, reason, fetched.source, int(status))
        for name, value in zip(("sha256", "reason", "source", "status"), told, strict=True):
            self._facts[name][row] = value
        if fetched.files:  # each band ends as the object, by a file of its own
            self._facts["bands"][row] = [
                [int(status), file.sha256, reason, file.beside, file.url] for file in fetched.files
            ]

    def write(self, part: Part, shard: int) -> None:
        """Write the shard whole and commit it."""
        part.write(shard, self._arrays, self._facts)
