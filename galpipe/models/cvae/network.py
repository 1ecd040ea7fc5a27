"""β-VAEs of HST galaxies, plain and conditional: `vae`, `cvae`, `cvae2`, `fancy_cvae`.

log p(x|c) >= E_q log p(x|z,c) - KL(q(z|x,c) || N(0, I)) (Sohn, Lee & Yan 2015, NeurIPS, eq. 4, with
a prior that knows no condition); layers as released for the GalSim COSMOS stamps of 158 and 128
pixels.  Where the conditions come in:

| kind         | encoder                   | decoder                           | says again |
|--------------|---------------------------|-----------------------------------|------------|
| `cvae`       | planes beside the image   | planes beside the first image     | no         |
| `cvae2`      | numbers beside features   | numbers beside the latent ones    | no         |
| `fancy_cvae` | as `cvae`                 | as `cvae`                         | yes        |

Unlike the released networks: conditions are standardised, no more latent numbers are drawn than
the bottleneck has (theirs: 32 from 25 or 16), a bias that batch normalisation takes away again is
left out, and figures are taken in evaluation mode.
Shapes: B images, A bands, Y and X pixels, J latent dimensions, K conditions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from galpipe.errors import InputError
from galpipe.models.convolutions.squared import mean_square
from galpipe.models.cvae import layers
from galpipe.models.cvae.spec import Conditioned, Convolved, Cvae, Cvae2, FancyCvae
from galpipe.models.network import Network, Output

LARGEST_LOG_VARIANCE = 20.0  # keeps exp() finite on images unlike any seen in training
LEAST = 1e-6  # of the mean: the smallest scatter of a condition
FARTHEST = 5.0  # standard deviations: a condition beyond is taken as if it were there


class Posterior(NamedTuple):
    """q(z|x,c) of a batch: a diagonal Gaussian each."""

    mean: Tensor  # (B, J)
    log_variance: Tensor  # (B, J)

    def sample(self, noise_BJ: Tensor) -> Tensor:
        """z = mean + sigma * noise, (B, J); `noise_BJ` is standard normal."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise_BJ


class Drawing(NamedTuple):
    """What the decoder gives."""

    images: Tensor  # (B, A, Y, X) in 0..1
    conditions: Tensor | None  # (B, K) standardised, said again; None: this kind does not


