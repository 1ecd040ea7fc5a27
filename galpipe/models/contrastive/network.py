"""The self-supervised network: features of a galaxy whatever the angle it is seen at.

Shapes: B images, A bands, Y and X pixels, F features, P numbers of a projection, M columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from galpipe.models.backbones.grid import resampled
from galpipe.models.backbones.joined import Ranks
from galpipe.models.backbones.pooling import Pooled
from galpipe.models.classifier.network import turned
from galpipe.models.contrastive.spec import Contrastive
from galpipe.models.network import Network, Output


class ContrastiveNetwork(Network):
    """An encoder; in training a projection of its features, in which views are compared."""

    spec: Contrastive

    def __init__(
        self, spec: Contrastive, bands: int, size: int, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(spec, bands, size, facts or {})
        self.pixels = spec.pixels or size
        self.encoder = Pooled(spec.encoder, spec.pooling, bands, self.pixels)
        self.projection = nn.Sequential(
            nn.Linear(self.encoder.features, spec.hidden, bias=False),
            nn.BatchNorm1d(spec.hidden),
            nn.ReLU(),
            nn.Linear(spec.hidden, spec.projection, bias=False),
        )
        self.tell = nn.Linear(self.latent, len(spec.measured)) if spec.measured else None
        self.ranks = Ranks(len(spec.measured)) if spec.measured else None  # what it is to tell

    @property
    def latent(self) -> int:
        return self.encoder.features

    def outputs(self) -> tuple[Output, ...]:
        return (Output("vector", (self.latent,), ("latent",)),)

    def embed(self, images_BAYX: Tensor, conditions_BK: Tensor | None) -> dict[str, Tensor]:
        """Features averaged over turns and mirrors of each image."""
        seen = resampled(images_BAYX, self.pixels)
        views = turned(seen, self.spec.turns)
        total = self.encoder(views[0])
        for one in views[1:]:
            total = total + self.encoder(one)
        return {"vector": total / len(views)}
