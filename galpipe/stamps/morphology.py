"""Measured columns: sizes, concentration, asymmetry, smoothness, Gini, M20, structure, colours.

Everything is measured on the cutout itself (mean of the bands, background subtracted, neighbours
masked and filled), before rotation, resampling and stretch.  On JPEG input the values are the
displayed 0..255, already stretched by whoever made the image: sizes and concentrations are then
those of the picture, comparable within a survey and not with those of calibrated images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from galpipe.stamps.growth import Growth, curve_of_growth, petrosian, radius_of_fraction
from galpipe.stamps.orientation import Shape
from galpipe.stamps.structure import colours, structure

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

EXTENT = 1.5  # Petrosian radii within which everything is measured (Conselice 2003)


@dataclass(frozen=True)
class Column:
    """One measured column as it is published."""

    name: str
    unit: str | None
    ucd: str
    description: str


PIXEL = "pix"
SIZE = "phys.angSize"
SHAPE = "src.morph.param"

COLUMNS: tuple[Column, ...] = (
    Column("axis_ratio", None, SHAPE, "Minor over major axis from second moments"),
    Column("position_angle", "deg", "pos.posAng", "Major axis from +x towards +y of the cutout"),
    Column("semi_major", PIXEL, SIZE, "rms length of the major axis, in cutout pixels"),
    Column("r20", PIXEL, SIZE, "Radius of the circle with 20 % of the flux, in cutout pixels"),
    Column("r50", PIXEL, SIZE, "Radius of the circle with 50 % of the flux, in cutout pixels"),
    Column("r80", PIXEL, SIZE, "Radius of the circle with 80 % of the flux, in cutout pixels"),
    Column("r90", PIXEL, SIZE, "Radius of the circle with 90 % of the flux, in cutout pixels"),
    Column("petrosian_radius", PIXEL, SIZE, "Circular Petrosian radius, eta = 0.2, cutout pixels"),
    Column("petrosian_semimajor", PIXEL, SIZE, "Elliptical Petrosian semi-major axis, eta = 0.2"),
    Column("concentration", None, SHAPE, "5 log10(r80/r20) in circles (Conselice 2003)"),
    Column("concentration_elliptical", None, SHAPE, "5 log10(r80/r20) in ellipses"),
    Column("inner_slope", None, SHAPE, "5 log10(r50/r20) in ellipses"),
    Column("asymmetry", None, SHAPE, "Half-turn asymmetry less that of the noise (Conselice 2003)"),
    Column("smoothness", None, SHAPE, "Clumpiness S less that of the noise (Conselice 2003)"),
    Column("gini", None, SHAPE, "Gini coefficient of the pixel values (Lotz et al. 2004)"),
    Column("m20", None, SHAPE, "Moment of the brightest 20 % of the light (Lotz et al. 2004)"),
    Column("structure", None, SHAPE, "Light off the mean elliptical profile over all light"),
    Column(
        "bisymmetry_inner", None, SHAPE, "m = 2 amplitude at 0.15-0.4 Petrosian semi-major axes"
    ),
    Column(
        "bisymmetry_middle", None, SHAPE, "m = 2 amplitude at 0.4-0.7 Petrosian semi-major axes"
    ),
    Column("bisymmetry_outer", None, SHAPE, "m = 2 amplitude at 0.7-1 Petrosian semi-major axes"),
    Column(
        "isophote_twist", None, SHAPE, "Light in odd (sin 2 phi) m = 2 modes: bars, arms, twists"
    ),
    Column(
        "flux", None, "phot.flux", "Flux within 1.5 Petrosian radii, image units, mean of bands"
    ),
    Column("surface_brightness", None, "phot.flux.sb", "Mean within r50, image units per pixel"),
    Column("snr", None, "stat.snr", "Mean signal to noise per pixel within r50"),
    Column("neighbour_flux_ratio", None, "phot.flux;arith.ratio", "Neighbours' flux over its own"),
    Column("neighbours", None, "meta.number", "Neighbours detected on the cutout"),
    Column("background", None, "instr.background", "Background subtracted, mean of the bands"),
    Column("background_sigma", None, "stat.stdev;instr.background", "Scatter of the background"),
)


def columns(bands: Sequence[str]) -> tuple[Column, ...]:
    """All columns of a survey with these bands: `COLUMNS` and two colours per adjacent pair."""
    pairs = list(pairwise(bands))
    return (
        *COLUMNS,
        *(
            Column(f"colour_{a}_{b}", "mag", "phot.color", f"-2.5 log10(f_{a}/f_{b}) within r90")
            for a, b in pairs
        ),
        *(
            Column(
                f"colour_gradient_{a}_{b}",
                "mag",
                "phot.color;arith.diff",
                f"Colour {a}-{b} beyond r50 minus that within",
            )
            for a, b in pairs
        ),
    )


@dataclass(frozen=True)
class Measured:
    """What the measurement is made on; n objects of one shape.

    bands: (object, band, ny, nx) background subtracted, neighbours and undefined pixels filled;
    mean: their mean, (object, ny, nx); scatter: of the background of `mean`, (object,).
    """

    bands: Floats
    mean: Floats
    shape: Shape
    scatter: Floats


def measure(given: Measured, names: Sequence[str]) -> dict[str, Doubles]:
    """All columns that need the pixels, each (object,) with NaN where undefined.

    names: the bands.  Sizes are in cutout pixels, angles in degrees.
    """
    count, ny, nx = given.mean.shape
    shape = given.shape
    flat = given.mean.reshape(count, -1)
    dx, dy, major, minor = _offsets(given)
    circle = np.sqrt(dx * dx + dy * dy)
    axis_ratio = np.nan_to_num(shape.axis_ratio, nan=1.0)
    stretch = (minor / axis_ratio.astype(np.float32)[:, None]).astype(np.float32)
    ellipse = np.sqrt(major * major + stretch * stretch)
    reach = 2 * max(ny, nx)
    circular = curve_of_growth(flat, circle, reach)
    elliptical = curve_of_growth(flat, ellipse, reach)
    radius, semimajor = petrosian(circular), petrosian(elliptical)
    found: dict[str, Doubles] = {
        "axis_ratio": shape.axis_ratio,
        "position_angle": np.degrees(shape.angle),
        "semi_major": shape.major,
        "petrosian_radius": radius,
        "petrosian_semimajor": semimajor,
    }
    total = circular.at(EXTENT * radius)[0]
    sizes = {k: radius_of_fraction(circular, total, k / 100) for k in (20, 50, 80, 90)}
    found |= {f"r{k}": size for k, size in sizes.items()}
    total_elliptical = elliptical.at(EXTENT * semimajor)[0]
    a20, a50, a80, a90 = (
        radius_of_fraction(elliptical, total_elliptical, f) for f in (0.2, 0.5, 0.8, 0.9)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        found["concentration"] = 5 * np.log10(sizes[80] / sizes[20])
        found["concentration_elliptical"] = 5 * np.log10(a80 / a20)
        found["inner_slope"] = 5 * np.log10(a50 / a20)
        within, area = circular.at(sizes[50])
        found["flux"] = np.where(total > 0, total, np.nan)
        found["surface_brightness"] = within / area
        found["snr"] = within / area / given.scatter
    scatter = given.scatter.astype(np.float64)
    x, y = _centre(shape, ny, nx)
    found["asymmetry"] = asymmetry(given.mean, x, y, radius, scatter)
    found["smoothness"] = smoothness(given.mean, circle, radius, scatter)
    light = _galaxy_pixels(given.mean, ellipse, elliptical, semimajor)
    found["gini"], found["m20"] = gini_m20(flat, light, dx, dy)
    found |= structure(flat, major, stretch, ellipse, semimajor, a90, scatter)
    found |= colours(given.bands, names, ellipse, a50, a90)
    return found


def _offsets(given: Measured) -> tuple[Floats, Floats, Floats, Floats]:
    """Pixel offsets from the centroid along x, y, the major and the minor axis, (object, pixel)."""
    count, ny, nx = given.mean.shape
    x, y = _centre(given.shape, ny, nx)
    dx = (np.arange(nx) - x[:, None]).astype(np.float32)[:, None, :].repeat(ny, axis=1)
    dy = (np.arange(ny) - y[:, None]).astype(np.float32)[:, :, None].repeat(nx, axis=2)
    angle = np.nan_to_num(given.shape.angle)
    cos = np.cos(angle).astype(np.float32)[:, None, None]
    sin = np.sin(angle).astype(np.float32)[:, None, None]
    major, minor = dx * cos + dy * sin, dy * cos - dx * sin
    pixels = (count, ny * nx)
    return dx.reshape(pixels), dy.reshape(pixels), major.reshape(pixels), minor.reshape(pixels)


def _centre(shape: Shape, ny: int, nx: int) -> tuple[Doubles, Doubles]:
    """The centroid, or the image's centre where there is none."""
    return (
        np.where(np.isfinite(shape.x), shape.x, (nx - 1) / 2),
        np.where(np.isfinite(shape.y), shape.y, (ny - 1) / 2),
    )


