"""The network of votes: features of all views, then a Dirichlet distribution per question.

Shapes: B images, A bands, Y and X pixels, K columns, F features, R answers of all questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from galpipe.models.backbones.members import Members
from galpipe.models.classifier.network import turned
from galpipe.models.network import Network, Output, Published
from galpipe.models.votes.dirichlet import mean_and_scatter
from galpipe.models.votes.spec import Votes
from galpipe.models.votes.tree import answer_names, label_names, leaf_probabilities, spans


class VotesNetwork(Network):
    """Features of image and columns by one network or several, and a concentration per answer."""

    spec: Votes
    sharpness: Tensor  # x all concentrations, fitted on the validation split

    def __init__(self, spec: Votes, bands: int, size: int, facts: Mapping[str, Any]) -> None:
        super().__init__(spec, bands, size, facts)
        self.members = Members(
            spec.encoders, bands, size, len(spec.columns), spec.features, spec.dropout,
            len(answer_names(spec)),
        )  # fmt: skip
        self.register_buffer("sharpness", torch.ones(()))

    @property
    def latent(self) -> int:
        return self.members.features

    def outputs(self) -> tuple[Output, ...]:
        answers, labels = len(answer_names(self.spec)), len(label_names(self.spec))
        return (
            Output("vector", (self.latent,), ("latent",)),
            Output("vote_fraction", (answers,), ("answer",)),
            Output("vote_scatter", (answers,), ("answer",)),
            Output("vote_concentration", (answers,), ("answer",)),
            Output("class_probability", (labels,), ("class",)),
        )

    def told(self) -> dict[str, Any]:
        published = []
        for question, span in zip(self.spec.questions, spans(self.spec), strict=True):
            for number, answer in enumerate(question.answers, span.start):
                meant = f"the fraction of votes {answer.name!r} on {question.name!r}"
                published += [
                    Published(
                        f"predicted_{answer.name}", "vote_fraction", number,
                        f"Expectation of {meant}; raw votes, not debiased",
                    ),
                    Published(
                        f"predicted_{answer.name}_scatter", "vote_scatter", number,
                        f"Standard deviation of {meant}, if very many voted", "stat.stdev",
                    ),
                ]  # fmt: skip
        return {
            "labels": list(label_names(self.spec)),
            "column": self.spec.questions[0].name,
            "answers": list(answer_names(self.spec)),
            "published": [one.plain() for one in published],
        }

    def embed(self, images_BAYX: Tensor, conditions_BK: Tensor | None) -> dict[str, Tensor]:
        """Joined features averaged over the views, and what they say of every answer.

        `class_probability` has the ways through the tree.  Columns that are unknown (NaN) take the
        training split's median.
        """
        vector = self.averaged(images_BAYX, conditions_BK)
        strength = self.concentrations(self.members.score(vector)) * self.sharpness
        fractions, scatters = self.fractions(strength)
        return {
            "vector": vector,
            "vote_fraction": fractions,
            "vote_scatter": scatters,
            "vote_concentration": strength,
            "class_probability": leaf_probabilities(self.spec, fractions),
        }

    def concentrations(self, scores_BR: Tensor) -> Tensor:
        """1 + strongest x sigmoid(score), (B, R): unimodal (Walmsley et al. 2022, section 4.1)."""
        return 1 + self.spec.strongest * torch.sigmoid(scores_BR.float())

    def fractions(self, concentrations_BR: Tensor) -> tuple[Tensor, Tensor]:
        """Expected fraction of every answer and its standard deviation, (B, R) each."""
        found = [mean_and_scatter(concentrations_BR[:, span]) for span in spans(self.spec)]
        return torch.cat([m for m, _ in found], 1), torch.cat([s for _, s in found], 1)

    def averaged(self, images_BAYX: Tensor, columns_BK: Tensor | None) -> Tensor:
        """Features averaged over `views` of each image, (B, F); the scores are linear in them."""
        return self.members.averaged(turned(images_BAYX, self.spec.views), columns_BK)
