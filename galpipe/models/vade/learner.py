"""How VaDE learns: the evidence lower bound against a normal prior, then against the mixture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from galpipe.errors import InputError
from galpipe.models.engine.arithmetic import generator
from galpipe.models.engine.spec import Training
from galpipe.models.learner import Epoch, Learner, Outcome
from galpipe.models.material import Material
from galpipe.models.network import Batch
from galpipe.models.vade import components, initialisation, merging, schedule
from galpipe.models.vade.network import (
    Posterior,
    VadeNetwork,
    gaussian_divergence,
    mixture_divergence,
)
from galpipe.models.vade.spec import VaDE
from galpipe.stages import Progress

PRINCIPAL_IMAGES = 4096  # of the training split, for the principal components
RESEEDING_IMAGES = 4096  # of the training split, that tell which components are dead
ACTIVE = (
    0.01  # a latent dimension is in use where its mean varies more than this (Burda et al. 2016)
)


class VadeLearner(Learner):
    """R * sum (x' - x)^2 + w * KL (AstroVaDEr: R = 1, as 16384 * MSE is the sum over pixels)."""

    network: VadeNetwork
    watched: ClassVar[str] = "loss"

    def __init__(self, network: VadeNetwork, training: Training) -> None:
        super().__init__(network, training)
        self.model: VaDE = network.spec

    def epochs(self) -> list[Epoch]:
        return schedule.epochs(self.model.schedule)

    def start(self, material: Material) -> None:
        if material.objects("train") < max(self.model.components, 2):
            raise InputError(
                f"training: {material.objects('train')} usable stamps in the training split are "
                f"too few for {self.model.components} components; give a larger sample or fewer "
                "components."
            )
        if self.model.linear:
            pixels = [
                batch.images.flatten(1).cpu().numpy()
                for batch in material.ordered("train", PRINCIPAL_IMAGES)
            ]
            initialisation.start_linear(
                self.network,
                np.concatenate(pixels),
                self.model.reconstruction,
                self.training_spec.seed,
            )

    def before(self, epoch: Epoch, material: Material) -> None:
        if epoch.number == self.model.schedule.warm_up:
            self._start_mixture(material)
        elif epoch.phase == "annealing" and self.model.reseed:
            self._reseed(material)

    def forward(self, batch: Batch, epoch: Epoch) -> Outcome:
        posterior = self.network.encode(batch.shown)
        latent = posterior.sample(torch.randn_like(posterior.mean))
        squared = ((self.network.decode(latent) - batch.images) ** 2).flatten(1).sum(1)
        if epoch.phase == "warm-up":
            divergence = gaussian_divergence(posterior)
        else:
            sampled = latent if self.model.categorical == "sampled" else None
            divergence = mixture_divergence(self.network.mixture, posterior, sampled)
        loss = self.model.reconstruction * squared.mean() + epoch.weight * divergence.mean()
        sums = {"squared_difference": squared.sum(), "divergence": divergence.sum()}
        return Outcome(loss, {name: value.detach() for name, value in sums.items()})

    def judge(self, batches: Iterable[Batch], epoch: Epoch) -> dict[str, float]:
        return judged(self.network, batches, self.training_spec.seed).figures(self.network, epoch)

    def finish(self, material: Material, progress: Progress) -> tuple[dict[str, float], list[str]]:
        spec = self.model
        if spec.schedule.cycles * (spec.schedule.annealing + spec.schedule.static) == 0:
            self._start_mixture(material)
        seed = self.training_spec.seed
        found = judged(self.network, material.ordered(material.held_out()), seed)
        with torch.no_grad():
            responsibilities = self.network.memberships(found.posterior.mean)
        heads = self.network.heads()
        health = components.health(
            self.network.mixture,
            responsibilities.double().cpu().numpy(),
            spec.overlap_alarm,
            spec.occupancy_alarm,
            heads,
        )
        figures = found.figures(self.network, Epoch(0, "static"))
        figures |= {
            "k_occupied": health.occupied,
            "k_effective": health.effective,
            "merged_components": float(len(heads) - len(set(heads))),
            "dead_components": float(len(health.dead)),
            "duplicate_pairs": float(len(health.duplicates)),
            "largest_overlap": float((health.overlap - np.eye(len(health.overlap))).max()),
        }
        return figures, health.alarms()

    @torch.no_grad()
    def _posteriors(self, material: Material, most: int | None) -> Posterior:
        """Those of training images, on the CPU."""
        found = [self.network.encode(batch.images) for batch in material.ordered("train", most)]
        return Posterior(*(torch.cat(values).cpu() for values in zip(*found, strict=True)))

    def _reseed(self, material: Material) -> None:
        posterior = self._posteriors(material, RESEEDING_IMAGES)
        merging.reseed(self.network.mixture, posterior, self.model.occupancy_alarm)

    def _start_mixture(self, material: Material) -> None:
        spec = self.model
        with threadpool_limits(1):
            initialisation.start_mixture(
                self.network.mixture,
                self._posteriors(material, spec.initialisation_images),
                spec.initialisation_restarts,
                self.training_spec.seed,
            )


@dataclass(frozen=True)
class Judged:
    """What a network makes of objects it is not trained on here; N objects in the order given."""

    posterior: Posterior  # (N, J) each
    squared: Tensor  # squared differences summed over an image, drawn from the mean
    sampled: Tensor  # the same, drawn from one sample of the posterior
    variance: float  # of the pixels about the objects' mean image, summed over an image

    @torch.no_grad()
    def figures(self, network: VadeNetwork, epoch: Epoch) -> dict[str, float]:
        """Held-out figures; `elbo` in nats per object, up to the likelihood's constant."""
        pixels = network.bands * network.size**2
        divergence = (
            gaussian_divergence(self.posterior)
            if epoch.phase == "warm-up"
            else mixture_divergence(network.mixture, self.posterior, None)
        )
        squared = float(self.squared.double().mean())
        sampled = float(self.sampled.double().mean())
        elbo = -(network.spec.reconstruction * sampled + float(divergence.double().mean()))
        active = (self.posterior.mean.double().var(0, correction=0) > ACTIVE).sum()
        return {
            "loss": -elbo,
            "mse": squared / pixels,
            "explained_variance": 1 - squared / self.variance if self.variance > 0 else 0.0,
            "divergence": float(divergence.double().mean()),
            "elbo": elbo,
            "active_dimensions": float(active),
        }


@torch.no_grad()
def judged(network: VadeNetwork, batches: Iterable[Batch], seed: int) -> Judged:
    """Encode and draw objects without gradients; `seed` of the samples of their posteriors."""
    numbers = generator(seed)
    means, log_variances = [], []
    squared: list[Tensor] = []
    sampled: list[Tensor] = []
    total = total_squares = None
    count = 0
    for batch in batches:
        x = batch.images
        posterior = network.encode(x)
        noise = torch.randn(posterior.mean.shape, generator=numbers).to(x.device)
        for latent, told in ((posterior.mean, squared), (posterior.sample(noise), sampled)):
            told.append(((network.decode(latent) - x) ** 2).flatten(1).sum(1))
        means.append(posterior.mean)
        log_variances.append(posterior.log_variance)
        sums, squares = x.sum(0, dtype=torch.float64), (x.double() ** 2).sum()
        total = sums if total is None else total + sums
        total_squares = squares if total_squares is None else total_squares + squares
        count += len(x)
    assert total is not None and total_squares is not None
    variance = float(total_squares / count - ((total / count) ** 2).sum())
    posterior = Posterior(torch.cat(means), torch.cat(log_variances))
    return Judged(posterior, torch.cat(squared), torch.cat(sampled), variance)
