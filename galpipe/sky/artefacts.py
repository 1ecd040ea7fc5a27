"""What is no astronomical object: satellite trails, saturated stars, ghosts of the optics."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from galpipe.sky.instrument import BANDS, FULL_WELL, PIXEL, Field
from galpipe.sky.population import Member

Doubles = NDArray[np.float64]
Rng = np.random.Generator

SIZE = 144  # pixels on a side of an artefact's stamp: it stays within its cell
FORMS = ("trail", "saturated", "ghost")


def artefact(member: Member, field: Field, band: str, x: float, y: float) -> Doubles:
    """The artefact's light in nanomaggies (SIZE, SIZE); x, y: its place on the stamp, pixels."""
    rng = np.random.default_rng((*member.seed, 1))
    form = FORMS[int(rng.integers(len(FORMS)))]
    columns, rows = np.meshgrid(np.arange(SIZE) - x, np.arange(SIZE) - y)
    angle = field.wcs[band].angle(member.position_angle)
    if form == "trail":
        return _trail(columns, rows, angle, BANDS.index(band), rng)
    if form == "saturated":
        return _saturated(columns, rows, field, band, rng)
    return _ghost(columns, rows, member, BANDS.index(band), rng)


def _trail(dx: Doubles, dy: Doubles, angle: float, band: int, rng: Rng) -> Doubles:
    """A satellite's or a meteor's streak; drift scanning catches it in one band alone."""
    caught = int(rng.integers(len(BANDS)))
    width, peak = rng.uniform(1.2, 2.6), 10 ** rng.uniform(-0.4, 0.9)
    tumbling = rng.uniform(0, 0.6) * np.cos(2 * np.pi * rng.uniform() + 0.12 * dx)
    along = dx * math.cos(angle) + dy * math.sin(angle)
    across = dy * math.cos(angle) - dx * math.sin(angle)
    ends = 1 / (1 + np.exp((np.abs(along) - SIZE * rng.uniform(0.36, 0.42)) / 2))
    light: Doubles = peak * np.exp(-0.5 * (across / width) ** 2) * ends * (1 + tumbling)
    return light if band == caught else np.zeros_like(light)


def _saturated(dx: Doubles, dy: Doubles, field: Field, band: str, rng: Rng) -> Doubles:
    """A star beyond the full well: a plateau, a bleed along the column, four spikes, a halo."""
    flux = 10 ** (-0.4 * (rng.uniform(9.2, 11.2) - 22.5))
    colour = (0.6, 1.0, 1.15)[BANDS.index(band)]
    radius = np.hypot(dx, dy)
    scale = field.seeing[band] / PIXEL
    core = (1 + (radius / (0.75 * scale)) ** 2) ** -2.2 / (scale**2 * 1.5)
    halo = 3e-6 * np.exp(-radius / 14)
    turn = rng.uniform(0, math.pi / 2)
    along, across = (
        dx * math.cos(turn) + dy * math.sin(turn),
        dy * math.cos(turn) - dx * math.sin(turn),
    )
    spikes = sum(
        2.5e-5 * np.exp(-np.abs(a) / 16) * np.exp(-0.5 * (b / 0.9) ** 2)
        for a, b in ((along, across), (across, along))
    )
    well = FULL_WELL * field.calibration[band]
    length = rng.uniform(20, 60)
    bleed = well * (np.abs(dx) < 1.6) * np.exp(-((dy / length) ** 8))
    fade = 1 / (1 + np.exp((radius - 0.46 * SIZE) / 2))
    light: Doubles = (colour * flux * (core + halo + spikes) + bleed) * fade
    return light


def _ghost(dx: Doubles, dy: Doubles, member: Member, band: int, rng: Rng) -> Doubles:
    """The image of the pupil in stray light: a disc with the secondary's hole and its vanes."""
    outer = rng.uniform(14, 34)
    hole, turn = rng.uniform(0.3, 0.55), rng.uniform(0, math.pi / 2)
    radius, angle = np.hypot(dx, dy), np.arctan2(dy, dx) - turn
    edge = 1 / (1 + np.exp((radius - outer) / 1.2)) / (1 + np.exp((hole * outer - radius) / 1.2))
    vanes = 1 - 0.6 * np.exp(-0.5 * (radius * np.sin(2 * angle) / 2.5) ** 2)
    lean = 1 + 0.35 * (dx * math.cos(turn) + dy * math.sin(turn)) / outer
    flux = 10 ** (-0.4 * (member.magnitudes[band] - 0.5 - 22.5))
    light: Doubles = edge * vanes * lean
    light *= flux / light.sum()
    return light
