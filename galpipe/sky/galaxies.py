"""The forms: light as GalSim profiles, and as maps where arms, bars, dust and tails need one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import galsim
import numpy as np
from numpy.typing import NDArray
from scipy.special import k1

from galpipe.sky.instrument import BANDS
from galpipe.sky.population import Member

Doubles = NDArray[np.float64]
Rng = np.random.Generator

MAP = 160  # pixels on a side of a light map
INDICES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5)  # Sersic indices GalSim tabulates once
TRUNCATION = 6.5  # half-light radii beyond which a profile has no light
COARSE = galsim.GSParams(
    folding_threshold=1e-2, maxk_threshold=5e-3, kvalue_accuracy=1e-4, maximum_fft_size=4096
)
LINEAR = galsim.Linear()


@dataclass(frozen=True)
class Part:
    """Some of an object's light: a profile of unit flux in arcsec about the object's centre.

    share: of the object's flux in r; redder: its g - r less that of the object, in magnitudes.
    The profile's x axis is the object's major axis.
    """

    profile: galsim.GSObject
    share: float
    redder: float = 0.0


def form(member: Member) -> list[Part]:
    """The parts of a galaxy, its major axis along x; random numbers are the object's own."""
    return FORMS[member.kind](member, np.random.default_rng((*member.seed, 1)))


def fluxes(parts: list[Part], magnitudes: tuple[float, float, float]) -> Doubles:
    """Flux of every part in every band, nanomaggies (band, part); sums follow the magnitudes."""
    share = np.array([part.share for part in parts])
    redder = np.array([part.redder for part in parts])
    by_band = []
    for band, magnitude in zip(BANDS, magnitudes, strict=True):
        steps = {"g": 1.0, "r": 0.0, "i": -0.4}[band]
        weight = share * 10 ** (-0.4 * steps * redder)
        by_band.append(weight / weight.sum() * 10 ** (-0.4 * (magnitude - 22.5)))
    return np.array(by_band)


def sersic(index: float, r_e: float, axis_ratio: float) -> galsim.GSObject:
    """A Sersic profile whose half-light semi-major axis is `r_e` arcsec."""
    near = min(INDICES, key=lambda n: abs(n - index))
    round_ = galsim.Sersic(near, half_light_radius=1.0, trunc=TRUNCATION, gsparams=COARSE)
    return stretched(round_, r_e, r_e * axis_ratio)


def stretched(profile: galsim.GSObject, along: float, across: float) -> galsim.GSObject:
    """A profile stretched along its axes, of the same flux (GalSim keeps surface brightness)."""
    return profile.transform(along, 0, 0, across) / (along * across)


def drawn_map(light: Doubles, half: float) -> galsim.GSObject:
    """A light map (MAP, MAP), 2 `half` arcsec wide, as a profile of unit flux."""
    image = galsim.Image(np.ascontiguousarray(light / light.sum()), scale=2 * half / MAP)
    return galsim.InterpolatedImage(
        image, x_interpolant=LINEAR, k_interpolant=LINEAR, flux=1.0, pad_factor=2, gsparams=COARSE
    )


def plane(half: float, cosine: float = 1.0) -> tuple[Doubles, Doubles]:
    """Coordinates in arcsec of a map's pixels in the plane of a disc inclined about the x axis."""
    line = ((np.arange(MAP) + 0.5) / MAP - 0.5) * 2 * half
    x, y = np.meshgrid(line, line)
    return x, y / cosine


def elliptical(member: Member, rng: Rng) -> list[Part]:
    return [Part(sersic(rng.uniform(1.8, 4.7), member.r_e, member.axis_ratio), 1.0)]


def spiral(member: Member, rng: Rng) -> list[Part]:
    return _disc_galaxy(member, rng, bar=False)


def barred(member: Member, rng: Rng) -> list[Part]:
    return _disc_galaxy(member, rng, bar=True)


