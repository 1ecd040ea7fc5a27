"""A small ConvNeXt encoder (Liu et al. 2022, arXiv 2201.03545)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from galpipe.models.backbones.backbone import Backbone, refuse_even, refuse_small
from galpipe.models.backbones.drop_path import DropPath, chances
from galpipe.models.backbones.spec import ConvNext

EPSILON = 1e-6


class ConvNextNetwork(Backbone):
    """Patches of the image, then stages of blocks; each stage but the first halves."""

    def __init__(self, spec: ConvNext, bands: int, size: int) -> None:
        super().__init__()
        refuse_even(spec.kernel)
        refuse_small("ConvNeXt", size, len(spec.stages) - 1, spec.patch)
        layers: list[nn.Module] = [
            nn.Conv2d(bands, spec.stages[0].channels, spec.patch, spec.patch),
            _Norm(spec.stages[0].channels),
        ]
        left = chances(sum(stage.blocks for stage in spec.stages), spec.drop_path)
        before = spec.stages[0].channels
        for number, stage in enumerate(spec.stages):
            if number:
                layers += [_Norm(before), nn.Conv2d(before, stage.channels, 2, 2)]
            before = stage.channels
            layers += [_Block(before, spec, left.pop(0)) for _ in range(stage.blocks)]
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(before, eps=EPSILON)
        self.features = before

    def maps(self, images_BAYX: Tensor) -> Tensor:
        found: Tensor = self.layers(images_BAYX)
        return found

    def forward(self, images_BAYX: Tensor) -> Tensor:
        normed: Tensor = self.norm(super().forward(images_BAYX))
        return normed.float()


class _Norm(nn.Module):
    """Layer normalisation over the channels of every pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCYX: Tensor) -> Tensor:
        last = x_BCYX.permute(0, 2, 3, 1)  # a view: the memory order is channels last already
        normed = functional.layer_norm(last, last.shape[-1:], self.weight, self.bias, EPSILON)
        return normed.permute(0, 3, 1, 2)


class _Block(nn.Module):
    """A depth-wise convolution, then two layers on every pixel, beside a shortcut."""

    def __init__(self, channels: int, spec: ConvNext, chance: float) -> None:
        super().__init__()
        self.wide = nn.Conv2d(
            channels, channels, spec.kernel, padding=spec.kernel // 2, groups=channels
        )
        self.norm = nn.LayerNorm(channels, eps=EPSILON)
        self.expand = nn.Linear(channels, spec.expansion * channels)
        self.shrink = nn.Linear(spec.expansion * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), spec.layer_scale))
        self.drop = DropPath(chance)

    def forward(self, x_BCYX: Tensor) -> Tensor:
        inner = self.norm(self.wide(x_BCYX).permute(0, 2, 3, 1))
        branch = self.scale * self.shrink(functional.gelu(self.expand(inner)))
        dropped: Tensor = self.drop(branch.permute(0, 3, 1, 2))
        return x_BCYX + dropped
