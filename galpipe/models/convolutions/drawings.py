"""What networks that draw their images have in common: a start, and how faithful they are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from galpipe.errors import InputError
from galpipe.models.convolutions.body import Body
from galpipe.models.material import Material
from galpipe.models.vade.initialisation import principal_axes

PRINCIPAL_IMAGES = 4096  # of the training split, for the principal components


def start_linear(body: Body, material: Material, latent: int, seed: int) -> Tensor | None:
    """Start the linear path at the principal components of training images.

    Returns the scatter along each, (J,); None where there is no linear path.  Raises InputError
    where there are fewer than two images.
    """
    if material.objects("train") < 2:
        raise InputError(
            "training: one usable stamp in the training split is too few; give a larger sample."
        )
    if not body.layers.linear:
        return None
    pixels = [
        batch.images.flatten(1).cpu().numpy()
        for batch in material.ordered("train", PRINCIPAL_IMAGES)
    ]
    average, axes, scatter = principal_axes(np.concatenate(pixels), latent, seed)
    device = next(body.parameters()).device
    body.start_linear(average.to(device), axes.to(device), scatter.to(device))
    return scatter


class Faithfulness:
    """How like their images drawings are, batch by batch.

    `mse` is per pixel in units of 0..1, `pixel_variance` that of all pixels of all images, and
    `mse_share` the former over the latter.  `explained_variance` is about the objects' mean image,
    which is the harder measure.
    """

    def __init__(self) -> None:
        self.count = self.pixels = 0
        self.squared = self.squares = 0.0
        self.sums: Tensor | None = None

    @torch.no_grad()
    def add(self, drawn_BAYX: Tensor, images_BAYX: Tensor) -> None:
        """Take a batch into account."""
        sums = images_BAYX.sum(0, dtype=torch.float64)
        self.sums = sums if self.sums is None else self.sums + sums
        self.squared += float(((drawn_BAYX - images_BAYX).double() ** 2).sum())
        self.squares += float((images_BAYX.double() ** 2).sum())
        self.count, self.pixels = self.count + len(images_BAYX), images_BAYX[0].numel()

    def figures(self) -> dict[str, float]:
        """The figures of all batches so far."""
        assert self.sums is not None, "a split that is judged has objects"
        average = self.sums / self.count
        spread = self.squares / self.count - float(average.square().sum())
        variance = self.squares / self.count / self.pixels - float(average.mean()) ** 2
        mse = self.squared / self.count / self.pixels
        return {
            "mse": mse,
            "pixel_variance": variance,
            "mse_share": mse / variance if variance > 0 else 0.0,
            "explained_variance": 1 - self.squared / self.count / spread if spread > 0 else 0.0,
        }
