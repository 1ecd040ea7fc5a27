"""The self-supervised encoder: what two views of a galaxy share, and how they are told apart."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from galpipe.models.backbones.spec import Encoder, Residual, Stage
from galpipe.spec import spec


@spec
class NtXent:
    """Each view finds its partner among all views of the batch (SimCLR, Chen et al. 2020).

    The others are those of the same part of a batch: `accumulate` leaves fewer of them.
    """

    kind: Literal["nt_xent"] = "nt_xent"
    temperature: float = Field(default=0.2, gt=0)  # of the cosines; smaller: near ones weigh more


@spec
class VicReg:
    """Equal vectors of partners, each dimension with its own scatter (Bardes et al. 2022)."""

    kind: Literal["vicreg"] = "vicreg"
    invariance: float = Field(default=25.0, gt=0)  # weight of the partners' squared difference
    variance: float = Field(default=25.0, gt=0)  # weight of scatters below 1
    covariance: float = Field(default=1.0, ge=0)  # weight of the squared covariances


Objective = Annotated[NtXent | VicReg, Field(discriminator="kind")]


@spec
class Views:
    """What differs between two views of a galaxy, and so is not learnt; drawn anew every time."""

    rotate: bool = True  # by any angle
    mirror: bool = True  # at random
    shift: float = Field(default=0.05, ge=0, le=0.5)  # largest, a fraction of the side, x and y
    zoom: float = Field(default=0.25, ge=0, lt=1)  # largest change of size, as a fraction
    brightness: float = Field(default=0.2, ge=0, lt=1)  # largest change, a fraction
    colour: float = Field(default=0.05, ge=0, lt=1)  # the same, of every band by itself
    noise: float = Field(default=0.03, ge=0)  # largest standard deviation, images in 0..1
    blur: float = Field(default=1.0, ge=0, le=5)  # sigma in pixels of the widest PSF added; 0: none


@spec
class Contrastive:
    """An encoder that learns without labels which views are of the same galaxy."""

    kind: Literal["contrastive"] = "contrastive"
    view: Literal["masked", "unmasked"] = "masked"  # stamps with neighbours filled, or as observed
    pixels: int | None = Field(default=32, ge=8)  # images are resampled to so many; None: are not
    encoder: Encoder = Residual(
        stem=24,
        stages=(
            Stage(channels=32, blocks=1),
            Stage(channels=64, blocks=2),
            Stage(channels=192, blocks=2),
        ),
    )  # images to maps, which are pooled into features
    # What the features are: the encoder's own, or means and scatters of its maps at every scale
    # (encoders `cnn` and `residual`).
    pooling: Literal["mean", "scales"] = "scales"
    views: Views = Views()
    objective: Objective = NtXent()
    hidden: int = Field(default=256, ge=1)  # width of the layer between features and projection
    projection: int = Field(default=64, ge=2)  # numbers in which the views are compared
    # Measured columns whose normal scores the features are also to tell; they need no label.
    measured: tuple[str, ...] = ()
    measured_weight: float = Field(default=1.0, gt=0)  # of their mean squared error, in the loss
    turns: Literal[1, 2, 4, 8] = 8  # turns and mirrors of each image, averaged in the embedding
