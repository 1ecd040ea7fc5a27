"""The frames of a task's fields: begun before they are needed, shared, and soon dropped.

As soon as a field's reference frame is there, the neighbours that its objects reach over into are
begun too.  A frame that other tasks may want goes through the cache on disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.cutting import reaches_over
from galpipe.archives.download import Downloader
from galpipe.archives.fieldwork import FetchWork
from galpipe.archives.framecache import FrameCache
from galpipe.archives.frames import FieldName, Frame, check_place, decode_frame
from galpipe.archives.located import PIXEL, Targets, frame_address, mask_address, psfield_address
from galpipe.archives.pixelmask import decode_mask
from galpipe.archives.psfield import PsField, decode_psfield
from galpipe.archives.spec import Frames
from galpipe.archives.trouble import BadImageError
from galpipe.stamps.parts import Part
from galpipe.status import Status

T = TypeVar("T")
Doubles = NDArray[np.float64]
ROW_MARGIN = 8  # pixels by which the frames of a field's bands are shifted, at most
LAST_FIELD = 4095  # that an objID can name


class Fields:
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
        self._names = [name_of(group) for group in groups]
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
        steps = reaches_over(reference, group.ra, group.dec, sides_of(group), margin, turned)
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
                    self._cache.drop(name.mask_file(band))

    def _frame(self, name: FieldName, band: str, ra: Doubles, dec: Doubles) -> Frame:
        def check(content: bytes) -> Frame:
            frame = decode_frame(content, name, band)
            check_place(frame, ra, dec)
            return frame

        address = frame_address(self.spec, name, band)
        frame = self._file(name, name.file(band), address, check)
        return self._masked(frame, name, band) if self.pixels.mask else frame

    def _masked(self, frame: Frame, name: FieldName, band: str) -> Frame:
        """A frame with its mask; without one where the archive has none, or a damaged one.

        Raises BadImageError (FAILED) where the archive did not answer.
        """
        ny, nx = frame.pixels.shape
        check = functools.partial(decode_mask, name=name, band=band, shape=(ny, nx))
        address = mask_address(self.spec, name, band)
        try:
            mask, sha256 = self._file(name, name.mask_file(band), address, check)
        except BadImageError as error:
            if error.status == Status.FAILED:
                raise BadImageError(error.status, f"fpM: {error.reason}") from None
            return dataclasses.replace(frame, unmasked=f"fpM of {band}: {error.reason}")
        return dataclasses.replace(frame, mask=mask, mask_sha256=sha256)

    def _file(self, name: FieldName, file: str, address: str, check: Callable[[bytes], T]) -> T:
        """What `check` makes of a file of a field, by the cache where other tasks may want it."""

        def fetch() -> tuple[T, bytes]:
            return self._downloader.fetch(address, lambda content: (check(content), content))

        if name in self._shared:
            return self._cache.get(file, check, fetch)
        return fetch()[0]

    def _psfield(self, name: FieldName) -> PsField:
        check = functools.partial(decode_psfield, name=name, bands=self.spec.bands)
        return self._downloader.fetch(psfield_address(self.spec, name), check)


def name_of(group: Targets) -> FieldName:
    name = group.field(0)
    assert name is not None
    return name


def sides_of(group: Targets) -> NDArray[np.int64]:
    """Pixels on a side of the cutouts of a group, (object,), as `Target.side` has them."""
    return 2 * np.ceil(math.sqrt(2) * group.half / PIXEL).astype(np.int64) + 1


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
