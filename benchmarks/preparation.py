"""How fast cutouts become stamps, and stamps are cut from frames.

    python -m benchmarks.preparation [--objects N]

Prints objects per second and core for the full preparation (background, masks, alignment, both
views, all columns) and its stages, and the ratio of `galpipe.stamps.cut` with a stretch to a
loop over astropy's Cutout2D doing the same, WCS included, both measured in this run.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Callable

import numpy as np
from astropy.nddata import Cutout2D
from astropy.wcs import WCS

from galpipe.stamps.cut import cut
from galpipe.stamps.pixels import prepare_images
from galpipe.stamps.spec import Annulus, Asinh, Given, Preparation
from galpipe.stamps.stretch import stored, stretched
from galpipe.status import Status

BANDS = ("g", "r", "i")
STAGES = {
    "segmentation": "segment",
    "resampling": "resample",
    "columns": "measure",
    "background": "level_and_scatter",
    "moments": "second_moments",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--objects", type=int, default=2000)
    count = parser.parse_args().objects
    images = galaxies(min(count, 500))[np.arange(count) % min(count, 500)]
    preparation(images)
    frames(count)


def galaxies(count: int, size: int = 64, seed: int = 0) -> np.ndarray:
    """Inclined discs and bulges with noise and neighbours, (object, 3, size, size) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    images = np.empty((count, 3, size, size), np.uint8)
    for k in range(count):
        light = np.zeros((size, size))
        for flux, dx, dy, scale in [
            (120, 0, 0, rng.uniform(4, 8)),
            *((rng.uniform(20, 90), *rng.uniform(-30, 30, 2), 1.5) for _ in range(rng.poisson(3))),
        ]:
            angle, axis_ratio = rng.uniform(0, np.pi), rng.uniform(0.2, 1)
            u = (x - dx) * np.cos(angle) + (y - dy) * np.sin(angle)
            v = ((y - dy) * np.cos(angle) - (x - dx) * np.sin(angle)) / axis_ratio
            light += flux * np.exp(-np.hypot(u, v) / scale)
        colours = rng.uniform(0.6, 1.0, (3, 1, 1))
        noisy = light * colours + 6 + rng.normal(0, 3, (3, size, size))
        images[k] = np.clip(noisy, 0, 255)
    return images


def preparation(images: np.ndarray) -> None:
    """Objects per second on one core, and where the time goes."""
    count = len(images)
    sizes = np.full(count, images.shape[-1], np.int32)
    status = np.full(count, int(Status.OK), np.int32)
    spec = Preparation(background=Annulus(), stretch=Given(scale=255.0))

    def whole() -> None:
        prepared = prepare_images(images, sizes, sizes, status, BANDS, spec)
        for view in (prepared.image, prepared.image_unmasked):
            stored(stretched(view, np.array([255.0]), spec.stretch), spec.dtype)

    seconds = fastest(whole, time.process_time)
    print(
        f"full preparation, {images.shape[1]}x64x64 to 64x64: {count / seconds:.0f} objects/s/core"
    )
    profile = cProfile.Profile()
    profile.runcall(whole)
    rows = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = max(row[3] for row in rows.values())
    for stage, function in STAGES.items():
        spent = sum(row[3] for key, row in rows.items() if key[2] == function)
        print(f"  {stage:13s} {100 * spent / total:3.0f} %")


def frames(count: int) -> None:
    """Cut + asinh against the plain loop, on one decoded frame with a WCS."""
    rng = np.random.default_rng(1)
    frame = rng.normal(0, 1, (1489, 2048)).astype(np.float32)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crpix, wcs.wcs.crval = [1024.5, 744.5], [150.0, 2.0]
    wcs.wcs.cd = np.array([[-1.1e-4, 0], [0, 1.1e-4]])
    eight = np.concatenate([wcs.wcs.crpix, wcs.wcs.crval, wcs.wcs.cd.ravel()])
    x, y = rng.uniform(20, 2028, count), rng.uniform(20, 1469, count)
    scale, stretch = np.array([1.0]), Asinh()
    plain: list[tuple[np.ndarray, np.ndarray]] = []

    def loop() -> None:
        plain.clear()
        for px, py in zip(x, y, strict=True):
            stamp = Cutout2D(
                frame, (px, py), (64, 64), wcs=wcs, mode="partial", fill_value=np.nan, copy=True
            )
            unit = np.arcsinh(stamp.data / 0.05) / np.arcsinh(1 / 0.05)
            plain.append((np.clip(unit, 0, 1), stamp.wcs.wcs.crpix))

    kept: list[tuple[np.ndarray, np.ndarray]] = []

    def ours() -> None:
        kept.clear()
        for start in range(0, count, 64):  # in the processor's cache
            cuts = cut(frame, x[start : start + 64], y[start : start + 64], 64, eight)
            kept.append((stretched(cuts.image, scale, stretch), cuts.wcs))

    slow, fast = fastest(loop), fastest(ours)
    images, places = (np.concatenate([pair[k] for pair in kept]) for k in (0, 1))
    for k in range(0, count, 97):
        np.testing.assert_allclose(images[k, 0], plain[k][0], atol=1e-5)
        np.testing.assert_allclose(places[k, :2], plain[k][1])
    print(
        f"cut + stretch, 64x64 with WCS: {count / fast:.0f} stamps/s, Cutout2D loop "
        f"{count / slow:.0f} stamps/s, ratio {slow / fast:.1f}"
    )


def fastest(work: Callable[[], None], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of the fastest of five."""
    seconds = []
    for _ in range(5):
        start = clock()
        work()
        seconds.append(clock() - start)
    return min(seconds)


if __name__ == "__main__":
    main()
