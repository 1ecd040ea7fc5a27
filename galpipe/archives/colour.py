"""Colour images of SkyServer's ImgCutout, one request per object."""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from galpipe.archives import raster_images
from galpipe.archives.download import Downloader
from galpipe.archives.fieldwork import FetchWork
from galpipe.archives.filling import Fetched
from galpipe.archives.located import Target, Targets
from galpipe.archives.spec import Jpeg, Sdss, Sky
from galpipe.archives.trouble import BadImageError
from galpipe.status import Status

A = TypeVar("A")
B = TypeVar("B")


def from_images(
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


def _ahead(begin: Callable[[A], B], items: Iterable[A], count: int) -> Iterator[tuple[A, B]]:
    """Items with what was begun for them, `count` of them begun before they are needed."""
    begun: deque[tuple[A, B]] = deque()
    for item in items:
        begun.append((item, begin(item)))
        if len(begun) > count:
            yield begun.popleft()
    while begun:
        yield begun.popleft()
