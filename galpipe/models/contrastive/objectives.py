"""How alike two views of the same galaxies are, and how unlike those of others.

Shapes: N galaxies, P numbers of a projection; row n of both arrays is the same galaxy.
"""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor
from torch.nn import functional

from galpipe.models.contrastive.spec import NtXent, Objective, VicReg

SMALLEST = 1e-4  # added to variances, as the paper has it


def objective(spec: Objective, first_NP: Tensor, second_NP: Tensor) -> Tensor:
    """The loss of N pairs, a scalar."""
    match spec:
        case NtXent():
            return nt_xent(first_NP, second_NP, spec.temperature)
        case VicReg():
            return vicreg(first_NP, second_NP, spec)
        case _:
            assert_never(spec)


def nt_xent(first_NP: Tensor, second_NP: Tensor, temperature: float) -> Tensor:
    """Mean of -log p(partner | view) over all 2 N views, nats (Chen et al. 2020, eq. 1).

    p is a softmax of cosines / temperature over the other 2 N - 1 views; by chance it is
    log(2 N - 1).
    """
    views = functional.normalize(torch.cat([first_NP, second_NP]), dim=1)
    scores = views @ views.T / temperature
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    count = len(first_NP)
    partner = torch.arange(2 * count, device=views.device).roll(count)
    return functional.cross_entropy(scores.masked_fill(itself, -torch.inf), partner)


def vicreg(first_NP: Tensor, second_NP: Tensor, spec: VicReg) -> Tensor:
    """Weighted invariance, variance and covariance (Bardes et al. 2022, eq. 6)."""
    loss = spec.invariance * functional.mse_loss(first_NP, second_NP)
    for views in (first_NP, second_NP):
        centred = views - views.mean(0)
        covariance = centred.T @ centred / max(len(views) - 1, 1)
        scatter = torch.sqrt(torch.diagonal(covariance) + SMALLEST)
        between = covariance - torch.diag(torch.diagonal(covariance))
        loss = loss + spec.variance * functional.relu(1 - scatter).mean() / 2
        loss = loss + spec.covariance * (between**2).sum() / views.shape[1]
    return loss


def found_again(first_NP: Tensor, second_NP: Tensor) -> Tensor:
    """For every first view, whether its partner is the nearest of the second ones (by cosine)."""
    cosines = functional.normalize(first_NP, dim=1) @ functional.normalize(second_NP, dim=1).T
    return cosines.argmax(1) == torch.arange(len(cosines), device=cosines.device)
