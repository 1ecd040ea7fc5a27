"""Pictures without a network: their power spectrum, and how strong they are at scales and angles.

Shapes: N images, Y and X pixels.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

ANGLES, OCTAVES = 4, 3
RINGS = (0.0, 0.25, 0.5, 1.0)  # half-widths, between which the answers are averaged

Floats = NDArray[np.float64]


def power_spectrum(images_NYX: Floats) -> tuple[Floats, Floats]:
    """Wave numbers in cycles per stamp, and the mean power of every image there, (N, wave number).

    |FFT|^2 per pixel of images without their mean, averaged over rings one wave number wide.
    """
    size = images_NYX.shape[-1]
    centred = images_NYX - images_NYX.mean((1, 2), keepdims=True)
    power = (np.abs(np.fft.fft2(centred)) ** 2).reshape(len(images_NYX), -1) / size**2
    axis = np.fft.fftfreq(size, 1 / size)
    ring = np.rint(np.hypot(axis[:, None], axis[None])).astype(np.int64).ravel()
    waves = np.arange(1, size // 2 + 1)
    found = np.stack([power[:, ring == wave].mean(1) for wave in waves], 1)
    return waves.astype(np.float64), found


def textures(images_NYX: Floats) -> Floats:
    """A fixed description of pictures that nothing was trained for, (N, features).

    The logarithms of the mean modulus of Morlet-like wavelets' answers, over three octaves and
    four angles in three rings about the centre (first order of a scattering transform, Bruna &
    Mallat 2013), and the mean brightness in the rings.
    """
    size = images_NYX.shape[-1]
    transform = np.fft.fft2(images_NYX)
    axis = np.fft.fftfreq(size)
    wy, wx = np.meshgrid(axis, axis, indexing="ij")
    offset = np.abs(np.arange(size) - (size - 1) / 2) / (size / 2)
    radius = np.maximum(offset[:, None], offset[None])
    rings = [(radius >= low) & (radius < high) for low, high in pairwise(RINGS)]
    found = [images_NYX[:, ring].mean(1) for ring in rings]
    for octave in range(OCTAVES):
        centre = 0.35 / 2**octave  # cycles per pixel
        for turn in range(ANGLES):
            angle = np.pi * turn / ANGLES
            away = (wx - centre * np.cos(angle)) ** 2 + (wy - centre * np.sin(angle)) ** 2
            band = np.exp(-away / (2 * (0.4 * centre) ** 2))
            band[0, 0] = 0.0
            modulus = np.abs(np.fft.ifft2(transform * band))
            found += [np.log(modulus[:, ring].mean(1) + 1e-5) for ring in rings]
    return np.stack(found, 1)
