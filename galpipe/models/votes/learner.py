"""How votes are learnt: by the likelihood of the counts, question by question."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from galpipe.errors import InputError
from galpipe.models.classifier.calibration import FEWEST
from galpipe.models.engine.spec import Training
from galpipe.models.learner import Epoch, Learner, Outcome
from galpipe.models.material import Material
from galpipe.models.network import Batch
from galpipe.models.votes.dirichlet import log_likelihood
from galpipe.models.votes.network import VotesNetwork
from galpipe.models.votes.spec import Votes
from galpipe.models.votes.tree import counts, spans
from galpipe.stages import Progress

SHARPEST = 8.0  # the factor of all concentrations lies between 1 / SHARPEST and SHARPEST
TRIED = 97  # values of it, in equal steps of its logarithm


class VotesLearner(Learner):
    """Minus the Dirichlet-multinomial log-likelihood of all questions (Walmsley et al. 2022).

    A question that nobody was asked says nothing, and one with many votes says more.
    """

    network: VotesNetwork

    def __init__(self, network: VotesNetwork, training: Training) -> None:
        super().__init__(network, training)
        self.model: Votes = network.spec

    def start(self, material: Material) -> None:
        given = {name: torch.from_numpy(material.target("train", name)) for name in ("votes",)}
        if self.model.given == "fractions":
            given["asked"] = torch.from_numpy(material.target("train", "asked"))
        votes = self._counts(given)
        for question, span in zip(self.model.questions, spans(self.model), strict=True):
            if not votes[:, span].any():
                raise InputError(
                    f"[model] questions: nobody of the training split has a vote on "
                    f"{question.name!r}; leave the question out, or mend its columns."
                )
        if self.model.columns:
            self.network.members.fit(material.target("train", "condition"))
        shares = []  # every galaxy starts with the fractions of all votes together
        for span in spans(self.model):
            total = votes[:, span].double().sum(0)
            wanted = 1e-3 + 8.0 * total / total.sum() / self.model.strongest
            shares.append(torch.logit(wanted.clamp(max=0.9)).float())
        self.network.members.start_at(torch.cat(shares))

    def forward(self, batch: Batch, epoch: Epoch) -> Outcome:
        scores_MBR = self.network.members(batch.shown, batch.targets.get("condition"))
        votes = self._counts(batch.targets)
        each = [self._likely(votes, self.network.concentrations(own)) for own in scores_MBR]
        likely = torch.stack(each).mean(0)
        strength = self.network.concentrations(scores_MBR.detach().mean(0))
        first = spans(self.model)[0]
        seen = votes[:, first] / votes[:, first].sum(1, keepdim=True).clamp(min=1e-9)
        away = ((self.network.fractions(strength)[0][:, first] - seen) ** 2).mean(1)
        return Outcome(-likely.mean(), {"squared_error": away.sum().detach()})

    @torch.no_grad()
    def finish(self, material: Material, progress: Progress) -> tuple[dict[str, float], list[str]]:
        """Fit the sharpness on the validation split; then judge the held-out one."""
        alarms = []
        if material.objects("validation") >= FEWEST:
            strength, votes = self._averaged(material, "validation")
            steps = torch.linspace(-math.log(SHARPEST), math.log(SHARPEST), TRIED).exp()
            likely = [float(self._likely(votes, strength * step).sum()) for step in steps.tolist()]
            self.network.sharpness.fill_(float(steps[likely.index(max(likely))]))
        else:
            alarms.append(
                f"the validation split has fewer than {FEWEST} objects with votes: the scatters "
                "are not calibrated"
            )
        strength, votes = self._averaged(material, material.held_out())
        strength = strength * self.network.sharpness.double()
        first = spans(self.model)[0]
        seen = votes[:, first] / votes[:, first].sum(1, keepdim=True).clamp(min=1e-9)
        away = (self.network.fractions(strength)[0][:, first] - seen) ** 2
        return {
            "loss": float(-self._likely(votes, strength).mean()),
            "root_mean_square": float(away.mean().sqrt()),
            "sharpness": float(self.network.sharpness),
        }, alarms

    def _counts(self, targets: Mapping[str, Tensor]) -> Tensor:
        """Votes for every answer, (B, R)."""
        asked = targets["asked"][:, 0] if self.model.given == "fractions" else None
        return counts(self.model, targets["votes"], asked)

    def _likely(self, votes_BR: Tensor, strength_BR: Tensor) -> Tensor:
        """log p of all votes on an object, (B,), nats."""
        each = [log_likelihood(votes_BR[:, s], strength_BR[:, s]) for s in spans(self.model)]
        return torch.stack(each, 1).sum(1)

    def _averaged(self, material: Material, split: str) -> tuple[Tensor, Tensor]:
        """Concentrations as at embedding, before the sharpness, and votes, in float64."""
        strength, votes = [], []
        for batch in material.ordered(split):
            vector = self.network.averaged(batch.images, batch.targets.get("condition"))
            strength.append(
                self.network.concentrations(self.network.members.score(vector)).double()
            )
            votes.append(self._counts(batch.targets).double())
        return torch.cat(strength), torch.cat(votes)
