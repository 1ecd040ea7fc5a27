"""Features of an image and of measured columns beside it, for models that predict numbers.

Shapes: B images, A bands, Y and X pixels, K columns, F features, Q quantiles.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from galpipe.models.backbones.backbone import backbone_of
from galpipe.models.backbones.spec import Encoder

QUANTILES = 129
OUTERMOST = 2e-3  # the rank of the lowest training value; 1 minus this, of the highest


class Ranks(nn.Module):
    """Columns as normal scores of their rank in the training split; 0, the median, where unknown.

    Ranks are free of units and hold outliers in (van der Waerden scores).
    """

    quantiles: Tensor  # (K, Q) of the training split

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("quantiles", torch.linspace(-1, 1, QUANTILES).repeat(columns, 1))

    def fit(self, values_NK: NDArray[np.float32]) -> None:
        """Take the quantiles of the finite values; a column without any stays as it is."""
        for k in range(values_NK.shape[1]):
            known = values_NK[np.isfinite(values_NK[:, k]), k].astype(np.float64)
            if len(known):
                found = np.quantile(known, np.linspace(0, 1, QUANTILES))
                self.quantiles[k] = torch.from_numpy(found).float().to(self.quantiles.device)

    def forward(self, raw_BK: Tensor) -> Tensor:
        known = torch.isfinite(raw_BK)
        values = torch.where(known, raw_BK, 0.0).T.contiguous()  # (K, B)
        # The middle of both one-sided ranks gives ties one central rank.
        left, right = (self._rank(values, side) for side in (True, False))
        rank = ((left + right) / 2).clamp(OUTERMOST, 1 - OUTERMOST)
        score = math.sqrt(2) * torch.erfinv(2 * rank - 1)
        return torch.where(known, score.T, 0.0)

    def _rank(self, values_KB: Tensor, right: bool) -> Tensor:
        """The rank among the quantiles, 0..1, interpolated."""
        last = self.quantiles.shape[1] - 1
        above = torch.searchsorted(self.quantiles, values_KB, right=right).clamp(1, last)
        high, low = self.quantiles.gather(1, above), self.quantiles.gather(1, above - 1)
        width = high - low
        inside = torch.where(width > 0, (values_KB - low) / width.clamp(min=1e-30), 0.5)
        return (above - 1 + inside.clamp(0, 1)) / last


class Joined(nn.Module):
    """An encoder's features with ranked columns beside them, through one layer: (B, F)."""

    def __init__(
        self, encoder: Encoder, bands: int, size: int, columns: int, width: int, dropout: float
    ) -> None:
        super().__init__()
        self.backbone = backbone_of(encoder, bands, size)
        self.features = width
        self.drop = nn.Dropout(dropout)
        self.project = nn.Linear(self.backbone.features, width)
        self.norm = nn.LayerNorm(width)
        self.last = nn.Dropout(dropout)
        self.ranks = Ranks(columns) if columns else None
        self.beside = (
            nn.Sequential(nn.Linear(columns, width), nn.GELU(), nn.Linear(width, width))
            if columns
            else None
        )

    def forward(self, images_BAYX: Tensor, columns_BK: Tensor | None) -> Tensor:
        """Features of images as they stand, with raw columns, NaN where unknown."""
        found = self.project(self.drop(self.backbone(images_BAYX)))
        if self.ranks is not None and self.beside is not None:
            assert columns_BK is not None, "a network with columns is given them"
            found = found + self.beside(self.ranks(columns_BK))
        joined: Tensor = self.last(nn.functional.gelu(self.norm(found)))
        return joined

    def fit(self, values_NK: NDArray[np.float32]) -> None:
        """Take the training split's columns, which decide the ranks."""
        if self.ranks is not None:
            self.ranks.fit(values_NK)

    def averaged(self, views: list[Tensor], columns_BK: Tensor | None) -> Tensor:
        """Features averaged over several views of the same images, where these differ."""
        views = views[:1] if self.backbone.one_view else views
        total: Tensor = self(views[0], columns_BK)
        for view in views[1:]:
            total = total + self(view, columns_BK)
        return total / len(views)
