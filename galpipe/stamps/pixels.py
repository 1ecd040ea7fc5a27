"""From the raw pixels of cutouts to stamps and measured columns, in memory, shape by shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.stamps.background import level_and_scatter
from galpipe.stamps.fill import fill_masked
from galpipe.stamps.morphology import Measured, columns, measure
from galpipe.stamps.orientation import Shape, second_moments
from galpipe.stamps.resample import Frames, covered, inscribed_disc, resample
from galpipe.stamps.segmentation import RING, Segments, segment
from galpipe.stamps.spec import Annulus, PetrosianScale, Preparation
from galpipe.status import Status

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

AT_ONCE = 1 << 18  # pixels of one band prepared together: they stay in the processor's cache
NULL_ABOVE = 1e30  # magnitudes that archives use for undefined pixels
TINY = 1e-12  # keeps a noiseless image's scatter positive
IN_IMAGE_UNITS = ("flux", "surface_brightness", "background", "background_sigma")
QUANTUM = 0.5  # smallest scatter believed of integer images, in their units
EDGE_BELOW = 0.95  # covered fraction of the inscribed disc under which the EDGE bit is set


@dataclass(frozen=True)
class Prepared:
    """n stamps before the stretch.

    image, image_unmasked: (object, band, size, size), background-subtracted intensities;
    measured: (object, column); status: (object,) with the cutouts' bits and the new ones;
    coverage: (object,), 0..1.  Objects without the OK bit are 0 and NaN.
    """

    image: Floats
    image_unmasked: Floats
    measured: Floats
    status: NDArray[np.int32]
    coverage: Floats


def prepare_images(
    images: NDArray[Any],
    ny: NDArray[np.int32],
    nx: NDArray[np.int32],
    status: NDArray[np.int32],
    bands: Sequence[str],
    spec: Preparation,
    columns_too: bool = True,
) -> Prepared:
    """Prepare cutouts of any shapes.

    images: (object, band, y, x), uint8 or float32 with NaN where undefined; image i occupies
    [:, :ny[i], :nx[i]].  An object's result does not depend on the other objects.  Without
    `columns_too` the columns stay NaN, as far as the stamps do not need them.
    """
    count = len(images)
    planes = images.shape[1] if spec.colour == "bands" else 1
    result = Prepared(
        np.zeros((count, planes, spec.size, spec.size), np.float32),
        np.zeros((count, planes, spec.size, spec.size), np.float32),
        np.full((count, len(columns(bands))), np.nan, np.float32),
        status.astype(np.int32),
        np.zeros(count, np.float32),
    )
    good = np.flatnonzero((status & Status.OK) > 0)
    shapes = np.stack([ny, nx], axis=1)
    for shape in np.unique(shapes[good], axis=0):
        same = good[(shapes[good] == shape).all(axis=1)]
        step = max(1, AT_ONCE // max(1, int(shape[0]) * int(shape[1])))
        for start in range(0, len(same), step):
            rows = same[start : start + step]
            alike = images[rows, :, : shape[0], : shape[1]]
            _prepare_alike(alike, rows, bands, spec, result, columns_too)
    return result


def _prepare_alike(
    raw: NDArray[Any],
    rows: NDArray[np.int64],
    bands: Sequence[str],
    spec: Preparation,
    out: Prepared,
    columns_too: bool,
) -> None:
    """Prepare cutouts of one shape, (object, band, ny, nx), into rows of `out`."""
    values, defined = _defined(raw)
    usable: Bools = np.any(defined, axis=1)
    blank = ~_has_contrast(values, defined)
    out.status[rows[blank]] = (out.status[rows[blank]] & ~Status.OK) | Status.BLANK
    if blank.all():
        return
    rows, values, defined, usable = rows[~blank], values[~blank], defined[~blank], usable[~blank]
    unit = _unit(values, raw.dtype)
    values = values / unit[:, None, None, None]
    lost: Bools = ~np.any(defined, axis=(2, 3))
    out.status[rows[lost.any(axis=1)]] |= Status.MISSING_BAND
    floor = QUANTUM if raw.dtype.kind in "ui" else 0.0
    segments = segment(_mean(values, defined), usable, floor, spec.segmentation)
    amount = _background(values, defined, segments, spec)
    values = np.where(defined, values - amount[:, :, None, None], np.float32(0))
    mean = _mean(values, defined)
    outside = usable & ~segments.own & ~segments.neighbours
    _, scatter = level_and_scatter(mean, outside, RING)
    scatter = np.maximum(scatter, np.float32(max(floor, TINY)))
    rough = second_moments(mean, segments.own)
    ny, nx = values.shape[2:]
    centre_x = np.where(segments.found & np.isfinite(rough.x), rough.x, (nx - 1) / 2)
    centre_y = np.where(segments.found & np.isfinite(rough.y), rough.y, (ny - 1) / 2)
    masked = segments.neighbours | ~usable
    masked &= segments.found[:, None, None]  # without a galaxy, all views stay as they are
    filled = fill_masked(values, masked, usable, centre_x, centre_y)
    filled_mean = _mean(filled, defined | masked[:, None])
    shape = second_moments(filled_mean, _aperture(segments, masked))
    if columns_too or isinstance(spec.scale, PetrosianScale):
        measured = _measured(filled, filled_mean, mean, segments, shape, scatter, bands)
    else:
        measured = {column.name: np.full(len(rows), np.nan) for column in columns(bands)}
    measured["background"] = _mean_of_bands(amount, lost)
    measured["background_sigma"] = scatter
    for name in IN_IMAGE_UNITS:
        measured[name] = measured[name] * unit
    view = filled if spec.segmentation.mask_neighbours else values
    frames = _frames(shape, segments, measured, (ny, nx), spec)
    _resample_views(view, values, masked, frames, unit, rows, spec, out)
    coverage = covered(usable, frames, spec.size)
    out.coverage[rows] = coverage
    table = np.stack([measured[c.name] for c in columns(bands)], axis=1)
    out.measured[rows] = table.astype(np.float32)
    out.status[rows] |= np.where(segments.found, 0, int(Status.NO_SOURCE)).astype(np.int32)
    out.status[rows] |= np.where(segments.truncated, int(Status.TRUNCATED), 0).astype(np.int32)
    out.status[rows] |= np.where(coverage < EDGE_BELOW, int(Status.EDGE), 0).astype(np.int32)


def _defined(raw: NDArray[Any]) -> tuple[Floats, Bools]:
    """float32 values with 0 where undefined, and which are defined."""
    if raw.dtype.kind in "ui":
        return raw.astype(np.float32), np.ones(raw.shape, np.bool_)
    defined = np.abs(raw) < NULL_ABOVE  # false for NaN too
    return np.where(defined, raw, 0).astype(np.float32), defined


def _unit(values: Floats, dtype: np.dtype[Any]) -> Floats:
    """A power of two near each object's largest value, (object,); 1 for integer images.

    Float images are measured in this unit, so that fluxes of 1e-30 or 1e+20 neither vanish nor
    overflow in single precision; dividing by a power of two loses nothing.
    """
    if dtype.kind in "ui":
        return np.ones(len(values), np.float32)
    largest = np.abs(values).reshape(len(values), -1).max(axis=1)
    unit: Floats = np.ldexp(np.float32(1), np.frexp(largest)[1]).astype(np.float32)
    return unit


def _has_contrast(values: Floats, defined: Bools) -> Bools:
    """Which objects have two different defined pixels in some band."""
    shape = (*values.shape[:2], -1)
    high = np.where(defined, values, -np.inf).reshape(shape).max(axis=2)
    low = np.where(defined, values, np.inf).reshape(shape).min(axis=2)
    contrast: Bools = (high > low).any(axis=1)
    return contrast


def _mean(values: Floats, defined: Bools) -> Floats:
    """Mean of the defined bands, (object, ny, nx); 0 where none is."""
    if defined.all():
        every: Floats = values.mean(axis=1, dtype=np.float32)
        return every
    number = defined.sum(axis=1)
    total = np.where(defined, values, np.float32(0)).sum(axis=1, dtype=np.float32)
    mean: Floats = (total / np.maximum(number, 1)).astype(np.float32)
    return mean


def _mean_of_bands(amount: Floats, lost: Bools) -> Floats:
    """Mean over the bands that exist, (object,)."""
    weight = (~lost).astype(np.float32)
    total: Floats = (np.where(lost, 0, amount) * weight).sum(axis=1)
    mean: Floats = total / np.maximum(weight.sum(axis=1), 1)
    return mean


def _background(values: Floats, defined: Bools, segments: Segments, spec: Preparation) -> Floats:
    """The level of each band beyond the galaxy, (object, band); 0 where none is subtracted."""
    amount = np.zeros(values.shape[:2], np.float32)
    if not isinstance(spec.background, Annulus):
        return amount
    for band in range(values.shape[1]):
        sky = defined[:, band] & ~segments.own & ~segments.neighbours
        level, _ = level_and_scatter(values[:, band], sky, spec.background.inner)
        amount[:, band] = np.nan_to_num(level)
    return amount


def _aperture(segments: Segments, masked: Bools) -> Bools:
    """The galaxy's pixels, with those under a neighbour whose opposite pixel is the galaxy's."""
    bridged = segments.own | (masked & segments.own[:, ::-1, ::-1])
    aperture: Bools = bridged & segments.found[:, None, None]
    return aperture


def _measured(
    filled: Floats,
    filled_mean: Floats,
    mean: Floats,
    segments: Segments,
    shape: Shape,
    scatter: Floats,
    bands: Sequence[str],
) -> dict[str, NDArray[Any]]:
    """Every column but the background's; NaN for objects without a galaxy at the centre."""
    found = measure(Measured(filled, filled_mean, shape, scatter), bands)
    measured: dict[str, NDArray[Any]] = {
        name: np.where(segments.found, values, np.nan) for name, values in found.items()
    }
    count = len(mean)
    others = np.where(segments.neighbours, mean, 0).reshape(count, -1).sum(axis=1, dtype=np.float64)
    flux = np.where(measured["flux"] > 0, measured["flux"], np.nan)
    measured["neighbour_flux_ratio"] = np.maximum(others, 0) / flux
    measured["neighbours"] = segments.neighbour_count.astype(np.float64)
    return measured