def _disc_galaxy(member: Member, rng: Rng, bar: bool) -> list[Part]:
    """Bulge, exponential disc, logarithmic arms with knots, and a bar if there is one."""
    h = member.r_e / 1.5
    half = 4.6 * h
    cosine = math.cos(math.radians(member.inclination))
    x, y = plane(half, cosine)
    turn = rng.uniform(0, 2 * math.pi)
    radius, angle = np.hypot(x, y), np.arctan2(y, x) - turn
    disc = np.exp(-radius / h) * (radius < 4.4 * h)
    bar_length = h * rng.uniform(1.1, 1.8) if bar else 0.0
    arms = _arms(radius, angle, h, bar_length, rng)
    parts = []
    bulge = rng.uniform(0.05, 0.35)
    bar_share = rng.uniform(0.17, 0.32) if bar else 0.0
    arm_share = rng.uniform(0.2, 0.5)
    rest = 1 - bulge - bar_share
    knots = _knots(arms * (radius < 3.3 * h), x, y, 0.10 * h, rng)
    parts.append(Part(drawn_map(disc, half), rest * (1 - arm_share) * 0.999, 0.05))
    parts.append(Part(drawn_map(arms, half), rest * arm_share * 0.75, -0.12))
    parts.append(Part(drawn_map(knots, half), rest * arm_share * 0.25, -0.3))
    if bar:
        parts.append(Part(drawn_map(_bar(radius, angle, bar_length, rng), half), bar_share, 0.15))
    size = h * rng.uniform(0.22, 0.4)
    parts.append(Part(sersic(rng.uniform(1.5, 3), size, math.sqrt(member.axis_ratio)), bulge, 0.25))
    return parts


def _arms(radius: Doubles, angle: Doubles, h: float, start: float, rng: Rng) -> Doubles:
    """Logarithmic arms, phi = ln(R / R0) / tan(pitch) (pitch 10-35 deg; Hart et al. 2017)."""
    count = 2 if start or rng.uniform() < 0.72 else 3
    pitch = math.radians(rng.uniform(12, 33))
    sense = rng.choice([-1, 1])
    begin = start or h * rng.uniform(0.5, 0.9)
    winding = np.log(np.maximum(radius, 1e-3 * h) / begin) / math.tan(pitch)
    phase = count * (sense * angle - winding)
    sharp = rng.uniform(3, 6)
    ridge = np.exp(sharp * (np.cos(phase) - 1))
    ramp = 1 / (1 + np.exp(-(radius - begin * 0.9) / (0.12 * h)))
    fade = np.exp(-radius / (1.35 * h)) * (radius < 4.2 * h)
    found: Doubles = ridge * ramp * fade + 1e-12
    return found


def _bar(radius: Doubles, angle: Doubles, length: float, rng: Rng) -> Doubles:
    """A boxy ellipse, (1 - m^2)^1.5, whose ends lie at angle 0 (Athanassoula et al. 1990)."""
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    boxy = rng.uniform(2.5, 3.5)
    width = length * rng.uniform(0.22, 0.32)
    m = (np.abs(along / (1.08 * length)) ** boxy + np.abs(across / width) ** boxy) ** (2 / boxy)
    bar: Doubles = np.clip(1 - m, 0, None) ** 1.0 + 1e-12
    return bar


def _knots(light: Doubles, x: Doubles, y: Doubles, size: float, rng: Rng) -> Doubles:
    """Star-forming knots: Gaussian spots drawn where a map has light."""
    count = int(rng.integers(10, 36))
    places = rng.choice(light.size, count, p=(light / light.sum()).ravel())
    return _spots(x, y, x.ravel()[places], y.ravel()[places], size, rng)


def _spots(x: Doubles, y: Doubles, xs: Doubles, ys: Doubles, size: float, rng: Rng) -> Doubles:
    """Gaussian spots of log-normal fluxes and widths at the places (xs, ys), on a map."""
    line_x, line_y = x[0], y[:, 0]
    width = size * np.exp(rng.normal(0, 0.3, len(xs)))
    flux = np.exp(rng.normal(0, 0.6, len(xs)))
    across = np.exp(-0.5 * ((line_x[:, None] - xs) / width) ** 2)
    up = np.exp(-0.5 * ((line_y[:, None] - ys) / width) ** 2)
    # einsum without BLAS: the same bytes on every machine and thread count
    spots: Doubles = np.einsum("yk,xk->yx", up * (flux / width**2), across, optimize=False)
    return spots + 1e-12


def edge_on(member: Member, rng: Rng) -> list[Part]:
    """A disc from the side, (R/h) K1(R/h) sech^2(z/z0) (van der Kruit & Searle 1981)."""
    h = member.r_e / 1.3
    half = 4.8 * h
    x, z = plane(half)
    height = h * member.axis_ratio * rng.uniform(0.75, 1.0)
    run = np.maximum(np.abs(x) / h, 1e-3)
    disc = run * k1(run) / np.cosh(np.clip(z / height, -50, 50)) ** 2 * (run < 4.6)
    bulge = rng.uniform(0.03, 0.3) if rng.uniform() < 0.8 else 0.0
    parts = []
    if rng.uniform() < 0.45:
        depth, tilt = rng.uniform(0.5, 0.85), rng.uniform(-0.25, 0.25) * height
        lane = np.exp(-0.5 * ((z - tilt) / (0.3 * height)) ** 2) * (run < 3.2)
        parts.append(Part(drawn_map(disc * (1 - depth * lane), half), 1 - bulge, 0.0))
    else:
        parts.append(Part(drawn_map(disc, half), 1 - bulge, 0.0))
    if bulge:
        parts.append(
            Part(sersic(rng.uniform(1.5, 3.5), h * rng.uniform(0.2, 0.4), 0.8), bulge, 0.2)
        )
    return parts