def asymmetry(images: Floats, x: Doubles, y: Doubles, radius: Doubles, scatter: Doubles) -> Doubles:
    """A = (sum |I - I180| - expected from noise) / sum |I| within 1.5 Petrosian radii, (object,).

    images: (object, ny, nx); x, y: first guess of the centre; radius: Petrosian.  The centre is
    that of the least squared difference, found on half pixels, where the half turn maps pixels on
    pixels, and then by a parabola (Conselice, Bershady & Jangren 2000 search it likewise); there
    the turned image is interpolated linearly, and the smaller A of both centres counts.  The noise
    gives 2 sigma / sqrt(pi) per pixel.  NaN without light.
    """
    count, ny, nx = images.shape
    half = max(ny, nx) // 2 + 2
    offsets = np.arange(-half, half + 1)
    rows = np.rint(y).astype(np.int64)[:, None] + offsets
    columns_ = np.rint(x).astype(np.int64)[:, None] + offsets
    on = ((rows >= 0) & (rows < ny))[:, :, None] & ((columns_ >= 0) & (columns_ < nx))[:, None, :]
    rows, columns_ = np.clip(rows, 0, ny - 1), np.clip(columns_, 0, nx - 1)
    which = np.arange(count)[:, None, None]
    centred = images[which, rows[:, :, None], columns_[:, None, :]]
    extent = (EXTENT * np.nan_to_num(radius)).astype(np.float32)
    distance = np.hypot(offsets[:, None], offsets[None, :]).astype(np.float32)
    inside = on & (distance <= extent[:, None, None])
    light = np.where(inside, np.abs(centred), 0).sum(axis=(1, 2), dtype=np.float64)
    squares = np.empty((3, 3, count))
    best, pixels = np.full(count, np.inf), np.zeros(count)
    for j in (-1, 0, 1):
        for i in (-1, 0, 1):
            turned, there = _turned(centred, i, j), _turned(on, i, j)
            paired = inside & there
            difference = np.where(paired, centred - turned, np.float32(0)).reshape(count, -1)
            squares[j + 1, i + 1] = (difference * difference).sum(axis=1)
            value = np.abs(difference).sum(axis=1)
            better = value < best
            best[better] = value[better]
            pixels[better] = paired.reshape(count, -1).sum(axis=1)[better]
    shift_x, shift_y = _least(squares.mean(axis=0)), _least(squares.mean(axis=1))
    turned, paired = np.zeros_like(centred), inside
    for j in (-1, 0, 1):
        for i in (-1, 0, 1):
            weight = np.maximum(1 - np.abs(shift_x - i), 0) * np.maximum(1 - np.abs(shift_y - j), 0)
            turned += weight.astype(np.float32)[:, None, None] * _turned(centred, i, j)
            paired = paired & _turned(on, i, j)
    difference = np.where(paired, np.abs(centred - turned), np.float32(0)).reshape(count, -1)
    value = difference.sum(axis=1)
    better = value < best
    best[better], pixels[better] = value[better], paired.reshape(count, -1).sum(axis=1)[better]
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = pixels * 2 * scatter / np.sqrt(np.pi)
        excess: Doubles = (best - expected) / np.where(light > 0, light, np.nan)
    return excess


