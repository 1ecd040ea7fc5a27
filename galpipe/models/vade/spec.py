"""VaDE: its layers, its prior, and how the prior comes in."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from galpipe.spec import spec


@spec
class Stack:
    """Convolutions at one image scale; between two stacks the image is halved or doubled."""

    channels: int = Field(ge=1)  # of every convolution of the stack
    kernel: int = Field(default=3, ge=1, le=15)  # pixels on a side, odd
    layers: int = Field(default=1, ge=1)  # convolutions of the stack


@spec
class Annealing:
    """The epochs of VaDE: a warm-up, then cycles in which the mixture's weight rises and stays."""

    warm_up: int = Field(default=6, ge=0)  # epochs against a standard normal prior
    cycles: int = Field(default=1, ge=0)  # of annealing and static epochs against the mixture
    annealing: int = Field(default=4, ge=0)  # epochs per cycle while the prior's weight rises
    static: int = Field(default=6, ge=0)  # epochs per cycle at `static_weight`
    warm_up_weight: float = Field(default=1.0, ge=0)  # gamma: of KL(q || N(0, I)) in the warm-up
    mixture_weight: float = Field(default=0.3, ge=0)  # of the mixture term, times what follows
    # In static epochs; annealing goes from gamma to gamma + 1.
    static_weight: float = Field(default=1.0, ge=0)  # of the mixture term in static epochs
    power: float = Field(default=3.0, gt=0)  # a^power + gamma, with a from 0 to 1 over the cycle


@spec
class VaDE:
    """Variational deep embedding (Jiang et al. 2017; AstroVaDEr, Spindler et al. 2021).

    The defaults are a small strided network for 64 x 64 surveys on a CPU; AstroVaDEr's own is
    `deploy/surveys/astrovader-paper.toml`.
    """

    kind: Literal["vade"] = "vade"
    view: Literal["masked", "unmasked"] = "masked"  # stamps with neighbours filled, or as observed
    latent: int = Field(default=20, ge=1)  # dimensions of the embedding
    components: int = Field(default=12, ge=1)  # Gaussians of the prior
    # diagonal: as published.  full: components may lie askew to the latent axes.
    covariance: Literal["diagonal", "full"] = "diagonal"
    encoder: tuple[Stack, ...] = (
        Stack(channels=16, kernel=5),
        Stack(channels=32),
        Stack(channels=32),
    )
    decoder: tuple[Stack, ...] = (
        Stack(channels=32),
        Stack(channels=32),
        Stack(channels=16),
    )
    # pooled: convolutions, then 2 x 2 maximum; bilinear doubling (AstroVaDEr).
    # strided: the first convolution of a stack has stride 2; doubling by sub-pixel convolution.
    sampling: Literal["pooled", "strided"] = "strided"
    # A linear path beside the convolutions, started at the training split's principal components:
    # the axes a diagonal mixture needs, and a faithful reconstruction from the first epoch on.
    linear: bool = True
    slope: float = Field(default=0.1, ge=0, lt=1)  # of the leaky rectifier below zero
    output: Literal["linear", "relu", "sigmoid"] = "linear"  # of the decoder's last layer
    variance_floor: float = Field(
        default=1e-4, gt=0
    )  # of prior and posterior, in latent units squared
    # How q(c|x) is taken in the loss: at a sampled z (Jiang et al. 2017), or from the expected
    # log p(c, z) under q(z|x), which is the exact optimum (Falck et al. 2021, MFCVAE).
    categorical: Literal["expected", "sampled"] = "expected"
    channels_last: bool = True  # memory order of images; changes last bits and speed, not meaning
    reconstruction: float = Field(default=200.0, gt=0)  # x the squared differences of an image
    schedule: Annealing = Annealing()
    initialisation_images: int | None = Field(
        default=20000, ge=1
    )  # None: all of the training split
    initialisation_restarts: int = Field(default=4, ge=1)  # mixture fits; the likeliest is taken
    reseed: bool = True  # dead components begin anew as halves of the heaviest, while it anneals
    # Components that overlap by this much (Bhattacharyya) share one label; None: each has its own.
    merge: float | None = Field(default=None, gt=0, le=1)
    restarts: int = Field(default=1, ge=1)  # trainings; that of the best validation bound is kept
    overlap_alarm: float = Field(default=0.9, gt=0, le=1)  # Bhattacharyya coefficient of duplicates
    occupancy_alarm: float = Field(
        default=0.1, ge=0, lt=1
    )  # of 1 / components: below, a component is dead

    @model_validator(mode="after")
    def _has_enough_to_start(self) -> VaDE:
        images = self.initialisation_images
        if images is not None and images < self.components:
            raise ValueError(
                f"initialisation_images = {images} cannot start {self.components} components; "
                "give more images or fewer components"
            )
        return self
