"""The light of a field in each band, without noise, and what a catalogue would measure of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import galsim
import numpy as np
from numpy.typing import NDArray

from galpipe.sky.artefacts import SIZE, artefact
from galpipe.sky.galaxies import COARSE, Part, fluxes, form, sersic
from galpipe.sky.instrument import BANDS, COLUMNS, PIXEL, ROWS, Field
from galpipe.sky.population import Member

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

BETA = 3.5  # of the Moffat profile of the seeing (Racine 1996)
WINGS = 3.0  # arcsec of a stamp beyond its galaxy's light
STAR_STAMP = 96
NUISANCES, NUISANCE = 5, 6  # streams of random numbers
FIELD_STARS, FIELD_GALAXIES = 110, 420  # faint ones in a frame, beside the catalogued objects
PHASES = 4  # of a faint source's place within its pixel
TEMPLATE = 24  # pixels on a side of a faint source's stamp


@dataclass(frozen=True)
class Seen:
    """What the catalogue measures of an object in r, on its light without noise.

    Radii in arcsec; fluxes in nanomaggies.
    """

    petrosian_flux: float
    r50: float
    r90: float
    psf_flux: float
    axis_ratio: float


def point_spread(field: Field, band: str) -> galsim.GSObject:
    """The seeing of a band: a Moffat profile, slightly out of round."""
    rng = np.random.default_rng([field.index, NUISANCES, BANDS.index(band)])
    round_ = galsim.Moffat(beta=BETA, fwhm=field.seeing[band], gsparams=COARSE)
    return round_.shear(g1=float(rng.normal(0, 0.01)), g2=float(rng.normal(0, 0.01)))


def light_of(
    field: Field, members: list[Member], seed: int
) -> tuple[dict[str, Floats], list[Seen]]:
    """The field's light in each band, (ROWS, COLUMNS) nanomaggies per pixel, and what is seen."""
    frames = {band: np.zeros((ROWS, COLUMNS), np.float32) for band in BANDS}
    spreads = {band: point_spread(field, band) for band in BANDS}
    seen = []
    for member in members:
        stamps = _stamps(member, field, spreads)
        for band, (stamp, left, low) in stamps.items():
            add(frames[band], stamp, left, low)
        seen.append(_seen(member, field, stamps["r"], spreads["r"]))
        if member.companion:
            for band, (stamp, left, low) in _companion(member, field, spreads).items():
                add(frames[band], stamp, left, low)
    for band in BANDS:
        _strew(frames[band], field, band, spreads[band], seed)
    return frames, seen


def add(frame: Floats, stamp: NDArray[np.floating], left: int, low: int) -> None:
    """Add a stamp to a frame, its first pixel at (low, left); what lies off the frame is lost."""
    height, width = stamp.shape
    top, right = min(low + height, frame.shape[0]), min(left + width, frame.shape[1])
    y, x = max(low, 0), max(left, 0)
    if top > y and right > x:
        frame[y:top, x:right] += stamp[y - low : top - low, x - left : right - left]


Stamps = dict[str, tuple[NDArray[np.floating], int, int]]


def _stamps(member: Member, field: Field, spreads: dict[str, galsim.GSObject]) -> Stamps:
    """The object's stamp in each band, with the frame's column and row of its first pixel."""
    if member.kind == "artefact":
        found: Stamps = {}
        for band in BANDS:
            x, y = (float(v) for v in field.wcs[band].pixels(member.ra, member.dec))
            left, low = round(x - SIZE / 2), round(y - SIZE / 2)
            found[band] = artefact(member, field, band, x - left, y - low), left, low
        return found
    parts = form(member)
    reach = 6.55 if member.kind == "elliptical" else 4.2
    size = 2 * math.ceil((reach * member.r_e + WINGS) / PIXEL)
    size = STAR_STAMP if member.kind == "star" else size
    return _drawn(parts, member, field, spreads, member.magnitudes, size)


