"""Measured columns against analytic discs and bulges, published limits, and statmorph."""

from __future__ import annotations

import csv
import os
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import cumulative_trapezoid

from galpipe.stamps.growth import curve_of_growth
from galpipe.stamps.morphology import COLUMNS, asymmetry, columns, gini_m20
from galpipe.stamps.pixels import prepare_images
from galpipe.stamps.spec import Annulus, Preparation
from galpipe.status import Status

SERSIC_B = {1: 1.6783469900166605, 4: 7.669249442500805}  # Ciotti & Bertin (1999)


def sersic(
    index: int,
    r_e: float,
    axis_ratio: float = 1.0,
    angle: float = 0.0,
    side: int = 128,
    sigma: float = 0.05,
) -> np.ndarray:
    """A Sersic profile of intensity 10 at r_e, off the pixel grid, sampled 10 x 10 per pixel."""
    fine = (np.arange(10) - 4.5) / 10
    y = (np.arange(side)[:, None] + fine).ravel() - side / 2 + 0.7
    x = (np.arange(side)[:, None] + fine).ravel() - side / 2 + 0.3
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    u = x[None, :] * cos + y[:, None] * sin
    v = (y[:, None] * cos - x[None, :] * sin) / axis_ratio
    light = 10 * np.exp(-SERSIC_B[index] * (np.hypot(u, v) / r_e) ** (1 / index) + SERSIC_B[index])
    image = light.reshape(side, 10, side, 10).mean(axis=(1, 3))
    return image + sigma * np.random.default_rng(0).standard_normal(image.shape)


def analytic(index: int, r_e: float) -> dict[str, float]:
    """Sizes of a round Sersic profile by the published definitions, integrated in one dimension."""
    r = np.concatenate([[0], np.geomspace(1e-6, 60, 100_000)]) * r_e
    light = np.exp(-SERSIC_B[index] * (r / r_e) ** (1 / index))
    grown = cumulative_trapezoid(2 * np.pi * r * light, r, initial=0)
    at = np.geomspace(0.05, 20, 20_000) * r_e
    annulus = np.interp(1.25 * at, r, grown) - np.interp(0.8 * at, r, grown)
    ratio = annulus / (1.25**2 - 0.8**2) / np.interp(at, r, grown)
    petrosian = at[np.argmax(ratio < 0.2)]
    total = np.interp(1.5 * petrosian, r, grown)
    sizes = {f"r{k}": float(np.interp(k / 100 * total, grown, r)) for k in (20, 50, 80, 90)}
    return sizes | {
        "petrosian_radius": float(petrosian),
        "concentration": 5 * np.log10(sizes["r80"] / sizes["r20"]),
    }


def measured(image: np.ndarray, bands: tuple[str, ...] = ("r",)) -> dict[str, float]:
    stack = np.asarray(image, np.float32)
    stack = stack[None, None] if stack.ndim == 2 else stack[None]
    size = np.array([stack.shape[2]], np.int32), np.array([stack.shape[3]], np.int32)
    status = np.array([Status.OK], np.int32)
    prepared = prepare_images(stack, *size, status, bands, Preparation())
    return {c.name: float(v) for c, v in zip(columns(bands), prepared.measured[0], strict=True)}


@pytest.mark.parametrize(("index", "r_e", "tolerance"), [(1, 8, 0.01), (1, 5, 0.02), (4, 8, 0.05)])
def test_sizes_of_round_profiles_are_the_analytic_ones(
    index: int, r_e: float, tolerance: float
) -> None:
    found, truth = measured(sersic(index, r_e)), analytic(index, r_e)
    for name in ("petrosian_radius", "r20", "r50", "r80", "r90"):
        assert found[name] == pytest.approx(truth[name], rel=tolerance), name
    assert found["concentration"] == pytest.approx(truth["concentration"], abs=0.1)
    assert found["axis_ratio"] > 0.98


@pytest.mark.parametrize("index", [1, 4])
@pytest.mark.parametrize("axis_ratio", [0.3, 0.6, 0.8])
def test_shape_of_inclined_profiles(index: int, axis_ratio: float) -> None:
    angle = 37.0 + 100 * axis_ratio
    found, truth = measured(sersic(index, 8, axis_ratio, angle)), analytic(index, 8)
    assert found["axis_ratio"] == pytest.approx(axis_ratio, abs=0.01)
    assert found["position_angle"] == pytest.approx(angle, abs=1)
    # In ellipses an inclined disc is as large and as concentrated as the same disc face-on.
    assert found["petrosian_semimajor"] == pytest.approx(truth["petrosian_radius"], rel=0.02)
    assert found["concentration_elliptical"] == pytest.approx(truth["concentration"], abs=0.25)


