"""An autoencoder of convolutions (Hinton & Salakhutdinov 2006), for images of 0..1.

Its score of strangeness is the mean squared difference of stamp and drawing.  That ranks what is
hard to draw, not what is rare: compare it with the image's complexity and flux before use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from galpipe.models.autoencoder.spec import Autoencoder
from galpipe.models.convolutions.body import Body
from galpipe.models.convolutions.squared import mean_square
from galpipe.models.network import Network, Output


class AutoencoderNetwork(Network):
    """Encoder and decoder for images of (bands, size, size) in 0..1."""

    abilities: ClassVar[frozenset[str]] = frozenset({"redraw"})
    spec: Autoencoder

    def __init__(
        self, spec: Autoencoder, bands: int, size: int, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(spec, bands, size, facts or {})
        self.body = Body(spec.layers, bands, size, spec.latent)

    @property
    def latent(self) -> int:
        return self.spec.latent

    def outputs(self) -> tuple[Output, ...]:
        return (Output("vector", (self.spec.latent,), ("latent",)), Output("reconstruction_error"))

    def embed(self, images_BAYX: Tensor, conditions_BK: Tensor | None) -> dict[str, Tensor]:
        """The latent numbers, and the mean squared difference of stamp and drawing."""
        latent, _ = self.body.encode(images_BAYX)
        return {
            "vector": latent,
            "reconstruction_error": mean_square(self.body.decode(latent), images_BAYX),
        }

    def redraw(self, images_BAYX: Tensor, conditions_BK: Tensor | None = None) -> Tensor:
        return self.body.decode(self.body.encode(images_BAYX)[0])
