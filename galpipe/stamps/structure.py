"""Departures from a smooth ellipse, and colours: columns beside the classical ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

RINGS = ((0.15, 0.4), (0.4, 0.7), (0.7, 1.0))  # of the Fourier amplitudes, in Petrosian radii


def structure(
    flat: Floats,
    major: Floats,
    stretch: Floats,
    ellipse: Floats,
    semimajor: Doubles,
    a90: Doubles,
    scatter: Doubles,
) -> dict[str, Doubles]:
    """Departures from the mean elliptical profile, over the light: arms, bars, rings' clumps.

    structure: sum |I - mean(ellipse)| less the noise's sqrt(2/pi) sigma, between 0.15 and 1
    Petrosian semi-major axes.  bisymmetry: |sum I exp(2 i phi)| / sum I in rings of the
    deprojected polar angle phi.  isophote_twist: the part of it that is odd about the major axis.
    """
    count = len(flat)
    limit = np.nan_to_num(semimajor).astype(np.float32)[:, None]
    residual = flat - _mean_profile(flat, np.minimum(ellipse, 2 * limit + 2))
    region = (ellipse > 0.15 * limit) & (ellipse <= limit)
    light = np.where(ellipse <= limit, flat, 0).sum(axis=1, dtype=np.float64)
    light = np.where(light > 0, light, np.nan)
    off = np.where(region, np.abs(residual), 0).sum(axis=1, dtype=np.float64)
    off -= region.sum(axis=1) * scatter * np.sqrt(2 / np.pi)
    square = np.maximum(ellipse, np.float32(1e-3)) ** 2
    even = (major * major - stretch * stretch) / square
    odd = 2 * major * stretch / square
    found = {"structure": off / light}
    twist = np.zeros(count)
    for name, (low, high) in zip(("inner", "middle", "outer"), RINGS, strict=True):
        ring = np.where((ellipse > low * limit) & (ellipse <= high * limit), residual, 0)
        c = (ring * even).sum(axis=1, dtype=np.float64) / light
        s = (ring * odd).sum(axis=1, dtype=np.float64) / light
        found[f"bisymmetry_{name}"] = np.hypot(c, s)
        twist += s**2
    found["isophote_twist"] = np.sqrt(twist) + 0 * light
    return found


def _mean_profile(flat: Floats, radius: Floats) -> Floats:
    """The mean at each pixel's radius: means of rings one pixel wide, joined linearly."""
    count = len(flat)
    ring = radius.astype(np.int64)
    width = int(ring.max(initial=0)) + 3
    offset = np.arange(count)[:, None] * width
    index = (ring + 1 + offset).ravel()
    number = np.bincount(index, minlength=count * width).reshape(count, width)
    total = np.bincount(index, flat.ravel(), count * width).reshape(count, width)
    mean = total / np.maximum(number, 1)
    mean[:, 0] = mean[:, 1]
    mean[:, -1] = mean[:, -2]
    mean = np.where(number > 0, mean, 0).astype(np.float32)
    mean[:, 0] = mean[:, 1]
    place = radius + np.float32(0.5)
    low = place.astype(np.int64)
    part = place - low
    means = mean.ravel()
    at = low + offset
    profile: Floats = means[at] * (1 - part) + means[at + 1] * part
    return profile


def colours(
    bands: Floats,
    names: Sequence[str],
    ellipse: Floats,
    a50: Doubles,
    a90: Doubles,
) -> dict[str, Doubles]:
    """Colours within the ellipse of 90 % of the light, and outer minus inner, in magnitudes."""
    inner = ellipse <= np.nan_to_num(a50).astype(np.float32)[:, None]
    whole = ellipse <= np.nan_to_num(a90).astype(np.float32)[:, None]
    flux: dict[str, list[Doubles]] = {"inner": [], "whole": []}
    for k in range(len(names)):
        plane = bands[:, k].reshape(len(bands), -1)
        flux["inner"].append(np.where(inner, plane, 0).sum(axis=1, dtype=np.float64))
        flux["whole"].append(np.where(whole, plane, 0).sum(axis=1, dtype=np.float64))
    found = {}
    for k, (a, b) in enumerate(pairwise(names)):
        found[f"colour_{a}_{b}"] = _magnitude(flux["whole"][k], flux["whole"][k + 1])
        outer_a = flux["whole"][k] - flux["inner"][k]
        outer_b = flux["whole"][k + 1] - flux["inner"][k + 1]
        inside = _magnitude(flux["inner"][k], flux["inner"][k + 1])
        found[f"colour_gradient_{a}_{b}"] = _magnitude(outer_a, outer_b) - inside
    return found


def _magnitude(a: Doubles, b: Doubles) -> Doubles:
    """-2.5 log10(a / b); NaN where either is not positive."""
    good = (a > 0) & (b > 0)
    return np.where(good, -2.5 * np.log10(np.where(good, a, 1) / np.where(good, b, 1)), np.nan)
