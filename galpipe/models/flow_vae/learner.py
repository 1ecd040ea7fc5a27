"""How a β-VAE learns; its flow and what it leaves undrawn are fitted when it has learnt."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from galpipe.models.beta import Rise, beta_at, last_beta
from galpipe.models.convolutions.drawings import Faithfulness, start_linear
from galpipe.models.divergence import per_dimension, weighed
from galpipe.models.engine.spec import Training
from galpipe.models.flow_vae.afterwards import fit_flow, fit_residual
from galpipe.models.flow_vae.network import FlowVaeNetwork
from galpipe.models.flow_vae.spec import Flow, FlowVae
from galpipe.models.learner import Epoch, Learner, Outcome
from galpipe.models.material import Material
from galpipe.models.network import Batch
from galpipe.stages import Progress

ACTIVE = (
    0.01  # a latent dimension is in use where its mean varies more than this (Burda et al. 2016)
)


class FlowVaeLearner(Learner):
    """R * sum (x' - x)^2 + β * KL(q(z|x) || p(z)), one sample of q(z|x) per image.

    Against a standard normal the divergence is exact, dimension by dimension; against a flow it is
    log q(z|x) - log p(z) at the sample (Rezende & Mohamed 2015).
    """

    network: FlowVaeNetwork

    def __init__(self, network: FlowVaeNetwork, training: Training) -> None:
        super().__init__(network, training)
        self.model: FlowVae = network.spec

    def epochs(self) -> list[Epoch]:
        spec, total = self.model, self.training_spec.epochs
        phase = "rising" if isinstance(spec.beta, Rise) else "training"
        return [
            Epoch(number, phase, _mean(beta_at(spec.beta, number, total)))
            for number in range(total)
        ]

    def start(self, material: Material) -> None:
        network, spec = self.network, self.model
        scatter = start_linear(network.body, material, spec.latent, self.training_spec.seed)
        if scatter is not None:
            # The posterior's variances start at their optimum for a linear decoder.
            with torch.no_grad():
                network.log_variance.weight.zero_()
                optimum = -torch.log1p(2 * spec.reconstruction * scatter**2)
                network.log_variance.bias.copy_(optimum)

    def forward(self, batch: Batch, epoch: Epoch) -> Outcome:
        beta = self.model.beta if isinstance(self.model.beta, tuple) else epoch.weight
        return self._bound(batch, beta)

    def judge(self, batches: Iterable[Batch], epoch: Epoch) -> dict[str, float]:
        """Held-out figures, always with the β that the training ends with; `elbo` with β = 1.

        Random numbers are the same at every call: the figures differ by the network alone.
        """
        told: dict[str, float] = {}
        means: list[Tensor] = []
        like = Faithfulness()
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(self.training_spec.seed)
            for batch in batches:
                mean = self.network.encode(batch.images).mean
                means.append(mean)
                like.add(self.network.body.decode(mean), batch.images)
                outcome = self._bound(batch, last_beta(self.model.beta))
                number = len(batch.images)
                sums = {"loss": outcome.loss * number, **outcome.sums}
                for name, value in sums.items():
                    told[name] = told.get(name, 0.0) + float(value)
        figures = {name: value / like.count for name, value in told.items()}
        squared = figures.pop("squared_difference")
        elbo = -(self.model.reconstruction * squared + figures["divergence"])
        active = (torch.cat(means).double().var(0, correction=0) > ACTIVE).sum()
        return {
            **figures,
            **like.figures(),
            "elbo": elbo,
            "active_dimensions": float(active),
        }

    def finish(self, material: Material, progress: Progress) -> tuple[dict[str, float], list[str]]:
        network, spec = self.network, self.model
        seed = self.training_spec.seed
        last = self.epochs()[-1]
        figures = self.judge(material.ordered(material.held_out()), last)
        if isinstance(spec.prior, Flow) and not network.joint:
            figures |= fit_flow(network, material, spec.prior, seed, progress)
        fit_residual(network, material, seed)
        return figures, []

    def _bound(self, batch: Batch, beta: float | tuple[float, ...]) -> Outcome:
        network = self.network
        posterior = network.encode(batch.shown)
        latent = posterior.sample(torch.randn_like(posterior.mean))
        squared = ((network.body.decode(latent) - batch.images) ** 2).flatten(1).sum(1)
        if network.joint:
            assert isinstance(beta, float), "the spec has no β per dimension for a joint flow"
            divergence = posterior.log_density(latent) - network.log_prior(latent)
            weighted = beta * divergence
        else:
            each = per_dimension(*posterior)
            divergence, weighted = each.sum(1), weighed(each, beta)
        loss = self.model.reconstruction * squared.mean() + weighted.mean()
        sums = {"squared_difference": squared.sum(), "divergence": divergence.sum()}
        return Outcome(loss, {name: value.detach() for name, value in sums.items()})


def _mean(beta: float | tuple[float, ...]) -> float:
    """One number for the history."""
    return sum(beta) / len(beta) if isinstance(beta, tuple) else beta