def irregular(member: Member, rng: Rng) -> list[Part]:
    """A faint lopsided body and clumps of young stars strewn about it."""
    h = member.r_e / 1.3
    half = 4.0 * h
    x, y = plane(half, member.axis_ratio)
    lean = 1 + 0.7 * np.tanh((x * rng.normal(0, 1) + y * rng.normal(0, 1)) / (2 * h))
    body = np.exp(-((np.hypot(x, y) / (1.5 * h)) ** 1.6)) * np.clip(lean, 0.1, None)
    count = int(rng.integers(5, 15))
    where_x = rng.normal(rng.normal(0, 0.5 * h), 0.85 * h, count)
    where_y = rng.normal(rng.normal(0, 0.5 * h), 0.85 * h, count)
    clumps = _spots(x, y, where_x, where_y, 0.24 * h, rng)
    share = rng.uniform(0.35, 0.6)
    knots = galsim.RandomKnots(
        40, half_light_radius=member.r_e, rng=galsim.BaseDeviate(int(rng.integers(1, 2**31)))
    )
    return [
        Part(drawn_map(body, half), 0.9 - share, 0.08),
        Part(drawn_map(clumps, half), share, -0.08),
        Part(stretched(knots, 1, member.axis_ratio).withGSParams(COARSE), 0.1, -0.2),
    ]


def merger(member: Member, rng: Rng) -> list[Part]:
    """Two disturbed bodies with tails from each and a bridge between them."""
    r_e = member.r_e * 0.62
    apart = member.r_e * rng.uniform(0.9, 1.7)
    share = rng.uniform(0.25, 0.5)  # of the lesser body
    half = 3.2 * member.r_e + 0.5 * apart
    x, y = plane(half)
    ends = (-apart * share, apart * (1 - share))
    light = np.zeros_like(x) + 1e-12
    for end, sense in zip(ends, rng.choice([-1, 1], 2), strict=True):
        light += _tail(x - end, y, math.copysign(1, end), sense, member.r_e, rng)
    bridge = np.exp(-0.5 * (y / (0.25 * member.r_e)) ** 2) * ((x > ends[0]) & (x < ends[1]))
    light += 0.6 * bridge * light.sum() / bridge.sum()
    tails = rng.uniform(0.22, 0.4)
    parts = [Part(drawn_map(light, half), tails, -0.1)]
    for end, weight in zip(ends, (1 - share, share), strict=True):
        body = sersic(rng.uniform(1, 3), r_e * math.sqrt(weight * 2), rng.uniform(0.45, 0.9))
        turned = body.rotate(rng.uniform(0, math.pi) * galsim.radians)
        parts.append(Part(turned.shift(end, 0), (1 - tails) * weight, rng.normal(0.05, 0.08)))
    return parts


def _tail(x: Doubles, y: Doubles, away: float, sense: int, scale: float, rng: Rng) -> Doubles:
    """A tidal tail: an arc that leaves a body away from the other one, fading along its length."""
    length = scale * rng.uniform(1.8, 3.0)
    along = np.linspace(0, 1, 40)
    bend = rng.uniform(0.6, 1.8) * sense
    heading = np.cumsum(bend * np.gradient(along))
    step = length * np.gradient(along)
    xs, ys = np.cumsum(step * np.cos(heading)) * away, np.cumsum(step * np.sin(heading))
    width = scale * (0.16 + 0.12 * along)
    weight = np.exp(-1.4 * along)
    line_x, line_y = x[0], y[:, 0]
    across = np.exp(-0.5 * ((line_x[:, None] - xs) / width) ** 2)
    up = np.exp(-0.5 * ((line_y[:, None] - ys) / width) ** 2)
    tail: Doubles = np.einsum("yk,xk->yx", up * (weight / width**2), across, optimize=False)
    tail /= tail.sum()
    return tail


def star(member: Member, rng: Rng) -> list[Part]:
    return [Part(galsim.DeltaFunction(gsparams=COARSE), 1.0)]


FORMS: dict[str, Callable[[Member, Rng], list[Part]]] = {
    "elliptical": elliptical,
    "spiral": spiral,
    "barred": barred,
    "edge_on": edge_on,
    "irregular": irregular,
    "merger": merger,
    "star": star,
}
