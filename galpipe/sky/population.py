"""Who lives in the sky: kinds, magnitudes, sizes, colours, inclinations, redshifts, places.

The distributions are those of the SDSS main galaxy sample (Strauss et al. 2002, r < 17.77):
magnitudes and redshifts as quantiles of its galaxies, colours as quantiles of those on either
side of u - r = 2.22 (Strateva et al. 2001); sizes after Shen et al. (2003), early types the
smaller; axis ratios of early types as quantiles of Nair & Abraham (2010), T < -3.  Every kind has
the same magnitudes, so that form and not brightness tells them apart; mergers, bars and
irregulars are commoner than in Galaxy Zoo 2 (Willett et al. 2013), so that each can be seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import numpy as np

from galpipe.sky.instrument import COLUMNS, ROWS, Field
from galpipe.sky.spec import Kind, SkySpec

KINDS: tuple[Kind, ...] = get_args(Kind)
GALAXY_SHARES: dict[Kind, float] = {
    "elliptical": 0.28,
    "spiral": 0.25,
    "barred": 0.13,
    "edge_on": 0.15,
    "irregular": 0.10,
    "merger": 0.09,
}
STARS, ARTEFACTS = 0.04, 0.03  # per galaxy
COMPANIONS = 0.12  # of the galaxies have a projected neighbour
NEAR_EDGE = 0.01  # of the objects lie within EDGE pixels of their frame's edge
EDGE = (6.0, 30.0)
OFF_FRAME = 2  # catalogued objects of a sky that lie off their frame

LEVELS = (0.0, 0.02, 0.10, 0.25, 0.50, 0.75, 0.90, 0.98, 1.0)
MAGNITUDE = (13.6, 14.55, 15.55, 16.19, 16.74, 17.27, 17.59, 17.80, 18.0)
REDSHIFT = (0.006, 0.0162, 0.0331, 0.0512, 0.0773, 0.1012, 0.1272, 0.1642, 0.23)
RED = (0.66, 0.712, 0.770, 0.826, 0.896, 0.957, 1.018, 1.117, 1.2)  # g - r
BLUE = (0.12, 0.169, 0.347, 0.450, 0.566, 0.664, 0.736, 0.802, 0.86)
STAR = {
    "r": (13.8, 14.51, 15.26, 15.99, 16.79, 17.52, 18.06, 18.4, 18.6),
    "g-r": (-0.4, -0.32, 0.07, 0.29, 0.42, 0.56, 0.66, 0.95, 1.4),
}
EARLY_AXIS_RATIO = (0.45, 0.53, 0.62, 0.70, 0.786, 0.868, 0.929, 0.970, 1.0)
RED_SHARE = {  # of each kind, the share with colours of the red half
    "elliptical": 0.75,
    "spiral": 0.42,
    "barred": 0.50,
    "edge_on": 0.50,
    "irregular": 0.20,
    "merger": 0.40,
}
GRID = (12, 9)  # cells of a field, columns and rows; at most one object in each
INSET = 85.0  # pixels between the cells and the frame's edges: most stamps are wholly covered
OBJECT, LAYOUT, ROLL = 2, 3, 4  # streams of random numbers


@dataclass(frozen=True)
class Member:
    """One catalogued object: what it is and where, before it is drawn.

    x, y: pixels of the r frame, counted from 0; magnitude: r of all its light, through the Galaxy's
    dust; r_e: arcsec, half-light, along the major axis; position_angle: degrees E of
    N; inclination: degrees, nan where a form has none.
    """

    number: int
    kind: Kind
    x: float
    y: float
    ra: float
    dec: float
    magnitude: float
    g_r: float
    r_i: float
    r_e: float
    axis_ratio: float
    inclination: float
    position_angle: float
    companion: bool
    redshift: float
    seed: tuple[int, ...]

    @property
    def magnitudes(self) -> tuple[float, float, float]:
        """g, r, i."""
        return self.magnitude + self.g_r, self.magnitude, self.magnitude - self.r_i


def roll(spec: SkySpec) -> list[Kind]:
    """The kinds of all objects of a sky, in the order of its fields."""
    kinds: list[Kind] = []
    shares = list(GALAXY_SHARES.items())
    edges = np.round(np.cumsum([share for _, share in shares]) * spec.galaxies).astype(int)
    for (kind, _), count in zip(shares, np.diff(edges, prepend=0), strict=True):
        kinds += [kind] * int(count)
    kinds += ["star"] * math.ceil(STARS * spec.galaxies)
    kinds += ["artefact"] * math.ceil(ARTEFACTS * spec.galaxies)
    order = np.random.default_rng([spec.seed, ROLL]).permutation(len(kinds))
    return [kinds[i] for i in order]


def fields_of(spec: SkySpec) -> int:
    """How many fields the sky takes."""
    return math.ceil(len(roll(spec)) / spec.per_field)


def members(spec: SkySpec, field: Field) -> list[Member]:
    """The catalogued objects of one field, each from a stream of random numbers of its own."""
    kinds = roll(spec)
    first = field.index * spec.per_field
    mine = kinds[first : first + spec.per_field]
    rng = np.random.default_rng([spec.seed, LAYOUT, field.index])
    cells = rng.permutation(GRID[0] * GRID[1])[: len(mine)]
    found = []
    for number, (kind, cell) in enumerate(zip(mine, cells, strict=True), start=1):
        seed = (spec.seed, OBJECT, field.index, number)
        own = np.random.default_rng(seed)
        off = field.index == 0 and number <= OFF_FRAME
        x, y = _place(int(cell), kind, off, own)
        found.append(_member(number, kind, x, y, field, seed, own))
    return found


def _place(cell: int, kind: Kind, off: bool, rng: np.random.Generator) -> tuple[float, float]:
    """Pixels of the r frame: within the cell, near an edge of the frame, or off it."""
    wide, high = (COLUMNS - 2 * INSET) / GRID[0], (ROWS - 2 * INSET) / GRID[1]
    column, row = cell % GRID[0], cell // GRID[0]
    x = INSET + (column + 0.5 + rng.uniform(-0.16, 0.16)) * wide - 0.5
    y = INSET + (row + 0.5 + rng.uniform(-0.16, 0.16)) * high - 0.5
    near = rng.uniform() < NEAR_EDGE and kind not in ("star", "artefact")
    inset = -rng.uniform(60, 120) if off else rng.uniform(*EDGE)
    if off or near:
        side = int(rng.integers(4))
        x = (inset, COLUMNS - 1 - inset, x, x)[side]
        y = (y, y, inset, ROWS - 1 - inset)[side]
    return float(x), float(y)


def _member(
    number: int,
    kind: Kind,
    x: float,
    y: float,
    field: Field,
    seed: tuple[int, ...],
    rng: np.random.Generator,
) -> Member:
    ra, dec = field.wcs["r"].sky(x, y)
    level, other, third = rng.uniform(size=3)
    if kind in RED_SHARE:
        red = rng.uniform() < RED_SHARE[kind]
        magnitude, redshift = _at(MAGNITUDE, level), _at(REDSHIFT, 0.35 * level + 0.65 * third)
        g_r = _at(RED if red else BLUE, other)
        slope, floor, scatter = (0.227, 0.230, 0.02) if red else (0.265, 0.187, 0.03)
        r_i = floor + slope * g_r + rng.normal(0, scatter)
    else:
        magnitude, redshift = _at(STAR["r"], level), 0.0
        g_r = _at(STAR["g-r"], other)
        r_i = 0.36 * g_r + rng.normal(0, 0.02)
    axis_ratio, inclination = _shape(kind, rng)
    return Member(
        number=number,
        kind=kind,
        x=x,
        y=y,
        ra=float(ra),
        dec=float(dec),
        magnitude=magnitude,
        g_r=float(g_r),
        r_i=float(r_i),
        r_e=_radius(kind, magnitude, rng),
        axis_ratio=axis_ratio,
        inclination=inclination,
        position_angle=float(rng.uniform(0, 180)),
        companion=bool(kind in RED_SHARE and rng.uniform() < COMPANIONS),
        redshift=redshift,
        seed=seed,
    )


def _at(quantiles: tuple[float, ...], level: float) -> float:
    return float(np.interp(level, LEVELS, quantiles))


def _radius(kind: Kind, magnitude: float, rng: np.random.Generator) -> float:
    """Half-light semi-major axis in arcsec: log-normal about Shen et al. (2003) at z ~ 0.08."""
    if kind in ("star", "artefact"):
        return 0.0
    wider = {"elliptical": -0.20, "spiral": 0.08, "barred": 0.08, "edge_on": 0.10}.get(kind, 0.04)
    mean = 0.54 + wider - 0.11 * (magnitude - 16.5)
    return float(np.clip(10 ** rng.normal(mean, 0.21), 1.4, 10.0))


def _shape(kind: Kind, rng: np.random.Generator) -> tuple[float, float]:
    """Axis ratio and inclination; discs are turned at random within what their kind allows."""
    thickness = 0.2  # of a disc seen from the side (Sandage, Freeman & Stokes 1970)
    if kind in ("star", "artefact"):
        return 1.0, math.nan
    if kind == "elliptical":
        return _at(EARLY_AXIS_RATIO, rng.uniform()), math.nan
    steepest = {"spiral": 0.34, "barred": 0.36, "irregular": 0.3, "merger": 0.3}
    if kind == "edge_on":
        inclination = float(rng.uniform(83, 90))
        return float(rng.uniform(0.13, 0.28)), inclination
    cosine = float(rng.uniform(steepest[kind], 1.0))
    flat = math.sqrt(cosine**2 * (1 - thickness**2) + thickness**2)
    return flat, math.degrees(math.acos(cosine))
