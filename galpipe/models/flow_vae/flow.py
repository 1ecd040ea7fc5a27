"""A normalising flow over latent numbers: a density that can be fitted, asked and drawn from.

Shapes: B rows, J latent dimensions, K conditions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import zuko
from torch import Tensor, nn

from galpipe.errors import InputError
from galpipe.models.flow_vae.spec import Flow


class LatentFlow(nn.Module):
    """p(z), or p(z | conditions): standardised latent numbers under a flow of zuko.

    `conditions` are the facts of the columns that it is conditioned on: their mean and scatter.
    Splines act on -5..5 standard deviations and leave alone what lies beyond (Durkan et al. 2019).
    """

    middle: Tensor
    scatter: Tensor
    condition_mean: Tensor
    condition_scatter: Tensor

    def __init__(self, spec: Flow, latent: int, conditions: Mapping[str, Any] | None) -> None:
        super().__init__()
        given = conditions or {"mean": [], "scatter": []}
        self.conditions, self.splines = len(given["mean"]), spec.family == "spline"
        shape = {
            "transforms": spec.transforms,
            "hidden_features": (spec.width,) * spec.depth,
        }
        self.flow: Any
        match spec.family:
            case "realnvp":
                self.flow = zuko.flows.RealNVP(latent, self.conditions, **shape)
            case "maf":
                self.flow = zuko.flows.MAF(latent, self.conditions, **shape)
            case "spline":
                self.flow = zuko.flows.NSF(latent, self.conditions, bins=spec.bins, **shape)
        self.register_buffer("middle", torch.zeros(latent))
        self.register_buffer("scatter", torch.ones(latent))
        self.register_buffer("condition_mean", torch.tensor(given["mean"]))
        self.register_buffer("condition_scatter", torch.tensor(given["scatter"]))

    def log_density(self, latent_BJ: Tensor, conditions_BK: Tensor | None = None) -> Tensor:
        """log p(z | conditions) in nats, (B,); raw values of the conditions.

        Raises InputError for splines on a GPU, where the sums that place their knots have no
        deterministic arithmetic.
        """
        if self.splines and latent_BJ.device.type == "cuda":
            raise InputError(
                'a flow of family = "spline" has no deterministic arithmetic on a GPU; say '
                'device = "cpu" in [training] and [embed], or take family = "maf".'
            )
        with torch.autocast(latent_BJ.device.type, enabled=False):
            z = (latent_BJ.float() - self.middle) / self.scatter
            found: Tensor = self.flow(self._standard(conditions_BK)).log_prob(z)
            return found - torch.log(self.scatter).sum()

    @torch.no_grad()
    def draw(self, count: int, conditions_BK: Tensor | None = None) -> Tensor:
        """`count` latent vectors, (B, J), from torch's own random numbers."""
        with torch.autocast(self.middle.device.type, enabled=False):
            if self.conditions:
                drawn = self.flow(self._standard(conditions_BK)).sample()
            else:
                drawn = self.flow().sample((count,))
            found: Tensor = self.middle + self.scatter * drawn
            return found

    def _standard(self, conditions_BK: Tensor | None) -> Tensor | None:
        if not self.conditions:
            return None
        assert conditions_BK is not None, "a conditioned flow is told the conditions"
        return (conditions_BK.float() - self.condition_mean) / self.condition_scatter