def _turned(values: NDArray[Any], i: int, j: int) -> NDArray[Any]:
    """Odd-sized images half a turn on, about i, j half pixels from their middle; 0 comes in."""
    turned = np.zeros_like(values)
    flipped = values[:, ::-1, ::-1]
    size = values.shape[1]
    to_y, from_y = slice(max(j, 0), size + min(j, 0)), slice(max(-j, 0), size + min(-j, 0))
    to_x, from_x = slice(max(i, 0), size + min(i, 0)), slice(max(-i, 0), size + min(-i, 0))
    turned[:, to_y, to_x] = flipped[:, from_y, from_x]
    return turned


def _least(values: Doubles) -> Doubles:
    """Where the parabola through values at -1, 0, 1, (3, object), is least, within -1..1."""
    curvature = values[0] + values[2] - 2 * values[1]
    slope = values[0] - values[2]
    with np.errstate(invalid="ignore", divide="ignore"):
        least = slope / (2 * curvature)
    return np.where(curvature > 0, np.clip(np.nan_to_num(least), -1, 1), 0.0)


def smoothness(images: Floats, circle: Floats, radius: Doubles, scatter: Doubles) -> Doubles:
    """S = sum of positive I - boxcar(I) over sum I, within 0.25-1.5 Petrosian radii, (object,).

    The boxcar is 0.25 Petrosian radii wide, rounded to an odd number of pixels (Conselice 2003;
    Lotz et al. 2004).  White noise leaves sigma sqrt(1 - 1/w^2) / sqrt(2 pi) per pixel.
    """
    count = len(images)
    flat = images.reshape(count, -1)
    limit = np.nan_to_num(radius)
    widths = np.maximum(2 * np.rint((limit * 0.25 - 1) / 2).astype(np.int64) + 1, 3)
    residual = np.empty_like(images)
    for width in np.unique(widths):
        same = widths == width
        smoothed = ndimage.uniform_filter(images[same], int(width), axes=(1, 2))
        residual[same] = np.maximum(images[same] - smoothed, 0)
    inner, outer = (limit * 0.25).astype(np.float32), (limit * EXTENT).astype(np.float32)
    inside = circle <= outer[:, None]
    ring = inside & (circle > inner[:, None])
    clumps = np.where(ring, residual.reshape(count, -1), 0).sum(axis=1, dtype=np.float64)
    light = np.where(inside, flat, 0).sum(axis=1, dtype=np.float64)
    noise = ring.sum(axis=1) * scatter * np.sqrt((1 - 1 / widths**2) / (2 * np.pi))
    clumpiness: Doubles = (clumps - noise) / np.where(light > 0, light, np.nan)
    return clumpiness


