"""Fetch and write the cutouts of some shards of a part.  Runs in any process.

Frames: a task's fields are taken one after the other; the next ones are fetched and decoded by
threads meanwhile, and a frame is dropped once its field is cut, so that memory does not grow.
Colour images: a shard at a time, by threads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from galpipe.archives import raster_images
from galpipe.archives.download import Downloader, pace_of
from galpipe.archives.extinction import factors
from galpipe.archives.fits_images import pixel_scale
from galpipe.archives.framecache import FrameCache
from galpipe.archives.frames import (
    FieldCuts,
    FieldName,
    Frame,
    check_place,
    cut_field,
    decode_frame,
    reaches_over,
    resample,
)
from galpipe.archives.located import Target, Targets, frame_address, frame_path, psfield_address
from galpipe.archives.projection import local_map, to_pixels
from galpipe.archives.psf import psf_fwhm
from galpipe.archives.psfield import PsField, decode_psfield
from galpipe.archives.spec import Frames, Jpeg, Sdss, Sky
from galpipe.archives.trouble import BadImageError
from galpipe.archives.writing import judge
from galpipe.stamps.parts import Part
from galpipe.status import Status

A = TypeVar("A")
B = TypeVar("B")
Doubles = NDArray[np.float64]
# How an object ended in a band: status, sha256 of the file, reason, files beside it.
Told = tuple[int, str | None, str | None, str | None]
FIELDS_AHEAD = 2  # fields whose frames are in memory beside the one being cut and its neighbours
ROW_MARGIN = 8  # pixels by which the frames of a field's bands are shifted, at most
MOST_DECODING = 8  # threads that decode at once
LAST_FIELD = 4095  # that an objID can name


@dataclass(frozen=True)
class FetchWork:
    """Whole shards of a part and the objects that fill them, in row order; small and picklable."""

    spec: Sdss | Sky
    part: str  # path of the part
    shards: range
    targets: Targets
    # Fields whose frames other tasks may want too, and the shards of those tasks.
    shared: Mapping[FieldName, tuple[range, ...]] = field(default_factory=dict)


def fetch_shards(work: FetchWork) -> int:
    """Fetch and write the shards of a task that are not there; returns how many objects they have.

    What is wrong with one object becomes its status and reason, kept in the shard's marker.
    """
    part = Part(work.part)
    start = part.rows(work.shards[0]).start
    missing = [shard for shard in work.shards if not part.marker(shard).exists()]
    done = 0
    writers = iter(missing)
    pixels = work.spec.pixels
    reference = work.spec.bands.index(pixels.reference) if isinstance(pixels, Frames) else 0
    with _rows(work, part, missing) as rows:
        for shard in writers:
            place = part.rows(shard)
            targets = work.targets[place.start - start : place.stop - start]
            store = ShardStore(part, targets, work.spec.bands, reference)
            for row in range(len(targets)):
                store.put(row, next(rows))
            store.write(part, shard)
            done += len(targets)
        next(rows, None)  # what is to be done once all is written
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
    wcs: Doubles | None = None
    variance: NDArray[np.float32] | None = None  # as the pixels
    psf: NDArray[np.float32] | None = None  # (band, y, x)
    bands: tuple[Told, ...] | None = None  # None: all ended as the object


class ShardStore:
    """The arrays of one shard, filled row by row."""

    def __init__(
        self, part: Part, targets: Targets, bands: tuple[str, ...], reference: int
    ) -> None:
        """`reference`: which of the bands the PSF's width is measured in."""
        count = len(targets)
        image = part.array("image")
        empty = np.nan if image.dtype.kind == "f" else 0
        nan = np.full(count, np.nan, np.float32)
        self.arrays: dict[str, NDArray[Any]] = {
            "image": np.full((count, *image.shape[1:]), empty, image.dtype),
            "ny": np.zeros(count, np.int32),
            "nx": np.zeros(count, np.int32),
            "status": np.zeros(count, np.int32),
            "ra": targets.ra.copy(),
            "dec": targets.dec.copy(),
            "pixel_scale": nan.copy(),
            "coverage": np.zeros(count, np.float32),
            "noise": nan.copy(),
            "psf_fwhm": nan.copy(),
            "wcs": np.full((count, 8), np.nan),
        }
        if "variance" in part.group:
            self.arrays["variance"] = np.full((count, *image.shape[1:]), np.nan, np.float32)
        if "psf" in part.group:
            self.arrays["psf"] = np.zeros((count, *part.array("psf").shape[1:]), np.float32)
        if "extinction" in part.group:
            self.arrays["extinction"] = targets.extinction.astype(np.float32)
        self._targets, self._reference = targets, reference
        self._bands: list[tuple[Told, ...]] = [()] * count
        self._names = bands
        self._checksums: list[str | None] = [None] * count
        self._reasons: list[str | None] = [None] * count

    def put(self, row: int, fetched: Fetched) -> None:
        """Put what was fetched of one object into its row."""
        status, reason = fetched.status, fetched.reason
        arrays = self.arrays
        if fetched.pixels is not None:
            status, reason, coverage = judge(fetched.pixels)
            if status & Status.OK and fetched.status & Status.NO_PSF:
                status, reason = status | Status.NO_PSF, fetched.reason
            ny, nx = fetched.pixels.shape[1:]
            arrays["image"][row, :, :ny, :nx] = fetched.pixels
            arrays["ny"][row], arrays["nx"][row] = ny, nx
            arrays["coverage"][row] = coverage
            arrays["pixel_scale"][row] = fetched.pixel_scale
            arrays["noise"][row] = fetched.noise
            if fetched.wcs is not None:
                arrays["wcs"][row] = fetched.wcs
            if fetched.variance is not None:
                arrays["variance"][row, :, :ny, :nx] = fetched.variance
            if fetched.psf is not None:
                arrays["psf"][row] = fetched.psf
                arrays["psf_fwhm"][row] = psf_fwhm(fetched.psf[self._reference])
            short = self._targets[row].cut_short
            if status & Status.OK and short is not None:
                status, reason = status | Status.EDGE, short
        arrays["status"][row] = int(status)
        self._checksums[row], self._reasons[row] = fetched.sha256, reason
        told = fetched.bands
        if told is None:
            told = ((int(status), fetched.sha256, reason, None),) * len(self._names)
        self._bands[row] = told

    def write(self, part: Part, shard: int) -> None:
        """Write the shard whole and commit it."""
        facts = {
            "sha256": self._checksums,
            "reason": self._reasons,
            "status": self.arrays["status"].tolist(),
            "bands": self._bands,
        }
        part.write(shard, self.arrays, facts)


