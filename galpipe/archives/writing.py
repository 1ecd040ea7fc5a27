"""One shard of a part of cutouts: decoded, checked, written whole.  Runs in any process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.judging import judge
from galpipe.archives.sources import Cutout, Reader, Source
from galpipe.archives.spec import Folder
from galpipe.archives.trouble import BadImageError
from galpipe.stamps.parts import Part
from galpipe.status import Status


@dataclass(frozen=True)
class ShardWork:
    """What a process needs to write one shard; small, and picklable."""

    spec: Folder
    part: str  # path of the part
    shard: int
    bucket: int  # pixels on a side of the store
    dtype: str
    psf_side: int
    sources: tuple[Source, ...]
    ra: tuple[float, ...]
    dec: tuple[float, ...]


def write_shard(work: ShardWork) -> int:
    """Read, check and write the objects of one shard; returns how many there are.

    What is wrong with one object becomes its status and reason, kept in the shard's marker.
    """
    count, bands = len(work.sources), len(work.spec.bands)
    nan = np.full(count, np.nan)
    empty = np.nan if work.dtype == "float32" else 0
    arrays: dict[str, NDArray[Any]] = {
        "image": np.full((count, bands, work.bucket, work.bucket), empty, work.dtype),
        "ny": np.zeros(count, np.int32),
        "nx": np.zeros(count, np.int32),
        "status": np.zeros(count, np.int32),
        "ra": np.array(work.ra, np.float64),
        "dec": np.array(work.dec, np.float64),
        "pixel_scale": nan.astype(np.float32),
        "coverage": np.zeros(count, np.float32),
        "noise": nan.astype(np.float32),
        "psf_fwhm": nan.astype(np.float32),
        "wcs": np.full((count, 8), np.nan),
    }
    if work.psf_side:
        arrays["psf"] = np.zeros((count, work.psf_side, work.psf_side), np.float32)
    checksums: list[str | None] = []
    reasons: list[str | None] = []
    with Reader(work.spec) as reader:
        for row, source in enumerate(work.sources):
            checksum, status, reason = _place(reader, source, row, arrays, work)
            arrays["status"][row] = int(status)
            checksums.append(checksum)
            reasons.append(reason)
    facts = {"sha256": checksums, "reason": reasons, "status": arrays["status"].tolist()}
    Part(work.part).write(work.shard, arrays, facts)
    return count


def _place(
    reader: Reader, source: Source, row: int, arrays: dict[str, NDArray[Any]], work: ShardWork
) -> tuple[str | None, Status, str | None]:
    """Put one cutout into its row; returns its checksum, status and the reason where it failed."""
    try:
        cutout = reader.cutout(source)
    except BadImageError as error:
        return None, error.status, error.reason
    pixels = cutout.pixels
    ny, nx = pixels.shape[1:]
    if max(ny, nx) > work.bucket or pixels.dtype != work.dtype:
        return cutout.sha256, Status.CORRUPT, "the image changed while it was retrieved"
    status, reason, coverage = judge(pixels)
    arrays["image"][row, :, :ny, :nx] = pixels
    arrays["ny"][row], arrays["nx"][row] = ny, nx
    arrays["coverage"][row] = coverage
    arrays["pixel_scale"][row] = cutout.pixel_scale
    arrays["noise"][row] = cutout.noise
    arrays["psf_fwhm"][row] = cutout.psf_fwhm
    arrays["wcs"][row] = cutout.wcs
    if work.spec.layout == "realgalaxy":
        status |= _place_psf(cutout, row, arrays)
    return cutout.sha256, status, reason


def _place_psf(cutout: Cutout, row: int, arrays: dict[str, NDArray[Any]]) -> Status:
    """Put the PSF image in the middle of its row, or say that there is none."""
    if cutout.psf is None or "psf" not in arrays:
        return Status.NO_PSF
    ny, nx = cutout.psf.shape
    side = arrays["psf"].shape[1]
    if max(ny, nx) > side:
        return Status.NO_PSF
    y, x = (side - ny) // 2, (side - nx) // 2
    arrays["psf"][row, y : y + ny, x : x + nx] = np.nan_to_num(cutout.psf)
    return Status(0)
