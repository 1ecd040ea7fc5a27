"""Fetch and write the cutouts of some shards of a part.  Runs in any process.

Frames: a task's fields are taken one after the other; the next ones are fetched and decoded by
threads meanwhile, and a frame is dropped once its field is cut, so that memory does not grow.
Colour images: a shard at a time, by threads.
"""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from galpipe.archives import raster_images
from galpipe.archives.download import Downloader, pace_of
from galpipe.archives.fits_images import pixel_scale
from galpipe.archives.frames import FieldName, Frame, cut_field, decode_frame
from galpipe.archives.located import Target, frame_address
from galpipe.archives.spec import Frames, Jpeg, Sdss, Sky
from galpipe.archives.trouble import BadImageError
from galpipe.archives.writing import judge
from galpipe.stamps.parts import Part
from galpipe.status import Status

A = TypeVar("A")
B = TypeVar("B")
FIELDS_AHEAD = 2  # fields whose frames are in memory beside the one being cut


@dataclass(frozen=True)
class FetchWork:
    """Whole shards of a part and the objects that fill them, in row order; small and picklable."""

    spec: Sdss | Sky
    part: str  # path of the part
    shards: range
    targets: tuple[Target, ...]


def fetch_shards(work: FetchWork) -> int:
    """Fetch and write the shards of a task that are not there; returns how many objects they have.

    What is wrong with one object becomes its status and reason, kept in the shard's marker.
    """
    part = Part(work.part)
    start = part.rows(work.shards[0]).start
    missing = [shard for shard in work.shards if shard in set(part.missing())]
    done = 0
    writers = iter(missing)
    with _rows(work, part, missing) as rows:
        for shard in writers:
            place = part.rows(shard)
            targets = work.targets[place.start - start : place.stop - start]
            store = ShardStore(part, targets)
            for row in range(len(targets)):
                store.put(row, next(rows))
            store.write(part, shard)
            done += len(targets)
    return done


@dataclass(frozen=True)
class Fetched:
    """One object's cutout, or why there is none."""

    status: Status
    reason: str | None = None
    sha256: str | None = None
    pixels: NDArray[Any] | None = None  # (band, y, x)
    pixel_scale: float = float("nan")
    noise: float = float("nan")
    wcs: NDArray[np.float64] | None = None


class ShardStore:
    """The arrays of one shard, filled row by row."""

    def __init__(self, part: Part, targets: Sequence[Target]) -> None:
        count = len(targets)
        image = part.array("image")
        empty = np.nan if image.dtype.kind == "f" else 0
        nan = np.full(count, np.nan, np.float32)
        self.arrays: dict[str, NDArray[Any]] = {
            "image": np.full((count, *image.shape[1:]), empty, image.dtype),
            "ny": np.zeros(count, np.int32),
            "nx": np.zeros(count, np.int32),
            "status": np.zeros(count, np.int32),
            "ra": np.array([target.ra for target in targets]),
            "dec": np.array([target.dec for target in targets]),
            "pixel_scale": nan.copy(),
            "coverage": np.zeros(count, np.float32),
            "noise": nan.copy(),
            "psf_fwhm": nan.copy(),
            "wcs": np.full((count, 8), np.nan),
        }
        self._targets = targets
        self._checksums: list[str | None] = [None] * count
        self._reasons: list[str | None] = [None] * count

    def put(self, row: int, fetched: Fetched) -> None:
        """Put what was fetched of one object into its row."""
        status, reason = fetched.status, fetched.reason
        arrays = self.arrays
        if fetched.pixels is not None:
            status, reason, coverage = judge(fetched.pixels)
            ny, nx = fetched.pixels.shape[1:]
            arrays["image"][row, :, :ny, :nx] = fetched.pixels
            arrays["ny"][row], arrays["nx"][row] = ny, nx
            arrays["coverage"][row] = coverage
            arrays["pixel_scale"][row] = fetched.pixel_scale
            arrays["noise"][row] = fetched.noise
            if fetched.wcs is not None:
                arrays["wcs"][row] = fetched.wcs
            short = self._targets[row].cut_short
            if status & Status.OK and short is not None:
                status, reason = status | Status.EDGE, short
        arrays["status"][row] = int(status)
        self._checksums[row], self._reasons[row] = fetched.sha256, reason

    def write(self, part: Part, shard: int) -> None:
        """Write the shard whole and commit it."""
        facts = {
            "sha256": self._checksums,
            "reason": self._reasons,
            "status": self.arrays["status"].tolist(),
        }
        part.write(shard, self.arrays, facts)


@contextmanager
def _rows(work: FetchWork, part: Part, missing: Sequence[int]) -> Iterator[Iterator[Fetched]]:
    """What is fetched for the rows of the missing shards, in order."""
    start = part.rows(work.shards[0]).start
    targets = [
        target
        for shard in missing
        for target in work.targets[part.rows(shard).start - start : part.rows(shard).stop - start]
    ]
    spec = work.spec
    frames = isinstance(spec.pixels, Frames)
    address, pace = (spec.sas, None) if frames else (spec.skyserver, pace_of(spec))
    pool = ThreadPoolExecutor(spec.connections, "fetch")
    try:
        with Downloader(spec, address, pace) as downloader:
            yield (_from_frames if frames else _from_images)(spec, targets, downloader, pool)
    finally:  # nothing is under way where all went well; an interrupted run does not wait
        pool.shutdown(wait=False, cancel_futures=True)


