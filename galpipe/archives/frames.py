"""SDSS frames: decoded once, checked against what was asked for, cut, bands on common pixels."""

from __future__ import annotations

import bz2
import hashlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy import ndimage

from galpipe.archives.fits_images import linear_wcs
from galpipe.archives.projection import local_map, to_pixels
from galpipe.archives.trouble import BadImageError, corrupt
from galpipe.stamps.cut import cut
from galpipe.status import Status

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
MARGIN = 16  # pixels around a resampled piece; a cubic spline forgets its border by 3.7 per pixel
# Electrons per count and dark variance in counts squared, rows camcol 1-6, columns ugriz, of the
# SDSS data model of frames.
GAIN = (
    (1.62, 3.32, 4.71, 5.165, 4.745),
    (1.595, 3.855, 4.6, 6.565, 5.155),
    (1.59, 3.845, 4.72, 4.86, 4.885),
    (1.6, 3.995, 4.76, 4.885, 4.775),
    (1.47, 4.05, 4.725, 4.64, 3.48),
    (2.17, 4.035, 4.895, 4.76, 4.69),
)
LATER_GAIN = {(2, "u"): (1100, 1.825)}  # (camcol, band): after this run, another value
DARK_VARIANCE = (
    (9.61, 15.6025, 1.8225, 7.84, 0.81),
    (12.6025, 1.44, 1.0, 5.76, 1.0),
    (8.7025, 1.3225, 1.3225, 4.6225, 1.0),
    (12.6025, 1.96, 1.3225, 6.25, 9.61),
    (9.3025, 1.1025, 0.81, 7.84, 1.8225),
    (7.0225, 1.8225, 0.9025, 5.0625, 1.21),
)
LATER_DARK_VARIANCE = {
    (2, "i"): (1500, 6.25), (4, "i"): (1500, 7.5625), (4, "z"): (1500, 12.6025),
    (5, "z"): (1500, 2.1025),
}  # fmt: skip


@dataclass(frozen=True, order=True)
class FieldName:
    """One field of the imaging: a frame in each band."""

    rerun: int
    run: int
    camcol: int
    field: int

    def file(self, band: str) -> str:
        """The name of the frame of one band."""
        return f"frame-{band}-{self.run:06d}-{self.camcol}-{self.field:04d}.fits.bz2"


@dataclass(frozen=True)
class Frame:
    """A decoded frame: `pixels` (y, x) float32 in nanomaggies, `wcs` as in `projection`.

    `calibration` (x,) is nanomaggies per count; `sky` counts on a coarse grid, to be interpolated
    at `sky_x` (x,) and `sky_y` (y,), its own pixels.
    """

    pixels: Floats
    wcs: Doubles
    calibration: Doubles
    sky: Floats
    sky_x: Doubles
    sky_y: Doubles
    sha256: str  # of the file as served


def decode_frame(content: bytes, name: FieldName, band: str) -> Frame:
    """A frame of its `.fits.bz2`; raises BadImageError where it is damaged or another one."""
    if not content.startswith(b"BZh"):
        raise BadImageError(Status.CORRUPT, "not a bzip2 file")
    try:
        raw = bz2.decompress(content)
    except (OSError, ValueError, EOFError) as error:
        raise corrupt(error) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(io.BytesIO(raw), memmap=False) as hdus:
                _check_header(hdus[0].header, name, band)
                frame = _frame(hdus, hashlib.sha256(content).hexdigest())
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # astropy raises whatever its parsers meet in damaged bytes
        raise corrupt(error) from None
    _check_shape(frame)
    return frame


def _frame(hdus: Any, sha256: str) -> Frame:
    table = hdus[2].data
    sky = np.asarray(table["ALLSKY"][0], np.float32)
    return Frame(
        pixels=np.asarray(hdus[0].data).astype(np.float32),
        wcs=linear_wcs(hdus[0].header),
        calibration=np.asarray(hdus[1].data).astype(np.float64),
        sky=sky.reshape(sky.shape[-2:]),
        sky_x=np.asarray(table["XINTERP"][0]).astype(np.float64),
        sky_y=np.asarray(table["YINTERP"][0]).astype(np.float64),
        sha256=sha256,
    )


def _check_header(header: Any, name: FieldName, band: str) -> None:
    found = tuple(header.get(key) for key in ("RUN", "CAMCOL", "FRAME", "FILTER"))
    if found != (name.run, name.camcol, name.field, band):
        said = "-".join(str(value) for value in found)
        raise BadImageError(Status.CORRUPT, f"the header is of another frame ({said})")


def _check_shape(frame: Frame) -> None:
    if frame.pixels.ndim != 2 or frame.calibration.shape != frame.pixels.shape[1:]:
        raise BadImageError(Status.CORRUPT, "the frame has not the shape of an SDSS frame")
    if not np.isfinite(frame.wcs).all() or not np.any(frame.wcs[2:4]):
        raise BadImageError(Status.CORRUPT, "the frame has no usable WCS")


