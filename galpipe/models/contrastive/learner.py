"""How the self-supervised encoder learns: two views of every galaxy, brought together."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from galpipe.errors import InputError
from galpipe.models.contrastive.network import ContrastiveNetwork
from galpipe.models.contrastive.objectives import found_again, objective
from galpipe.models.contrastive.spec import Contrastive
from galpipe.models.contrastive.views import view
from galpipe.models.engine.spec import Training
from galpipe.models.learner import Epoch, Learner, Outcome
from galpipe.models.material import Material
from galpipe.models.network import Batch
from galpipe.stages import Progress

FEWEST = 8  # galaxies to be told from each other
FEW_DIMENSIONS = 1.1  # effective ones of the embedding, below which it has collapsed


class ContrastiveLearner(Learner):
    """The objective of two views, and the error of what the features tell of measured columns."""

    network: ContrastiveNetwork
    watched: ClassVar[str] = "loss"

    def __init__(self, network: ContrastiveNetwork, training: Training) -> None:
        super().__init__(network, training)
        self.model: Contrastive = network.spec

    def start(self, material: Material) -> None:
        if material.objects("train") < FEWEST:
            raise InputError(
                f"training: {material.objects('train')} usable stamps in the training split are "
                f"too few to be told from each other; give {FEWEST} or more."
            )
        if self.network.ranks is not None:
            self.network.ranks.fit(material.target("train", "measured"))

    def forward(self, batch: Batch, epoch: Epoch) -> Outcome:
        model, network = self.model, self.network
        with torch.autocast(batch.shown.device.type, enabled=False):
            two = [view(batch.shown, model.views, network.pixels) for _ in range(2)]
        features = network.encoder(torch.cat(two))
        first, second = network.projection(features).float().chunk(2)
        loss = objective(model.objective, first, second)
        found = found_again(first.detach(), second.detach())
        sums = {"found_again": found.sum().detach()}
        if network.tell is not None and network.ranks is not None:
            measured = batch.targets["measured"]
            error = _error(network.tell(features).float(), measured, network.ranks(measured))
            loss = loss + model.measured_weight * error
            sums["measured_error"] = error.detach() * len(batch.images)
        return Outcome(loss, sums)

    @torch.no_grad()
    def finish(self, material: Material, progress: Progress) -> tuple[dict[str, float], list[str]]:
        """The held-out loss, and how much of the embedding's space is in use."""
        figures, alarms = super().finish(material, progress)
        batches = material.ordered(material.held_out())
        vectors = torch.cat([self.network.embed(b.images, None)["vector"] for b in batches])
        figures["effective_dimensions"] = effective_dimensions(vectors)
        if figures["effective_dimensions"] < FEW_DIMENSIONS and len(vectors) > FEWEST:
            alarms.append(
                f"the embedding has {figures['effective_dimensions']:.1f} effective dimensions: "
                "it tells galaxies apart by one number at most"
            )
        return figures, alarms


def _error(told_2BM: Tensor, measured_BM: Tensor, scores_BM: Tensor) -> Tensor:
    """Mean squared error of what both views tell of normal scores; unknown ones do not count."""
    known = torch.isfinite(measured_BM).repeat(2, 1)
    squared = functional.mse_loss(told_2BM, scores_BM.repeat(2, 1), reduction="none")
    return (squared * known).sum() / known.sum().clamp_min(1)


def effective_dimensions(vectors_NF: Tensor) -> float:
    """exp of the entropy of the principal variances' shares (Roy & Vetterli 2007), 1..F.

    0 where nothing varies.
    """
    centred = (vectors_NF - vectors_NF.mean(0)).double()
    variances = torch.linalg.eigvalsh(centred.T @ centred).clamp_min(0)
    total = variances.sum()
    if total <= 0:
        return 0.0
    share = variances / total
    return float(torch.exp(-torch.special.xlogy(share, share).sum()))
