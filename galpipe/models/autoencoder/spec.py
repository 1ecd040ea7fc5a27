"""The autoencoder: how many numbers an image is drawn from, and by what layers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from galpipe.models.convolutions.spec import Layers
from galpipe.spec import spec


@spec
class Autoencoder:
    """A few numbers from which the image is drawn again, as like as can be."""

    kind: Literal["autoencoder"] = "autoencoder"
    view: Literal["masked", "unmasked"] = "masked"  # stamps with neighbours filled, or as observed
    latent: int = Field(default=20, ge=1)  # dimensions of the embedding
    layers: Layers = Layers()
