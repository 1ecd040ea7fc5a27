"""What is done to stamps before they are learnt from (torch's random numbers, one device)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from galpipe.models.engine.spec import Augmentation


def augmented_stored(stored_BAYX: Tensor, spec: Augmentation) -> Tensor:
    """Flips and quarter turns of stamps as stored, before they become four times as large."""
    if spec.flips:
        stored_BAYX = mirrored(stored_BAYX)
    if spec.rotations == "quarter":
        stored_BAYX = quarter_turned(stored_BAYX)
    return stored_BAYX


def augmented(images_BAYX: Tensor, spec: Augmentation) -> Tensor:
    """Turned, shifted, zoomed, brightened and noisy images; images in 0..1."""
    if spec.rotations == "any" or spec.shift or spec.zoom:
        images_BAYX = moved(images_BAYX, spec.rotations == "any", spec.shift, spec.zoom)
    if spec.brightness:
        factor = 1 + spec.brightness * (2 * _uniform(images_BAYX) - 1)
        images_BAYX = images_BAYX * factor[:, None, None, None]
    if spec.noise:
        images_BAYX = images_BAYX + spec.noise * torch.randn_like(images_BAYX)
    return images_BAYX


def mirrored(images_BAYX: Tensor) -> Tensor:
    """Each image mirrored in x, in y, in both or not at all, with equal chances."""
    across, down = torch.randint(0, 2, (2, len(images_BAYX)), device=images_BAYX.device).bool()
    turned = _where(across, images_BAYX.flip(3), images_BAYX)
    return _where(down, turned.flip(2), turned)


def quarter_turned(images_BAYX: Tensor) -> Tensor:
    """Each image turned by 0, 90, 180 or 270 degrees, with equal chances; square images."""
    turns = torch.randint(0, 4, (len(images_BAYX),), device=images_BAYX.device)
    turned = images_BAYX
    for number in (1, 2, 3):
        turned = _where(turns == number, images_BAYX.rot90(number, (2, 3)), turned)
    return turned


def moved(images_BAYX: Tensor, turn: bool, shift: float, zoom: float) -> Tensor:
    """Each image turned by any angle, shifted and zoomed about its centre in one resampling.

    `shift` is the largest, as a fraction of the side, in x and y; `zoom` the largest change of size
    as a fraction.  Bilinear; beyond the border the border's pixels are repeated.
    """
    angle = 2 * math.pi * _uniform(images_BAYX) if turn else torch.zeros_like(_uniform(images_BAYX))
    size = torch.exp((2 * _uniform(images_BAYX) - 1) * math.log1p(zoom))
    across, down = (2 * shift * (2 * _uniform(images_BAYX) - 1) for _ in range(2))
    cosine, sine = torch.cos(angle) / size, torch.sin(angle) / size
    rows = torch.stack([cosine, -sine, across, sine, cosine, down], 1).view(-1, 2, 3)
    grid = functional.affine_grid(rows, list(images_BAYX.shape), align_corners=False)
    return functional.grid_sample(
        images_BAYX, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def _uniform(images_BAYX: Tensor) -> Tensor:
    return torch.rand(len(images_BAYX), device=images_BAYX.device)


def _where(chosen_B: Tensor, these: Tensor, those: Tensor) -> Tensor:
    """Whole images of one or the other, without a count of them, which a GPU would wait for."""
    return torch.where(chosen_B[:, None, None, None], these, those)
