"""From an encoder's maps to the features of an image: means and scatters at every scale.

Coarse maps know of the galaxy as a whole, fine ones of its texture; what a linear rule is to read
from the features is in both.  Shapes: B images, A bands, Y and X pixels, C channels, F features.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from galpipe.errors import InputError
from galpipe.models.backbones.backbone import Backbone, backbone_of
from galpipe.models.backbones.spec import Encoder, PlainCnn, Residual

SMALLEST = 1e-5  # added to variances, whose root has no slope at 0


class Pooled(nn.Module):
    """Images (B, A, Y, X) in 0..1 to features (B, F), float32, each of mean 0 and scatter 1.

    With `pooling` "scales" they are the mean and the standard deviation over the image of every
    channel, at the end of every image scale of the encoder; with "mean" the encoder's own features.
    Raises InputError for "scales" of another encoder than `cnn` and `residual`.
    """

    def __init__(
        self, encoder: Encoder, pooling: Literal["mean", "scales"], bands: int, size: int
    ) -> None:
        super().__init__()
        self.backbone = backbone_of(encoder, bands, size)
        self.pooling = pooling
        if pooling == "mean":
            self.features = self.backbone.features
        else:
            if not isinstance(encoder, PlainCnn | Residual):
                raise InputError(
                    f"[model] pooling: the maps of an encoder of kind {encoder.kind!r} are not "
                    "pooled scale by scale; take pooling = 'mean'."
                )
            self.backbone.eval()  # looked at, without a trace in its averages
            with torch.no_grad():
                maps = scales(self.backbone, torch.zeros(1, bands, size, size))
            self.backbone.train()
            self.features = 2 * sum(one.shape[1] for one in maps)
        self.norm = nn.BatchNorm1d(self.features, affine=False)

    def forward(self, images_BAYX: Tensor) -> Tensor:
        if self.pooling == "mean":
            found = self.backbone(images_BAYX)
        else:
            found = torch.cat([_moments(maps) for maps in scales(self.backbone, images_BAYX)], 1)
        normed: Tensor = self.norm(found)
        return normed.float()


def scales(backbone: Backbone, images_BAYX: Tensor) -> list[Tensor]:
    """The last maps of every image scale, (B, C, y, x), fine ones first."""
    found: list[Tensor] = []
    maps = images_BAYX.contiguous(memory_format=torch.channels_last)
    for layer in backbone.layers:  # type: ignore[union-attr]
        maps = layer(maps)
        if found and found[-1].shape[-1] == maps.shape[-1]:
            found.pop()
        found.append(maps)
    return found


def _moments(maps_BCYX: Tensor) -> Tensor:
    """Mean and standard deviation over the image of every channel, (B, 2 C)."""
    flat = maps_BCYX.float().flatten(2)
    variance, mean = torch.var_mean(flat, 2, correction=0)
    return torch.cat([mean, torch.sqrt(variance + SMALLEST)], 1)
