"""From an encoder's maps to the features of an image: means and scatters at every scale.

Coarse maps know of the galaxy as a whole, fine ones of its texture; what a linear rule is to read
from the features is in both.  Shapes: B images, A bands, Y and X pixels, C channels, F features.
"""

from __future__ import annotations

from typing import Any, Literal

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
            found = torch.cat([moments(maps) for maps in scales(self.backbone, images_BAYX)], 1)
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


def moments(maps_BCYX: Tensor) -> Tensor:
    """Mean and standard deviation over the image of every channel, (B, 2 C), float32."""
    found: Tensor = _Moments.apply(maps_BCYX)  # type: ignore[no-untyped-call]
    return found


class _Moments(torch.autograd.Function):
    """The moments with their slope written down: a training step takes a tenth less time.

    Maps lie channel by channel within a pixel, which `var_mean` of an image strides over; and torch
    finds its slope in five passes over float32 maps, where one will do.
    """

    @staticmethod
    def forward(ctx: Any, maps_BCYX: Tensor) -> Tensor:
        seen = _by_pixel(maps_BCYX)
        mean = seen.mean(1)
        scatter = seen.sub_(mean[:, None]).square_().mean(1).add_(SMALLEST).sqrt_()
        ctx.save_for_backward(maps_BCYX, mean, scatter)
        return torch.cat([mean, scatter], 1)

    @staticmethod
    def backward(ctx: Any, slope_BF: Tensor) -> Tensor:
        maps, mean, scatter = ctx.saved_tensors
        of_mean, of_scatter = (slope_BF / (maps.shape[2] * maps.shape[3])).chunk(2, 1)
        centred = _by_pixel(maps).sub_(mean[:, None])
        slope = torch.addcmul(of_mean[:, None], (of_scatter / scatter)[:, None], centred)
        upright = slope.to(maps.dtype).view(len(maps), *maps.shape[2:], -1)
        return upright.permute(0, 3, 1, 2)


def _by_pixel(maps_BCYX: Tensor) -> Tensor:
    """A copy of the maps as float32 (B, Y X, C)."""
    return maps_BCYX.permute(0, 2, 3, 1).flatten(1, 2).to(torch.float32, copy=True)
