"""A compact residual encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from galpipe.models.backbones.backbone import Backbone, refuse_small
from galpipe.models.backbones.drop_path import DropPath, chances
from galpipe.models.backbones.spec import Residual

NARROWEST = 8  # channels between squeeze and excitation


class ResidualNetwork(Backbone):
    """A 3 x 3 stem, then stages of two-convolution blocks; each stage but the first halves."""

    def __init__(self, spec: Residual, bands: int, size: int) -> None:
        super().__init__()
        refuse_small("residual network", size, len(spec.stages) - 1 + spec.stem_stride - 1)
        layers: list[nn.Module] = [
            nn.Conv2d(bands, spec.stem, 3, spec.stem_stride, 1, bias=False),
            nn.BatchNorm2d(spec.stem),
            nn.ReLU(),
        ]
        left = chances(sum(stage.blocks for stage in spec.stages), spec.drop_path)
        before = spec.stem
        for number, stage in enumerate(spec.stages):
            for block in range(stage.blocks):
                stride = 2 if number and block == 0 else 1
                layers.append(_Block(before, stage.channels, stride, spec.excitation, left.pop(0)))
                before = stage.channels
        self.layers = nn.Sequential(*layers)
        self.features = before

    def maps(self, images_BAYX: Tensor) -> Tensor:
        found: Tensor = self.layers(images_BAYX)
        return found


class _Block(nn.Module):
    """relu(shortcut(x) + branch(x)); the branch starts at nothing (Goyal et al. 2017)."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, excitation: bool, chance: float
    ) -> None:
        super().__init__()
        last = nn.BatchNorm2d(outputs)
        nn.init.zeros_(last.weight)
        branch: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            last,
        ]
        if excitation:
            branch.append(_Excitation(outputs))
        self.branch = nn.Sequential(*branch, DropPath(chance))
        shortcut: list[nn.Module] = []
        if stride > 1:  # the mean of what a stride would drop (He et al. 2019, ResNet-D)
            shortcut.append(nn.AvgPool2d(stride, ceil_mode=True))
        if inputs != outputs:
            shortcut += [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x_BCYX: Tensor) -> Tensor:
        return functional.relu(self.shortcut(x_BCYX) + self.branch(x_BCYX))


class _Excitation(nn.Module):
    """Channels weighed by a small network of their means (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(channels // 8, NARROWEST)
        self.squeeze = nn.Linear(channels, narrow)
        self.excite = nn.Linear(narrow, channels)

    def forward(self, x_BCYX: Tensor) -> Tensor:
        weights = torch.sigmoid(self.excite(functional.relu(self.squeeze(x_BCYX.mean((2, 3))))))
        return x_BCYX * weights[:, :, None, None]
