"""The network of a classifier: features of all views of an image, then calibrated probabilities.

Shapes: B images, A bands, Y and X pixels, F features, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from galpipe.errors import InputError
from galpipe.models.backbones.backbone import backbone_of
from galpipe.models.classifier.spec import Classifier
from galpipe.models.network import Network, Output

MOST_CLASSES = 1000


class ClassifierNetwork(Network):
    """Encoder, one optional layer, and a linear score per class."""

    spec: Classifier
    temperature: Tensor
    offsets: Tensor  # (C,)

    def __init__(self, spec: Classifier, bands: int, size: int, facts: Mapping[str, Any]) -> None:
        super().__init__(spec, bands, size, facts)
        self.names: tuple[str, ...] = tuple(facts["class"]["names"])
        _refuse_odd(spec.classes, self.names)
        self.backbone = backbone_of(spec.encoder, bands, size)
        width = self.backbone.features
        layers: list[nn.Module] = [nn.Dropout(spec.dropout)]
        if spec.dense is not None:
            layers += [nn.Linear(width, spec.dense), nn.ReLU()]
            width = spec.dense
        self.project = nn.Sequential(*layers)
        self.drop = nn.Dropout(spec.dropout if spec.dense is not None else 0.0)
        self.score = nn.Linear(width, len(self.names))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("offsets", torch.zeros(len(self.names)))

    @property
    def latent(self) -> int:
        return self.score.in_features

    def outputs(self) -> tuple[Output, ...]:
        return (
            Output("vector", (self.latent,), ("latent",)),
            Output("class_probability", (len(self.names),), ("class",)),
        )

    def embed(self, images_BAYX: Tensor, conditions_BK: Tensor | None) -> dict[str, Tensor]:
        """Features averaged over the views, and the calibrated probabilities they give."""
        vector = self.averaged(images_BAYX)
        return {"vector": vector, "class_probability": self.probabilities(self.score(vector))}

    def vectors(self, images_BAYX: Tensor) -> Tensor:
        """Features before the scores, (B, F), of the images as they stand."""
        found: Tensor = self.project(self.backbone(images_BAYX))
        return found

    def scores(self, images_BAYX: Tensor) -> Tensor:
        """Uncalibrated logits, (B, C), of the images as they stand."""
        found: Tensor = self.score(self.drop(self.vectors(images_BAYX)))
        return found

    def averaged(self, images_BAYX: Tensor) -> Tensor:
        """Features averaged over `views` of each image, (B, F).

        The scores are linear in them, so that this is the average of the scores as well.
        """
        views = turned(images_BAYX, self.spec.views)
        total = self.vectors(views[0])
        for view in views[1:]:
            total = total + self.vectors(view)
        return total / len(views)

    def probabilities(self, scores_BC: Tensor) -> Tensor:
        """softmax(scores / temperature + offsets), (B, C); rows sum to 1."""
        return torch.softmax(scores_BC / self.temperature + self.offsets, 1)


def turned(images_BAYX: Tensor, views: int | Literal["mirrors"]) -> list[Tensor]:
    """The images as they are; with half a turn (2), quarter turns (4), and mirrored too (8).

    "mirrors": as they are, mirrored in x, in y and in both, which keeps the axis of aligned stamps.
    """
    if views == "mirrors":
        return [images_BAYX, *(images_BAYX.flip(axes) for axes in ((3,), (2,), (2, 3)))]
    turns = {1: (0,), 2: (0, 2), 4: (0, 1, 2, 3), 8: (0, 1, 2, 3)}[views]
    found = [images_BAYX.rot90(number, (2, 3)) for number in turns]
    if views == 8:
        found += [image.flip(3) for image in found]
    return found


def _refuse_odd(column: str, names: tuple[str, ...]) -> None:
    if len(names) < 2:
        told = f"only {names[0]!r}" if names else "nothing"
        raise InputError(
            f"[model] classes: the column {column!r} holds {told}; a classifier needs two classes "
            "or more."
        )
    if len(names) > MOST_CLASSES:
        raise InputError(
            f"[model] classes: the column {column!r} holds {len(names):,} different values, more "
            f"than {MOST_CLASSES:,}; name a column of classes."
        )
