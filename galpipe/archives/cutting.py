"""Cutouts of a field's frames: whole pixels of the reference band, others brought to them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.frames import FieldName, Frame
from galpipe.archives.noise import sky_sigma, variance_cut, variance_cuts
from galpipe.archives.pixelmask import UNKNOWN, bits_cut
from galpipe.archives.projection import local_map, to_pixels
from galpipe.archives.resampling import (
    resample,
    resample_all,
    resample_bits,
    resample_variance,
    resample_variances,
)
from galpipe.stamps.cut import cut

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bits = NDArray[np.uint16]
SCALE = 0.396  # arcsec per pixel of a cutout with north up: that of the frames
EMPTY = np.empty((0, 0, 0), np.float32)  # of an object that is not on the reference frame
NO_BITS = np.empty((0, 0, 0), np.uint16)
SAME_PIXEL = 0.05  # pixels: two frames of a scan whose pixels agree so well share them


@dataclass(frozen=True)
class FieldCuts:
    """What a field gives its objects: a cutout each, (band, side, side), and facts in rows.

    `inside`: whether the object's own pixel is on the reference frame; `noise` of the reference
    band in nanomaggies per pixel; `wcs` of each cutout; `variance` and `masks` as `images`, or none
    (all three empty where it is not inside); `beside`: by (object, band), which of the
    neighbouring frames gave pixels.
    """

    images: list[Floats]
    inside: NDArray[np.bool_]
    wcs: Doubles
    noise: Doubles
    variance: list[Floats]
    masks: list[Bits]
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
    mask: bool = False,
    beside: Beside | None = None,
) -> FieldCuts:
    """Cut all objects of a field in all bands, in the order of `frames`.

    The reference band is cut at whole pixels, the object in the middle one of its odd `side`.
    The other bands are brought onto these pixels by their own WCS, linear over a cutout, with
    cubic splines, flux conserved.  `north_up`: all bands are brought onto pixels of `SCALE` arcsec
    with north up and east left about the object instead.  Pixels off a frame are taken from the
    neighbouring fields `beside`, else NaN.  `mask`: with the bits of the pixels, UNKNOWN where no
    frame has any.
    """
    base = frames[reference]
    x, y = to_pixels(base.wcs, ra, dec)
    ny, nx = base.pixels.shape
    inside = (x >= -0.5) & (y >= -0.5) & (x < nx - 0.5) & (y < ny - 0.5)
    images: list[Floats] = [EMPTY] * len(ra)
    variances: list[Floats] = [EMPTY] * len(ra) if variance else []
    masks: list[Bits] = [NO_BITS] * len(ra) if mask else []
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
        shape = (len(rows), len(frames), n, n)
        image = np.empty(shape, np.float32)
        noise = np.empty(shape if variance else (0,), np.float32)
        bits = np.full(shape if mask else (0,), UNKNOWN, np.uint16)
        for plane, (band, frame) in enumerate(frames.items()):
            masked = frame.mask if mask else None
            if band == reference and not north_up:
                image[:, plane] = cuts.image[:, 0]
                if variance:
                    noise[:, plane] = variance_cuts(
                        frame, name, band, cuts.corner, cuts.image[:, 0]
                    )
                if masked is not None:
                    for number, corner in enumerate(cuts.corner):
                        bits[number, plane] = bits_cut(masked, corner, n)
                continue
            middle, matrix = _maps(wcs[rows], frame, n)
            image[:, plane] = resample_all(frame.pixels, middle, matrix, n)
            if variance:
                noise[:, plane] = resample_variances(frame, name, band, middle, matrix, n)
            for number in range(len(rows)) if masked is not None else ():
                assert masked is not None
                place, turn = middle[number], matrix[number]
                bits[number, plane] = resample_bits(masked, place, turn, n, UNKNOWN)
        for number, row in enumerate(rows.tolist()):
            images[row] = image[number]
            if variance:
                variances[row] = noise[number]
            if mask:
                masks[row] = bits[number]
        for own in rows.tolist() if beside else ():
            _complete(images, variances, masks, used, own, frames, wcs[own], n, beside or {})
    return FieldCuts(
        images, inside, wcs, sky_sigma(base, name, reference, x, y), variances, masks, used
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
    masks: list[Bits],
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
                    variance_cut(other, name, band, corner, side) if corner is not None
                    else resample_variance(other, name, band, middle, matrix, side)
                )  # fmt: skip
                variances[row][plane][given] = more[given]
            if other.mask is not None and masks:
                bits = (
                    bits_cut(other.mask, corner, side) if corner is not None
                    else resample_bits(other.mask, middle, matrix, side, UNKNOWN)
                )  # fmt: skip
                masks[row][plane][given] = bits[given]


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
