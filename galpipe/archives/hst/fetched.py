"""What came of fetching one object: its stamp, or why there is none, and of which files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.hst.planes import Plane
from galpipe.archives.hst.request import Target
from galpipe.archives.hst.stamp import HubbleStamp, stamp_of
from galpipe.archives.spec import Hubble
from galpipe.archives.trouble import BadImageError
from galpipe.status import Status


@dataclass(frozen=True)
class BandFile:
    """What a band of an object is from: a file, with its PROPOSID, and a digest of the pixels.

    `beside`: names of the files that completed it.
    """

    url: str
    sha256: str
    beside: str | None


@dataclass(frozen=True)
class Fetched:
    """One object's cutout, or why there is none; `psf`: (band, y, x), zeros where it is not known.

    The status and reason of a cutout tell what else is to be known of it: NO_PSF.
    """

    status: Status
    reason: str | None = None
    sha256: str | None = None
    source: str | None = None
    stamp: HubbleStamp | None = None
    files: tuple[BandFile, ...] = ()  # of each band, where there are pixels
    psf: NDArray[np.float32] | None = None
    psf_fwhm: float = float("nan")  # pixels, of the reference filter


def finished(spec: Hubble, planes: Mapping[str, Iterable[Plane]], target: Target) -> Fetched:
    """The stamp of an object, with the digest of the pixels it was made from, and their names.

    planes: as `stamp_of` takes them; the source names those that were used.
    """
    used: dict[str, list[Plane]] = {band: [] for band in spec.bands}

    def noted(band: str) -> Iterator[Plane]:
        for plane in planes[band]:
            used[band].append(plane)
            yield plane

    stamp, problem = None, None
    try:
        stamp = stamp_of(
            spec, {band: noted(band) for band in spec.bands}, target.ra, target.dec, target.side
        )
    except BadImageError as error:
        if error.status == Status.FAILED:
            raise
        problem = error
    total = hashlib.sha256()
    files = []
    for band in spec.bands:
        own = hashlib.sha256()
        for plane in used[band]:
            for image in (plane.pixels, plane.exposure):
                if image is not None:
                    content = np.ascontiguousarray(image, "<f4").tobytes()
                    total.update(content)
                    own.update(content)
        names = [_name(plane) for plane in used[band]]
        if names:
            files.append(BandFile(names[0], own.hexdigest(), "; ".join(names[1:]) or None))
    flat = [plane for band in spec.bands for plane in used[band]]
    source, digest = "; ".join(sorted({_name(one) for one in flat})), total.hexdigest()
    if not any(np.isfinite(plane.pixels).any() for plane in flat):
        return Fetched(Status.NO_COVERAGE, "no exposure reaches the position", digest, source)
    if problem is not None:
        return Fetched(problem.status, problem.reason, digest, source)
    if stamp is None or not np.isfinite(stamp.pixels).any():
        return Fetched(Status.NO_COVERAGE, "no exposure reaches the position", digest, source)
    return Fetched(Status.OK, None, digest, source, stamp, tuple(files))


def _name(plane: Plane) -> str:
    return f"{plane.name} (PROPOSID {plane.facts.proposal})"
