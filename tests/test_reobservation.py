"""Re-observation: cutouts degraded by what is asked, and labelled as their release labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from galpipe import releases
from galpipe.catalogue.heldout import held_out
from galpipe.catalogue.reobservation import along, conditions, labelled, rate
from galpipe.catalogue.spec import Evaluation, Reobservation
from galpipe.classes.anew.degrading import WIDTHS, Worse, degraded, shared, sky
from galpipe.classes.anew.observing import Observer
from galpipe.classes.fitted import load_clusters
from galpipe.stages import Context
from galpipe.stamps.spec import Preparation
from galpipe.workspace import Ref, Workspace
from tests import sky as drawn
from tests.running import run_chain
from tests.test_stop import MODEL

SIZE = 97
LEVEL, SCATTER = 50.0, 3.0


def star(width: float = 3.0, light: float = 5e4, seed: int = 0) -> np.ndarray[Any, Any]:
    """A Gaussian of standard deviation `width` pixels on a noisy sky, (1, SIZE, SIZE) float32."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    shape = np.exp(-(x**2 + y**2) / (2 * width**2)) / (2 * np.pi * width**2)
    noise = np.random.default_rng(seed).normal(LEVEL, SCATTER, (SIZE, SIZE))
    image: np.ndarray[Any, Any] = (light * shape + noise)[None].astype(np.float32)
    return image


def light_and_width(image: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Light above the sky in the middle, and its standard deviation along x, in pixels."""
    middle = image[0, 34:-34, 34:-34].astype(float) - LEVEL
    x = np.arange(middle.shape[1]) - (middle.shape[1] - 1) / 2
    total = float(middle.sum())
    return total, float(np.sqrt((middle.sum(0) * x**2).sum() / total))


def scatter_of(image: np.ndarray[Any, Any]) -> float:
    return float(image[0, :20].std())


def test_noise_is_added_up_to_so_many_times_the_scatter() -> None:
    image = star()
    found = degraded(image, Worse("n", "", noise=2.0), 3.0, 0, 1)
    assert scatter_of(found) == pytest.approx(2 * SCATTER, rel=0.06)
    assert found.dtype == np.float32
    assert light_and_width(found)[0] == pytest.approx(5e4, rel=0.03)


def test_a_dimmed_galaxy_keeps_the_sky_it_had() -> None:
    found = degraded(star(), Worse("d", "", light=0.5), 3.0, 0, 1)
    light, width = light_and_width(found)
    assert light == pytest.approx(2.5e4, rel=0.03)
    assert width == pytest.approx(3.0, rel=0.05)
    assert scatter_of(found) == pytest.approx(SCATTER, rel=0.06)
    assert np.median(found[0, :20]) == pytest.approx(LEVEL, abs=0.3)


def test_a_wider_psf_adds_in_quadrature() -> None:
    """A star of a FWHM of 3 pixels, seen with a PSF 1.5 times as wide, has 4.5."""
    image = star(width=3.0 / WIDTHS)
    found = degraded(image, Worse("b", "", psf=1.5), 3.0, 0, 1)
    light, width = light_and_width(found)
    assert light == pytest.approx(5e4, rel=0.03)
    assert width * WIDTHS == pytest.approx(4.5, rel=0.06)
    assert scatter_of(found) == pytest.approx(SCATTER, rel=0.06)  # what was smoothed comes back


def test_a_turn_moves_pixels_and_changes_none() -> None:
    image = star()[:, :, :60]
    assert np.array_equal(
        degraded(image, Worse("t", "", turned=True), 3.0, 0, 1), np.rot90(image, axes=(1, 2))
    )


def test_missing_pixels_stay_missing_and_bytes_stay_bytes() -> None:
    image = star()
    image[0, 10:14, 5] = np.nan
    found = degraded(image, Worse("all", "", 1.5, 2.0, 0.5), 3.0, 0, 1)
    assert np.array_equal(np.isnan(found), np.isnan(image))
    stored = np.clip(np.nan_to_num(star(light=2e4)), 0, 255).astype(np.uint8)
    found = degraded(stored, Worse("n", "", noise=3.0), 3.0, 0, 1)
    assert found.dtype == np.uint8 and found.max() > 200
    blank = np.full((1, SIZE, SIZE), 7, np.uint8)  # scatter below half a unit is not believed
    assert sky(blank)[1] == pytest.approx(0.5)
    assert degraded(blank, Worse("n", "", noise=4.0), 3.0, 0, 1).std() > 1


def test_noise_is_drawn_from_seed_condition_and_id_alone() -> None:
    image, worse = star(), Worse("n", "", noise=2.0)
    found = degraded(image, worse, 3.0, 0, 1)
    assert np.array_equal(found, degraded(image, worse, 3.0, 0, 1))
    others = [(worse, 1, 1), (worse, 0, 2), (Worse("m", "", noise=2.0), 0, 1)]
    for other, seed, object_id in others:
        assert not np.array_equal(found, degraded(image, other, 3.0, seed, object_id))


@pytest.mark.parametrize("alike", [False, True])
def test_noise_is_as_alike_between_bands_as_the_sky(alike: bool) -> None:
    """What is added halves the S/N of the mean of the bands, as it does that of each."""
    image = np.concatenate([star(seed=0 if alike else band) for band in range(3)])
    assert shared(image, sky(image)[1]) == pytest.approx(float(alike), abs=0.06)
    found = degraded(image, Worse("n", "", noise=2.0), 3.0, 0, 1)
    before, after = (scatter_of(one.mean(0, keepdims=True)) for one in (image, found))
    assert after / before == pytest.approx(2, rel=0.07)
    assert scatter_of(found) == pytest.approx(2 * SCATTER, rel=0.06)


def test_rates_have_wilson_limits() -> None:
    """Half the distance between the roots p of |p' - p| = sqrt(p (1 - p) / n), at one sigma."""
    n, flips = 40, 10
    told = rate(np.arange(n) < flips)
    roots = np.roots([1 + 1 / n, -(2 * flips / n + 1 / n), (flips / n) ** 2])
    assert told["rate"] == 0.25 and told["error"] == pytest.approx(abs(roots[0] - roots[1]) / 2)
    assert rate(np.zeros(19, bool))["rate"] is None
    values = np.append(np.arange(100.0), np.nan)
    bins = along(values, np.append(np.arange(100) >= 80, True), 5)
    assert [b["rate"] for b in bins] == [0, 0, 0, 0, 1] and [b["n"] for b in bins] == [20] * 5
    assert bins[0]["median"] == 9.5


def test_conditions_follow_the_preparation() -> None:
    names = [worse.name for worse, _ in conditions(Reobservation(), Preparation(size=32))]
    assert names == ["noisier", "dimmer", "blurred", "all", "turned", "unaligned", "unmasked"]
    plain = Preparation(size=32, align=False)
    made = {worse.name: prepared for worse, prepared in conditions(Reobservation(), plain)}
    assert "unaligned" not in made and made["noisier"] == plain
    assert not made["unmasked"].segmentation.mask_neighbours


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, dict[str, Ref], Path]:
    """A release with a network, of galaxies of whose labels a part is asked for again."""
    folder = tmp_path_factory.mktemp("again")
    drawn.draw(folder / "sky", objects=150)
    toml = drawn.survey_file(folder / "sky.toml", folder / "sky", MODEL)
    both = '[cluster]\non = "both"\nneighbours = { axes = 2, nearest = 8 }\nsmallest = 10\n'
    text = toml.read_text().replace("[cluster]\n", both).replace(
        "permutations = 20\n",
        "permutations = 20\nreobserve = { objects = 60, bins = 2 }\nstability = { splits = 1 }\n"
        'compare = { axes = 4, autoencoder = { latent = 4, layers = { channels = [4, 4] } }, '
        "training = { epochs = 4, batch = 32, threads = 1 } }\n",
    )  # fmt: skip
    toml.write_text(text)
    run_chain(toml, folder / "w")
    workspace = Workspace.open(folder / "w")
    record = releases.record(workspace, "sky", None)
    refs = {name: Ref(name, digest) for name, digest in record["refs"].items()}
    return workspace, refs, folder / "w" / "releases" / "sky" / "r1" / "report.html"


