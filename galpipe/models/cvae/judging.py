"""What a conditional VAE makes of conditions that are not a galaxy's own.

Shapes: N images, A bands, Y and X pixels, K conditions, V values, P permutations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from galpipe.models.beta import last_beta
from galpipe.models.cvae.network import CvaeNetwork
from galpipe.models.divergence import per_dimension, weighed
from galpipe.models.engine.arithmetic import generator

AT_ONCE = 256  # images per pass
NOISE, ORDER = 1, 2  # parts of the seeds, so that no two draw the same numbers


@dataclass(frozen=True)
class Losses:
    """Squared differences and β times the divergence of images, in the loss's units."""

    own: Tensor  # (N,) under their own conditions
    unknown: Tensor  # (N,) under the mean of the training split
    shuffled: Tensor  # (P, N) under those of other images


@torch.no_grad()
def losses(
    network: CvaeNetwork, images: Tensor, conditions_NK: Tensor, permutations: int, seed: int
) -> Losses:
    """The loss of images under their own, under no and under each other's conditions.

    One sample of the posterior per image, from the same random numbers throughout.  What a
    fancy_cvae says of its conditions does not count: it can copy any.
    """
    noise = torch.randn(len(images), network.latent, generator=generator(seed, NOISE))
    order = generator(seed, ORDER)
    shuffled = [
        _loss(network, images, conditions_NK[torch.randperm(len(images), generator=order)], noise)
        for _ in range(permutations)
    ]
    return Losses(
        _loss(network, images, conditions_NK, noise),
        _loss(network, images, torch.full_like(conditions_NK, torch.nan), noise),
        torch.stack(shuffled),
    )


@torch.no_grad()
def drawn_at(
    network: CvaeNetwork, images: Tensor, own_NK: Tensor, column: int, values_V: Tensor
) -> Tensor:
    """Images encoded under their own conditions and drawn where one has other values.

    Returns (V, N, A, Y, X) in 0..1; raw values of the condition that is `column` among K.
    """
    drawn = []
    for first in range(0, len(images), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        own = own_NK[part]
        mean = network.encode(images[part], network.standard(own, images[part])).mean
        rows = []
        for value in values_V:
            other = own.clone()
            other[:, column] = value
            rows.append(network.decode(mean, network.standard(other, mean)).images)
        drawn.append(torch.stack(rows))
    return torch.cat(drawn, 1)


def _loss(network: CvaeNetwork, images: Tensor, conditions_NK: Tensor, noise_NJ: Tensor) -> Tensor:
    beta, found = last_beta(network.spec.beta), []
    for first in range(0, len(images), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        x = images[part]
        given = network.standard(conditions_NK[part], x)
        posterior = network.encode(x, given)
        drawn = network.decode(posterior.sample(noise_NJ[part]), given).images
        squared = ((drawn - x) ** 2).flatten(1).sum(1)
        found.append(squared + weighed(per_dimension(*posterior), beta))
    return torch.cat(found)