class CvaeNetwork(Network):
    """Encoder and decoder for images of (bands, size, size) in 0..1.

    Conditions are raw values of the columns, (B, K).  They are standardised by the training split
    and held within 5 standard deviations; a value that is not known (NaN) is taken as the training
    split's mean.  Raises InputError where the stamps cannot be halved so often, or where more
    latent numbers are wanted than the bottleneck has.
    """

    abilities: ClassVar[frozenset[str]] = frozenset({"redraw", "generate"})
    spec: Convolved
    condition_mean: Tensor  # (K,)
    condition_scatter: Tensor  # (K,)

    def __init__(
        self, spec: Convolved, bands: int, size: int, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(spec, bands, size, facts or {})
        self.columns = spec.conditions if isinstance(spec, Conditioned) else ()
        count = len(self.columns)
        steps = layers.steps_of(size, len(spec.widths))
        self._shape = (spec.bottleneck, steps[-1].side, steps[-1].side)
        features = spec.bottleneck * steps[-1].side ** 2
        if spec.latent > features:
            raise InputError(
                f"model: {spec.latent} latent numbers do not go through a bottleneck of {features} "
                f"({spec.bottleneck} x {steps[-1].side} x {steps[-1].side}); give latent = "
                f"{features} or less, or bottleneck = {-(-spec.latent // steps[-1].side ** 2)}."
            )
        self.planes = count if isinstance(spec, Cvae | FancyCvae) else 0
        self.beside = count if isinstance(spec, Cvae2) else 0
        self.repeated = count if isinstance(spec, FancyCvae) else 0
        self.encoder = layers.encoder(
            steps, bands + self.planes, spec.widths, spec.bottleneck, spec.slope
        )
        self.mean = nn.Linear(features + self.beside, spec.latent)
        self.log_variance = nn.Linear(features + self.beside, spec.latent)
        self.expand = nn.Linear(spec.latent + self.beside, features)
        self.decoder = layers.decoder(
            steps, spec.bottleneck * (1 + self.planes), spec.widths, bands + self.repeated
        )
        told = self.facts["condition"] if count else {"mean": [], "scatter": []}
        mean, scatter = torch.tensor(told["mean"]).float(), torch.tensor(told["scatter"]).float()
        self.register_buffer("condition_mean", mean)
        # A column with one value for all says nothing, and its last bits shall not say it either.
        self.register_buffer("condition_scatter", torch.maximum(scatter, LEAST * mean.abs()))

    @property
    def latent(self) -> int:
        return self.spec.latent

    def outputs(self) -> tuple[Output, ...]:
        count = len(self.columns)
        given = (Output("condition", (count,), ("condition",)),) if count else ()
        return (
            Output("vector", (self.spec.latent,), ("latent",)),
            Output("reconstruction_error"),
            *given,
        )

    def embed(self, images_BAYX: Tensor, conditions_BK: Tensor | None) -> dict[str, Tensor]:
        """Posterior mean, mean squared difference of stamp and drawing, the conditions given.

        `condition` are raw values, NaN where the mean stood in for a value that is not known.
        """
        given = self.standard(conditions_BK, images_BAYX)
        mean = self.encode(images_BAYX, given).mean
        error = mean_square(self.decode(mean, given).images, images_BAYX)
        found = {"vector": mean, "reconstruction_error": error}
        if self.columns:
            unknown = images_BAYX.new_full((len(images_BAYX), len(self.columns)), torch.nan)
            found["condition"] = unknown if conditions_BK is None else conditions_BK.float()
        return found

    def standard(self, conditions_BK: Tensor | None, like_B: Tensor) -> Tensor:
        """Standardised conditions of as many rows as `like_B` has, (B, K); None: none is known."""
        if conditions_BK is None or not self.columns:
            return like_B.new_zeros((len(like_B), len(self.columns)), dtype=torch.float32)
        scaled = (conditions_BK.float() - self.condition_mean) / self.condition_scatter
        return torch.nan_to_num(scaled, nan=0.0).clamp(-FARTHEST, FARTHEST)

    def encode(self, images_BAYX: Tensor, standard_BK: Tensor) -> Posterior:
        """q(z|x,c); images in 0..1, standardised conditions."""
        seen = images_BAYX
        if self.planes:
            planes = standard_BK[:, :, None, None].expand(-1, -1, self.size, self.size)
            seen = torch.cat([seen, planes.to(seen.dtype)], 1)
        features = self.encoder(seen).flatten(1)
        if self.beside:
            features = torch.cat([features, standard_BK.to(features.dtype)], 1)
        log_variance = layers.linear(self.log_variance, features)
        return Posterior(
            layers.linear(self.mean, features),
            log_variance.clamp(-LARGEST_LOG_VARIANCE, LARGEST_LOG_VARIANCE),
        )

    def decode(self, latent_BJ: Tensor, standard_BK: Tensor) -> Drawing:
        """The drawing of latent vectors under standardised conditions.

        As published, a `cvae` brings a condition to the first image's size by the layer that
        brings the latent numbers there, as if it were so many equal ones.
        """
        count = len(latent_BJ)
        if self.beside:
            latent_BJ = torch.cat([latent_BJ, standard_BK.to(latent_BJ.dtype)], 1)
        first = layers.linear(self.expand, latent_BJ).view(count, *self._shape)
        if self.planes:
            equal = standard_BK[:, :, None].expand(-1, -1, self.spec.latent)
            rows = equal.reshape(-1, self.spec.latent).to(latent_BJ.dtype)
            planes = layers.linear(self.expand, rows).view(count, -1, *self._shape[1:])
            first = torch.cat([first, planes], 1)
        drawn = self.decoder(first)
        said = drawn[:, self.bands :, 0, 0] if self.repeated else None
        return Drawing(torch.sigmoid(drawn[:, : self.bands]), said)

    def redraw(self, images_BAYX: Tensor, conditions_BK: Tensor | None = None) -> Tensor:
        given = self.standard(conditions_BK, images_BAYX)
        return self.decode(self.encode(images_BAYX, given).mean, given).images

    def generate(
        self, count: int, component: int | None = None, conditions_BK: Tensor | None = None
    ) -> Tensor:
        """Drawings of latent numbers from N(0, I), of galaxies with the conditions.

        Raises InputError for a component, of which there are none, and for no conditions where
        the network is told some: one at the mean of all is not like a catalogue.
        """
        if component is not None:
            raise InputError(f"generate: a {self._kind} has no components; leave --component out.")
        if self.columns and conditions_BK is None:
            raise InputError(
                f"generate: a {self._kind} draws galaxies of a stated {', '.join(self.columns)}; "
                "give a value of each."
            )
        latent = torch.randn(count, self.spec.latent, device=self.condition_mean.device)
        return self.decode(latent, self.standard(conditions_BK, latent)).images

    @property
    def _kind(self) -> str:
        return str(getattr(self.spec, "kind", "vae"))
