"""From the images of an object's filters to its stamp: one grid, a variance, what was found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.hst.noise import correlation, sky_of, variance_of
from galpipe.archives.hst.planes import Plane
from galpipe.archives.linear_wcs import pixel_scale
from galpipe.archives.projection import local_map, to_pixels
from galpipe.archives.resampling import resample
from galpipe.archives.spec import Hubble
from galpipe.archives.trouble import BadImageError
from galpipe.stamps.cut import cut
from galpipe.status import Status

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

SCALE_WITHIN = 0.01  # relative, between what the survey says and what the image says
SAME_GRID = 0.02  # pixels, over a stamp


@dataclass(frozen=True)
class HubbleStamp:
    """An object's cutout: planes (band, y, x) in electrons per second, NaN where nothing was seen.

    variance: in squared units, NaN where it is not known; noise: of the reference filter, per pixel
    as it counts in sums over many; per band: exposure (median seconds), zero_point (AB), proposal
    (-1: not told).
    """

    pixels: Floats
    variance: Floats
    wcs: Doubles
    pixel_scale: float
    noise: float
    exposure: Floats
    zero_point: Floats
    proposal: NDArray[np.int32]


def stamp_of(
    spec: Hubble, planes: Mapping[str, Iterable[Plane]], ra: float, dec: float, side: int
) -> HubbleStamp:
    """The stamp of an object of images of all its filters; raises BadImageError.

    planes: of each filter one or more.  The first gives the stamp; pixels that it has not seen are
    taken from the next ones, on its zero point, which are asked for only as long as some are left.
    """
    streams = {band: iter(planes[band]) for band in spec.bands}
    first = {band: next(stream) for band, stream in streams.items()}
    base = first[spec.reference]
    _check_scale(spec, base)
    x, y = to_pixels(base.facts.wcs, np.array([ra]), np.array([dec]))
    factor = correlation(spec.pixel_scale, spec.camera_pixel, spec.pixfrac)
    count = len(spec.bands)
    pixels = np.full((count, side, side), np.nan, np.float32)
    variance = pixels.copy()
    exposure = np.full(count, np.nan, np.float32)
    wcs = cut(base.pixels, np.rint(x), np.rint(y), side, base.facts.wcs).wcs[0]
    noise = float("nan")
    for row, band in enumerate(spec.bands):
        image, seconds = _completed(first[band], streams[band], wcs, side)
        pixels[row] = image
        level, scatter = sky_of(image, seconds)
        if band == spec.reference:
            noise = factor * scatter
        known = np.isfinite(image)
        if seconds is not None and known.any():
            variance[row] = variance_of(image, seconds, level, scatter, factor)
            exposure[row] = np.median(seconds[known])
    return HubbleStamp(
        pixels=pixels, variance=variance, wcs=wcs, pixel_scale=pixel_scale(wcs), noise=noise,
        exposure=exposure,
        zero_point=np.array([first[b].facts.zero_point for b in spec.bands], np.float32),
        proposal=np.array([first[b].facts.proposal for b in spec.bands], np.int32),
    )  # fmt: skip


def _completed(
    plane: Plane, others: Iterable[Plane], wcs: Doubles, side: int
) -> tuple[Floats, Floats | None]:
    """A plane on the pixels of a stamp; what it has not seen from others, as long as any is left.

    All planes of mosaics have exposure times; images of cutout services stand alone.
    """
    image, seconds = _on_grid(plane, wcs, side)
    if np.isfinite(image).all():
        return image, seconds
    for other in others:
        found, depth = _on_grid(other, wcs, side)
        take = np.isnan(image) & np.isfinite(found)
        ratio = 10 ** (0.4 * (plane.facts.zero_point - other.facts.zero_point))
        image[take] = found[take] * np.float32(ratio if np.isfinite(ratio) else 1)
        if seconds is not None and depth is not None:
            seconds[take] = depth[take]
        if np.isfinite(image).all():
            break
    return image, seconds


def _check_scale(spec: Hubble, plane: Plane) -> None:
    if not np.isfinite(plane.facts.wcs).all() or not np.isfinite(pixel_scale(plane.facts.wcs)):
        raise BadImageError(Status.CORRUPT, "the image has no usable WCS")
    scale = pixel_scale(plane.facts.wcs)
    if abs(scale / spec.pixel_scale - 1) > SCALE_WITHIN:
        raise BadImageError(
            Status.CORRUPT,
            f"pixels of {scale:.4g} arcsec where archive.pixel_scale says {spec.pixel_scale:g}",
        )


def _on_grid(plane: Plane, wcs: Doubles, side: int) -> tuple[Floats, Floats | None]:
    """A plane on the pixels of a stamp: cut where its grid is the same, else resampled.

    Exposure times are those of the nearest pixel, scaled by nothing: they are times.
    """
    if not np.isfinite(plane.facts.wcs).all() or not np.any(plane.facts.wcs[4:]):
        raise BadImageError(Status.CORRUPT, "the image has no usable WCS")
    half = np.array([(side - 1) / 2])
    middle, matrix = local_map(wcs, plane.facts.wcs, half, half, np.maximum(half, 1.0))
    if not np.isfinite(middle).all() or not np.isfinite(matrix).all():
        raise BadImageError(Status.CORRUPT, "the image is elsewhere on the sky")
    x, y = middle[0]
    drift = np.abs(matrix[0] - np.eye(2)).max() * half[0]
    if max(abs(x - np.rint(x)), abs(y - np.rint(y)), drift) < SAME_GRID:
        image = cut(plane.pixels, np.rint(middle[:, 0]), np.rint(middle[:, 1]), side).image[0, 0]
        if plane.exposure is None:
            return image, None
        return image, cut(plane.exposure, np.rint(x[None]), np.rint(y[None]), side).image[0, 0]
    image = resample(plane.pixels, middle[0], matrix[0], side)
    if plane.exposure is None:
        return image, None
    rows, columns = np.mgrid[:side, :side] - half[0]
    at = np.rint(
        np.einsum("ij,jyx->iyx", matrix[0], np.stack([columns, rows])) + middle[0][:, None, None]
    )
    ny, nx = plane.exposure.shape
    inside = (at[0] >= 0) & (at[1] >= 0) & (at[0] < nx) & (at[1] < ny)
    column, row = (np.where(inside, v, 0).astype(int) for v in at)
    seconds = np.where(inside, plane.exposure[row, column], np.float32(0))
    return np.where(seconds > 0, image, np.nan).astype(np.float32), seconds.astype(np.float32)
