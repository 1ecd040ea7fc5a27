"""SDSS frames: decoded once, checked against what was asked for, cut, bands on common pixels."""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy import ndimage

from galpipe.archives.fits_images import linear_wcs, refuse_endless
from galpipe.archives.projection import local_map, to_pixels
from galpipe.archives.trouble import BadImageError, corrupt
from galpipe.archives.unpacking import unpacked
from galpipe.stamps.cut import cut
from galpipe.status import Status

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
SCALE = 0.396  # arcsec per pixel of a cutout with north up: that of the frames
ELSEWHERE = 2000.0  # pixels beyond a frame's corners: its WCS, or the table, means another one
SAME_PIXEL = 0.05  # pixels: two frames of a scan whose pixels agree so well share them
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
    raw = unpacked(content)
    refuse_endless(raw)
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
    if not np.isfinite(frame.pixels).any():
        raise BadImageError(Status.BLANK, "all pixels of the frame are undefined")
    if not np.isfinite(frame.wcs).all() or not np.any(frame.wcs[2:4]):
        raise BadImageError(Status.CORRUPT, "the frame has no usable WCS")
    low, high = float(np.nanmin(frame.pixels)), float(np.nanmax(frame.pixels))
    if low == high:
        raise BadImageError(Status.BLANK, f"all pixels of the frame are {low:g}")
    if not np.isfinite(frame.sky).all() or not (frame.calibration > 0).all():
        raise BadImageError(Status.CORRUPT, "the frame has no usable sky or calibration")
    if len(frame.sky_x) != frame.pixels.shape[1] or len(frame.sky_y) != frame.pixels.shape[0]:
        raise BadImageError(Status.CORRUPT, "the frame's sky does not fit its pixels")


