"""The scattering encoder: wavelets that are not learnt, their moduli, averages over zones.

Few galaxies are enough to learn from what it gives, since nothing of it has to be learnt.

Shapes: B images, A bands, Y and X pixels, L angles, Z zones, F features.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from galpipe.models.backbones.backbone import Backbone, refuse_small
from galpipe.models.backbones.spec import Scattering

# Centre and width of the finest wavelet (radians per pixel), and how much wider it is across.
FREQUENCY, SPREAD, ACROSS = 0.75 * math.pi, 1.25, 1.6
ZONES = ((0.0, 0.25), (0.45, 0.15))  # centre and sigma of Gaussian rings, in half-sides
FAINTEST = 1e-4  # added to an average brightness before its logarithm
FURTHEST = 4.0  # standard deviations, at which a feature is cut
# Features are filled up to a multiple of this with zeros: a matrix product over rows that begin at
# odd places in memory adds up in an order that depends on the place.
ALIGNED = 16


class ScatteringNetwork(Backbone):
    """Logarithms of scattering coefficients of first and second order (Bruna & Mallat 2013).

    First order, of every band and scale: the mean over angles and their scatter.  Second order, of
    the mean over the bands: every pair of scales and every angle between the two wavelets.  Each in
    the inscribed disc, its core and a ring.  Nothing tells the angle of the whole image, and a
    mirror image has the same features, so that one view of an image is enough.
    """

    one_view = True
    zones: Tensor

    def __init__(self, spec: Scattering, bands: int, size: int) -> None:
        super().__init__()
        refuse_small("scattering", size, spec.scales - 1, 4)
        self.size, self.scales, self.angles = size, spec.scales, spec.angles
        # Moduli of a scale are kept at every so many pixels, which loses next to nothing.
        self.steps = [math.gcd(2**scale, size) for scale in range(spec.scales)]
        for scale, step in enumerate(self.steps):
            low = math.gcd(max(step // 2, 1), size)
            self._keep(f"first_{scale}", _wavelets(size, scale, spec.angles, 1, low, step))
            self._keep(f"zones_{scale}", _zones(size, step))
            for smaller, before in enumerate(self.steps[:scale]):
                bank = _wavelets(size, scale, spec.angles, before, max(low, before), step)
                self._keep(f"second_{smaller}_{scale}", bank)
        self._keep("zones", _zones(size, 1))
        zones = len(ZONES) + 1
        pairs = spec.scales * (spec.scales - 1) // 2
        turns = spec.angles // 2 + 1
        known = zones * (bands * (1 + 2 * spec.scales) + pairs * turns)
        self.features = ALIGNED * math.ceil(known / ALIGNED)
        self.norm = nn.BatchNorm1d(known, affine=False)

    def _keep(self, name: str, values: NDArray[Any]) -> None:
        single = np.complex64 if np.iscomplexobj(values) else np.float32
        self.register_buffer(name, torch.from_numpy(values.astype(single)), persistent=False)

    def maps(self, images_BAYX: Tensor) -> Tensor:
        found: Tensor = self(images_BAYX)[:, :, None, None]
        return found

    def forward(self, images_BAYX: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(images_BAYX.device.type, enabled=False):
            found = self.coefficients(images_BAYX.float().contiguous())
            logarithms = (found.clamp(min=0) + FAINTEST).log()
        normal: Tensor = self.norm(logarithms).clamp(-FURTHEST, FURTHEST)
        filled: Tensor = functional.pad(normal, (0, self.features - normal.shape[1]))
        return filled

    def coefficients(self, images_BAYX: Tensor) -> Tensor:
        """Averages of moduli, (B, known features), in units of the brightness."""
        found = [_averages(images_BAYX, self.zones).flatten(1)]
        waves = torch.fft.fft2(images_BAYX)[:, :, None]
        for scale in range(self.scales):
            first = self._moduli(waves, f"first_{scale}", self.steps[scale])  # (B, A, L, y, x)
            means = self._means(first, scale)  # (B, A, L, Z)
            found += [means.mean(2).flatten(1), means.std(2).flatten(1)]
            if scale + 1 == self.scales:
                break
            grey = torch.fft.fft2(first.mean(1))[:, :, None]  # (B, L, 1, y, x)
            for larger in range(scale + 1, self.scales):
                second = self._moduli(grey, f"second_{scale}_{larger}", self.steps[larger])
                found.append(self._by_turn(self._means(second, larger)))
        return torch.cat(found, 1)

    def _moduli(self, waves: Tensor, bank: str, step: int) -> Tensor:
        """|image * wavelet|, (..., L, y, x), at every `step`-th pixel of the stamp."""
        wavelets = getattr(self, bank)
        filtered = _lowest(waves, wavelets.shape[-1]) * wavelets
        wanted = self.size // step
        # Every second pixel, or fourth: the parts of the transform fold onto each other.
        for dim in (-2, -1):
            parts = filtered.split(wanted, dim)
            filtered = parts[0]
            for part in parts[1:]:
                filtered = filtered + part
        moduli: Tensor = torch.fft.ifft2(filtered).abs()
        return moduli

    def _means(self, moduli: Tensor, scale: int) -> Tensor:
        """Averages over the zones, (..., Z)."""
        return _averages(moduli, getattr(self, f"zones_{scale}"))

    def _by_turn(self, means_BLLZ: Tensor) -> Tensor:
        """Means over all pairs of angles with the same angle between them, (B, turns x Z)."""
        half = self.angles // 2
        found = []
        for turn in range(half + 1):
            same = [means_BLLZ[:, k, (k + turn) % self.angles] for k in range(self.angles)]
            if 0 < turn < half:
                same += [means_BLLZ[:, k, (k - turn) % self.angles] for k in range(self.angles)]
            found.append(torch.stack(same, 1).mean(1))
        return torch.cat(found, 1)


def _wavelets(
    size: int, scale: int, angles: int, before: int, low: int, after: int
) -> NDArray[np.complex128]:
    """Transforms of Morlet wavelets, which have no mean, (L, size / low, size / low).

    For images that have every `before`-th pixel, of whose transform the frequencies of every
    `low`-th pixel are kept.  They move the image, so that every `after`-th pixel, counted from the
    first one, lies evenly about the centre.
    """
    frequency = 2 * np.pi * np.fft.fftfreq(size // low) / low
    y, x = np.meshgrid(frequency, frequency, indexing="ij")
    moved = np.exp(0.5j * (after - before) * (x + y)) * (before / after) ** 2
    centre, width = FREQUENCY / 2**scale, SPREAD / 2**scale
    found = np.empty((angles, *x.shape), np.complex128)
    for number in range(angles):
        angle = np.pi * number / angles
        along = x * np.cos(angle) + y * np.sin(angle)
        across = (y * np.cos(angle) - x * np.sin(angle)) / ACROSS
        wave = np.exp(-0.5 * ((along - centre) ** 2 + across**2) / width**2)
        level = np.exp(-0.5 * (along**2 + across**2) / width**2)
        found[number] = moved * (wave - level * np.exp(-0.5 * centre**2 / width**2))
    return found


def _zones(size: int, step: int) -> NDArray[np.float64]:
    """Weights of every `step`-th pixel in the disc, its core and a ring, (Z, y x); sums are 1."""
    y, x = step * (np.mgrid[: size // step, : size // step] - (size // step - 1) / 2) / (size / 2)
    radius = np.hypot(x, y)
    zones = [(radius < 1).astype(float)]
    zones += [np.exp(-0.5 * ((radius - centre) / sigma) ** 2) for centre, sigma in ZONES]
    return np.stack([zone.ravel() / zone.sum() for zone in zones])


def _averages(values: Tensor, zones_ZP: Tensor) -> Tensor:
    """Weighted sums over the image, (..., Z), one by one.

    A matrix product would add up in another order at another place in the batch.
    """
    flat = values.flatten(-2)
    return torch.stack([(flat * zone).sum(-1) for zone in zones_ZP], -1)


def _lowest(waves: Tensor, size: int) -> Tensor:
    """The lowest frequencies of transforms, (..., size, size)."""
    whole = waves.shape[-1]
    if size == whole:
        return waves
    high = size // 2
    rows = [waves[..., : size - high, :], waves[..., whole - high :, :]]
    kept = torch.cat(rows, -2)
    return torch.cat([kept[..., : size - high], kept[..., whole - high :]], -1)
