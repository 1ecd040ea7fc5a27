"""Many stamps resampled together: the same bytes as one by one, which are scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from galpipe.archives.frames import FieldName, Frame
from galpipe.archives.resampling import (
    MARGIN,
    resample,
    resample_all,
    resample_variance,
    resample_variances,
)
from galpipe.archives.splines import batches

NAME = FieldName(301, 2000, 3, 100)
NY, NX = 300, 420


def frame(holes: bool) -> Frame:
    """Noise on a sky with a slope, some pixels of it undefined."""
    rng = np.random.default_rng(4)
    pixels = rng.normal(0.02, 0.1, (NY, NX)).astype(np.float32)
    if holes:
        pixels[rng.integers(0, NY, 20), rng.integers(0, NX, 20)] = np.nan
    sky = (100 + np.add.outer(np.arange(24), np.arange(32))).astype(np.float32)
    return Frame(
        pixels, np.full(8, np.nan), rng.uniform(0.004, 0.006, NX), sky,
        np.linspace(0, 31, NX), np.linspace(0, 23, NY), "",
    )  # fmt: skip


def maps(turn: float, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Places all over a frame and beyond its borders, and maps about as near to a shift."""
    rng = np.random.default_rng(5)
    middle = np.stack([rng.uniform(-20, NX + 20, count), rng.uniform(-20, NY + 20, count)], axis=1)
    middle[:4] = [[200, 150], [200.5, 150], [200 - 1e-9, 150], [200, 150 + 1e-9]]
    return middle, np.eye(2) + turn * rng.normal(size=(count, 2, 2))


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize(
    ("turn", "side"), [(0.0, 31), (1e-5, 31), (3e-4, 64), (3e-3, 31), (0.3, 21), (1e-4, 1)]
)
def test_together_and_one_by_one_give_the_same_bytes(holes: bool, turn: float, side: int) -> None:
    image, (middle, matrix) = frame(holes), maps(turn)
    pairs = list(zip(middle, matrix, strict=True))
    pixels = np.stack([resample(image.pixels, *pair, side) for pair in pairs])
    assert resample_all(image.pixels, middle, matrix, side).tobytes() == pixels.tobytes()
    variance = np.stack([resample_variance(image, NAME, "r", *pair, side) for pair in pairs])
    found = resample_variances(image, NAME, "r", middle, matrix, side)
    assert found.tobytes() == variance.tobytes()
    assert np.isfinite(pixels).any() and np.isnan(pixels).any()


def test_none_lies_whole_on_the_frame() -> None:
    image, matrix = frame(False), np.eye(2)[None]
    for middle in (np.empty((0, 2)), np.array([[2.0, 3.0]]), np.array([[-900.0, 3.0]])):
        some = np.repeat(matrix, len(middle), axis=0)
        found = resample_all(image.pixels, middle, some, 31)
        variance = resample_variances(image, NAME, "r", middle, some, 31)
        assert found.shape == variance.shape == (len(middle), 31, 31)
        for one, place in zip(found, middle, strict=True):
            assert one.tobytes() == resample(image.pixels, place, matrix[0], 31).tobytes()


def test_most_stamps_of_bands_of_one_scan_go_together() -> None:
    """Else the bytes would be right and nothing gained."""
    rng = np.random.default_rng(6)
    middle = rng.uniform(200, 1200, (500, 2))
    matrix = np.eye(2) + 1e-4 * rng.normal(size=(500, 2, 2))
    reach = np.abs(matrix).sum(axis=2) * 31 + MARGIN
    low = np.floor(middle - reach).astype(np.int64)
    high = np.ceil(middle + reach).astype(np.int64) + 1
    found = batches(low, high, middle, matrix, 63)
    rows = np.concatenate([batch.rows for batch in found])
    assert len(np.unique(rows)) == len(rows) and len(rows) > 470


def test_a_shifted_spline_is_that_of_scipy() -> None:
    """Against scipy on the whole image, whose borders are far from the stamp."""
    image = frame(False).pixels
    middle, matrix = np.array([[211.3, 140.8]]), np.array([[[1.0001, 2e-4], [-1e-4, 0.9999]]])
    found = resample_all(image, middle, matrix, 31)[0]
    y, x = np.mgrid[-15:16, -15:16]
    places = [
        middle[0, 1] + matrix[0, 1, 0] * x + matrix[0, 1, 1] * y,
        middle[0, 0] + matrix[0, 0, 0] * x + matrix[0, 0, 1] * y,
    ]
    wanted = ndimage.map_coordinates(image.astype(np.float64), places, order=3, mode="mirror")
    np.testing.assert_allclose(found, wanted * np.linalg.det(matrix[0]), atol=1e-8)