@contextmanager
def _rows(work: FetchWork, part: Part, missing: Sequence[int]) -> Iterator[Iterator[Fetched]]:
    """What is fetched for the rows of the missing shards, in order."""
    start = part.rows(work.shards[0]).start
    places = [
        np.arange(part.rows(shard).start - start, part.rows(shard).stop - start)
        for shard in missing
    ]
    targets = work.targets.take(np.concatenate(places))
    spec = work.spec
    frames = isinstance(spec.pixels, Frames)
    address, pace = (spec.sas, None) if frames else (spec.skyserver, pace_of(spec))
    # The downloader holds to `connections`; the other threads decode what has come.
    pool = ThreadPoolExecutor(spec.connections + min(os.cpu_count() or 1, MOST_DECODING), "fetch")
    try:
        with Downloader(spec, address, pace) as downloader:
            yield (_from_frames if frames else _from_images)(work, targets, downloader, pool)
    finally:  # nothing is under way where all went well; an interrupted run does not wait
        pool.shutdown(wait=False, cancel_futures=True)


# Frames.


class _Fields:
    """The frames of a task's fields: begun before they are needed, shared, and soon dropped.

    As soon as a field's reference frame is there, the neighbours that its objects reach over into
    are begun too.  A frame that other tasks may want goes through the cache on disk.
    """

    def __init__(
        self,
        work: FetchWork,
        groups: Sequence[Targets],
        downloader: Downloader,
        pool: ThreadPoolExecutor,
    ) -> None:
        assert isinstance(work.spec.pixels, Frames)
        self.spec, self.pixels = work.spec, work.spec.pixels
        self._groups = groups
        self._names = [_name(group) for group in groups]
        self._shared = work.shared
        self._cache = FrameCache(work.part, work.spec.cache)
        self._downloader, self._pool = downloader, pool
        self._lock = threading.RLock()
        self._frames: dict[FieldName, dict[str, Future[Frame]]] = {}
        self._psfields: dict[FieldName, Future[PsField]] = {}

    def begin(self, number: int) -> None:
        """Begin to fetch what a group of objects of one field needs."""
        group, name = self._groups[number], self._names[number]
        frames = self._begin(name, group)
        if self.pixels.psf:
            self._psfields[name] = self._pool.submit(self._psfield, name)

        def more(reference: Future[Frame]) -> None:
            if not reference.cancelled() and reference.exception() is None:
                with contextlib.suppress(RuntimeError):  # the pool ends with an interrupted run
                    for neighbour in self._neighbours(number, reference.result()):
                        self._begin(neighbour, group)

        frames[self.pixels.reference].add_done_callback(more)

    def _begin(self, name: FieldName, group: Targets) -> dict[str, Future[Frame]]:
        with self._lock:
            if name not in self._frames:
                self._frames[name] = {
                    band: self._pool.submit(self._frame, name, band, group.ra, group.dec)
                    for band in self.spec.bands
                }
            return self._frames[name]

    def _neighbours(self, number: int, reference: Frame) -> list[FieldName]:
        """The fields before and after that the objects of a group reach over into."""
        group, name = self._groups[number], self._names[number]
        margin = ROW_MARGIN if len(self.spec.bands) > 1 else 0
        turned = self.pixels.north_up
        steps = reaches_over(reference, group.ra, group.dec, _sides(group), margin, turned)
        near = [dataclasses.replace(name, field=name.field + step) for step in steps]
        return [one for one in near if 0 <= one.field <= LAST_FIELD]

    def own(self, number: int) -> tuple[dict[str, Frame], dict[str, BadImageError]]:
        """The frames of a group's field by band, and why some are not there."""
        return _gathered(self._begin(self._names[number], self._groups[number]))

    def beside(
        self, number: int, reference: Frame
    ) -> tuple[dict[FieldName, dict[str, Frame]], BadImageError | None]:
        """The frames of the neighbouring fields, and why one may be got by a later run.

        A neighbour that the archive does not have, or that is damaged, is none.
        """
        found, failed = {}, None
        for name in self._neighbours(number, reference):
            frames, troubles = _gathered(self._begin(name, self._groups[number]))
            found[name] = frames
            for error in troubles.values():
                if error.status == Status.FAILED:
                    failed = error
        return found, failed

    def psf(self, number: int) -> PsField | BadImageError | None:
        """The point-spread functions of a group's field, or why there are none."""
        future = self._psfields.pop(self._names[number], None)
        if future is None:
            return None
        try:
            return future.result()
        except BadImageError as error:
            return error

    def drop(self, number: int, ahead: int) -> None:
        """Let go of the frames that no group up to `ahead` may want, once `number` is cut."""
        wanted = {
            dataclasses.replace(name, field=name.field + step)
            for name in self._names[number + 1 : ahead + 1]
            for step in (-1, 0, 1)
        }
        with self._lock:
            for name in [one for one in self._frames if one not in wanted]:
                del self._frames[name]

    def done(self, part: Part) -> None:
        """Drop from the cache what no other task waits for, once this one's shards are there."""
        for name, others in self._shared.items():
            if all(part.marker(shard).exists() for shards in others for shard in shards):
                for band in self.spec.bands:
                    self._cache.drop(name.file(band))

    def _frame(self, name: FieldName, band: str, ra: Doubles, dec: Doubles) -> Frame:
        def check(content: bytes) -> Frame:
            frame = decode_frame(content, name, band)
            check_place(frame, ra, dec)
            return frame

        def fetch() -> tuple[Frame, bytes]:
            address = frame_address(self.spec, name, band)
            return self._downloader.fetch(address, lambda content: (check(content), content))

        if name in self._shared:
            return self._cache.get(name.file(band), check, fetch)
        return fetch()[0]

    def _psfield(self, name: FieldName) -> PsField:
        check = functools.partial(decode_psfield, name=name, bands=self.spec.bands)
        return self._downloader.fetch(psfield_address(self.spec, name), check)


