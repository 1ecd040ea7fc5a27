"""The encoder of another survey's network, which goes on learning from where that one ended."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from galpipe.errors import InputError
from galpipe.models.backbones.backbone import Backbone
from galpipe.models.backbones.grid import resampled
from galpipe.models.backbones.pooling import Pooled
from galpipe.models.backbones.spec import Learnt

OWN = "encoder."  # before the names of its weights in the network that they come from


class LearntEncoder(Backbone):
    """The features of a self-supervised network; fresh weights until `begin` gives it others."""

    def __init__(self, spec: Learnt, bands: int, size: int) -> None:
        super().__init__()
        self.pixels = spec.pixels or size
        self.pooled = Pooled(spec.encoder, spec.pooling, bands, self.pixels)
        self.features = self.pooled.features
        self.learning_share = spec.share

    def maps(self, images_BAYX: Tensor) -> Tensor:
        return self.pooled.backbone.maps(resampled(images_BAYX, self.pixels))

    def forward(self, images_BAYX: Tensor) -> Tensor:
        found: Tensor = self.pooled(resampled(images_BAYX, self.pixels))
        return found


def begin(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give every learnt encoder of a network the weights of the survey it starts with.

    Raises InputError where these are of other images.
    """
    own = {name.removeprefix(OWN): w for name, w in weights.items() if name.startswith(OWN)}
    for module in network.modules():
        if not isinstance(module, LearntEncoder):
            continue
        mine = module.pooled.state_dict()
        first = next(name for name, w in mine.items() if w.ndim == 4)
        if own[first].shape != mine[first].shape:
            raise InputError(
                f"start: its network has learnt images of {own[first].shape[1]} bands, and these "
                f"stamps have {mine[first].shape[1]}; start with a survey of the same bands."
            )
        with torch.no_grad():
            module.pooled.load_state_dict(own)
