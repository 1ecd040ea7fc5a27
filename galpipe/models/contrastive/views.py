"""Views of galaxies: what an image may look like without being of another galaxy.

Shapes: B images, A bands, Y and X pixels; torch's own random numbers, one device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from galpipe.models.backbones.grid import on_grid
from galpipe.models.contrastive.spec import Views

REACH = 3.0  # sigma to which a blur is drawn


def view(images_BAYX: Tensor, spec: Views, pixels: int) -> Tensor:
    """A view of each image, (B, A, pixels, pixels): turned, moved, dimmed, blurred and noisy.

    Images are in 0..1; noise and brightness may leave that range.
    """
    seen = _moved(images_BAYX, spec, pixels)
    if spec.blur:
        share = _uniform(seen, 0, 1)[:, None, None, None]
        seen = torch.lerp(seen, blurred(seen, spec.blur), share)
    if spec.brightness:
        seen = seen * _uniform(seen, 1 - spec.brightness, 1 + spec.brightness)[:, None, None, None]
    if spec.colour and seen.shape[1] > 1:
        drawn = torch.rand(seen.shape[:2], device=seen.device)
        seen = seen * (1 + spec.colour * (2 * drawn - 1))[:, :, None, None]
    if spec.noise:
        seen = seen + _uniform(seen, 0, spec.noise)[:, None, None, None] * torch.randn_like(seen)
    return seen


def blurred(images_BAYX: Tensor, sigma: float) -> Tensor:
    """Images with a Gaussian PSF of `sigma` pixels added; the border's pixels go on beyond it."""
    reach = math.ceil(REACH * sigma)
    weights = [math.exp(-0.5 * (step / sigma) ** 2) for step in range(-reach, reach + 1)]
    whole = math.fsum(weights)
    seen = functional.pad(images_BAYX, (reach, reach, reach, reach), mode="replicate")
    # Sums of shifted images: for few bands much faster than a convolution of each.
    for axis in (3, 2):
        size = seen.shape[axis] - 2 * reach
        total = weights[0] / whole * seen.narrow(axis, 0, size)
        for step, weight in enumerate(weights[1:], start=1):
            total.add_(seen.narrow(axis, step, size), alpha=weight / whole)
        seen = total
    return seen


def _moved(images_BAYX: Tensor, spec: Views, pixels: int) -> Tensor:
    """Turned, mirrored, shifted and zoomed about the centre in one bilinear resampling."""
    angle = _uniform(images_BAYX, 0, 2 * math.pi if spec.rotate else 0)
    size = torch.exp(_uniform(images_BAYX, -1, 1) * math.log1p(spec.zoom))
    mirror = torch.ones_like(size)
    if spec.mirror:
        mirror = torch.where(_uniform(images_BAYX, 0, 1) < 0.5, -mirror, mirror)
    across, down = (_uniform(images_BAYX, -2 * spec.shift, 2 * spec.shift) for _ in range(2))
    cosine, sine = torch.cos(angle) / size, torch.sin(angle) / size
    rows = torch.stack([cosine * mirror, -sine, across, sine * mirror, cosine, down], 1)
    return on_grid(images_BAYX, rows.view(-1, 2, 3), pixels)


def _uniform(images_BAYX: Tensor, low: float, high: float) -> Tensor:
    drawn = torch.rand(len(images_BAYX), device=images_BAYX.device)
    return low + (high - low) * drawn
