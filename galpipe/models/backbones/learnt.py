"""The encoder of another survey's network, which goes on learning from where that one ended."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from galpipe.errors import InputError
from galpipe.models.backbones.backbone import Backbone
from galpipe.models.backbones.grid import resampled
from galpipe.models.backbones.pooling import Pooled
from galpipe.models.backbones.spec import Learnt
from galpipe.models.network import Network

# Before the names of its weights in the network that they come from: a self-supervised one, or one
# that began with such a network itself.
OWN = ("encoder.", "backbone.pooled.")


class LearntEncoder(Backbone):
    """The features of another network, crop by crop; fresh weights until `begin`."""

    def __init__(self, spec: Learnt, bands: int, size: int) -> None:
        super().__init__()
        self.pixels, self.crops = spec.pixels or size, spec.crops
        self.pooled = Pooled(spec.encoder, spec.pooling, bands, self.pixels)
        self.features = self.pooled.features * len(spec.crops)
        self.learning_share = spec.share

    def maps(self, images_BAYX: Tensor) -> Tensor:
        """Those of the first crop."""
        return self.pooled.backbone.maps(resampled(images_BAYX, self.pixels, self.crops[0]))

    def forward(self, images_BAYX: Tensor) -> Tensor:
        found = [self.pooled(resampled(images_BAYX, self.pixels, crop)) for crop in self.crops]
        return torch.cat(found, 1)


def begin(network: Network, weights: Mapping[str, Tensor]) -> None:
    """Give every learnt encoder of a network the weights of the survey it starts with.

    Raises InputError where these are of other images.
    """
    own = {
        name.removeprefix(start): w
        for start in OWN
        for name, w in weights.items()
        if name.startswith(start)
    }
    for module in network.modules():
        if not isinstance(module, LearntEncoder):
            continue
        if any(own[name].shape != w.shape for name, w in module.pooled.state_dict().items()):
            raise InputError(
                f"start: its network has learnt other images than these stamps of {network.bands} "
                f"bands and {network.size} pixels; start with a survey of the same bands and size."
            )
        with torch.no_grad():
            module.pooled.load_state_dict(own)