def _drawn(
    parts: list[Part],
    member: Member,
    field: Field,
    spreads: dict[str, galsim.GSObject],
    magnitudes: tuple[float, float, float],
    size: int,
    aside: tuple[float, float] = (0.0, 0.0),
) -> Stamps:
    """Parts drawn through the seeing of every band, `aside` arcsec (column, row) of the object."""
    flux = fluxes(parts, magnitudes)
    found: Stamps = {}
    for number, band in enumerate(BANDS):
        x, y = (float(v) for v in field.wcs[band].pixels(member.ra, member.dec))
        x, y = x + aside[0] / PIXEL, y + aside[1] / PIXEL
        left, low = round(x - (size - 1) / 2), round(y - (size - 1) / 2)
        whole = galsim.Sum([p.profile * f for p, f in zip(parts, flux[number], strict=True)])
        turned = whole.rotate(field.wcs[band].angle(member.position_angle) * galsim.radians)
        image = galsim.Convolve(turned, spreads[band], gsparams=COARSE).drawImage(
            nx=size,
            ny=size,
            scale=PIXEL,
            offset=(x - left - (size - 1) / 2, y - low - (size - 1) / 2),
            dtype=np.float32,
        )
        found[band] = image.array, left, low
    return found


def _companion(member: Member, field: Field, spreads: dict[str, galsim.GSObject]) -> Stamps:
    """A neighbour in projection: a star, or a smaller galaxy of another colour."""
    rng = np.random.default_rng((*member.seed, 2))
    apart, angle = member.r_e * rng.uniform(2.0, 3.2) + 1.5, rng.uniform(0, 2 * math.pi)
    aside = (apart * math.cos(angle), apart * math.sin(angle))
    r = member.magnitude + rng.uniform(0.7, 2.5)
    g_r = rng.uniform(0.3, 1.1)
    magnitudes = (r + g_r, r, r - 0.45 * g_r)
    if rng.uniform() < 0.35:
        parts, size = [Part(galsim.DeltaFunction(gsparams=COARSE), 1.0)], 64
    else:
        r_e = max(0.45 * member.r_e, 1.0)
        profile = sersic(rng.choice([1.0, 1.0, 4.0]), r_e, rng.uniform(0.3, 1))
        parts = [Part(profile.rotate(rng.uniform(0, math.pi) * galsim.radians), 1.0)]
        size = 2 * math.ceil((6 * r_e + WINGS) / PIXEL)
    return _drawn(parts, member, field, spreads, magnitudes, size, aside)


def _strew(frame: Floats, field: Field, band: str, spread: galsim.GSObject, seed: int) -> None:
    """Faint field stars and background galaxies, to a quarter of a pixel; in no catalogue.

    Counts rise as 10^(0.3 m) for stars (r 18.5-22.5) and 10^(0.45 m) for galaxies (r 19.5-22.5;
    Yasuda et al. 2001).
    """
    rng = np.random.default_rng([seed, NUISANCE, field.index])
    templates = _templates(spread)
    for count, slope, faintest, brightest, extended in (
        (FIELD_STARS, 0.3, 22.5, 18.5, 0),
        (FIELD_GALAXIES, 0.45, 22.5, 19.5, 1),
    ):
        x, y = rng.uniform(-10, COLUMNS + 10, count), rng.uniform(-10, ROWS + 10, count)
        ra, dec = field.wcs["r"].sky(x, y)
        r = (
            faintest
            + np.log10(rng.uniform(10 ** (slope * (brightest - faintest)), 1, count)) / slope
        )
        g_r = np.clip(rng.normal(0.75, 0.35, count), -0.2, 1.6)
        which = extended * rng.integers(1, len(templates), count)
        magnitude = {"g": r + g_r, "r": r, "i": r - 0.45 * g_r}[band]
        flux = 10 ** (-0.4 * (magnitude - 22.5))
        xs, ys = field.wcs[band].pixels(ra, dec)
        for k in range(count):
            _add_faint(frame, templates[which[k]], float(flux[k]), float(xs[k]), float(ys[k]))


