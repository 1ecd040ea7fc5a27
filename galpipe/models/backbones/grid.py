"""Images on other grids of pixels.  Shapes: B images, A bands, Y and X pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def resampled(images_BAYX: Tensor, pixels: int, crop: float = 1.0) -> Tensor:
    """The images, or the central `crop` of their width, on another grid by bilinear resampling."""
    if images_BAYX.shape[-1] == pixels and crop == 1.0:
        return images_BAYX
    rows = crop * torch.eye(2, 3, device=images_BAYX.device).expand(len(images_BAYX), 2, 3)
    return on_grid(images_BAYX, rows, pixels)


def on_grid(images_BAYX: Tensor, rows_B23: Tensor, pixels: int) -> Tensor:
    """Images seen through affine maps (B, 2, 3), bilinear; the border goes on beyond itself."""
    shape = [*images_BAYX.shape[:2], pixels, pixels]
    grid = functional.affine_grid(rows_B23, shape, align_corners=False)
    return functional.grid_sample(
        images_BAYX, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
