"""Morphology of stamps, real and generated alike: galpipe's own columns, and statmorph's.

Everything is measured on the stored stamps, stretch and all: the values are those of the pictures,
comparable with one another and not with those of calibrated images.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import statmorph
from numpy.typing import NDArray

from galpipe.stamps.background import level_and_scatter
from galpipe.stamps.pixels import prepare_images
from galpipe.stamps.segmentation import segment
from galpipe.stamps.spec import Annulus, Given, Preparation, Segmentation
from galpipe.status import Status

# Columns by which a classifier tells real from generated: those of the galaxy's own shape.
OWN = (
    "axis_ratio", "semi_major", "r20", "r50", "r80", "petrosian_radius", "concentration",
    "inner_slope", "asymmetry", "smoothness", "gini", "m20", "structure", "bisymmetry_inner",
    "bisymmetry_middle", "bisymmetry_outer", "isophote_twist",
)  # fmt: skip
STATMORPH = {  # Rodriguez-Gomez et al. 2019, and the names they have here
    "rhalf_circ": "half-light radius (pixels)",
    "ellipticity_asymmetry": "ellipticity",
    "concentration": "concentration",
    "asymmetry": "asymmetry",
    "gini": "Gini",
    "m20": "M20",
}
SKY = 0.8  # half-widths of the stamp beyond which the sky's level is taken


class Shape(statmorph.SourceMorphology):  # type: ignore[misc]
    """statmorph's statistics, of which it computes the stated ones and what they need at once."""

    def _calculate_morphology(self) -> None:
        # Its own takes all fifty, and twice as long; each is computed when it is first asked for.
        for name in STATMORPH:
            getattr(self, name)


Floats = NDArray[np.float64]


def measured(stamps: NDArray[Any], unit_scale: float, planes: Sequence[str]) -> NDArray[np.float32]:
    """The measured columns of stamps, (galaxy, column), by the preparation's own code."""
    count, size = len(stamps), stamps.shape[-1]
    side = np.full(count, size, np.int32)
    spec = Preparation(
        size=size,
        background=Annulus(),
        recentre=False,
        align=False,
        colour="bands",
        stretch=Given(scale=unit_scale),
    )
    status = np.full(count, int(Status.OK), np.int32)
    return prepare_images(_plain(stamps), side, side, status, planes, spec).measured


def by_statmorph(stamps: NDArray[Any], unit_scale: float) -> dict[str, Floats]:
    """statmorph's statistics of stamps, each (galaxy,); NaN where it says they are no good."""
    images = _plain(stamps).mean(1, dtype=np.float64).astype(np.float32) / np.float32(unit_scale)
    everywhere = np.ones(images.shape, bool)
    segments = segment(images, everywhere, 1 / unit_scale, Segmentation())
    level, _ = level_and_scatter(images, ~segments.own & ~segments.neighbours, SKY)
    found = {name: np.full(len(images), np.nan) for name in STATMORPH}
    for row in np.flatnonzero(segments.found & np.isfinite(level)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bad fits, which the flag tells as well
            shape = Shape(
                (images[row] - level[row]).astype(np.float64),
                segments.own[row].astype(np.int64),
                1,
                mask=segments.neighbours[row],
                gain=1.0e4,  # enters the uncertainties only
                sersic_maxiter=1,  # the Sersic fit is not asked for
            )
        if shape.flag >= 4:
            continue
        for name in STATMORPH:
            value = float(getattr(shape, name))
            found[name][row] = value if value > -90 else np.nan
    return found


def _plain(stamps: NDArray[Any]) -> NDArray[Any]:
    return stamps if stamps.dtype == np.uint8 else stamps.astype(np.float32)
