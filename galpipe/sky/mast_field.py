"""A simulated field of ACS/WFC: drizzled mosaics of known truth, and the table of what is in them.

Every exposure is white noise on the camera's own pixels of 0.05 arcsec, about the light and the
sky, and is drizzled (Fruchter & Hook 2002; square kernel, pixfrac 1) onto 0.03 arcsec, so that the
noise of the mosaics is correlated as that of real ones.  Their weight is exposure time.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import galsim
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from galpipe.sky.cache import MANIFEST
from galpipe.sky.galaxies import COARSE, fluxes, form
from galpipe.sky.mast_camera import (
    EXPOSURE,
    EXPOSURES,
    FILTERS,
    NATIVE,
    PIXEL,
    field_wcs,
    name_of,
    product,
    sky_of,
    zero_point,
)
from galpipe.sky.mast_spec import FieldSpec
from galpipe.sky.population import Member
from galpipe.sky.scene import add
from galpipe.sky.spec import Kind
from galpipe.spec import identity
from galpipe.workspace import write_json

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]

READ_NOISE = 4.0  # electrons
GAP = 24  # native pixels without light between the two chips
COLOURS = {"F606W": "g", "F814W": "i"}  # whose forms are drawn
CELL = 7.5  # arcsec: one object in each
STAR_SHARE = 0.1
KINDS: tuple[tuple[Kind, float], ...] = (
    ("elliptical", 0.28), ("spiral", 0.3), ("barred", 0.12), ("edge_on", 0.14),
    ("irregular", 0.1), ("merger", 0.06),
)  # fmt: skip


def draw_field(spec: FieldSpec, folder: Path) -> None:
    """Draw the mosaics and their table into a folder; the manifest, written last, commits it."""
    folder.mkdir(parents=True)
    inhabitants = members(spec)
    for filter in FILTERS:
        light = _light(spec, inhabitants, filter)
        science, weight = drizzled(light, filter, (spec.seed, 7, list(FILTERS).index(filter)))
        _write(folder / name_of(filter), filter, science, weight)
    rows = [_row(member) for member in inhabitants]
    write_json(folder / "objects.json", rows)
    write_json(folder / MANIFEST, {"spec": identity(spec), "objects": len(rows)})


def members(spec: FieldSpec) -> list[Member]:
    """What is in the field: one object in each cell, each of a stream of its own."""
    cells = int(spec.side * PIXEL / CELL)
    inset = (spec.side - cells * CELL / PIXEL) / 2
    found = []
    for number in range(cells * cells):
        seed = (spec.seed, 8, number)
        rng = np.random.default_rng(seed)
        row, column = divmod(number, cells)
        place = (np.array([column, row]) + 0.5 + rng.uniform(-0.15, 0.15, 2)) * CELL / PIXEL
        found.append(_member(spec, number, place + inset, seed, rng))
    return found


def _member(
    spec: FieldSpec,
    number: int,
    place: Doubles,
    seed: tuple[int, ...],
    rng: np.random.Generator,
) -> Member:
    kinds, shares = zip(*KINDS, strict=True)
    star = rng.uniform() < STAR_SHARE
    kind: Kind = "star" if star else kinds[int(rng.choice(len(kinds), p=np.array(shares)))]
    magnitude = float(rng.uniform(18.5, 22.0) if star else 23.3 - rng.exponential(1.1))
    inclination = float(np.degrees(np.arccos(rng.uniform(0.4, 1.0))))
    if kind == "edge_on":
        inclination = float(rng.uniform(83, 90))
    flat = math.sqrt(math.cos(math.radians(inclination)) ** 2 * 0.96 + 0.04)
    ra, dec = sky_of(spec.side, place[0], place[1])
    return Member(
        number=number + 1, kind=kind, x=float(place[0]), y=float(place[1]),
        ra=ra, dec=dec, magnitude=max(magnitude, 18.5),
        g_r=float(rng.uniform(0.2, 1.0)), r_i=float(rng.uniform(0.1, 0.5)),
        r_e=0.0 if star else float(np.clip(np.exp(rng.normal(math.log(0.42), 0.35)), 0.18, 0.8)),
        axis_ratio=1.0 if star else (float(rng.uniform(0.45, 1)) if kind == "elliptical" else flat),
        inclination=inclination, position_angle=float(rng.uniform(0, 180)), companion=False,
        redshift=0.0 if star else float(rng.gamma(4, 0.18)), seed=seed,
    )  # fmt: skip


def _light(spec: FieldSpec, inhabitants: list[Member], filter: str) -> Doubles:
    """The light of the field in e-/s per pixel, seen through the telescope, without sky."""
    _, width, photflam, photplam = FILTERS[filter]
    spread = galsim.Moffat(beta=3.0, fwhm=width, gsparams=COARSE)
    electrons = 10 ** (0.4 * (zero_point(photflam, photplam) - 22.5))  # per nanomaggy
    light = np.zeros((spec.side, spec.side), np.float32)
    for member in inhabitants:
        parts = form(member)
        flux = fluxes(parts, member.magnitudes)["gri".index(COLOURS[filter])] * electrons
        whole = galsim.Sum(
            [part.profile * float(share) for part, share in zip(parts, flux, strict=True)]
        )
        turned = whole.rotate((member.position_angle + 90) * galsim.degrees)
        reach = 6.55 if member.kind == "elliptical" else 4.2
        size = 2 * math.ceil((reach * member.r_e + 1.5) / PIXEL)
        left, low = round(member.x - size / 2), round(member.y - size / 2)
        middle = (size - 1) / 2
        stamp = galsim.Convolve(turned, spread, gsparams=COARSE).drawImage(
            nx=size, ny=size, scale=PIXEL, dtype=np.float32,
            offset=(member.x - left - middle, member.y - low - middle),
        )  # fmt: skip
        add(light, np.maximum(stamp.array, 0), left, low)
    return light.astype(np.float64)


def overlaps(out: int, shift: float) -> Any:
    """Lengths, in native pixels, that `out` mosaic pixels and the native ones share: (out, in).

    The first mosaic pixel begins `shift` native pixels after the first native one.
    """
    step = PIXEL / NATIVE
    native = math.ceil(shift + out * step) + 1
    begin = shift + step * np.arange(out)
    first = np.floor(begin).astype(int)
    share = np.minimum(first + 1 - begin, step)
    rows = np.concatenate([np.arange(out), np.arange(out)])
    columns = np.concatenate([first, first + 1])
    values = np.concatenate([share, step - share])
    return sparse.csr_matrix((values, (rows, columns)), shape=(out, native))


def drizzled(light: Doubles, filter: str, seed: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Science (e-/s per pixel) and weight (seconds) of dithered exposures of some light.

    Pixels that no exposure saw have weight 0 and science 0.
    """
    sky = FILTERS[filter][0]
    out = len(light)
    step = PIXEL / NATIVE
    total = np.zeros((out, out))
    weight = np.zeros((out, out))
    for number in range(EXPOSURES):
        rng = np.random.default_rng([*seed, number])
        across = overlaps(out, float(rng.uniform()))
        up = overlaps(out, float(rng.uniform()))
        # The share of each mosaic pixel's light that falls on a native one, and back.
        seen = (up.T / step) @ light @ (across / step)
        counts = (np.maximum(seen, 0) + sky) * EXPOSURE
        noise = rng.normal(size=seen.shape) * np.sqrt(counts + READ_NOISE**2)
        rate = seen + noise / EXPOSURE
        back = up @ (across @ rate.T).T
        alive = np.ones(up.shape[1])
        gap = len(alive) // 2 + 60 * number
        alive[gap : gap + GAP] = 0
        time = EXPOSURE * np.rint((up @ alive) / step)[:, None] * np.ones(out)
        total += time * back
        weight += time
    corner = np.add.outer(np.arange(out), np.arange(out)) < out // 12  # no exposure reaches it
    weight[corner] = 0
    science = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    return science.astype(np.float32), weight.astype(np.float32)


