"""The network of a regression: features of all views, then the probability of every value.

Shapes: B images, A bands, Y and X pixels, K columns, F features, T values of scale and apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from galpipe.models.backbones.members import Members
from galpipe.models.classifier.network import turned
from galpipe.models.network import Network, Output, Published
from galpipe.models.regression.scale import label_names, membership, summary
from galpipe.models.regression.spec import Regression


class RegressionNetwork(Network):
    """Features of image and columns by one network or several, and a linear score per value."""

    spec: Regression
    scale: Tensor  # (S,)
    labelled: Tensor  # (T, labels)
    temperature: Tensor

    def __init__(self, spec: Regression, bands: int, size: int, facts: Mapping[str, Any]) -> None:
        super().__init__(spec, bands, size, facts)
        self.answers = len(spec.scale) + len(spec.apart)
        self.members = Members(
            spec.encoders, bands, size, len(spec.columns), spec.features, spec.dropout,
            self.answers,
        )  # fmt: skip
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("scale", torch.tensor(spec.scale), persistent=False)
        if spec.ranges:
            self.register_buffer("labelled", membership(spec), persistent=False)

    @property
    def latent(self) -> int:
        return self.members.features

    def outputs(self) -> tuple[Output, ...]:
        labels = len(label_names(self.spec))
        told = (Output("class_probability", (labels,), ("class",)),) if labels else ()
        return (
            Output("vector", (self.latent,), ("latent",)),
            Output("value_probability", (self.answers,), ("value",)),
            Output("value"),
            Output("value_scatter"),
            *told,
        )

    def told(self) -> dict[str, Any]:
        column, spec = self.spec.value, self.spec
        ends = f"{spec.scale[0]:g} to {spec.scale[-1]:g}"
        return {
            "labels": list(label_names(spec)),
            "column": column,
            "published": [
                Published(
                    f"predicted_{column}", "value", None,
                    f"Mean of the network's distribution of {column} on {ends}",
                ).plain(),
                Published(
                    f"predicted_{column}_scatter", "value_scatter", None,
                    f"Standard deviation of the network's distribution of {column}", "stat.stdev",
                ).plain(),
            ],
        }  # fmt: skip

    def embed(self, images_BAYX: Tensor, conditions_BK: Tensor | None) -> dict[str, Tensor]:
        """Joined features averaged over the views, and the distribution that they give.

        `value` and `value_scatter` are mean and standard deviation along the scale, as if nothing
        stood apart.  Columns that are unknown (NaN) take the training split's median.
        """
        vector = self.averaged(images_BAYX, conditions_BK)
        chances = self.probabilities(self.members.score(vector))
        value, scatter = summary(self.scale, chances)
        found = {"vector": vector, "value_probability": chances}
        found |= {"value": value, "value_scatter": scatter}
        if self.spec.ranges:
            # Sums in a fixed order: a matrix product may add up otherwise in other batches.
            found["class_probability"] = (chances[:, :, None] * self.labelled).sum(1)
        return found

    def averaged(self, images_BAYX: Tensor, columns_BK: Tensor | None) -> Tensor:
        """Features averaged over `views` of each image, (B, F); the scores are linear in them."""
        return self.members.averaged(turned(images_BAYX, self.spec.views), columns_BK)

    def probabilities(self, scores_BT: Tensor) -> Tensor:
        """softmax(scores / temperature), (B, T)."""
        return torch.softmax(scores_BT / self.temperature, 1)