def sky_sigma(frame: Frame, name: FieldName, band: str, x: Doubles, y: Doubles) -> Doubles:
    """The noise of the sky at 0-based pixels, in nanomaggies per pixel (SDSS data model: frame).

    The variance in counts is sky / gain + dark variance.  NaN off the frame.
    """
    ny, nx = frame.pixels.shape
    known = (x > -0.5) & (y > -0.5) & (x < nx - 0.5) & (y < ny - 0.5)
    column = np.clip(np.rint(np.where(known, x, 0)), 0, nx - 1).astype(int)
    row = np.clip(np.rint(np.where(known, y, 0)), 0, ny - 1).astype(int)
    place = np.stack([frame.sky_y[np.minimum(row, len(frame.sky_y) - 1)], frame.sky_x[column]])
    sky = ndimage.map_coordinates(frame.sky.astype(np.float64), place, order=1, mode="nearest")
    gain = _constant(GAIN, LATER_GAIN, name, band)
    dark = _constant(DARK_VARIANCE, LATER_DARK_VARIANCE, name, band)
    sigma = frame.calibration[column] * np.sqrt(np.maximum(sky, 0) / gain + dark)
    return np.where(known, sigma, np.nan)


def _constant(
    table: tuple[tuple[float, ...], ...],
    later: Mapping[tuple[int, str], tuple[int, float]],
    name: FieldName,
    band: str,
) -> float:
    run, value = later.get((name.camcol, band), (None, 0.0))
    if run is not None and name.run > run:
        return value
    return table[name.camcol - 1]["ugriz".index(band)]


@dataclass(frozen=True)
class FieldCuts:
    """What a field gives its objects: a cutout each, (band, side, side), and facts in rows.

    `inside`: whether the object's own pixel is on the reference frame; `noise` of the reference
    band in nanomaggies per pixel; `wcs` of each cutout.
    """

    images: list[Floats]
    inside: NDArray[np.bool_]
    wcs: Doubles
    noise: Doubles


def cut_field(
    frames: Mapping[str, Frame],
    name: FieldName,
    reference: str,
    ra: Doubles,
    dec: Doubles,
    side: NDArray[np.int64],
) -> FieldCuts:
    """Cut all objects of a field in all bands, in the order of `frames`.

    The reference band is cut at whole pixels, the object in the middle one of its odd `side`.
    The other bands are brought onto these pixels by their own WCS, linear over a cutout, with
    cubic splines, flux conserved.  Pixels off a frame are NaN.
    """
    base = frames[reference]
    x, y = to_pixels(base.wcs, ra, dec)
    ny, nx = base.pixels.shape
    inside = (x >= -0.5) & (y >= -0.5) & (x < nx - 0.5) & (y < ny - 0.5)
    images = [np.full((len(frames), n, n), np.nan, np.float32) for n in side]
    wcs = np.full((len(ra), 8), np.nan)
    maps = {
        band: local_map(base.wcs, frame.wcs, np.rint(x), np.rint(y), np.maximum(side / 2, 1.0))
        for band, frame in frames.items()
        if band != reference
    }
    for size in np.unique(side[inside]):
        rows = np.flatnonzero(inside & (side == size))
        cuts = cut(base.pixels, np.rint(x[rows]), np.rint(y[rows]), int(size), base.wcs)
        wcs[rows] = cuts.wcs
        for row, image in zip(rows, cuts.image, strict=True):
            for plane, (band, frame) in enumerate(frames.items()):
                if band == reference:
                    images[row][plane] = image[0]
                else:
                    middle, matrix = maps[band]
                    images[row][plane] = resample(frame.pixels, middle[row], matrix[row], int(size))
    return FieldCuts(images, inside, wcs, sky_sigma(base, name, reference, x, y))


def resample(plane: Floats, middle: Doubles, matrix: Doubles, side: int) -> Floats:
    """`side` x `side` pixels of an image, seen through an affine map; NaN off the image.

    `middle` is the 0-based (x, y) that falls on the middle pixel, `matrix` d(x, y) of the image by
    d(x, y) of the result.  Cubic spline; the flux per pixel is scaled by the pixel's area.
    """
    half = (side - 1) / 2
    reach = np.abs(matrix).sum(axis=1) * half + MARGIN
    ny, nx = plane.shape
    low = np.maximum(np.floor(middle - reach), 0).astype(int)
    high = np.minimum(np.ceil(middle + reach) + 1, (nx, ny)).astype(int)
    if (high - low < 4).any():
        return np.full((side, side), np.nan, np.float32)
    piece = plane[low[1] : high[1], low[0] : high[0]].astype(np.float64)
    undefined = ~np.isfinite(piece)
    if undefined.any():
        piece[undefined] = 0.0
    turned = matrix[::-1, ::-1]  # ndimage counts (y, x)
    offset = (middle - low)[::-1] - turned @ np.full(2, half)
    shape = (side, side)
    coefficients = ndimage.spline_filter(piece, order=3, mode="mirror")
    out: Doubles = ndimage.affine_transform(
        coefficients, turned, offset, shape, order=3, mode="constant", cval=np.nan, prefilter=False
    )
    if undefined.any():
        touched = ndimage.affine_transform(
            undefined.astype(np.float64), turned, offset, shape, order=1, mode="nearest"
        )
        out[touched > 1e-6] = np.nan
    area = abs(float(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]))
    scaled: Floats = (out * area).astype(np.float32)
    return scaled