def _galaxy_pixels(
    images: Floats, ellipse: Floats, growth: Growth, semimajor: Doubles
) -> NDArray[np.bool_]:
    """Pixels of the Gini and M20 map: smoothed brighter than the light at the Petrosian ellipse.

    Lotz et al. (2004): the image smoothed by a fifth of the Petrosian radius, cut at the mean
    surface brightness there; pixels beyond 1.5 of it are left out.
    """
    count = len(images)
    limit = np.nan_to_num(semimajor)
    outer, inner = growth.at(limit + 0.5), growth.at(np.maximum(limit - 0.5, 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        threshold = (outer[0] - inner[0]) / (outer[1] - inner[1])
    widths = np.maximum(2 * np.rint((limit * 0.2 - 1) / 2).astype(np.int64) + 1, 1)
    smoothed = np.empty_like(images)
    for width in np.unique(widths):
        same = widths == width
        smoothed[same] = ndimage.uniform_filter(images[same], int(width), axes=(1, 2))
    bright = smoothed.reshape(count, -1) >= np.nan_to_num(threshold).astype(np.float32)[:, None]
    return bright & (ellipse <= (EXTENT * limit).astype(np.float32)[:, None])


def gini_m20(
    flat: Floats, light: NDArray[np.bool_], dx: Floats, dy: Floats
) -> tuple[Doubles, Doubles]:
    """Gini coefficient and M20 of |I| over the galaxy's pixels, each (object,).

    Lotz et al. (2004), eq. 6, and eq. 8: log10 of the second moment of the brightest 20 % of the
    light over that of all, about the centre where the latter is least.  flat, light, dx, dy:
    (object, pixel).  NaN where there are fewer than two pixels or no light.
    """
    number = light.sum(axis=1)
    values = np.where(light, np.abs(flat), np.float32(0))
    brightest = np.sort(values, axis=1)[:, ::-1]  # pixels left out come last, as 0
    brightest = brightest[:, : max(int(number.max(initial=0)), 2)].astype(np.float64)
    rank = number[:, None] - np.arange(brightest.shape[1])  # n for the brightest, 1 for the last
    weight = np.where(rank > 0, 2 * rank - number[:, None] - 1, 0)
    summed = np.cumsum(brightest, axis=1)
    total = summed[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        gini = (weight * brightest).sum(axis=1) / (total * (number - 1))
        x = ((values * dx).sum(axis=1) / total).astype(np.float32)[:, None]
        y = ((values * dy).sum(axis=1) / total).astype(np.float32)[:, None]
        moment = values * ((dx - x) ** 2 + (dy - y) ** 2)
        first = (summed >= 0.2 * total[:, None]).argmax(axis=1)
        cut = brightest[np.arange(len(flat)), first].astype(np.float32)
        inner = np.where(values >= cut[:, None], moment, np.float32(0)).sum(axis=1)
        m20 = np.log10(inner / moment.sum(axis=1)).astype(np.float64)
    good = (number > 1) & (total > 0)
    return np.where(good, gini, np.nan), np.where(good & np.isfinite(m20), m20, np.nan)
