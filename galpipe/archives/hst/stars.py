"""The stars of a piece of sky by which its point-spread function is told.

Stars are the objects of one size whatever their brightness: on a diagram of half-light radius and
magnitude they lie on a level line, below which there is nothing and above which galaxies scatter
(Bertin 2011, ASP Conf. 442, 435).  A star that was saturated lies off it, being wide for its light
and blunt.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import NDArray
from scipy.spatial import KDTree

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

SIDE = 51  # pixels of a point-spread function
PAD = 4  # pixels around it that the shifting of a star to the middle needs
APERTURE = 0.5  # arcsec, in which a star's light is measured
ALONE = 1.0  # arcsec around a star without anything brighter than FAINT of its light
FAINT = 0.01
ROUND = 0.85  # least ratio of axes
CLEAR = 50.0  # least signal to noise within the aperture
SMALLEST, LARGEST = 0.025, 0.2  # arcsec: half-light radii that a star can have
NARROW = 0.06  # relative width of the line of stars, at first
BLUNT = 0.15  # by how much the share of light in the peak may differ from that of the others
FEWEST = 5  # stars that make a point-spread function
DETECTION = 5.0  # sigma
PIXELS = 4_000_000  # of detected objects that are held at once


@dataclass(frozen=True)
class Candidate:
    """A lonely round object: its light (electrons/s), half-light radius (arcsec), share of light
    in the brightest pixel, and its pixels, (SIDE + 2 PAD) square, with its middle in them (x, y).
    """

    light: float
    radius: float
    peak: float
    pixels: Floats
    x: float
    y: float


def candidates(pixels: Floats, pixel_scale: float) -> list[Candidate]:
    """The lonely round objects of an image (y, x) in electrons per second.

    pixel_scale: arcsec.  Pixels that are NaN or just 0 count as not seen.  None are found where the
    image is so crowded that objects cannot be told apart.
    """
    seen = np.isfinite(pixels) & (pixels != 0)
    side = SIDE + 2 * PAD
    if seen.sum() < side * side or min(pixels.shape) < side:
        return []
    image = np.where(seen, pixels, 0).astype(np.float32)
    background = sep.Background(image, mask=~seen, bw=128, bh=128)
    image -= background.back(dtype=np.float32)
    image[~seen] = 0
    noise = float(background.globalrms)
    if not noise > 0:
        return []
    before = sep.get_extract_pixstack()
    sep.set_extract_pixstack(PIXELS)
    try:
        found = sep.extract(image, DETECTION, err=noise, mask=~seen, minarea=9, deblend_cont=0.005)
    except Exception:  # sep raises a bare Exception where its room is full
        return []
    finally:
        sep.set_extract_pixstack(before)
    x, y = found["x"], found["y"]
    if not len(x):
        return []
    aperture = APERTURE / pixel_scale
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        light, _, _ = sep.sum_circle(image, x, y, aperture, mask=~seen)
        radius, _ = sep.flux_radius(
            image, x, y, np.full(len(x), 2 * aperture), 0.5, normflux=light, subpix=5
        )
    good = (found["flag"] == 0) & (found["b"] > ROUND * found["a"]) & np.isfinite(radius)
    good &= light > CLEAR * noise * np.sqrt(np.pi) * aperture
    middle = side // 2
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    ny, nx = pixels.shape
    good &= (column >= middle) & (row >= middle) & (column < nx - middle) & (row < ny - middle)
    tree = KDTree(np.stack([x, y], axis=1))
    chosen = []
    for n in np.flatnonzero(good):
        near = tree.query_ball_point((x[n], y[n]), ALONE / pixel_scale)
        left, low = column[n] - middle, row[n] - middle
        box = np.s_[low : low + side, left : left + side]
        if any(found["flux"][m] > FAINT * light[n] for m in near if m != n) or not seen[box].all():
            continue
        cut = image[box].copy()
        wx, wy, bad = sep.winpos(cut, [x[n] - left], [y[n] - low], [radius[n] / 1.1775])
        if not bad[0]:
            chosen.append(
                Candidate(
                    float(light[n]), float(radius[n]) * pixel_scale, float(cut.max() / light[n]),
                    cut, float(wx[0]), float(wy[0]),
                )
            )  # fmt: skip
    return chosen


def stars_of(found: Sequence[Candidate]) -> list[Candidate]:
    """The stars among candidates, brightest first; none where there are fewer than five.

    The line of stars is the narrow range of sizes at the small end where at least five lie and at
    least half as many as in the fullest range; from it those are kept that are as wide as its
    middle, within three times the scatter, and as peaked.
    """
    there = [one for one in found if SMALLEST <= one.radius <= LARGEST]
    if len(there) < FEWEST:
        return []
    radius = np.array([one.radius for one in there])
    ordered = np.sort(radius)
    counts = np.searchsorted(ordered, ordered * (1 + NARROW), side="right") - np.arange(len(there))
    enough = np.flatnonzero((counts >= FEWEST) & (counts >= counts.max() / 2))
    if not len(enough):
        return []
    line = ordered[enough[0] : enough[0] + counts[enough[0]]]
    level = float(np.median(line))
    scatter = max(1.4826 * float(np.median(np.abs(line - level))), 0.01 * level)
    kept = [one for one in there if abs(one.radius - level) <= 3 * scatter]
    peak = float(np.median([one.peak for one in kept]))
    kept = [one for one in kept if abs(one.peak / peak - 1) <= BLUNT]
    kept.sort(key=lambda one: -one.light)
    return kept if len(kept) >= FEWEST else []
