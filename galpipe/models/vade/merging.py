"""Which components of a mixture are one, and a place of its own for those that are nowhere."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from galpipe.models.vade.components import bhattacharyya
from galpipe.models.vade.initialisation import improve
from galpipe.models.vade.network import Mixture, Posterior

Array = NDArray[np.float64]

EXPECTATION_STEPS = 5  # of expectation-maximisation after components have begun anew


def heads(weights_C: Array, means_CJ: Array, variances_CJ: Array, limit: float) -> tuple[int, ...]:
    """For each component of a diagonal mixture the one it is counted to; heads are their own.

    The two that overlap most become one Gaussian of the same moments, again and again, until no
    overlap reaches `limit` (Hennig 2010, the Bhattacharyya distance method).  The head is the
    heavier one of each two.
    """
    weights, means, variances = weights_C.copy(), means_CJ.copy(), variances_CJ.copy()
    head = np.arange(len(weights))
    left = list(range(len(weights)))
    while len(left) > 1:
        overlap = bhattacharyya(means[left], variances[left])
        np.fill_diagonal(overlap, 0)
        first, second = (left[int(k)] for k in np.unravel_index(overlap.argmax(), overlap.shape))
        if overlap.max() < limit:
            break
        kept, gone = (first, second) if weights[first] >= weights[second] else (second, first)
        share = np.array([weights[kept], weights[gone]]) / (weights[kept] + weights[gone])
        centre = share[0] * means[kept] + share[1] * means[gone]
        second_moment = share[0] * (variances[kept] + means[kept] ** 2)
        second_moment += share[1] * (variances[gone] + means[gone] ** 2)
        weights[kept] += weights[gone]
        means[kept], variances[kept] = centre, second_moment - centre**2
        head[head == gone] = kept
        left.remove(gone)
    return tuple(int(k) for k in head)


def of_mixture(mixture: Mixture, limit: float | None) -> tuple[int, ...]:
    """The heads of a network's own mixture; without a limit every component is its own."""
    if limit is None:
        return tuple(range(len(mixture.logits_C)))
    with torch.no_grad():
        weights = mixture.weights().double().cpu().numpy()
        means = mixture.means_CJ.double().cpu().numpy()
        variances = np.exp(mixture.bounded_log_variances().double().cpu().numpy())
    return heads(weights, means, variances, limit)


def reseed(mixture: Mixture, posterior: Posterior, least: float) -> list[int]:
    """Give dead components a place: which ones, in order.  `posterior` are (N, J), on the CPU.

    Dead is one with less than `least` of an equal share of the objects.  The heaviest component is
    cut at its mean along its widest axis; the dead one becomes one of the halves (compare the
    splits of Ueda et al. 2000).  A few steps of expectation-maximisation follow.
    """
    device = mixture.logits_C.device
    on_device = Posterior(*(values.to(device) for values in posterior))

    @torch.no_grad()
    def responsibilities() -> torch.Tensor:
        return torch.softmax(mixture.log_joint(*on_device), 1).double().cpu()

    responsibility = responsibilities()
    occupancy = responsibility.mean(0)
    dead = [int(c) for c in torch.nonzero(occupancy < least / len(occupancy)).flatten()]
    for one in dead:
        _split(mixture, occupancy, one)
    if dead:
        variances = torch.exp(posterior.log_variance.double())
        responsibility = responsibilities()
        for _ in range(EXPECTATION_STEPS):
            responsibility, _ = improve(mixture, posterior.mean.double(), variances, responsibility)
    return dead


@torch.no_grad()
def _split(mixture: Mixture, occupancy: torch.Tensor, dead: int) -> None:
    """Two halves of the heaviest component's Gaussian, each with the moments of a half."""
    heavy = int(occupancy.argmax())
    log_variances = mixture.bounded_log_variances()[heavy].clone()
    widest = int(log_variances.argmax())
    away = torch.exp(0.5 * log_variances[widest]) * (2 / np.pi) ** 0.5
    log_variances[widest] += float(np.log(1 - 2 / np.pi))
    logit = torch.logsumexp(mixture.logits_C[[heavy, dead]], 0) - float(np.log(2))
    centre = mixture.means_CJ[heavy].clone()
    for component, sign in ((heavy, -1), (dead, 1)):
        mixture.logits_C[component] = logit
        mixture.means_CJ[component] = centre
        mixture.means_CJ[component, widest] += sign * away
        mixture.log_variances_CJ[component] = log_variances
    occupancy[dead] = occupancy[heavy] = (occupancy[heavy] + occupancy[dead]) / 2
