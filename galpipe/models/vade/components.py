"""The health of a mixture: how many components it really has, which are dead or doubled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from galpipe.models import alarms
from galpipe.models.vade.mixture import Mixture

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Health:
    """What the components of a mixture are worth, judged on given objects."""

    occupancy: Array  # mean responsibility, sums to 1
    overlap: Array  # Bhattacharyya coefficient of each pair, 1 on the diagonal
    occupied: float  # exp of the entropy of the occupancy: an even spread gives C
    effective: float  # the same with each component counted by how distinct it is
    dead: tuple[int, ...]
    duplicates: tuple[tuple[int, int], ...]

    def alarms(self) -> list[str]:
        """What is to be said; empty where all is well."""
        dead = {f"component {c}": f"occupancy {self.occupancy[c]:.4f}" for c in self.dead}
        pairs = [
            (f"component {a}", f"component {b}", float(self.overlap[a, b]))
            for a, b in self.duplicates
        ]
        return alarms.of_dead(dead, len(self.occupancy)) + alarms.of_duplicates(pairs)


def bhattacharyya(means_CJ: Array, covariances_CJJ: Array) -> Array:
    """Bhattacharyya coefficients of Gaussians, (C, C) in 0..1 (Bhattacharyya 1943)."""
    between = 0.5 * (covariances_CJJ[:, None] + covariances_CJJ[None])
    away = means_CJ[:, None] - means_CJ[None]
    apart = (away * np.linalg.solve(between, away[..., None])[..., 0]).sum(2)
    own = np.linalg.slogdet(covariances_CJJ)[1]
    unlike = np.linalg.slogdet(between)[1] - 0.5 * (own[:, None] + own[None])
    return np.asarray(np.exp(-(0.125 * apart + 0.5 * unlike)))


def health(
    mixture: Mixture,
    responsibilities_NC: Array,
    overlap_alarm: float,
    occupancy_alarm: float,
    heads: tuple[int, ...] | None = None,
) -> Health:
    """Judge a mixture on the responsibilities of objects, (N, C).

    `heads` say which component each is counted to: the others are neither dead nor duplicates.

    `effective` is the similarity-sensitive diversity exp(-sum_c p_c log sum_d overlap_cd p_d)
    (Leinster & Cobbold 2012, order 1): two identical components count as one.
    """
    with torch.no_grad():
        means = mixture.means_CJ.double().cpu().numpy()
    occupancy = np.asarray(responsibilities_NC, np.float64).mean(0)
    overlap = bhattacharyya(means, mixture.covariances().numpy())
    count = len(occupancy)
    own = list(range(count)) if heads is None else sorted(set(heads))
    share = np.clip(occupancy, 1e-300, None)
    pairs = [(a, b) for a in own for b in own if b > a and overlap[a, b] >= overlap_alarm]
    return Health(
        occupancy=occupancy,
        overlap=overlap,
        occupied=float(np.exp(-(occupancy * np.log(share)).sum())),
        effective=float(np.exp(-(occupancy * np.log(overlap @ share)).sum())),
        dead=tuple(int(c) for c in own if occupancy[c] < occupancy_alarm / count),
        duplicates=tuple(pairs),
    )
