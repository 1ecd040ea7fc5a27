"""What is fitted when encoder and decoder have learnt: the flow, and the residual field.

Shapes: N images, J latent dimensions, K conditions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from galpipe.models.engine.arithmetic import generator
from galpipe.models.flow_vae.network import FlowVaeNetwork, Posterior
from galpipe.models.flow_vae.spec import Flow, Residual
from galpipe.models.material import Material
from galpipe.stages import Progress

FLOW, RESIDUAL = 1, 2  # parts of the seeds, so that no two draw the same numbers
SMALLEST_SCATTER = 1e-3  # of a latent dimension that the images do not use
LONGEST_STEP = 5.0  # norm of a gradient
TOLD = 20  # steps between two words of how far the flow is


@dataclass(frozen=True)
class Posteriors:
    """Posteriors of a split's images, with what the flow is conditioned on."""

    mean: Tensor
    log_variance: Tensor
    conditions: Tensor | None

    def __len__(self) -> int:
        return len(self.mean)

    def sample(self, rows: Tensor, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        """Latent vectors of some rows, (B, J), and their conditions."""
        drawn = Posterior(self.mean[rows], self.log_variance[rows]).sample(noise)
        return drawn, None if self.conditions is None else self.conditions[rows]


def fit_flow(
    network: FlowVaeNetwork, material: Material, spec: Flow, seed: int, progress: Progress
) -> dict[str, float]:
    """Fit the flow to the training split's posteriors; held-out -log p(z) in nats per object.

    Adam on samples of the posteriors, down half a cosine.  Where the training mirrors and turns
    its images, so does this.  `flow_loss` stands beside `normal_loss`, that of one normal
    distribution with the same mean and covariance.
    """
    flow = network.flow
    assert flow is not None
    learnt = _posteriors(network, material, "train", spec.images)
    flow.middle.copy_(learnt.mean.mean(0))
    variance = learnt.mean.var(0, correction=0) + torch.exp(learnt.log_variance).mean(0)
    flow.scatter.copy_(variance.sqrt().clamp_min(SMALLEST_SCATTER))
    numbers = generator(seed, FLOW)
    flow.requires_grad_(True)
    optimiser = torch.optim.Adam(flow.parameters(), lr=spec.learning_rate)
    progress.start("flow", spec.steps, "step")
    with torch.enable_grad():
        for step in range(spec.steps):
            share = 0.5 * (1 + math.cos(math.pi * step / spec.steps))
            optimiser.param_groups[0]["lr"] = spec.learning_rate * share
            rows = torch.randint(len(learnt), (min(spec.batch, len(learnt)),), generator=numbers)
            latent, conditions = _sampled(learnt, rows, numbers)
            loss = -flow.log_density(latent, conditions).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(flow.parameters(), LONGEST_STEP)
            optimiser.step()
            if step % TOLD == TOLD - 1:
                progress.advance(TOLD, f"-log p {float(loss.detach()):.4g}")
    progress.advance(spec.steps % TOLD)
    progress.finish()
    flow.requires_grad_(False)
    judged = _posteriors(network, material, material.held_out(), spec.images)
    latent, conditions = _sampled(judged, torch.arange(len(judged)), numbers)
    fitted, _ = _sampled(learnt, torch.arange(len(learnt)), numbers)
    with torch.no_grad():
        found = float(-flow.log_density(latent, conditions).mean())
    return {"flow_loss": found, "normal_loss": _normal_loss(fitted.double(), latent.double())}


@torch.no_grad()
def fit_residual(network: FlowVaeNetwork, material: Material, seed: int) -> None:
    """Fit the residual field to the training split, at latent vectors drawn from the posteriors.

    Random numbers do not hang on what was drawn before.
    """
    spec = network.spec.undrawn
    if network.residual is None or not isinstance(spec, Residual):
        return
    numbers = generator(seed, RESIDUAL)
    latents, drawings, images = [], [], []
    for batch in material.ordered("train", spec.images):
        posterior = network.encode(batch.images)
        latent = posterior.sample(_noise(posterior.mean, numbers))
        latents.append(latent)
        drawings.append(network.body.decode(latent))
        images.append(batch.images)
    step = 1 / material.unit_scale if material.unit_scale > 1 else 0.0  # of stamps of integers
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), generator=numbers)))
        network.residual.fit(torch.cat(latents), torch.cat(drawings), torch.cat(images), step)


@torch.no_grad()
def _posteriors(network: FlowVaeNetwork, material: Material, split: str, most: int) -> Posteriors:
    means, log_variances, conditions = [], [], []
    for batch in material.ordered(split, most):
        for images in _views(batch.images, material):
            posterior = network.encode(images)
            means.append(posterior.mean)
            log_variances.append(posterior.log_variance)
            if network.spec.conditions:
                conditions.append(batch.targets["condition"])
    return Posteriors(
        torch.cat(means), torch.cat(log_variances), torch.cat(conditions) if conditions else None
    )


def _views(images: Tensor, material: Material) -> Iterator[Tensor]:
    """The images as the training shows them: mirrored and turned by right angles where it does."""
    augment = material.training.augment
    turns = (0, 1, 2, 3) if augment.rotations != "none" else (0,)
    mirrors: tuple[tuple[int, ...], ...] = ((),)
    if augment.flips:  # with all turns, the mirror in y is one in x
        mirrors = ((), (3,)) if len(turns) > 1 else ((), (3,), (2,), (2, 3))
    for turn in turns:
        turned = torch.rot90(images, turn, (2, 3))
        for axes in mirrors:
            yield turned.flip(axes)


def _sampled(
    posteriors: Posteriors, rows: Tensor, numbers: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    chosen = rows.to(posteriors.mean.device)
    noise = _noise(posteriors.mean[chosen], numbers)
    return posteriors.sample(chosen, noise)


def _noise(like: Tensor, numbers: torch.Generator) -> Tensor:
    """Standard normal numbers, the same on every device."""
    return torch.randn(like.shape, generator=numbers).to(like.device)


def _normal_loss(fitted_NJ: Tensor, judged_NJ: Tensor) -> float:
    """-log density of one normal distribution with mean and covariance of other rows."""
    covariance = torch.cov(fitted_NJ.T).reshape(fitted_NJ.shape[1], -1)
    floor = SMALLEST_SCATTER**2 * torch.eye(len(covariance), device=fitted_NJ.device)
    normal = torch.distributions.MultivariateNormal(fitted_NJ.mean(0), covariance + floor)
    return float(-normal.log_prob(judged_NJ).mean())  # type: ignore[no-untyped-call]
