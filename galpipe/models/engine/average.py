"""The exponential moving average of a network's weights, step by step (Polyak & Juditsky 1992)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class Average:
    """Averaged weights of a network; buffers that are no floats are those of the last step."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network, self._decay = network, decay
        self._own = network.state_dict()  # the tensors themselves, which change in place
        self.tensors = {name: value.clone() for name, value in self._own.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after step number `step` (from 0) in; the first ones count more."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in self._own.items():
            if value.is_floating_point():
                self.tensors[name].lerp_(value, 1 - decay)
            else:
                self.tensors[name].copy_(value)

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """What is set anew in here (not learnt) is taken over as it is."""
        before = {name: value.clone() for name, value in self._own.items()}
        yield
        for name, value in self._own.items():
            if not torch.equal(value, before[name]):
                self.tensors[name].copy_(value)

    @contextlib.contextmanager
    def worn(self) -> Iterator[None]:
        """The network with the averaged weights, for as long as this lasts."""
        own = {name: value.clone() for name, value in self._own.items()}
        self._network.load_state_dict(self.tensors)
        try:
            yield
        finally:
            self._network.load_state_dict(own)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from averaged weights kept before."""
        for name, value in tensors.items():
            self.tensors[name].copy_(value)
