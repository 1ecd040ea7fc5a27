"""The layers of an encoder and the decoder that mirrors it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from galpipe.spec import spec

Channels = Annotated[int, Field(ge=1)]


@spec
class Layers:
    """An encoder that halves the image at every scale, and a decoder that doubles it again."""

    channels: Annotated[tuple[Channels, ...], Field(min_length=1)] = (
        16,
        32,
        64,
    )  # of the convolutions at each scale, the finest first
    kernel: Literal[3, 5, 7] = 3  # pixels on a side
    depth: int = Field(default=1, ge=1)  # convolutions per scale; those after the first are added
    # A linear path beside the convolutions, started at the training split's principal components:
    # a faithful drawing from the first epoch on.
    linear: bool = True
    slope: float = Field(default=0.1, ge=0, lt=1)  # of the leaky rectifier below zero
    output: Literal["linear", "relu", "sigmoid"] = "linear"  # of the decoder's last layer
    channels_last: bool = True  # memory order of images; changes last bits and speed, not meaning
