"""The encoders that several kinds of models share: what each is made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from galpipe.spec import spec


@spec
class PlainCnn:
    """Convolution, batch normalisation, rectifier and 2 x 2 maximum, scale by scale; then the mean.

    The defaults are the small network 32-64-128 of 3 x 3 kernels.
    """

    kind: Literal["cnn"] = "cnn"
    channels: tuple[int, ...] = Field(default=(32, 64, 128), min_length=1)  # of each scale
    kernel: int = Field(default=3, ge=1, le=15)  # pixels on a side, odd
    stem_stride: Literal[1, 2] = 1  # 2: the first convolution halves the image


@spec
class Stage:
    """Blocks at one image scale; between two stages the image is halved."""

    channels: int = Field(ge=1)  # of every block
    blocks: int = Field(default=2, ge=1)  # of the stage


@spec
class Residual:
    """A residual network of two-convolution blocks (He et al. 2016), shortcuts by averaging.

    Squeeze-and-excitation (Hu et al. 2018) weighs the channels of a block by its mean.
    """

    kind: Literal["residual"] = "residual"
    stem: int = Field(default=24, ge=1)  # channels of the first convolution
    stem_stride: Literal[1, 2] = 2  # 2: the first convolution halves the image
    stages: tuple[Stage, ...] = Field(
        default=(
            Stage(channels=32, blocks=1),
            Stage(channels=64, blocks=2),
            Stage(channels=128, blocks=2),
        ),
        min_length=1,
    )
    excitation: bool = True  # squeeze-and-excitation in every block
    drop_path: float = Field(default=0.0, ge=0, lt=1)  # chance to leave a block out, at the last


@spec
class ConvNext:
    """A small ConvNeXt (Liu et al. 2022): wide depth-wise kernels, layer normalisation, GELU."""

    kind: Literal["convnext"] = "convnext"
    patch: int = Field(default=2, ge=1, le=8)  # pixels on a side of what the first layer takes in
    stages: tuple[Stage, ...] = Field(
        default=(
            Stage(channels=40, blocks=2),
            Stage(channels=80, blocks=2),
            Stage(channels=160, blocks=2),
        ),
        min_length=1,
    )
    kernel: int = Field(default=7, ge=1, le=15)  # of the depth-wise convolutions, odd
    expansion: int = Field(default=4, ge=1)  # of the channels within a block
    layer_scale: float = Field(default=1e-2, gt=0)  # first weight of a block beside its shortcut
    drop_path: float = Field(default=0.0, ge=0, lt=1)  # chance to leave a block out, at the last


@spec
class Scattering:
    """A scattering transform (Bruna & Mallat 2013): wavelets that are given, not learnt.

    For samples of hundreds of galaxies, which are too few to learn filters from.
    """

    kind: Literal["scattering"] = "scattering"
    scales: int = Field(default=4, ge=1, le=7)  # of the wavelets, each twice as large
    angles: Literal[4, 6, 8] = 6  # of the wavelets


@spec
class Timm:
    """An encoder of the library timm, with fresh weights; timm must be installed."""

    kind: Literal["timm"] = "timm"
    name: str = "resnet18"  # as `timm.list_models()` has it
    drop_path: float = Field(default=0.0, ge=0, lt=1)  # `drop_path_rate`, where the encoder has it


Fresh = Annotated[PlainCnn | Residual | ConvNext | Scattering | Timm, Field(discriminator="kind")]


@spec
class Learnt:
    """The encoder of the survey that this one starts with, and the weights that it learnt there.

    `encoder`, `pooling` and `pixels` are those of that survey, and are filled in from its file.
    """

    kind: Literal["learnt"] = "learnt"
    share: float = Field(default=0.15, gt=0, le=1)  # of the learning rate: it has learnt before
    crops: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(1.0,), min_length=1
    )  # central parts of the stamp that are seen, each by itself, as shares of its width
    encoder: Fresh  # images to maps
    pooling: Literal["mean", "scales"]  # maps to features
    pixels: int | None  # images are resampled to so many; None: are not


Encoder = Annotated[
    PlainCnn | Residual | ConvNext | Scattering | Timm | Learnt, Field(discriminator="kind")
]
