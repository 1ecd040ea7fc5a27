"""Fetch and write the cutouts of one shard of a part.  Runs in any process."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.download import Downloader, Pace, pace_at
from galpipe.archives.hst.answers import read_answer
from galpipe.archives.hst.mosaics import Files, OpenTile, piece_of, tiles_of
from galpipe.archives.hst.planes import Plane
from galpipe.archives.hst.request import Target
from galpipe.archives.hst.stamp import HubbleStamp, stamp_of
from galpipe.archives.spec import Hapcut, Hubble, Mosaic, Zcut
from galpipe.archives.trouble import BadImageError
from galpipe.archives.writing import judge
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
    tiles: tuple[OpenTile, ...]  # of a mosaic


@dataclass(frozen=True)
class Fetched:
    """One object's cutout, or why there is none."""

    status: Status
    reason: str | None = None
    sha256: str | None = None
    source: str | None = None
    stamp: HubbleStamp | None = None


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
    if not isinstance(spec.pixels, Mosaic):
        return spec.mast
    place = spec.pixels.tiles[0].image
    return spec.mast if place.startswith("mast:") else spec.s3 if "://" in place else spec.files


def pace_of(spec: Hubble) -> Pace | None:
    """The pace of the cutout services; pieces of files are not paced."""
    if isinstance(spec.pixels, Mosaic):
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
    tiles = list(work.tiles)
    files = Files(spec, tiles, downloader)

    def fetch(row: int) -> Fetched:
        target = work.targets[row]
        try:
            if isinstance(spec.pixels, Mosaic):
                return _from_mosaic(spec, tiles, files, target)
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
    return _finished(spec, chosen, target)


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


def _from_mosaic(spec: Hubble, tiles: list[OpenTile], files: Files, target: Target) -> Fetched:
    """The cutout of an object from the pieces of a mosaic that hold it."""
    chosen = tiles_of(spec, tiles, target.ra, target.dec)
    if not chosen:
        return Fetched(Status.NO_COVERAGE, "no tile of the mosaic holds the position")
    missing = [band for band in spec.bands if band not in chosen]
    if missing:
        return Fetched(Status.MISSING_BAND, f"no tile of {', '.join(missing)} holds the position")
    planes = {
        band: piece_of(spec, files, tile, target.ra, target.dec, target.side)
        for band, tile in chosen.items()
    }
    return _finished(spec, planes, target)


def _finished(spec: Hubble, planes: dict[str, Plane], target: Target) -> Fetched:
    """The stamp of an object, with the digest of the pixels it was made from."""
    total = hashlib.sha256()
    for band in spec.bands:
        plane = planes[band]
        total.update(np.ascontiguousarray(plane.pixels, "<f4").tobytes())
        if plane.exposure is not None:
            total.update(np.ascontiguousarray(plane.exposure, "<f4").tobytes())
    told = sorted({f"{p.name} (PROPOSID {p.facts.proposal})" for p in planes.values()})
    source, digest = "; ".join(told), total.hexdigest()
    if not any(np.isfinite(plane.pixels).any() for plane in planes.values()):
        return Fetched(Status.NO_COVERAGE, "no exposure reaches the position", digest, source)
    try:
        stamp = stamp_of(spec, planes, target.ra, target.dec, target.side)
    except BadImageError as error:
        return Fetched(error.status, error.reason, digest, source)
    if not np.isfinite(stamp.pixels).any():
        return Fetched(Status.NO_COVERAGE, "no exposure reaches the position", digest, source)
    return Fetched(Status.OK, None, digest, source, stamp)


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
        self._facts: dict[str, list[Any]] = {
            name: [None] * number for name in ("sha256", "reason", "source", "status")
        }

    def put(self, row: int, fetched: Fetched) -> None:
        """Put what was fetched of one object into its row."""
        status, reason, arrays, stamp = fetched.status, fetched.reason, self._arrays, fetched.stamp
        if stamp is not None:
            status, reason, arrays["coverage"][row] = judge(stamp.pixels)
            ny, nx = stamp.pixels.shape[1:]
            arrays["image"][row, :, :ny, :nx] = stamp.pixels
            if "variance" in arrays:
                arrays["variance"][row, :, :ny, :nx] = stamp.variance
            arrays["ny"][row], arrays["nx"][row] = ny, nx
            for name in ("pixel_scale", "noise", "wcs", "exposure", "zero_point", "proposal"):
                arrays[name][row] = getattr(stamp, name)
            short = self._targets[row].cut_short
            if status & Status.OK and short is not None:
                status, reason = status | Status.EDGE, short
        arrays["status"][row] = int(status)
        told = (fetched.sha256, reason, fetched.source, int(status))
        for name, value in zip(("sha256", "reason", "source", "status"), told, strict=True):
            self._facts[name][row] = value

    def write(self, part: Part, shard: int) -> None:
        """Write the shard whole and commit it."""
        part.write(shard, self._arrays, self._facts)
