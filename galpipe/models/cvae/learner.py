"""How the conditional VAEs learn: squared differences summed over the image, and the divergence."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from galpipe.models.beta import Rise, beta_at, last_beta
from galpipe.models.convolutions.drawings import Faithfulness
from galpipe.models.cvae.network import CvaeNetwork, Drawing
from galpipe.models.cvae.spec import Conditioned, FancyCvae
from galpipe.models.divergence import covariance, per_dimension, weighed
from galpipe.models.engine.spec import Training
from galpipe.models.learner import Epoch, Learner, Outcome
from galpipe.models.material import Material
from galpipe.models.network import Batch
from galpipe.stages import Progress

ACTIVE = 0.01  # variance of the mean above which a latent dimension is in use (Burda et al. 2016)
PIXELS = 1000  # as `independence` counts them: squared differences grow with the images as well


class CvaeLearner(Learner):
    """sum (x' - x)^2 + β KL(q(z|x,c) || N(0, I)) [+ k sum (c' - c)^2], the mean over a batch.

    One sample of q(z|x,c) per image; c standardised.  Training adds `independence` times the
    squared covariances of posterior means and conditions, which no held-out figure counts.
    """

    network: CvaeNetwork

    def __init__(self, network: CvaeNetwork, training: Training) -> None:
        super().__init__(network, training)

    def epochs(self) -> list[Epoch]:
        beta, total = self.network.spec.beta, self.training_spec.epochs
        phase = "rising" if isinstance(beta, Rise) else "training"
        return [Epoch(n, phase, _mean(beta_at(beta, n, total))) for n in range(total)]

    def forward(self, batch: Batch, epoch: Epoch) -> Outcome:
        beta = self.network.spec.beta
        return self._bound(batch, beta if isinstance(beta, tuple) else epoch.weight, training=True)

    def judge(self, batches: Iterable[Batch], epoch: Epoch) -> dict[str, float]:
        """Held-out figures, always with the β that the training ends with.

        Random numbers are the same at every call: the figures differ by the network alone.
        """
        network = self.network
        told: dict[str, float] = {}
        means: list[Tensor] = []
        conditions: list[Tensor] = []
        like = Faithfulness()
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(self.training_spec.seed)
            for batch in batches:
                given = network.standard(batch.targets.get("condition"), batch.images)
                mean = network.encode(batch.images, given).mean
                means.append(mean)
                conditions.append(given)
                like.add(network.decode(mean, given).images, batch.images)
                outcome = self._bound(batch, last_beta(network.spec.beta))
                sums = {"loss": outcome.loss * len(batch.images), **outcome.sums}
                for name, value in sums.items():
                    told[name] = told.get(name, 0.0) + float(value)
        mean, given = torch.cat(means).double(), torch.cat(conditions).double()
        spread = mean.var(0, correction=0)
        figures = {
            **{name: value / like.count for name, value in told.items()},
            **like.figures(),
            "active_dimensions": float((spread > ACTIVE).sum()),
        }
        if network.columns:
            figures["condition_correlation"] = _correlation(mean, given)
        return figures

    def finish(self, material: Material, progress: Progress) -> tuple[dict[str, float], list[str]]:
        figures, alarms = super().finish(material, progress)
        judged = material.objects(material.held_out())
        if figures["active_dimensions"] == 0 and judged > 1:
            what = "differ by their conditions alone" if self.network.columns else "are all alike"
            alarms.append(
                f"no latent dimension is in use: the vectors say nothing, and drawings {what}; "
                "give a smaller beta"
            )
        return figures, alarms

    def _bound(
        self, batch: Batch, beta: float | tuple[float, ...], training: bool = False
    ) -> Outcome:
        network = self.network
        given = network.standard(batch.targets.get("condition"), batch.images)
        posterior = network.encode(batch.shown, given)
        drawing = network.decode(posterior.sample(torch.randn_like(posterior.mean)), given)
        squared = ((drawing.images - batch.images) ** 2).flatten(1).sum(1)
        each = per_dimension(*posterior)
        loss = squared + weighed(each, beta)
        sums = {"squared_difference": squared.sum(), "divergence": each.sum()}
        repeated = _repeated(drawing, given)
        if repeated is not None:
            assert isinstance(network.spec, FancyCvae), "no other says its conditions again"
            loss = loss + network.spec.repeated * repeated
            sums["condition_difference"] = repeated.sum()
        mean_loss = loss.mean()
        if training and isinstance(network.spec, Conditioned) and network.spec.independence:
            kept_apart = covariance(posterior.mean, given)
            weight = network.spec.independence * batch.images[0].numel() / PIXELS
            mean_loss = mean_loss + weight * kept_apart
            sums["covariance"] = kept_apart * len(given)
        return Outcome(mean_loss, {name: value.detach() for name, value in sums.items()})


def _repeated(drawing: Drawing, given_BK: Tensor) -> Tensor | None:
    """The squared differences of the conditions said again, (B,); None where they are not."""
    if drawing.conditions is None:
        return None
    return ((drawing.conditions - given_BK) ** 2).sum(1)


def _correlation(mean_NJ: Tensor, given_NK: Tensor) -> float:
    """The largest |correlation| of a latent dimension in use with a condition; 0 without any."""
    mean, given = mean_NJ - mean_NJ.mean(0), given_NK - given_NK.mean(0)
    size = mean.square().mean(0)[:, None] * given.square().mean(0)
    used = (mean.square().mean(0) > ACTIVE)[:, None] & (size > 0)
    found = (mean.T @ given / len(mean)).abs() / size.sqrt()
    return float(torch.where(used, found, torch.zeros_like(found)).max())


def _mean(beta: float | tuple[float, ...]) -> float:
    """One number for the history."""
    return sum(beta) / len(beta) if isinstance(beta, tuple) else beta