@pytest.mark.parametrize("angle", [0.0, 45.0, 90.0])
def test_the_thinnest_galaxies_have_all_columns(angle: float) -> None:
    """A galaxy one pixel thick and between two rows of pixels."""
    y, x = np.mgrid[:48, :48] - 23.5
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    u, v = x * cos + y * sin, y * cos - x * sin
    light = 100 * np.exp(-np.abs(u) / 5 - (v / 0.9) ** 2)
    found = measured(light + np.random.default_rng(0).normal(0, 0.3, light.shape))
    assert all(np.isfinite(value) for value in found.values())
    assert found["axis_ratio"] < 0.25
    assert found["petrosian_semimajor"] > 10


def test_smooth_discs_have_no_asymmetry_no_clumps_and_no_structure() -> None:
    found = measured(sersic(1, 8, 0.7, 20))
    assert abs(found["asymmetry"]) < 0.03
    assert abs(found["smoothness"]) < 0.03
    assert abs(found["structure"]) < 0.02
    assert found["bisymmetry_middle"] < 0.01
    # An exponential disc: Lotz et al. (2004) put late types near G = 0.48, M20 = -1.8.
    assert found["gini"] == pytest.approx(0.48, abs=0.02)
    assert found["m20"] == pytest.approx(-1.8, abs=0.05)


def test_planted_clumps_and_arms_are_seen() -> None:
    disc = sersic(1, 8)
    y, x = np.mgrid[:128, :128].astype(float)
    dx, dy = x - 63.7, y - 63.3
    radius, phi = np.hypot(dx, dy), np.arctan2(dy, dx)
    arms = disc * (1 + 0.6 * np.cos(2 * (phi - 0.35 * radius)) * (radius > 3))
    clump = disc + 40 * np.exp(-((x - 72) ** 2 + (y - 66) ** 2) / 4)
    plain, spiral, clumpy = measured(disc), measured(arms), measured(clump)
    assert spiral["structure"] > plain["structure"] + 0.2
    assert spiral["asymmetry"] < 0.1  # two arms are symmetric
    assert clumpy["asymmetry"] > plain["asymmetry"] + 0.1
    assert clumpy["smoothness"] > plain["smoothness"] + 0.01
    assert clumpy["m20"] > plain["m20"]


def test_a_bar_is_bisymmetric_within_and_not_without() -> None:
    y, x = np.mgrid[:128, :128].astype(float)
    dx, dy = x - 63.7, y - 63.3
    bar = 150 * np.exp(-(np.abs(dx / 6) ** 3) - np.abs(dy / 1.5) ** 3)
    found = measured(sersic(1, 9, 0.9, 90) + bar)
    assert found["bisymmetry_inner"] > 0.03
    assert found["bisymmetry_inner"] > 2 * found["bisymmetry_outer"]


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([1e-30, 1e-3, 7.0, 1e20]), st.integers(0, 3))
def test_shape_columns_do_not_know_the_unit_or_the_quarter_turn(unit: float, turns: int) -> None:
    image = sersic(1, 6, 0.6, 20, side=64)
    found, plain = measured(np.rot90(image * unit, turns)), measured(image)
    for name in ("axis_ratio", "r50", "petrosian_radius", "concentration", "gini", "m20"):
        assert found[name] == pytest.approx(plain[name], rel=2e-3), name
    for name in ("asymmetry", "smoothness", "structure"):
        assert found[name] == pytest.approx(plain[name], abs=0.01), name


def test_gini_of_known_distributions() -> None:
    """0 where all are alike, 1 where one has all, 1/3 for uniform values (Lotz et al. 2004)."""
    n = 10_000
    light = np.ones((3, n), np.bool_)
    values = np.ones((3, n), np.float32)
    values[1] = 0
    values[1, 17] = 5
    values[2] = np.linspace(0, 1, n)
    where = np.zeros((3, n), np.float32)
    where[:] = np.arange(n)
    gini, _ = gini_m20(values, light, where, where)
    np.testing.assert_allclose(gini, [0, 1, 1 / 3], atol=1e-3)
    none, _ = gini_m20(values, ~light, where, where)
    assert np.isnan(none).all()


def test_m20_is_its_definition() -> None:
    rng = np.random.default_rng(5)
    flat = rng.exponential(size=(1, 400)).astype(np.float32)
    dx, dy = rng.normal(size=(2, 1, 400)).astype(np.float32)
    _, found = gini_m20(flat, np.ones((1, 400), np.bool_), dx, dy)
    f = flat[0].astype(float)
    x, y = (f * dx[0]).sum() / f.sum(), (f * dy[0]).sum() / f.sum()
    moment = f * ((dx[0] - x) ** 2 + (dy[0] - y) ** 2)
    order = np.argsort(-f)
    last = np.searchsorted(np.cumsum(f[order]), 0.2 * f.sum()) + 1
    expected = np.log10(moment[order][:last].sum() / moment.sum())
    assert found[0] == pytest.approx(expected, abs=1e-4)


def test_asymmetry_of_noise_alone_is_zero_and_of_half_a_galaxy_is_large() -> None:
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:65, :65] - 32.0
    disc = 100 * np.exp(-np.hypot(x, y) / 6)
    images = np.stack([disc + rng.normal(0, 3, disc.shape), disc * (x > 0)]).astype(np.float32)
    centre = np.array([32.2, 32.0])
    radius, scatter = np.array([15.0, 15.0]), np.array([3.0, 0.0])
    found = asymmetry(images, centre, np.array([31.9, 32.0]), radius, scatter)
    assert abs(found[0]) < 0.03
    assert found[1] > 1.0