def _frames(
    shape: Shape,
    segments: Segments,
    measured: dict[str, NDArray[Any]],
    size: tuple[int, int],
    spec: Preparation,
) -> Frames:
    """Where the stamps lie on the cutouts."""
    ny, nx = size
    count = len(shape.x)
    usual_x, usual_y = np.full(count, (nx - 1) / 2), np.full(count, (ny - 1) / 2)
    known = segments.found & np.isfinite(shape.angle)
    x = np.where(known, shape.x, usual_x) if spec.recentre else usual_x
    y = np.where(known, shape.y, usual_y) if spec.recentre else usual_y
    # Half a turn is chosen by the third moment: the heavier tail of the light lies towards +x.
    turn = shape.angle + np.where(shape.skewness < 0, np.pi, 0.0)
    angle = np.where(known, turn, 0.0) if spec.align else np.zeros(count)
    width = np.full(count, float(max(ny, nx)))
    if isinstance(spec.scale, PetrosianScale):
        own = spec.scale.radii * measured["petrosian_radius"]
        width = np.where(np.isfinite(own), np.maximum(own, spec.scale.smallest), width)
    elif spec.scale.width is not None:
        width[:] = spec.scale.width
    return Frames(x, y, angle, width / spec.size)


def _one_plane(images: Floats, colour: str) -> Floats:
    """(n, band, y, x) to (n, 1, y, x): the mean of the bands, or the luminance of three."""
    if colour == "luminance" and images.shape[1] == 3:
        weights = np.array([0.2125, 0.7154, 0.0721], np.float32)[:, None, None]
        luminance: Floats = (images * weights).sum(axis=1, keepdims=True, dtype=np.float32)
        return luminance
    mean: Floats = images.mean(axis=1, keepdims=True, dtype=np.float32)
    return mean


def _resample_views(
    view: Floats,
    unmasked: Floats,
    masked: Bools,
    frames: Frames,
    unit: Floats,
    rows: NDArray[np.int64],
    spec: Preparation,
    out: Prepared,
) -> None:
    """Resample both views into `out`; they are the same where nothing was masked."""
    if spec.colour != "bands":
        view, unmasked = (_one_plane(images, spec.colour) for images in (view, unmasked))
    order = 1 if spec.interpolation == "linear" else 3
    differs: Bools = np.any(masked, axis=(1, 2)) & spec.segmentation.mask_neighbours
    beyond = ~inscribed_disc(spec.size) if spec.window == "disc" else None
    for i, row in enumerate(rows):
        placed = (frames.x[i], frames.y[i], frames.angle[i], frames.step[i], spec.size, order)
        factor = unit[i] * np.float32(frames.step[i] ** 2 if spec.conserve == "flux" else 1.0)
        first = resample(view[i], *placed) * factor
        second = resample(unmasked[i], *placed) * factor if differs[i] else first
        if beyond is not None:
            first[:, beyond] = 0
            second[:, beyond] = 0
        out.image[row] = first
        out.image_unmasked[row] = second
