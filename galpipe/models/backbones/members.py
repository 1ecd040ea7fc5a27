"""Several networks side by side, each with its own encoder, whose answers are averaged.

Shapes: M members, B images, A bands, Y and X pixels, K columns, F features, R answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from galpipe.models.backbones.joined import Joined
from galpipe.models.backbones.spec import Encoder


class Members(nn.Module):
    """Networks that learn the same from other features; their errors partly cancel.

    Each joins the features of its encoder with the columns and scores them linearly, so that the
    average of all scores is linear in the features of all members together.
    """

    def __init__(
        self,
        encoders: Sequence[Encoder],
        bands: int,
        size: int,
        columns: int,
        width: int,
        dropout: float,
        answers: int,
    ) -> None:
        super().__init__()
        self.joined = nn.ModuleList(
            Joined(encoder, bands, size, columns, width, dropout) for encoder in encoders
        )
        self.heads = nn.ModuleList(nn.Linear(width, answers) for _ in encoders)
        self.width = width

    def _own(self) -> list[tuple[Joined, nn.Linear]]:
        """Every member with its head."""
        pairs = zip(self.joined, self.heads, strict=True)
        return [(cast(Joined, joined), cast(nn.Linear, head)) for joined, head in pairs]

    @property
    def features(self) -> int:
        """Numbers in the vector of all members, M x F."""
        return len(self.joined) * self.width

    def fit(self, values_NK: NDArray[np.float32]) -> None:
        """Take the training split's columns, which decide the scale of each."""
        for joined, _ in self._own():
            joined.fit(values_NK)

    def start_at(self, bias_R: Tensor) -> None:
        """Scores of every member before it has learnt anything."""
        with torch.no_grad():
            for _, head in self._own():
                head.bias.copy_(bias_R)

    def forward(self, images_BAYX: Tensor, columns_BK: Tensor | None) -> Tensor:
        """Scores of every member for images as they stand, (M, B, R), float32."""
        return torch.stack(
            [head(joined(images_BAYX, columns_BK)).float() for joined, head in self._own()]
        )

    def averaged(self, views: list[Tensor], columns_BK: Tensor | None) -> Tensor:
        """Features of all members averaged over several views of the same images, (B, M x F)."""
        return torch.cat([joined.averaged(views, columns_BK) for joined, _ in self._own()], 1)

    def score(self, vector_BF: Tensor) -> Tensor:
        """The mean of all members' scores, (B, R), from their features."""
        parts = torch.split(vector_BF, self.width, 1)
        each = [head(part) for (_, head), part in zip(self._own(), parts, strict=True)]
        return torch.stack(each).mean(0)
