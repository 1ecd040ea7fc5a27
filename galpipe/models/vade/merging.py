"""Which components of a mixture are one, and a place of its own for those that are nowhere."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from galpipe.models.vade.components import bhattacharyya
from galpipe.models.vade.initialisation import improve
from galpipe.models.vade.mixture import Mixture
from galpipe.models.vade.network import Posterior

Array = NDArray[np.float64]

EXPECTATION_STEPS = 5  # of expectation-maximisation after components have begun anew


def heads(
    weights_C: Array, means_CJ: Array, covariances_CJJ: Array, limit: float
) -> tuple[int, ...]:
    """For each component of a mixture the one it is counted to; heads are their own.

    The two that overlap most become one Gaussian of the same moments, again and again, until no
    overlap reaches `limit` (Hennig 2010, the Bhattacharyya distance method).  The head is the
    heavier one of each two.
    """
    weights, means, covariances = weights_C.copy(), means_CJ.copy(), covariances_CJJ.copy()
    head = np.arange(len(weights))
    left = list(range(len(weights)))
    while len(left) > 1:
        overlap = bhattacharyya(means[left], covariances[left])
        np.fill_diagonal(overlap, 0)
        first, second = (left[int(k)] for k in np.unravel_index(overlap.argmax(), overlap.shape))
        if overlap.max() < limit:
            break
        kept, gone = (first, second) if weights[first] >= weights[second] else (second, first)
        share = np.array([weights[kept], weights[gone]]) / (weights[kept] + weights[gone])
        away = means[kept] - means[gone]
        together = share[0] * covariances[kept] + share[1] * covariances[gone]
        covariances[kept] = together + share[0] * share[1] * np.outer(away, away)
        means[kept] = share[0] * means[kept] + share[1] * means[gone]
        weights[kept] += weights[gone]
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
    return heads(weights, means, mixture.covariances().numpy(), limit)


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
    logits, means = mixture.logits_C.double().cpu(), mixture.means_CJ.double().cpu()
    covariances = mixture.covariances()
    values, axes = torch.linalg.eigh(covariances[heavy])
    away = axes[:, -1] * (values[-1] * 2 / np.pi).sqrt()
    logit = torch.logsumexp(logits[[heavy, dead]], 0) - float(np.log(2))
    half = covariances[heavy] - torch.outer(away, away)
    centre = means[heavy].clone()
    for component, sign in ((heavy, -1), (dead, 1)):
        logits[component] = logit
        means[component] = centre + sign * away
        covariances[component] = half
    mixture.place(logits, means, covariances)
    occupancy[dead] = occupancy[heavy] = (occupancy[heavy] + occupancy[dead]) / 2
