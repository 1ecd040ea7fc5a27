"""Votes as draws from a distribution that is itself uncertain: the Dirichlet-multinomial.

Shapes: B objects, A answers to one question.
"""

from __future__ import annotations

import torch
from torch import Tensor


def log_likelihood(counts_BA: Tensor, concentrations_BA: Tensor) -> Tensor:
    """log p(votes), (B,), nats, without the number of orders, which no network changes.

    Γ(α) Γ(N + 1) / Γ(N + α) Π Γ(k_i + α_i) / (Γ(α_i) Γ(k_i + 1)) of Walmsley et al. 2022 (MNRAS
    509, 3966, eq. 1), of which the factors without α are left out; 0 for a question without votes.
    """
    total, votes = concentrations_BA.sum(1), counts_BA.sum(1)
    whole = torch.lgamma(total) - torch.lgamma(total + votes)
    each = torch.lgamma(concentrations_BA + counts_BA) - torch.lgamma(concentrations_BA)
    return whole + each.sum(1)


def mean_and_scatter(concentrations_BA: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the fraction that very many votes would give, (B, A)."""
    total = concentrations_BA.sum(1, keepdim=True)
    mean = concentrations_BA / total
    return mean, (mean * (1 - mean) / (total + 1)).sqrt()
