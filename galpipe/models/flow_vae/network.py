"""A β-VAE whose prior is a normalising flow, and what it leaves undrawn as a random field.

Kingma & Welling 2014 (arXiv:1312.6114); β: Higgins et al. 2017; a flow on the latent space of
galaxies: Lanusse et al. 2021 (MNRAS 504, 5543), who write z = f(u), u ~ N(0, I), as here.
Shapes: B images, A bands, Y and X pixels, J latent dimensions, K conditions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from galpipe.errors import InputError
from galpipe.models.convolutions.body import Body
from galpipe.models.convolutions.squared import mean_square
from galpipe.models.flow_vae.flow import LatentFlow
from galpipe.models.flow_vae.residual import ResidualField
from galpipe.models.flow_vae.spec import Flow, FlowVae, Residual
from galpipe.models.network import Network, Output

LARGEST_LOG_VARIANCE = 20.0  # keeps exp() finite on images unlike any seen in training
LOG_2PI = math.log(2 * math.pi)


class Posterior(NamedTuple):
    """q(z|x) of a batch: a diagonal Gaussian each."""

    mean: Tensor  # (B, J)
    log_variance: Tensor  # (B, J)

    def sample(self, noise_BJ: Tensor) -> Tensor:
        """z = mean + sigma * noise, (B, J); `noise_BJ` is standard normal."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise_BJ

    def log_density(self, latent_BJ: Tensor) -> Tensor:
        """log q(z|x) in nats, (B,)."""
        spread = (latent_BJ - self.mean) ** 2 * torch.exp(-self.log_variance)
        return -0.5 * (LOG_2PI + self.log_variance + spread).sum(1)


class FlowVaeNetwork(Network):
    """Encoder, decoder, prior and residual field for images of (bands, size, size) in 0..1."""

    abilities: ClassVar[frozenset[str]] = frozenset({"redraw", "generate"})
    spec: FlowVae

    def __init__(
        self, spec: FlowVae, bands: int, size: int, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(spec, bands, size, facts or {})
        self.body = Body(spec.layers, bands, size, spec.latent)
        self.log_variance = nn.Linear(self.body.features, spec.latent)
        self.flow = (
            LatentFlow(spec.prior, spec.latent, self.facts.get("condition"))
            if isinstance(spec.prior, Flow)
            else None
        )
        self.residual = (
            ResidualField(spec.undrawn.ranges, spec.latent, bands, size)
            if isinstance(spec.undrawn, Residual)
            else None
        )
        if self.flow is not None and not self.joint:
            self.flow.requires_grad_(False)  # fitted when the rest has learnt

    @property
    def joint(self) -> bool:
        """Whether the flow learns with encoder and decoder."""
        return isinstance(self.spec.prior, Flow) and self.spec.prior.fitted == "jointly"

    @property
    def latent(self) -> int:
        return self.spec.latent

    def outputs(self) -> tuple[Output, ...]:
        told = () if self.spec.conditions else (Output("log_density"),)
        return (
            Output("vector", (self.spec.latent,), ("latent",)),
            Output("reconstruction_error"),
            *told,
        )

    def embed(self, images_BAYX: Tensor, conditions_BK: Tensor | None) -> dict[str, Tensor]:
        """Posterior mean, mean squared difference of stamp and drawing, prior density at the mean.

        `log_density`, in nats, is left out where the flow is conditioned: encoder and decoder know
        no conditions, and an object without them has its vector all the same.
        """
        mean = self.encode(images_BAYX).mean
        found = {
            "vector": mean,
            "reconstruction_error": mean_square(self.body.decode(mean), images_BAYX),
        }
        if not self.spec.conditions:
            found["log_density"] = self.log_prior(mean)
        return found

    def encode(self, images_BAYX: Tensor) -> Posterior:
        """q(z|x): mean and log variance, (B, J) each; images in 0..1."""
        mean, features = self.body.encode(images_BAYX)
        floor = math.log(self.spec.variance_floor)
        return Posterior(mean, self.log_variance(features).clamp(floor, LARGEST_LOG_VARIANCE))

    def log_prior(self, latent_BJ: Tensor, conditions_BK: Tensor | None = None) -> Tensor:
        """log p(z) in nats, (B,)."""
        if self.flow is None:
            return -0.5 * (LOG_2PI + latent_BJ**2).sum(1)
        return self.flow.log_density(latent_BJ, conditions_BK)

    def redraw(self, images_BAYX: Tensor, conditions_BK: Tensor | None = None) -> Tensor:
        return self.body.decode(self.encode(images_BAYX).mean)

    def generate(
        self, count: int, component: int | None = None, conditions_BK: Tensor | None = None
    ) -> Tensor:
        """Latent numbers from the prior, their drawing, and the random field that it leaves out.

        Raises InputError for a component: this prior has none.
        """
        if component is not None:
            raise InputError("generate: a flow_vae has no components; leave --component out.")
        device = next(self.parameters()).device
        latent = (
            torch.randn(count, self.spec.latent, device=device)
            if self.flow is None
            else self.flow.draw(count, conditions_BK)
        )
        drawn = self.body.decode(latent)
        if self.residual is not None:
            drawn = drawn + self.residual.draw(latent, drawn)
        return drawn.clamp(0, 1)  # as prepared stamps are

    def layer_parameters(self) -> list[nn.Parameter]:
        """Weights and biases of encoder and decoder, without the flow's."""
        return [*self.body.parameters(), *self.log_variance.parameters()]
