"""The squared difference of images and their drawings."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_square(drawn_BAYX: Tensor, images_BAYX: Tensor) -> Tensor:
    """The mean squared difference of each image and its drawing, (B,): no row depends on others."""
    difference = (drawn_BAYX - images_BAYX).flatten(1)
    squared: Tensor = torch.linalg.vector_norm(difference, dim=1) ** 2 / difference.shape[1]
    return squared
