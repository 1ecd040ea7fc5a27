"""The convolutions of the HST VAEs, by the size of the stamps.

Published for 158 and 128 pixels (kernels of 4, of 3 where a side is odd, stride 2, padding 1; then
one without stride from 8 pixels to 4).  Other sizes follow the same rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from galpipe.errors import InputError

SMALLEST_SIDE = 2  # pixels of the image that the last convolution reads
TERMS = 16  # of a linear layer's sums, or a multiple of it


class Step(NamedTuple):
    """One convolution between images of two sizes; transposed, the way back."""

    kernel: int
    stride: int
    padding: int
    side: int  # pixels it leaves


def steps_of(size: int, halvings: int) -> list[Step]:
    """The convolutions from stamps of `size` pixels: `halvings` of them, and the last.

    158 pixels go 79, 40, 20, 10, 5; 128 go 64, 32, 16, 8, 4; 64 go 32, 16, 8, 4, 4.  Raises
    InputError where the stamps cannot be halved so often.
    """
    found: list[Step] = []
    side = size
    for _ in range(halvings):
        found.append(_halving(side))
        side = found[-1].side
    if side < SMALLEST_SIDE:
        raise InputError(
            f"model: {halvings} widths halve stamps of {size} pixels to nothing; give fewer widths "
            "or a larger [prepare] size."
        )
    if side > 8:
        found.append(_halving(side))
    elif side == 8:
        found.append(Step(5, 1, 0, 4))
    else:
        found.append(Step(3, 1, 1, side))
    return found


def _halving(side: int) -> Step:
    return Step(3 if side % 2 else 4, 2, 1, (side + 1) // 2)


def linear(layer: nn.Linear, rows_BF: Tensor) -> Tensor:
    """A linear layer of rows, (B, N), in which no row depends on its place among the others.

    BLAS adds the last few terms of a sum in an order that depends on the row, unless their number
    is a multiple of what it adds at once: so zeros are added.
    """
    short = -rows_BF.shape[1] % TERMS
    return functional.linear(
        functional.pad(rows_BF, (0, short)), functional.pad(layer.weight, (0, short)), layer.bias
    )


def encoder(steps: Sequence[Step], inputs: int, widths: Sequence[int], last: int, slope: float,
) -> nn.Sequential:  # fmt: skip
    """Convolutions, with batch normalisation between all but the outermost two."""
    channels = [inputs, *widths, last]
    layers: list[nn.Module] = []
    for number, step in enumerate(steps):
        layers.append(
            nn.Conv2d(
                channels[number], channels[number + 1],
                step.kernel, step.stride, step.padding, bias=False,
            )
        )  # fmt: skip
        if 0 < number < len(steps) - 1:
            layers.append(nn.BatchNorm2d(channels[number + 1]))
        if number < len(steps) - 1:
            layers.append(nn.LeakyReLU(slope))
    return nn.Sequential(*layers)


def decoder(
    steps: Sequence[Step], inputs: int, widths: Sequence[int], outputs: int
) -> nn.Sequential:
    """The way back by transposed convolutions; batch normalisation after all but the last.

    The last one's shape is the network's to decide.
    """
    channels = [inputs, *widths[::-1], outputs]
    layers: list[nn.Module] = []
    for number, step in enumerate(reversed(steps)):
        layers.append(
            nn.ConvTranspose2d(
                channels[number], channels[number + 1],
                step.kernel, step.stride, step.padding, bias=False,
            )
        )  # fmt: skip
        if number < len(steps) - 1:
            layers += [nn.BatchNorm2d(channels[number + 1]), nn.ReLU()]
    return nn.Sequential(*layers)