def _templates(spread: galsim.GSObject) -> list[Floats]:
    """A star and small galaxies, PHASES times finer than pixels, seen through the pixel."""
    forms = [galsim.DeltaFunction(gsparams=COARSE)]
    for r_e in (0.5, 0.9, 1.4):
        for q, turn in ((0.8, 0.3), (0.5, 1.2), (0.45, 2.6)):
            forms.append(sersic(1.0, r_e, q).rotate(turn * galsim.radians))
    pixel = galsim.Pixel(PIXEL, gsparams=COARSE)
    size = TEMPLATE * PHASES
    return [
        galsim.Convolve(form, spread, pixel, gsparams=COARSE)
        .drawImage(nx=size, ny=size, scale=PIXEL / PHASES, method="no_pixel", dtype=np.float32)
        .array
        for form in forms
    ]


def _add_faint(frame: Floats, fine: Floats, flux: float, x: float, y: float) -> None:
    """Add a template at the nearest of its phases; its centre is at (size - 1) / 2 fine pixels."""
    column, row = (round(v * PHASES) for v in (x, y))
    middle = (TEMPLATE * PHASES - 1) / 2
    first_x, first_y = (math.ceil(middle - 0.5) - v for v in (column, row))
    offset_x, offset_y = first_x % PHASES, first_y % PHASES
    stamp = fine[offset_y::PHASES, offset_x::PHASES] * np.float32(flux * PHASES**2)
    left, low = (offset_x - first_x) // PHASES, (offset_y - first_y) // PHASES
    add(frame, stamp, left, low)


def _seen(
    member: Member,
    field: Field,
    placed: tuple[NDArray[np.floating], int, int],
    spread: galsim.GSObject,
) -> Seen:
    stamp, left, low = placed
    x, y = (float(v) for v in field.wcs["r"].pixels(member.ra, member.dec))
    flux, r50, r90 = petrosian(stamp.astype(np.float64), x - left, y - low)
    height, width = stamp.shape
    kernel = (
        galsim.Convolve(spread, galsim.Pixel(PIXEL))
        .drawImage(
            nx=width,
            ny=height,
            scale=PIXEL,
            method="no_pixel",
            offset=(x - left - (width - 1) / 2, y - low - (height - 1) / 2),
        )
        .array
    )
    psf_flux = float((stamp * kernel).sum() / (kernel * kernel).sum())
    size = max(member.r_e, 1e-3) ** 2
    blur = (field.seeing["r"] / 2) ** 2
    ratio = math.sqrt((size * member.axis_ratio**2 + blur) / (size + blur))
    return Seen(flux, r50 * PIXEL, r90 * PIXEL, psf_flux, ratio)


def petrosian(image: Doubles, x: float, y: float) -> tuple[float, float, float]:
    """Petrosian flux and the radii of 50 and 90 % of it, in pixels, about (x, y).

    Blanton et al. (2001): the radius where the light in 0.8-1.25 R falls to 0.2 of the mean
    within R; the flux within twice that.
    """
    rows, columns = np.indices(image.shape)
    distance = np.hypot(columns - x, rows - y).ravel()
    order = np.argsort(distance, kind="stable")
    growth = np.concatenate([[0.0], np.cumsum(image.ravel()[order])])
    pixels = np.arange(len(growth), dtype=np.float64)
    far = np.sqrt(pixels / math.pi)  # radius of the circle of this many pixels
    reach = min(x, y, image.shape[1] - 1 - x, image.shape[0] - 1 - y)
    radius = np.arange(1.0, max(reach, 2.0) / 1.25, 0.25)

    def within(r: Doubles) -> Doubles:
        light: Doubles = np.interp(r, far, growth)
        return light

    outer, inner = 1.25 * radius, 0.8 * radius
    ring = (within(outer) - within(inner)) / (outer**2 - inner**2)
    mean = within(radius) / radius**2
    low = np.flatnonzero(ring < 0.2 * mean)
    limit = 2 * (radius[low[0]] if len(low) else radius[-1])
    flux = float(within(np.array([limit]))[0])
    steps = np.linspace(0, limit, 800)
    curve = np.maximum.accumulate(within(steps))
    r50, r90 = (float(np.interp(f * curve[-1], curve, steps)) for f in (0.5, 0.9))
    return flux, r50, r90