# Frames.


def _from_frames(
    spec: Sdss | Sky, targets: Sequence[Target], downloader: Downloader, pool: ThreadPoolExecutor
) -> Iterator[Fetched]:
    """Cutouts of the frames; the targets of a field follow each other."""
    groups: list[list[Target]] = []
    for target in targets:
        if not groups or groups[-1][0].field != target.field:
            groups.append([])
        groups[-1].append(target)

    def begin(group: list[Target]) -> dict[str, Future[Frame]]:
        name = group[0].field
        assert name is not None
        return {band: pool.submit(_frame, spec, downloader, name, band) for band in spec.bands}

    for group, frames in _ahead(begin, groups, FIELDS_AHEAD):
        yield from _cut_group(spec, group, frames)


def _ahead(begin: Callable[[A], B], items: Sequence[A], count: int) -> Iterator[tuple[A, B]]:
    """Items with what was begun for them, `count` of them begun before they are needed."""
    begun: deque[tuple[A, B]] = deque()
    for item in items:
        begun.append((item, begin(item)))
        if len(begun) > count:
            yield begun.popleft()
    while begun:
        yield begun.popleft()


def _frame(spec: Sdss | Sky, downloader: Downloader, name: FieldName, band: str) -> Frame:
    check = functools.partial(decode_frame, name=name, band=band)
    return downloader.fetch(frame_address(spec, name, band), check)


def _cut_group(
    spec: Sdss | Sky, group: Sequence[Target], futures: dict[str, Future[Frame]]
) -> Iterator[Fetched]:
    """The cutouts of one field, or the reason why none of its objects has one."""
    assert isinstance(spec.pixels, Frames)
    name = group[0].field
    assert name is not None
    frames: dict[str, Frame] = {}
    troubles: dict[str, BadImageError] = {}
    for band, future in futures.items():
        try:
            frames[band] = future.result()
        except BadImageError as error:
            troubles[band] = error
    if troubles:
        status, reason = _verdict(spec, troubles)
        yield from [Fetched(status, reason)] * len(group)
        return
    cuts = cut_field(
        frames, name, spec.pixels.reference,
        np.array([target.ra for target in group]), np.array([target.dec for target in group]),
        np.array([target.side for target in group]),
    )  # fmt: skip
    digests = "".join(frame.sha256 for frame in frames.values())
    checksum = hashlib.sha256(bytes.fromhex(digests)).hexdigest()
    for row in range(len(group)):
        if not cuts.inside[row]:
            yield Fetched(Status.OFF_FRAME, "the position is not on the frame", checksum)
            continue
        yield Fetched(
            Status.OK, None, checksum, cuts.images[row], pixel_scale(cuts.wcs[row]),
            float(cuts.noise[row]), cuts.wcs[row],
        )  # fmt: skip


def _verdict(spec: Sdss | Sky, troubles: dict[str, BadImageError]) -> tuple[Status, str]:
    """What the troubles of a field's bands come to: what may pass on a retry goes first."""
    for status in (Status.FAILED, Status.CORRUPT, Status.NO_COVERAGE):
        bands = [band for band, error in troubles.items() if error.status == status]
        if bands:
            break
    reason = f"{', '.join(bands)}: {troubles[bands[0]].reason}"
    if status == Status.NO_COVERAGE and len(bands) < len(spec.bands):
        status = Status.MISSING_BAND
    return status, reason


# Colour images.


def _from_images(
    spec: Sdss | Sky, targets: Sequence[Target], downloader: Downloader, pool: ThreadPoolExecutor
) -> Iterator[Fetched]:
    def begin(target: Target) -> Future[Fetched]:
        return pool.submit(_image, spec, downloader, target)

    for _, future in _ahead(begin, targets, 2 * spec.connections):
        yield future.result()


def _image(spec: Sdss | Sky, downloader: Downloader, target: Target) -> Fetched:
    """The colour image about one object."""
    assert isinstance(spec.pixels, Jpeg)
    side = spec.pixels.side
    scale = 2 * target.half / side
    address = f"{spec.skyserver.rstrip('/')}/dr{spec.imaging_release}/SkyServerWS/ImgCutout/getjpeg"
    asked: dict[str, str | int | float] = {
        "ra": repr(target.ra), "dec": repr(target.dec), "scale": repr(scale),
        "width": side, "height": side,
    }  # fmt: skip
    try:
        pixels, checksum = downloader.fetch(
            address, functools.partial(_decode_image, side=side), asked
        )
    except BadImageError as error:
        return Fetched(error.status, error.reason)
    return Fetched(Status.OK, None, checksum, pixels, scale)


def _decode_image(content: bytes, side: int) -> tuple[NDArray[Any], str]:
    """Pixels (band, y, x) uint8 and the checksum of a colour image; raises BadImageError."""
    if not content.startswith(b"\xff\xd8"):
        raise BadImageError(Status.CORRUPT, "not a JPEG image")
    pixels = raster_images.decode(content)
    if pixels.shape != (3, side, side) or pixels.dtype != np.uint8:
        raise BadImageError(
            Status.CORRUPT, f"an image of {pixels.shape} where 3 x {side} x {side} was asked for"
        )
    return pixels, hashlib.sha256(content).hexdigest()
