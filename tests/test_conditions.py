"""A trend planted in redshift: conditional networks draw it, and losses say that they use it.

Discs whose size falls with redshift, with a scatter of their own, through training, embedding and
judging as a survey does it.  What is judged are galaxies kept out of the training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galpipe.catalogue import interpolation
from galpipe.catalogue.conditions import condition_figures, condition_headline
from galpipe.catalogue.measuring import measured
from galpipe.catalogue.trends import Slope, averaged, regressed, share
from galpipe.classes import gather
from galpipe.classes.embedding import embed
from galpipe.models.cvae.spec import Convolved, Cvae, Cvae2, FancyCvae, Vae
from galpipe.models.engine.spec import Cosine, Training
from galpipe.models.spec import Embedding
from galpipe.models.training import train
from galpipe.stages import Context
from galpipe.workspace import Ref, Workspace
from tests import stamped

LEARNT, HELD_OUT, UNKNOWN = 600, 300, 12  # galaxies, and of those held out without a redshift
SMALL: dict[str, Any] = {"latent": 4, "widths": (8, 16, 32), "bottleneck": 2, "beta": 0.03}
TRAINING = Training(
    epochs=24, batch=16, threads=1, buffer=2, learning_rate=3e-3, rate=Cosine(final=1e-4)
)
SIZE = "half_light_radius"


def discs(redshift: Any, seed: int, size: int = 32) -> Any:
    """Exponential discs of 3.8 pixels at z = 0.2 and 1.6 at z = 1.2, 12 % scatter, and noise."""
    random, count = np.random.default_rng(seed), len(redshift)
    scale = (4.2 - 2.2 * redshift) * np.exp(random.normal(0, 0.12, count))
    flat, turned = random.uniform(0.5, 1, count), random.uniform(0, np.pi, count)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    cosine, sine = np.cos(turned)[:, None, None], np.sin(turned)[:, None, None]
    along, across = x * cosine + y * sine, (y * cosine - x * sine) / flat[:, None, None]
    light = np.exp(-np.hypot(along, across) / scale[:, None, None])
    light = random.uniform(0.6, 0.95, count)[:, None, None] * light
    light += random.normal(0, 0.02, light.shape)
    return (255 * np.clip(light, 0, 1)).astype(np.uint8)[:, None]


def plant(folder: Path, told: str = "true") -> tuple[Workspace, Ref, Ref]:
    """Committed stamps; the catalogue's redshifts are the true ones, or those of others."""
    workspace = Workspace.open(folder / "workspace")
    random = np.random.default_rng(3)
    redshift = random.uniform(0.2, 1.2, LEARNT + HELD_OUT)
    stamps, catalogue = stamped.commit(workspace, [discs(redshift, 4)], shard=256)
    path = workspace.place(catalogue) / "catalogue.parquet"
    split = np.repeat(["train", "test"], [LEARNT, HELD_OUT])
    split[:LEARNT:20] = "validation"
    said = redshift if told == "true" else random.permutation(redshift)
    said = np.where(np.arange(len(said)) < len(said) - UNKNOWN, said, np.nan)
    table = pq.read_table(path)
    table = table.set_column(table.column_names.index("split"), "split", pa.array(split))
    pq.write_table(table.append_column("redshift", pa.array(said)), path)
    return workspace, stamps, catalogue


@dataclass(frozen=True)
class Judged:
    """A trained network with what is found of its conditions."""

    workspace: Workspace
    catalogue: Ref
    stamps: Ref
    model: Ref
    embeddings: Ref
    figures: Any


def judged(folder: Path, model: Convolved, told: str = "true") -> Judged:
    workspace, stamps, catalogue = plant(folder, told)
    context = Context(workspace)
    ref = train(context, model, TRAINING, stamps, catalogue)
    vectors = embed(context, Embedding(micro_batch=64), ref, stamps, catalogue)
    figures = condition_figures(workspace, catalogue, stamps, ref, vectors, seed=0)
    return Judged(workspace, catalogue, stamps, ref, vectors, figures)