def check_place(frame: Frame, ra: Doubles, dec: Doubles) -> None:
    """Raise BadImageError (OFF_FRAME) where a frame lies nowhere near any of some positions."""
    ny, nx = frame.pixels.shape
    x, y = to_pixels(frame.wcs, ra, dec)
    off = np.hypot(x - nx / 2, y - ny / 2) - np.hypot(nx, ny) / 2
    if not (off < ELSEWHERE).any():
        raise BadImageError(Status.OFF_FRAME, "the frame lies elsewhere on the sky")


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
    band in nanomaggies per pixel; `wcs` of each cutout; `variance` as `images`, or none; `beside`:
    by (object, band), which of the neighbouring frames gave pixels.
    """

    images: list[Floats]
    inside: NDArray[np.bool_]
    wcs: Doubles
    noise: Doubles
    variance: list[Floats]
    beside: dict[tuple[int, int], list[FieldName]]


Beside = Mapping[FieldName, Mapping[str, Frame]]


def cut_field(
    frames: Mapping[str, Frame],
    name: FieldName,
    reference: str,
    ra: Doubles,
    dec: Doubles,
    side: NDArray[np.int64],
    *,
    north_up: bool = False,
    variance: bool = False,
    beside: Beside | None = None,
) -> FieldCuts:
    """Cut all objects of a field in all bands, in the order of `frames`.

    The reference band is cut at whole pixels, the object in the middle one of its odd `side`.
    The other bands are brought onto these pixels by their own WCS, linear over a cutout, with
    cubic splines, flux conserved.  `north_up`: all bands are brought onto pixels of `SCALE` arcsec
    with north up and east left about the object instead.  Pixels off a frame are taken from the
    neighbouring fields `beside`, else NaN.
    """
    base = frames[reference]
    x, y = to_pixels(base.wcs, ra, dec)
    ny, nx = base.pixels.shape
    inside = (x >= -0.5) & (y >= -0.5) & (x < nx - 0.5) & (y < ny - 0.5)
    images = [np.full((len(frames), n, n), np.nan, np.float32) for n in side]
    variances = [np.full_like(image, np.nan) for image in images] if variance else []
    wcs = np.full((len(ra), 8), np.nan)
    used: dict[tuple[int, int], list[FieldName]] = {}
    for size in np.unique(side[inside]):
        rows = np.flatnonzero(inside & (side == size))
        n = int(size)
        if north_up:
            wcs[rows] = northern(ra[rows], dec[rows], n)
        else:
            cuts = cut(base.pixels, np.rint(x[rows]), np.rint(y[rows]), n, base.wcs)
            wcs[rows] = cuts.wcs
        for plane, (band, frame) in enumerate(frames.items()):
            if band == reference and not north_up:
                for number, row in enumerate(rows):
                    images[row][plane] = cuts.image[number, 0]
                    if variance:
                        variances[row][plane] = _variance_cut(
                            frame, name, band, cuts.corner[number], n
                        )
                continue
            middle, matrix = _maps(wcs[rows], frame, n)
            for number, row in enumerate(rows):
                images[row][plane] = resample(frame.pixels, middle[number], matrix[number], n)
                if variance:
                    variances[row][plane] = resample_variance(
                        frame, name, band, middle[number], matrix[number], n
                    )
        for own in rows.tolist() if beside else ():
            _complete(images, variances, used, own, frames, wcs[own], n, beside or {})
    return FieldCuts(
        images, inside, wcs, sky_sigma(base, name, reference, x, y), variances, used
    )  # fmt: skip


def northern(ra: Doubles, dec: Doubles, side: int) -> Doubles:
    """The WCS of cutouts with north up and east left about positions in degrees, (object, 8)."""
    half, step = (side - 1) / 2 + 1, SCALE / 3600
    count = len(ra)
    columns = [half, half, ra, dec, -step, 0.0, 0.0, step]
    return np.stack([np.broadcast_to(np.asarray(one, float), count) for one in columns], axis=1)


def _maps(wcs: Doubles, frame: Frame, side: int) -> tuple[Doubles, Doubles]:
    """Where the middle pixels of cutouts, (object, 8) of WCS, fall on a frame, and how."""
    middle = np.full(len(wcs), (side - 1) / 2)
    return local_map(wcs.T, frame.wcs, middle, middle, np.full(len(wcs), max(side / 2, 1.0)))


def _complete(
    images: list[Floats],
    variances: list[Floats],
    used: dict[tuple[int, int], list[FieldName]],
    row: int,
    frames: Mapping[str, Frame],
    wcs: Doubles,
    side: int,
    beside: Beside,
) -> None:
    """Fill the pixels of a cutout that its own frames lack from those of neighbouring fields."""
    for plane, band in enumerate(frames):
        for name, others in beside.items():
            lacking = ~np.isfinite(images[row][plane])
            if band not in others or not lacking.any():
                continue
            other = others[band]
            middle, matrix = (one[0] for one in _maps(wcs[None], other, side))
            if not _reaches(other, middle, matrix, side):
                continue
            corner = _corner(middle, matrix, side)
            if corner is not None:  # the same pixels, read twice in one scan
                x, y = (corner + (side - 1) / 2)[:, None]
                found = cut(other.pixels, x, y, side).image[0, 0]
            else:
                found = resample(other.pixels, middle, matrix, side)
            given = lacking & np.isfinite(found)
            if not given.any():
                continue
            images[row][plane][given] = found[given]
            used.setdefault((row, plane), []).append(name)
            if variances:
                more = (
                    _variance_cut(other, name, band, corner, side) if corner is not None
                    else resample_variance(other, name, band, middle, matrix, side)
                )  # fmt: skip
                variances[row][plane][given] = more[given]


def _reaches(frame: Frame, middle: Doubles, matrix: Doubles, side: int) -> bool:
    """Whether any pixel of a cutout may lie on a frame."""
    reach = np.abs(matrix).sum(axis=1) * side / 2
    shape = np.array(frame.pixels.shape[::-1])
    return bool(((middle + reach > 0) & (middle - reach < shape - 1)).all())


def _corner(middle: Doubles, matrix: Doubles, side: int) -> NDArray[np.int64] | None:
    """The first pixel of a cutout on a frame whose pixels are its own, shifted; None otherwise."""
    whole = np.rint(middle)
    if np.abs(middle - whole).max() > SAME_PIXEL:
        return None
    if np.abs(matrix - np.eye(2)).sum(axis=1).max() * side / 2 > SAME_PIXEL:
        return None
    return whole.astype(np.int64) - side // 2


def reaches_over(
    frame: Frame, ra: Doubles, dec: Doubles, side: NDArray[np.int64], margin: float, turned: bool
) -> tuple[int, ...]:
    """Which neighbours of a field have pixels of its objects' cutouts: -1 before it, 1 after it.

    `margin`: pixels that other bands are shifted by; `turned`: cutouts are turned on the frame.
    """
    x, y = to_pixels(frame.wcs, ra, dec)
    ny, nx = frame.pixels.shape
    inside = (x >= -0.5) & (y >= -0.5) & (x < nx - 0.5) & (y < ny - 0.5)
    reach = (side - 1) / 2 * (math.sqrt(2) if turned else 1.0) + margin
    y, reach = np.rint(y[inside]), reach[inside]
    found = []
    if (y - reach < 0).any():
        found.append(-1)
    if (y + reach > ny - 1).any():
        found.append(1)
    return tuple(found)


def pixel_variance(
    frame: Frame, name: FieldName, band: str, low: NDArray[np.int64], high: NDArray[np.int64]
) -> Doubles:
    """The variance of a piece of a frame, (y, x), from pixel (x, y) `low` to before `high`.

    In nanomaggies squared: (dn / gain + dark variance) times the calibration squared, where dn are
    the counts of light and sky (SDSS data model: frame).
    """
    rows, columns = slice(low[1], high[1]), slice(low[0], high[0])
    sky = _lines(frame.sky.astype(np.float64), frame.sky_y[rows])
    sky = _lines(sky.T, frame.sky_x[columns]).T
    calibration = frame.calibration[columns]
    counts = frame.pixels[rows, columns] / calibration + sky
    gain = _constant(GAIN, LATER_GAIN, name, band)
    dark = _constant(DARK_VARIANCE, LATER_DARK_VARIANCE, name, band)
    variance: Doubles = (np.maximum(counts, 0) / gain + dark) * calibration**2
    return variance


def _lines(grid: Doubles, places: Doubles) -> Doubles:
    """Rows of a grid, interpolated linearly at places between them."""
    places = np.clip(places, 0, len(grid) - 1)
    first = np.minimum(places.astype(int), max(len(grid) - 2, 0))
    share = (places - first)[:, None]
    second = np.minimum(first + 1, len(grid) - 1)
    found: Doubles = grid[first] * (1 - share) + grid[second] * share
    return found


def _variance_cut(
    frame: Frame, name: FieldName, band: str, corner: NDArray[np.int64], side: int
) -> Floats:
    """The variance of the pixels of a cutout at whole pixels; NaN off the frame."""
    out = np.full((side, side), np.nan, np.float32)
    shape = np.array(frame.pixels.shape[::-1])
    low, high = np.maximum(corner, 0), np.minimum(corner + side, shape)
    if (high > low).all():
        x0, y0 = low - corner
        x1, y1 = high - corner
        out[y0:y1, x0:x1] = pixel_variance(frame, name, band, low, high)
    return out


def resample_variance(
    frame: Frame, name: FieldName, band: str, middle: Doubles, matrix: Doubles, side: int
) -> Floats:
    """The variance seen through an affine map, as `resample` sees the image; NaN off the image.

    It is that of the pixels there, interpolated linearly: what neighbouring pixels share after the
    resampling is not in it.
    """
    piece = _piece(frame.pixels.shape, middle, matrix, side)
    if piece is None:
        return np.full((side, side), np.nan, np.float32)
    low, high = piece
    variance = pixel_variance(frame, name, band, low, high)
    turned = matrix[::-1, ::-1]
    offset = (middle - low)[::-1] - turned @ np.full(2, (side - 1) / 2)
    out: Doubles = ndimage.affine_transform(
        variance, turned, offset, (side, side), order=1, mode="constant", cval=np.nan
    )
    scaled: Floats = (out * _area(matrix) ** 2).astype(np.float32)
    return scaled


def _piece(
    shape: tuple[int, ...], middle: Doubles, matrix: Doubles, side: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """The pixels (x, y), from the first to before the second, that a resampled piece rests on."""
    reach = np.abs(matrix).sum(axis=1) * (side - 1) / 2 + MARGIN
    ny, nx = shape
    low = np.maximum(np.floor(middle - reach), 0).astype(int)
    high = np.minimum(np.ceil(middle + reach) + 1, (nx, ny)).astype(int)
    return None if (high - low < 4).any() else (low, high)


def _area(matrix: Doubles) -> float:
    return abs(float(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]))


def resample(plane: Floats, middle: Doubles, matrix: Doubles, side: int) -> Floats:
    """`side` x `side` pixels of an image, seen through an affine map; NaN off the image.

    `middle` is the 0-based (x, y) that falls on the middle pixel, `matrix` d(x, y) of the image by
    d(x, y) of the result.  Cubic spline; the flux per pixel is scaled by the pixel's area.
    """
    half = (side - 1) / 2
    found = _piece(plane.shape, middle, matrix, side)
    if found is None:
        return np.full((side, side), np.nan, np.float32)
    low, high = found
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
    scaled: Floats = (out * _area(matrix)).astype(np.float32)
    return scaled