def test_curve_of_growth_of_a_flat_image_is_the_area() -> None:
    y, x = np.mgrid[:101, :101] - 50.0
    radius = np.hypot(x, y).astype(np.float32).reshape(1, -1)
    growth = curve_of_growth(np.full_like(radius, 3), radius, 200)
    for r in (3.0, 7.25, 20.0, 40.0):
        flux, area = growth.at(np.array([r]))
        assert area[0] == pytest.approx(np.pi * r**2, rel=0.02)
        assert flux[0] == pytest.approx(3 * area[0])


def test_colours_are_magnitudes_between_adjacent_bands() -> None:
    disc = sersic(1, 8, sigma=0.02)
    y, x = np.mgrid[:128, :128]
    outside = np.hypot(x - 63.7, y - 63.3) > 7.8
    image = np.stack([disc, 2 * disc, 2 * disc * np.where(outside, 0.5, 1)])
    found = measured(image, ("g", "r", "i"))
    assert found["colour_g_r"] == pytest.approx(2.5 * np.log10(2), abs=0.01)
    assert found["colour_gradient_g_r"] == pytest.approx(0, abs=0.01)
    # Most of the light beyond half-light is in the dimmed part, not all.
    assert -2.5 * np.log10(2) < found["colour_gradient_r_i"] < -0.5


def test_every_column_is_described_once() -> None:
    names = [column.name for column in columns(("g", "r"))]
    assert len(set(names)) == len(names)
    assert all(column.description and column.ucd for column in columns(("g", "r")))
    assert set(measured(sersic(1, 8))) == {column.name for column in COLUMNS}


DATA = Path(os.environ.get("GALPIPE_DATA", Path(__file__).parents[2] / "shared" / "data"))


def real_galaxies(count: int) -> np.ndarray:
    """The first images of the GOODS set, mean of the bands, (object, 212, 212)."""
    from PIL import Image

    source = DATA / "goods_hst.zip"
    if not source.exists():
        pytest.skip(f"needs {source}; set GALPIPE_DATA to the folder of real galaxies")
    with zipfile.ZipFile(source) as archive:
        (table,) = (n for n in archive.namelist() if n.endswith("labels.csv"))
        rows = list(csv.DictReader(archive.read(table).decode().splitlines()))
        folder = table.removesuffix("labels.csv")
        images = []
        for row in rows[:count]:
            with archive.open(folder + row["file"]) as file:
                images.append(np.asarray(Image.open(file), np.float32).mean(axis=2))
    return np.stack(images)


@pytest.mark.real
@pytest.mark.slow
def test_columns_agree_with_statmorph_on_real_galaxies() -> None:
    """Median difference and scatter (from quartiles) against Rodriguez-Gomez et al. (2019)."""
    from statmorph import SourceMorphology

    from galpipe.stamps.segmentation import segment
    from galpipe.stamps.spec import Segmentation

    images = real_galaxies(14)
    count, ny, nx = images.shape
    usable = np.ones(images.shape, np.bool_)
    segments = segment(images, usable, 0.5, Segmentation())
    sizes = np.full(count, ny, np.int32), np.full(count, nx, np.int32)
    spec = Preparation(background=Annulus())
    prepared = prepare_images(
        images[:, None], *sizes, np.full(count, int(Status.OK), np.int32), ("r",), spec
    )
    names = [column.name for column in COLUMNS]
    theirs: list[list[float]] = []
    ours: list[list[float]] = []
    pairs = {
        "r50": "r50",
        "concentration": "concentration",
        "asymmetry": "asymmetry",
        "gini": "gini",
        "m20": "m20",
        "petrosian_radius": "rpetro_circ",
    }
    for k in range(count):
        row = dict(zip(names, prepared.measured[k], strict=True))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            morphology = SourceMorphology(
                images[k] - row["background"],
                segments.own[k].astype(np.int32),
                label=1,
                mask=segments.neighbours[k],
                gain=1e6,
                cutout_extent=3.0,
            )
        if morphology.flag > 1:
            continue
        theirs.append([float(getattr(morphology, name)) for name in pairs.values()])
        ours.append([float(row[name]) for name in pairs])
    assert len(ours) >= 10
    difference = np.array(ours) - np.array(theirs)
    relative = difference[:, [0, 5]] / np.array(theirs)[:, [0, 5]]
    assert np.abs(np.median(relative, axis=0)).max() < 0.1
    medians = dict(zip(pairs, np.median(difference, axis=0), strict=True))
    assert abs(medians["concentration"]) < 0.15
    assert abs(medians["asymmetry"]) < 0.08  # the noise of these JPEGs is taken off differently
    assert abs(medians["gini"]) < 0.03
    assert abs(medians["m20"]) < 0.1