def _name(group: Targets) -> FieldName:
    name = group.field(0)
    assert name is not None
    return name


def _sides(group: Targets) -> NDArray[np.int64]:
    return np.array([target.side for target in group])


def _gathered(
    futures: dict[str, Future[Frame]],
) -> tuple[dict[str, Frame], dict[str, BadImageError]]:
    frames: dict[str, Frame] = {}
    troubles: dict[str, BadImageError] = {}
    for band, future in futures.items():
        try:
            frames[band] = future.result()
        except BadImageError as error:
            troubles[band] = error
    return frames, troubles


def _from_frames(
    work: FetchWork, targets: Targets, downloader: Downloader, pool: ThreadPoolExecutor
) -> Iterator[Fetched]:
    """Cutouts of the frames; the targets of a field follow each other."""
    changes = np.flatnonzero((np.diff(targets.fields, axis=0) != 0).any(axis=1)) + 1
    groups = [targets.take(rows) for rows in np.split(np.arange(len(targets)), changes)]
    fields = _Fields(work, groups, downloader, pool)
    begun = 0
    for number, group in enumerate(groups):
        while begun < min(number + 1 + FIELDS_AHEAD, len(groups)):
            fields.begin(begun)
            begun += 1
        yield from _cut_group(work.spec, group, fields, number)
        fields.drop(number, begun - 1)
    fields.done(Part(work.part))


