"""What an encoder is: images in, one vector of features each out.

Shapes: B images, A bands, Y and X pixels, F features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, assert_never

import torch
from torch import Tensor, nn

from galpipe.errors import InputError
from galpipe.models.backbones.spec import (
    ConvNext,
    Encoder,
    Learnt,
    PlainCnn,
    Residual,
    Scattering,
    Timm,
)


class Backbone(nn.Module, ABC):
    """Images (B, A, Y, X) in 0..1 to features (B, F), float32; F is `features`."""

    features: int
    one_view: ClassVar[bool] = False  # turned and mirrored images have the same features

    @abstractmethod
    def maps(self, images_BAYX: Tensor) -> Tensor:
        """Features before their mean over the image, (B, F, y, x)."""

    def forward(self, images_BAYX: Tensor) -> Tensor:
        ordered = images_BAYX.contiguous(memory_format=torch.channels_last)
        pooled: Tensor = self.maps(ordered).float().mean((2, 3))
        return pooled


def backbone_of(spec: Encoder, bands: int, size: int) -> Backbone:
    """An encoder with fresh weights for images of (bands, size, size).

    Raises InputError where it does not fit them, or needs a library that is not there.
    """
    match spec:
        case PlainCnn():
            from galpipe.models.backbones.cnn import Cnn

            made: Backbone = Cnn(spec, bands, size)
        case Residual():
            from galpipe.models.backbones.residual import ResidualNetwork

            made = ResidualNetwork(spec, bands, size)
        case ConvNext():
            from galpipe.models.backbones.convnext import ConvNextNetwork

            made = ConvNextNetwork(spec, bands, size)
        case Scattering():
            from galpipe.models.backbones.scattering import ScatteringNetwork

            made = ScatteringNetwork(spec, bands, size)
        case Timm():
            from galpipe.models.backbones.from_timm import TimmEncoder

            made = TimmEncoder(spec, bands, size)
        case Learnt():
            from galpipe.models.backbones.learnt import LearntEncoder

            made = LearntEncoder(spec, bands, size)
        case _:
            assert_never(spec)
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def refuse_small(kind: str, size: int, halvings: int, patch: int = 1) -> None:
    """Raise InputError where images of `size` pixels, in patches, cannot be halved so often."""
    needed = patch * 2**halvings
    if size < needed:
        raise InputError(
            f"[model] encoder: this {kind} needs stamps of {needed} pixels or more, and these have "
            f"{size}; take fewer scales, or a larger [prepare] size."
        )


def refuse_even(kernel: int) -> None:
    """Raise InputError for a kernel without a centre."""
    if kernel % 2 == 0:
        raise InputError(f"[model] encoder: kernel must be odd, and it is {kernel}.")