@pytest.fixture(
    scope="module",
    params=[pytest.param(Cvae, marks=pytest.mark.slow), Cvae2, FancyCvae],  # its layers are Fancy's
    ids=lambda kind: kind.__name__,
)
def true(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    return judged(tmp_path_factory.mktemp("true"), request.param(**SMALL))


def test_the_planted_trend_is_drawn_within_a_tenth(true: Judged) -> None:
    trend = true.figures["trends"]["redshift"]
    found = trend["quantities"][SIZE]
    assert found["galaxies"]["slope"] < -2  # pixels per unit of redshift
    assert found["recovered"]["value"] == pytest.approx(1, abs=0.1)
    assert found["recovered"]["error"] < 0.05
    # The drawings have the galaxies' sizes, too, within a tenth of what lies between the ends.
    means = found["drawn"]["mean"]
    binned = np.interp(found["binned"]["values"], found["drawn"]["values"], means)
    assert np.abs(binned - found["binned"]["mean"]).mean() < 0.2  # pixels


def test_own_conditions_cost_less_than_those_of_others(true: Judged) -> None:
    loss = true.figures["loss"]
    assert loss["own"] < loss["unknown"] < loss["shuffled"]
    assert loss["shuffled"] - loss["own"] > 4 * loss["shuffled_scatter"]
    assert loss["gain"] > 4 * loss["gain_error"]
    assert loss["gain"] == pytest.approx(loss["shuffled"] - loss["own"])
    assert (true.figures["n"], true.figures["unknown"]) == (HELD_OUT - UNKNOWN, UNKNOWN)


def test_other_conditions_of_the_same_stamps_give_other_vectors(true: Judged) -> None:
    """A later release's table has other redshifts, or hardly any: nothing stale is published."""
    workspace = true.workspace
    table = pq.read_table(workspace.place(true.catalogue) / "catalogue.parquet")
    place = table.column_names.index("redshift")
    redshift = table["redshift"].to_numpy()
    few = np.flatnonzero((np.array(table["split"].to_pylist()) == "test") & (redshift < 1))[:2]
    given = {
        "later": redshift + 0.1,
        "few": np.where(np.isin(np.arange(len(redshift)), few), redshift, np.nan),
    }
    for name, values in given.items():
        other = Ref("sample", name)
        pq.write_table(
            table.set_column(place, "redshift", pa.array(values)),
            workspace.begin(other) / "catalogue.parquet",
        )
        workspace.commit(other, None, {})
        settings = Embedding(micro_batch=64)
        vectors = embed(Context(workspace), settings, true.model, true.stamps, other)
        assert vectors != true.embeddings
        told = gather.embedded(workspace, vectors, "condition")
        assert told is not None
        np.testing.assert_allclose(told[:, 0], values, rtol=1e-6)
    figures = condition_figures(workspace, other, true.stamps, true.model, vectors, seed=0)
    assert figures["n"] == 2 and figures["trends"]["redshift"]["quantities"] == {}


def test_the_figures_are_told_and_drawn(true: Judged, tmp_path: Path) -> None:
    flat = condition_headline(true.figures)
    assert flat["conditions_loss_own"] == true.figures["loss"]["own"]
    assert flat["trend_redshift_half_light_radius_interpolated"] == pytest.approx(
        true.figures["trends"]["redshift"]["quantities"][SIZE]["interpolated"]["slope"]
    )
    (path,) = interpolation.draw(
        true.workspace, true.catalogue, true.stamps, true.model, true.embeddings, true.figures,
        tmp_path,
    )  # fmt: skip
    assert path.read_bytes().startswith(b"\x89PNG")
    again = condition_figures(
        true.workspace, true.catalogue, true.stamps, true.model, true.embeddings, seed=0
    )
    assert again == true.figures


@pytest.mark.slow
def test_conditions_that_say_nothing_are_worth_nothing(tmp_path: Path) -> None:
    """The same galaxies under redshifts of others: no gain, and no trend."""
    figures = judged(tmp_path, Cvae2(**SMALL), told="others").figures
    loss = figures["loss"]
    assert abs(loss["gain"]) < max(3 * loss["gain_error"], 0.02 * loss["own"])
    found = figures["trends"]["redshift"]["quantities"][SIZE]
    assert abs(found["galaxies"]["slope"]) < 0.5
    assert abs(found["interpolated"]["slope"]) < 0.5


def test_a_network_without_conditions_is_not_judged(tmp_path: Path) -> None:
    workspace, stamps, catalogue = plant(tmp_path)
    context = Context(workspace)
    short = Training(epochs=1, batch=64, threads=1, buffer=2)
    ref = train(context, Vae(**SMALL), short, stamps, catalogue)
    vectors = embed(context, Embedding(micro_batch=64), ref, stamps, catalogue)
    assert condition_figures(workspace, catalogue, stamps, ref, vectors, seed=0) is None


def test_a_strip_without_a_trend_has_no_empty_axes() -> None:
    """Three galaxies are drawn, but too few for a slope."""
    grid, own = np.linspace(0.5, 1.0, 9), np.array([0.5, 0.7, 0.9])
    pictures = np.full((3, 1, 8, 8), 0.5, np.float32)
    drawn = np.full((9, 3, 1, 8, 8), 0.5, np.float32)
    trend = {"low": 0.5, "high": 1.0, "n": 1, "quantities": {}}
    figure = interpolation.page("redshift", pictures, own, drawn, grid, trend)
    assert len(figure.axes) == 3 * (1 + 9)
    assert all(axes.images for axes in figure.axes)


def test_measures_of_known_profiles() -> None:
    """A round exponential disc has half its light within 1.678 scale lengths."""
    y, x = np.mgrid[:64, :64] - 31.5
    disc = 0.8 * np.exp(-np.hypot(x, y) / 4.0)
    found = measured(np.stack([disc, 0.5 * disc, np.zeros((64, 64))])[:, None].astype(np.float32))
    assert found[SIZE][:2] == pytest.approx([1.678 * 4.0] * 2, rel=0.05)
    assert found["concentration"][0] == pytest.approx(5 * np.log10(2.994 / 0.824), rel=0.05)
    assert found["brightness"][1] == pytest.approx(found["brightness"][0] / 2)
    assert np.isnan(found[SIZE][2]) and np.isnan(found["concentration"][2])


def test_slopes_and_shares() -> None:
    random = np.random.default_rng(0)
    conditions = random.normal(size=(4000, 2))
    quantity = 3 * conditions[:, 0] - 2 * conditions[:, 1] + random.normal(size=4000)
    one, two = regressed(quantity, conditions, 0), regressed(quantity, conditions, 1)
    assert one is not None and two is not None
    assert one.value == pytest.approx(3, abs=4 * one.error)
    assert two.value == pytest.approx(-2, abs=4 * two.error)
    assert one.error == pytest.approx(1 / np.sqrt(4000), rel=0.1)
    assert regressed(quantity, np.ones((4000, 1)), 0) is None
    assert regressed(quantity[:5], conditions[:5], 0) is None
    values = np.linspace(0, 1, 5)
    drawn = values[:, None] * np.linspace(1, 3, 21)
    moved = averaged(drawn, values)
    assert moved is not None and moved.value == pytest.approx(2)
    assert share(moved, Slope(4.0, 0.4)) == {"value": 0.5, "error": pytest.approx(0.0604, abs=1e-4)}
    assert share(moved, None) is None
