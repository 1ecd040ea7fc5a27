"""What was fetched of an object, and the arrays of a shard that it fills."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.judging import judge
from galpipe.archives.located import Targets
from galpipe.archives.pixelmask import UNKNOWN
from galpipe.archives.psf import psf_fwhm
from galpipe.stamps.parts import Part
from galpipe.status import Status

Doubles = NDArray[np.float64]
# How an object ended in a band: status, sha256 of the file, reason, files beside it.
Told = tuple[int, str | None, str | None, str | None]


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
    mask: NDArray[np.uint16] | None = None  # bits, as the pixels


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
        if "mask" in part.group:
            self.arrays["mask"] = np.full((count, *image.shape[1:]), UNKNOWN, np.uint16)
        if "psf" in part.group:
            self.arrays["psf"] = np.zeros((count, *part.array("psf").shape[1:]), np.float32)
        if "extinction" in part.group:
            self.arrays["extinction"] = targets.extinction.astype(np.float32)
        self._targets, self._reference = targets, reference
        self._cut = ~(targets.wanted <= targets.half)  # larger than their cutouts may be
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
            if status & Status.OK and fetched.reason is not None:
                status, reason = status | (fetched.status & Status.NO_PSF), fetched.reason
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
            if fetched.mask is not None:
                arrays["mask"][row, :, :ny, :nx] = fetched.mask
            if fetched.psf is not None:
                arrays["psf"][row] = fetched.psf
                arrays["psf_fwhm"][row] = psf_fwhm(fetched.psf[self._reference])
            short = self._targets[row].cut_short if self._cut[row] else None
            if status & Status.OK and short is not None:
                reason = short if reason is None else f"{short}; {reason}"
                status |= Status.EDGE
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
