"""The β-VAE of HST galaxies and its three siblings that are told columns of the catalogue.

Sibling by sibling the conditions come in at other places; `galpipe.models.cvae.network` says where.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from galpipe.models.beta import Beta
from galpipe.spec import spec

Width = Annotated[int, Field(ge=1)]


@spec
class Convolved:
    """What the four have in common: their layers and their loss.

    With the defaults, `bottleneck = 1` and 25 or 16 latent numbers, these are the published layers
    for stamps of 158 or 128 pixels; other sizes follow the same rule.
    """

    view: Literal["masked", "unmasked"] = "masked"  # stamps with neighbours filled, or as observed
    latent: int = Field(default=16, ge=1)  # dimensions of the embedding
    widths: Annotated[tuple[Width, ...], Field(min_length=1)] = (
        64,
        128,
        256,
        512,
    )  # channels of the convolutions, each of which halves the image
    # Channels of the encoder's last convolution.  The published networks have one, of 25 or 16
    # pixels, and draw 32 latent numbers from it: there cannot be more than go through.
    bottleneck: int = Field(default=4, ge=1)
    slope: float = Field(default=0.2, ge=0, lt=1)  # of the encoder's leaky rectifier below zero
    # x the divergence from the prior, beside the squared differences summed over an image: a
    # number, a `{ first, last, epochs, cycles }` that rises, or an array with one number per
    # latent dimension.
    beta: Beta = 0.1

    @model_validator(mode="after")
    def _as_many_betas(self) -> Convolved:
        if isinstance(self.beta, tuple) and len(self.beta) != self.latent:
            raise ValueError(
                f"beta has {len(self.beta)} numbers for {self.latent} latent dimensions"
            )
        return self


@spec
class Conditioned(Convolved):
    """What the three have in common that are told columns of the catalogue."""

    conditions: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "redshift",
    )  # columns: of the input table, measured ones, redshift, ra or dec
    # x the squared covariances of latent numbers and conditions (Cheung et al. 2015), for every
    # 1000 pixels.  What the latent numbers say of a condition does not change when a galaxy is
    # drawn at another value; the published networks have 0.
    independence: float = Field(default=2.0, ge=0)

    @model_validator(mode="after")
    def _each_once(self) -> Conditioned:
        if len(set(self.conditions)) < len(self.conditions):
            raise ValueError("conditions name a column twice")
        return self


@spec
class Vae(Convolved):
    """A β-VAE (Higgins et al. 2017) that is told nothing: what the others are compared with."""

    kind: Literal["vae"] = "vae"


@spec
class Cvae(Conditioned):
    """A conditional VAE (Sohn et al. 2015): the conditions are planes beside the image.

    And planes beside the decoder's first image.
    """

    kind: Literal["cvae"] = "cvae"


@spec
class Cvae2(Conditioned):
    """A conditional VAE: the conditions are numbers beside the encoder's features.

    And beside the latent numbers.  Faster than `cvae`, and as good.
    """

    kind: Literal["cvae2"] = "cvae2"


@spec
class FancyCvae(Conditioned):
    """A `cvae` that also says its conditions again; which it can copy, so that it is no skill."""

    kind: Literal["fancy_cvae"] = "fancy_cvae"
    # x the squared differences of the standardised conditions.  Published are 1000 of redshifts
    # as they are, whose scatter is about 0.3, beside stamps of 158 pixels; on small stamps so much
    # leaves no gradient for the drawing.
    repeated: float = Field(default=10.0, ge=0)