def _write(path: Path, filter: str, science: Floats, weight: Floats) -> None:
    product(filter, science, weight, field_wcs(len(science))).writeto(path)


def _row(member: Member) -> dict[str, Any]:
    """An object as the Hubble Source Catalog has it, with its truth beside it."""
    f606w, _, f814w = member.magnitudes
    return {
        "MatchID": 70_000_000 + member.number, "MatchRA": member.ra, "MatchDec": member.dec,
        "DSigma": 0.3, "AbsCorr": "Y", "NumFilters": 2, "NumVisits": 1, "NumImages": 2 * EXPOSURES,
        "StartMJD": 55856.338, "StopMJD": 55856.371, "CI": 0.9 if member.kind == "star" else 1.6,
        "CI_Sigma": 0.02, "KronRadius": max(2.0 * member.r_e, 0.15), "KronRadius_Sigma": 0.01,
        "Extinction": 0.05, "SpectrumFlag": "N", "TargetName": "GALPIPE-FIELD",
        "A_F606W": f606w, "A_F606W_Sigma": 0.01, "A_F606W_N": EXPOSURES,
        "A_F814W": f814w, "A_F814W_Sigma": 0.01, "A_F814W_N": EXPOSURES,
        "kind": member.kind, "zphot": member.redshift, "r_e": member.r_e,
        "axis_ratio": member.axis_ratio, "x": member.x, "y": member.y,
    }  # fmt: skip