def test_cutouts_as_they_were_get_the_labels_of_the_release(
    release: tuple[Workspace, dict[str, Ref], Path],
) -> None:
    """Nothing is fitted anew, and what is measured is the degrading alone."""
    workspace, refs, _ = release
    objects = held_out(
        Context(workspace), Evaluation(), refs["sample"], refs["stamps"], refs["assignments"]
    )
    observer = Observer(workspace, refs["stamps"], refs["embeddings"], objects.rows)
    fitted = load_clusters(workspace, refs["clusters"])
    again = labelled(fitted, observer, observer.cutouts, observer.preparation)
    assert np.array_equal(again.cluster, objects.cluster)
    assert np.allclose(again.probability, objects.probability, atol=1e-6)
    assert again.model_cluster is not None and objects.model_cluster is not None
    assert np.array_equal(again.model_cluster, objects.model_cluster)
    assert np.allclose(again.measured["snr"], objects.measured["snr"])


def test_figures_and_the_page_tell_what_flips(
    release: tuple[Workspace, dict[str, Ref], Path],
) -> None:
    workspace, refs, page = release
    folder = workspace.place(refs["evaluation"])
    figures = json.loads((folder / "figures.json").read_text())
    told = {one["name"]: one for one in figures["reobservation"]["conditions"]}
    assert len(told) == 7 and all(one["n"] == 60 for one in told.values())
    assert told["noisier"]["snr_ratio"] == pytest.approx(0.5, abs=0.1)
    assert told["dimmer"]["snr_ratio"] < 0.8
    for one in told.values():
        assert one["flips"] == round(60 * one["rate"]) and one["model"]["n"] == 60
        assert sum(b["n"] for b in one["along"]["snr"]) == 60
    assert told["turned"]["rate"] <= told["all"]["rate"]
    assert figures["headline"]["flips_noisier"] == told["noisier"]["rate"]
    assert figures["headline"]["halves_seeded_ari"] == figures["stability"]["seeded"]["mean"]
    assert (folder / "plots" / "reobservation.png").stat().st_size > 5000
    text = page.read_text()
    assert "The same galaxies seen again" in text and "disjoint halves" in text
    assert f"{told['noisier']['rate']:.3f}" in text


def test_plainer_clusters_of_the_same_stamps_are_told(
    release: tuple[Workspace, dict[str, Ref], Path],
) -> None:
    """Three planted kinds lie apart along principal axes already; an autoencoder keeps them so."""
    workspace, refs, page = release
    figures = json.loads((workspace.place(refs["evaluation"]) / "figures.json").read_text())
    assert set(figures["comparison"]) == {"principal_components", "autoencoder"}
    for name, found in figures["comparison"].items():
        assert found["dimensions"] == 4 and found["clusters"] == 3
        assert found["classes"]["n"] == figures["n"] and found["classes"]["nmi"] > 0.4
        assert figures["headline"][f"compared_{name}_nmi"] == found["classes"]["nmi"]
    assert "mixture on an autoencoder" in page.read_text()
    trained = [
        path.parent.name for path in (workspace.root / "store" / "model").glob("*/model.json")
    ]
    assert len(trained) == 2 and refs["model"].digest in trained