def _ahead(begin: Callable[[A], B], items: Iterable[A], count: int) -> Iterator[tuple[A, B]]:
    """Items with what was begun for them, `count` of them begun before they are needed."""
    begun: deque[tuple[A, B]] = deque()
    for item in items:
        begun.append((item, begin(item)))
        if len(begun) > count:
            yield begun.popleft()
    while begun:
        yield begun.popleft()


def _cut_group(spec: Sdss | Sky, group: Targets, fields: _Fields, number: int) -> Iterator[Fetched]:
    """The cutouts of one field, or the reason why none of its objects has one."""
    pixels = fields.pixels
    frames, troubles = fields.own(number)
    psf = fields.psf(number)
    if isinstance(psf, BadImageError) and psf.status == Status.FAILED:
        troubles.setdefault(pixels.reference, psf)
    if troubles:
        status, reason = _verdict(spec, troubles)
        bands = _of_bands(spec, frames, troubles)
        yield from [Fetched(status, reason, bands=bands)] * len(group)
        return
    reference = frames[pixels.reference]
    beside, failed = fields.beside(number, reference)
    if failed is not None:  # only the objects that reach over wait for it
        beside = {}
    sides = _sides(group)
    cuts = cut_field(
        frames, _name(group), pixels.reference, group.ra, group.dec, sides,
        north_up=pixels.north_up, variance=pixels.variance, beside=beside,
    )  # fmt: skip
    waits = np.zeros(len(group), bool)
    if failed is not None:
        margin = ROW_MARGIN if len(spec.bands) > 1 else 0
        for row in range(len(group)):
            one = slice(row, row + 1)
            waits[row] = cuts.inside[row] and bool(
                reaches_over(
                    reference, group.ra[one], group.dec[one], sides[one], margin, pixels.north_up
                )
            )
    own = [frame.sha256 for frame in frames.values()]
    for row in range(len(group)):
        if waits[row]:
            assert failed is not None
            bands = tuple((int(Status.FAILED), sha, failed.reason, None) for sha in own)
            reason = f"the neighbouring field: {failed.reason}"
            yield Fetched(Status.FAILED, reason, bands=bands)
            continue
        if not cuts.inside[row]:
            reason = "the position is not on the frame"
            bands = tuple((int(Status.OFF_FRAME), sha, None, None) for sha in own)
            yield Fetched(Status.OFF_FRAME, reason, _together(own), bands=bands)
            continue
        yield _fetched(spec, group[row], cuts, row, own, beside, psf, reference)


