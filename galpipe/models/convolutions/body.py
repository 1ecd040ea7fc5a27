"""An encoder and a decoder of convolutions, with a linear path beside them.

Shapes: B images, A bands, Y and X pixels, J latent dimensions, P = A Y X pixels of an image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from galpipe.errors import InputError
from galpipe.models.convolutions.spec import Layers


class Body(nn.Module):
    """Images of (bands, size, size) to `latent` numbers and back.

    `encode` gives the numbers and what they were read from, `decode` the images.  Raises InputError
    where the stamps cannot be halved so often.
    """

    def __init__(self, layers: Layers, bands: int, size: int, latent: int) -> None:
        super().__init__()
        halvings = len(layers.channels)
        if size % 2**halvings:
            raise InputError(
                f"model: {halvings} scales of layers.channels do not fit stamps of {size} pixels; "
                f"give fewer, or [prepare] size divisible by {2**halvings}."
            )
        side, last = size // 2**halvings, layers.channels[-1]
        self.layers, self.bands, self.size = layers, bands, size
        self.features = last * side**2  # that the encoder reads of an image
        self.encoder = _encoder(layers, bands)
        self.latent = nn.Linear(self.features, latent)
        self.expand = nn.Sequential(
            nn.Linear(latent, self.features),
            nn.LeakyReLU(layers.slope),
            nn.Unflatten(1, (last, side, side)),
        )
        self.decoder = _decoder(layers, bands)
        if layers.linear:  # principal components, beside which the convolutions learn the rest
            self.project = nn.Linear(bands * size**2, latent)
            self.draw = nn.Linear(latent, bands * size**2)
        if layers.channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, images_BAYX: Tensor) -> tuple[Tensor, Tensor]:
        """Latent numbers, (B, J), and the encoder's features, (B, F); images in 0..1."""
        ordered = images_BAYX
        if self.layers.channels_last:
            ordered = images_BAYX.contiguous(memory_format=torch.channels_last)
        features = self.encoder(ordered).flatten(1)
        latent = self.latent(features)
        if self.layers.linear:
            latent = latent + self.project(images_BAYX.flatten(1))
        return latent, features

    def decode(self, latent_BJ: Tensor) -> Tensor:
        """The images of latent vectors, (B, A, Y, X), about 0..1."""
        images: Tensor = self.decoder(self.expand(latent_BJ))
        if self.layers.linear:
            images = images + self.draw(latent_BJ).view_as(images)
        match self.layers.output:
            case "relu":
                return functional.relu(images)
            case "sigmoid":
                return torch.sigmoid(images)
            case "linear":
                return images

    def start_linear(self, average: Tensor, axes_JP: Tensor, scatter_J: Tensor) -> None:
        """Set the linear path to principal components, and the convolutions to add nothing yet.

        `average` (P,), `axes_JP` orthonormal, `scatter_J` standard deviations along the axes: the
        latent numbers start as scores of unit variance.
        """
        with torch.no_grad():
            self.project.weight.copy_(axes_JP / scatter_J[:, None])
            self.project.bias.copy_(-(self.project.weight @ average))
            self.draw.weight.copy_((axes_JP * scatter_J[:, None]).T)
            self.draw.bias.copy_(average)
            last = [layer for layer in self.decoder if isinstance(layer, nn.Conv2d)][-1]
            for layer in (self.latent, last):
                layer.weight.zero_()
                assert layer.bias is not None
                layer.bias.zero_()


class Added(nn.Module):
    """A convolution whose answer is added to its input (He et al. 2016)."""

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.convolution = _convolution(channels, channels, layers)
        self.slope = layers.slope

    def forward(self, images: Tensor) -> Tensor:
        return images + functional.leaky_relu(self.convolution(images), self.slope)


def _encoder(layers: Layers, bands: int) -> nn.Sequential:
    found: list[nn.Module] = []
    before = bands
    for channels in layers.channels:
        found += [_convolution(before, channels, layers, 2), nn.LeakyReLU(layers.slope)]
        found += [Added(channels, layers) for _ in range(layers.depth - 1)]
        before = channels
    return nn.Sequential(*found)


def _decoder(layers: Layers, bands: int) -> nn.Sequential:
    """Doubling by sub-pixel convolution (Shi et al. 2016): four times the channels, folded out."""
    found: list[nn.Module] = []
    after = [*layers.channels[-2::-1], bands]
    for channels, following in zip(layers.channels[::-1], after, strict=True):
        found += [Added(channels, layers) for _ in range(layers.depth - 1)]
        found += [_convolution(channels, 4 * following, layers), nn.PixelShuffle(2)]
        found.append(nn.LeakyReLU(layers.slope))
    return nn.Sequential(*found[:-1])  # the last layer's shape is `output`'s to decide


def _convolution(inputs: int, outputs: int, layers: Layers, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, layers.kernel, stride, padding=layers.kernel // 2)
