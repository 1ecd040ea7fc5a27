"""The β-VAE and its prior: a normal distribution, or a normalising flow."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from galpipe.models.beta import Beta
from galpipe.models.convolutions.spec import Layers
from galpipe.spec import spec


@spec
class Normal:
    """Independent standard normal latent numbers (Kingma & Welling 2014)."""

    kind: Literal["normal"] = "normal"


@spec
class Flow:
    """A normalising flow from normal to latent numbers, by zuko."""

    kind: Literal["flow"] = "flow"
    # realnvp: affine coupling (Dinh et al. 2017); maf: masked autoregressive (Papamakarios et al.
    # 2017); spline: autoregressive rational-quadratic splines (Durkan et al. 2019).
    family: Literal["realnvp", "maf", "spline"] = "maf"
    # jointly: its density is the prior of the bound; after: the network learns against a standard
    # normal, and then the flow learns what its posteriors fill (Lanusse et al. 2021).
    fitted: Literal["jointly", "after"] = "after"
    transforms: int = Field(default=4, ge=1)  # one after the other
    width: int = Field(default=96, ge=1)  # of the hidden layers of each
    depth: int = Field(default=2, ge=1)  # hidden layers of each
    bins: int = Field(default=8, ge=2)  # of a spline
    steps: int = Field(default=2000, ge=1)  # of Adam, where it is fitted after
    batch: int = Field(default=256, ge=1)  # posteriors per step, where it is fitted after
    learning_rate: float = Field(default=1e-3, gt=0)  # the highest, where it is fitted after
    images: int = Field(default=20_000, ge=2)  # whose posteriors are fitted afterwards, at most


Prior = Annotated[Normal | Flow, Field(discriminator="kind")]


@spec
class NoResidual:
    """New images are the decoder's drawings alone: smoother than any survey."""

    kind: Literal["none"] = "none"


@spec
class Residual:
    """A random field like what the decoder leaves undrawn: the survey's noise and fine structure.

    Its power spectrum, distribution and strength are those that the training split's residuals have
    where the drawing is dark or bright; how strong in one image follows from its latent numbers,
    with the scatter that is found.
    """

    kind: Literal["fitted"] = "fitted"
    ranges: int = Field(default=8, ge=1, le=16)  # of the drawing's brightness, each its own field
    images: int = Field(default=2048, ge=2)  # of the training split that it is fitted to, at most


Undrawn = Annotated[NoResidual | Residual, Field(discriminator="kind")]


@spec
class FlowVae:
    """A β-VAE (Higgins et al. 2017) that draws new galaxies from its prior.

    Where there are `conditions`, the flow gives the latent numbers of galaxies with stated values
    of these columns; encoder and decoder do not know them.
    """

    kind: Literal["flow_vae"] = "flow_vae"
    view: Literal["masked", "unmasked"] = "masked"  # stamps with neighbours filled, or as observed
    latent: int = Field(default=20, ge=1)  # dimensions of the embedding
    layers: Layers = Layers()
    # x the squared differences of an image: 1 / (2 sigma^2) for noise of sigma per pixel.
    reconstruction: float = Field(default=200.0, gt=0)
    # x the divergence from the prior: a number, a `{ first, last, epochs, cycles }` that rises, or
    # an array with one number per latent dimension.
    beta: Beta = 1.0
    prior: Prior = Flow()
    conditions: tuple[str, ...] = ()  # columns that the flow is conditioned on; none: all galaxies
    variance_floor: float = Field(default=1e-4, gt=0)  # of the posterior, in latent units squared
    undrawn: Undrawn = Residual()

    @model_validator(mode="after")
    def _fits_together(self) -> FlowVae:
        joint = self.prior.kind == "flow" and self.prior.fitted == "jointly"
        if isinstance(self.beta, tuple):
            if len(self.beta) != self.latent:
                raise ValueError(
                    f"beta has {len(self.beta)} numbers for {self.latent} latent dimensions"
                )
            if joint:
                raise ValueError(
                    "a flow that is fitted jointly has no divergence per dimension; give beta as "
                    'one number, or prior.fitted = "after"'
                )
        if self.conditions and (self.prior.kind != "flow" or joint):
            raise ValueError('conditions are those of a flow with prior.fitted = "after"')
        return self
