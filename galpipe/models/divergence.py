"""How far posteriors of a latent space are from its prior, weighed by β."""

from __future__ import annotations

import torch
from torch import Tensor


def per_dimension(mean_BJ: Tensor, log_variance_BJ: Tensor) -> Tensor:
    """KL(q(z_j|x) || N(0, 1)) of every latent dimension in nats, (B, J)."""
    return -0.5 * (1 + log_variance_BJ - mean_BJ**2 - torch.exp(log_variance_BJ))


def weighed(divergence_BJ: Tensor, beta: float | tuple[float, ...]) -> Tensor:
    """The sum over latent dimensions of β times their divergence, (B,)."""
    if isinstance(beta, tuple):
        return divergence_BJ @ divergence_BJ.new_tensor(beta)
    return beta * divergence_BJ.sum(1)


def covariance(mean_BJ: Tensor, standard_BK: Tensor) -> Tensor:
    """The squared covariances of latent means and conditions over a batch, summed, a number.

    The cross-covariance penalty of Cheung et al. 2015 (ICLR workshop, XCov; theirs is half of it).
    """
    mean, given = mean_BJ - mean_BJ.mean(0), standard_BK - standard_BK.mean(0)
    return ((mean.T @ given.to(mean.dtype) / len(mean)) ** 2).sum()
