"""The prior of VaDE: a mixture of Gaussians, diagonal or full.

Shapes: B latent vectors, J latent dimensions, C components.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LOG_2PI = math.log(2 * math.pi)
LARGEST_LOG_VARIANCE = 20.0  # keeps exp() finite on images unlike any seen in training


class Mixture(nn.Module):
    """p(z) = sum_c pi_c N(z; mean_c, covariance_c), with pi = softmax(logits).

    A full covariance is held by its modified Cholesky factors (Pourahmadi 1999): with `turns` T,
    unit lower triangular, T (z - mean) has a diagonal covariance, whose logarithms are
    `log_variances_CJ`.  Any values of the parameters are a covariance, and T = 1 is a diagonal one.
    """

    def __init__(
        self, components: int, latent: int, variance_floor: float, full: bool = False
    ) -> None:
        super().__init__()
        self.logits_C = nn.Parameter(torch.zeros(components))
        self.means_CJ = nn.Parameter(torch.zeros(components, latent))
        self.log_variances_CJ = nn.Parameter(torch.zeros(components, latent))
        self.full = full
        if full:  # of these, what stands below the diagonal
            self.turns_CJJ = nn.Parameter(torch.zeros(components, latent, latent))
        self.floor = math.log(variance_floor)

    def weights(self) -> Tensor:
        """pi, (C,), on the simplex."""
        return torch.softmax(self.logits_C, 0)

    def bounded_log_variances(self) -> Tensor:
        """log sigma^2 with its floor, (C, J)."""
        return self.log_variances_CJ.clamp(self.floor, LARGEST_LOG_VARIANCE)

    def turned(self) -> Tensor:
        """T, (C, J, J)."""
        if not self.full:
            return torch.eye(self.means_CJ.shape[1]).expand(len(self.means_CJ), -1, -1)
        return torch.tril(self.turns_CJJ, -1) + torch.eye(
            self.means_CJ.shape[1], device=self.turns_CJJ.device
        )

    @torch.no_grad()
    def covariances(self) -> Tensor:
        """The covariances in float64, (C, J, J), on the CPU."""
        turned = self.turned().double().cpu()
        identity = torch.eye(turned.shape[1], dtype=torch.float64).expand_as(turned)
        back = torch.linalg.solve_triangular(turned, identity, upper=False, unitriangular=True)
        variances = torch.exp(self.bounded_log_variances().double().cpu())
        found: Tensor = (back * variances[:, None]) @ back.mT
        return found

    @torch.no_grad()
    def place(self, log_weights_C: Tensor, means_CJ: Tensor, covariances_CJJ: Tensor) -> None:
        """Take these values; a diagonal mixture takes the diagonals of the covariances."""
        self.logits_C.copy_(log_weights_C)
        self.means_CJ.copy_(means_CJ)
        if not self.full:
            self.log_variances_CJ.copy_(torch.log(covariances_CJJ.diagonal(dim1=1, dim2=2)))
            return
        factor = torch.linalg.cholesky(covariances_CJJ)
        scatter = factor.diagonal(dim1=1, dim2=2)
        unit = factor / scatter[:, None]
        identity = torch.eye(unit.shape[1], dtype=unit.dtype, device=unit.device)
        self.log_variances_CJ.copy_(2 * torch.log(scatter))
        self.turns_CJJ.copy_(
            torch.linalg.solve_triangular(
                unit, identity.expand_as(unit), upper=False, unitriangular=True
            )
        )

    def drawn(self, components_B: Tensor, noise_BJ: Tensor) -> Tensor:
        """z of given components, (B, J), from standard normal noise."""
        spread = torch.exp(0.5 * self.bounded_log_variances())[components_B] * noise_BJ
        if self.full:
            turned = self.turned()[components_B]
            spread = torch.linalg.solve_triangular(
                turned, spread[:, :, None], upper=False, unitriangular=True
            )[:, :, 0]
        return self.means_CJ[components_B] + spread

    def log_joint(self, latent_BJ: Tensor, log_variance_BJ: Tensor | None = None) -> Tensor:
        """log p(c, z), (B, C); with the variance of q(z|x), its expectation under q(z|x)."""
        log_variances = self.bounded_log_variances()
        precisions = torch.exp(-log_variances)
        away = latent_BJ[:, None, :] - self.means_CJ
        turned = None
        if self.full:
            turned = self.turned().to(latent_BJ.dtype)
            away = torch.einsum("bcj,ckj->bck", away, turned)
        spread = away**2
        if log_variance_BJ is not None:
            variance = torch.exp(log_variance_BJ)
            if turned is None:
                spread = spread + variance[:, None, :]
            else:
                spread = spread + torch.einsum("bj,ckj->bck", variance, turned**2)
        log_normal = -0.5 * (LOG_2PI + log_variances + spread * precisions).sum(2)
        return torch.log_softmax(self.logits_C, 0) + log_normal

    def responsibilities(self, latent_BJ: Tensor) -> Tensor:
        """p(c|z), (B, C); rows sum to 1 (Jiang et al. 2017, eq. 16)."""
        return torch.softmax(self.log_joint(latent_BJ), 1)
