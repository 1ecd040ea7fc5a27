"""Blocks that are left out at random, image by image (stochastic depth, Huang et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """In training an image's whole branch is dropped by a chance; what is left weighs more."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, branch_BCYX: Tensor) -> Tensor:
        if not self.training or self.chance == 0:
            return branch_BCYX
        drawn = torch.rand(len(branch_BCYX), device=branch_BCYX.device)
        kept = (drawn >= self.chance).to(branch_BCYX.dtype) / (1 - self.chance)
        return branch_BCYX * kept[:, None, None, None]


def chances(blocks: int, last: float) -> list[float]:
    """The chance of every block of a network, rising linearly from 0 to `last`."""
    return [last * number / max(blocks - 1, 1) for number in range(blocks)]
