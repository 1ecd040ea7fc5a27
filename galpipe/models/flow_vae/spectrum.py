"""Power spectra of fields that are seen through weights, as random fields are drawn from them.

Shapes: N images, A bands, Y and X pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

FINE = 8  # pixels: waves shorter than this are fine grain, longer ones coarse


def power(field_NAYX: Tensor, weight_N1YX: Tensor) -> Tensor:
    """The power spectrum of a field where it has weight, (A, Y, X // 2 + 1).

    The transform of its autocorrelation, each lag divided by the weight of its pairs of pixels
    (Wiener-Khinchin with a mask), and cut off where it is negative; the variance is kept.  White
    noise of unit variance has power 1.
    """
    size = field_NAYX.shape[-1]
    double = (2 * size, 2 * size)
    root = torch.sqrt(weight_N1YX)
    pairs = torch.zeros(2 * size, size + 1, dtype=torch.float64)
    products = torch.zeros(field_NAYX.shape[1], 2 * size, size + 1, dtype=torch.float64)
    for residuals, mask in zip(torch.split(field_NAYX, 256), torch.split(root, 256), strict=True):
        whole = torch.fft.rfft2(residuals * mask, s=double)
        products += (whole.abs() ** 2).sum(0).double().cpu()
        pairs += (torch.fft.rfft2(mask, s=double).abs() ** 2).sum((0, 1)).double().cpu()
    weight = torch.fft.irfft2(pairs, s=double)
    product = torch.fft.irfft2(products, s=double)
    covariance = torch.where(weight > 1e-3 * weight[0, 0], product / weight.clamp_min(1e-9), 0.0)
    lag = torch.minimum(torch.arange(2 * size), 2 * size - torch.arange(2 * size)).double()
    taper = (1 - lag / size).clamp_min(0)
    covariance = covariance * taper[:, None] * taper[None]
    # Lags wrap about the stamp's side in the field that is drawn.
    folded = covariance.view(-1, 2, size, 2, size).sum((1, 3))
    found = torch.fft.rfft2(folded).real.clamp_min(0)
    variance = torch.fft.irfft2(found, s=(size, size))[:, :1, :1].clamp_min(1e-12)
    scaled: Tensor = (found * covariance[:, :1, :1] / variance).float().to(field_NAYX.device)
    return scaled


def of_unit_variance(power_AYX: Tensor) -> Tensor:
    """A spectrum, scaled so that its fields have unit variance."""
    side = power_AYX.shape[-2]
    variance = torch.fft.irfft2(power_AYX, s=(side, side))[:, :1, :1].clamp_min(1e-12)
    scaled: Tensor = power_AYX / variance
    return scaled


def in_rings(power_AYX: Tensor) -> Tensor:
    """Means in rings one wave number wide, again at every wave vector: the same shape."""
    side = power_AYX.shape[-2]
    y = torch.fft.fftfreq(side, 1 / side)[:, None]
    x = torch.arange(side // 2 + 1)[None]
    ring = torch.round(torch.hypot(y, x)).long().flatten().to(power_AYX.device)
    number = torch.bincount(ring).to(power_AYX.dtype)
    flat = power_AYX.flatten(1)
    sums = torch.zeros(len(flat), len(number), device=flat.device).index_add_(1, ring, flat)
    return (sums / number)[:, ring].view_as(power_AYX)


def fields(power_AYX: Tensor, count: int) -> Tensor:
    """Stationary normal fields with a spectrum, (N, A, Y, X), from torch's own random numbers."""
    bands, side, _ = power_AYX.shape
    white = torch.randn(count, bands, side, side, device=power_AYX.device)
    made: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) * torch.sqrt(power_AYX), s=(side, side))
    return made


def split(field_NAYX: Tensor) -> tuple[Tensor, Tensor]:
    """The coarse and the fine grain of a field, which sum to it."""
    side = field_NAYX.shape[-1]
    wave = torch.hypot(torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None])
    fine = (wave > 1 / FINE).to(field_NAYX.device)
    coarse = torch.fft.irfft2(torch.fft.rfft2(field_NAYX) * ~fine, s=(side, side))
    return coarse, field_NAYX - coarse