def _fetched(
    spec: Sdss | Sky,
    target: Target,
    cuts: FieldCuts,
    row: int,
    own: Sequence[str],
    beside: Mapping[FieldName, Mapping[str, Frame]],
    psf: PsField | BadImageError | None,
    reference: Frame,
) -> Fetched:
    """One object's cutout, with what belongs to it."""
    assert isinstance(spec.pixels, Frames)
    image = cuts.images[row]
    variance = cuts.variance[row] if cuts.variance else None
    noise = float(cuts.noise[row])
    if target.extinction:
        undone = factors(target.extinction)
        image = (image * undone[:, None, None]).astype(np.float32)
        noise *= float(undone[spec.bands.index(spec.pixels.reference)])
        if variance is not None:
            variance = (variance * undone[:, None, None] ** 2).astype(np.float32)
    bands, files = [], list(own)
    for plane, band in enumerate(spec.bands):
        given = [beside[name][band].sha256 for name in cuts.beside.get((row, plane), [])]
        told = [
            f"{frame_path(spec, name, band)} {beside[name][band].sha256}"
            for name in cuts.beside.get((row, plane), [])
        ]
        files += given
        bands.append((int(_ended(image[plane])), own[plane], None, " ".join(told) or None))
    extra = Status(0)
    point: NDArray[np.float32] | None = None
    why = None
    if isinstance(psf, PsField):
        try:
            point = _psf_at(spec, target, psf, cuts.wcs[row], reference)
            files.append(psf.sha256)
        except BadImageError as error:
            extra, why = Status.NO_PSF, error.reason
    elif psf is not None:
        extra, why = Status.NO_PSF, f"psField: {psf.reason}"
    return Fetched(
        Status.OK | extra, why, _together(files), image, pixel_scale(cuts.wcs[row]), noise,
        cuts.wcs[row], variance, point, tuple(bands),
    )  # fmt: skip


def _psf_at(
    spec: Sdss | Sky, target: Target, psf: PsField, wcs: Doubles, reference: Frame
) -> NDArray[np.float32]:
    """The point-spread function of each band at an object, (band, y, x), as its cutout shows it."""
    assert isinstance(spec.pixels, Frames)
    x, y = (
        float(one[0])
        for one in to_pixels(reference.wcs, np.array([target.ra]), np.array([target.dec]))
    )
    found = np.stack([psf.bands[band].at(x, y) for band in spec.bands])
    if not spec.pixels.north_up:
        return found
    middle = np.full(1, (target.side - 1) / 2)
    _, matrix = local_map(wcs[:, None], reference.wcs, middle, middle, np.full(1, 10.0))
    centre = np.full(2, (found.shape[-1] - 1) / 2)
    turned = [resample(plane, centre, matrix[0], found.shape[-1]) for plane in found]
    return np.nan_to_num(np.stack(turned))


def _ended(plane: NDArray[Any]) -> Status:
    """How an object ended in one band, by its pixels there."""
    defined = np.isfinite(plane)
    if not defined.any():
        return Status.OFF_FRAME
    if np.nanmin(plane) == np.nanmax(plane):
        return Status.BLANK
    return Status.OK if defined.all() else Status.OK | Status.EDGE


def _of_bands(
    spec: Sdss | Sky, frames: Mapping[str, Frame], troubles: Mapping[str, BadImageError]
) -> tuple[Told, ...]:
    """How the bands of a field ended whose objects cannot be cut: a whole frame is OK."""
    told: list[Told] = []
    for band in spec.bands:
        if band in troubles:
            error = troubles[band]
            absent = error.status == Status.NO_COVERAGE and len(troubles) < len(spec.bands)
            status = Status.MISSING_BAND if absent else error.status
            told.append((int(status), None, error.reason, None))
        else:
            told.append((int(Status.OK), frames[band].sha256, None, None))
    return tuple(told)


def _together(digests: Sequence[str]) -> str:
    """One checksum of the files that pixels come from, in their order."""
    return hashlib.sha256(bytes.fromhex("".join(digests))).hexdigest()


def _verdict(spec: Sdss | Sky, troubles: dict[str, BadImageError]) -> tuple[Status, str]:
    """What the troubles of a field's bands come to: what may pass on a retry goes first."""
    for status in (
        Status.FAILED, Status.CORRUPT, Status.BLANK, Status.OFF_FRAME, Status.NO_COVERAGE
    ):  # fmt: skip
        bands = [band for band, error in troubles.items() if error.status == status]
        if bands:
            break
    reason = f"{', '.join(bands)}: {troubles[bands[0]].reason}"
    if status == Status.NO_COVERAGE and len(bands) < len(spec.bands):
        status = Status.MISSING_BAND
    return status, reason


# Colour images.


def _from_images(
    work: FetchWork, targets: Targets, downloader: Downloader, pool: ThreadPoolExecutor
) -> Iterator[Fetched]:
    def begin(target: Target) -> Future[Fetched]:
        return pool.submit(_image, work.spec, downloader, target)

    for _, future in _ahead(begin, targets, 2 * work.spec.connections):
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
