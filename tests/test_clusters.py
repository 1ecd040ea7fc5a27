"""Clusters: planted classes are found, labels are deterministic, and nothing fails a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from galpipe import spec
from galpipe.classes import clusters, features, mixture, scheme
from galpipe.classes.spec import Clustering, Feature
from galpipe.errors import InputError
from galpipe.stages import Context
from galpipe.workspace import Workspace
from tests.planted import BLANK, galaxies, plant

WANTED = (
    Feature(column="concentration"),
    Feature(column="asymmetry", transform="log"),
)
THREE = Clustering(components=3, columns=WANTED, restarts=3)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(Workspace.open(tmp_path / "workspace"))


def run(context: Context, settings: Clustering, planted: Any) -> Any:
    fitted = clusters.fit(context, settings, planted.stamps, planted.embeddings, planted.sample)
    ref = clusters.assign(context, fitted, planted.stamps, planted.embeddings)
    return pq.read_table(context.workspace.place(ref) / "assignments.parquet"), fitted


@pytest.mark.parametrize("on", ["columns", "embedding", "both"])
def test_planted_classes_are_found(context: Context, on: Any) -> None:
    planted = plant(context.workspace, galaxies(600), edges=(350,))
    settings = Clustering(on=on, components=3, columns=WANTED, restarts=3)
    table, _ = run(context, settings, planted)
    assert adjusted_rand_score(planted.classes, table["cluster"].to_numpy()) > 0.98
    probabilities = np.array(table["probabilities"].to_pylist())
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert np.array_equal(probabilities.argmax(axis=1), table["cluster"].to_numpy())
    assert np.allclose(probabilities.max(axis=1), table["probability"].to_numpy())
    assert (table["entropy"].to_numpy() <= np.log(3) + 1e-6).all()
    assert table["label"].to_pylist() == [f"c{k:02d}" for k in table["cluster"].to_pylist()]
    assert np.array_equal(table["model_cluster"].to_numpy(), planted.classes)
    sizes = np.bincount(table["cluster"].to_numpy(), minlength=3)
    assert sizes.min() > 100


def test_posterior_equals_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(400, 5)) @ rng.normal(size=(5, 5)) + rng.integers(0, 3, (400, 1)) * 4
    theirs = GaussianMixture(4, random_state=0, reg_covar=1e-3).fit(x)
    mine = mixture.canonical(theirs.weights_, theirs.means_, theirs.covariances_)
    posterior, density = mine.posterior(x)
    assert np.allclose(density, theirs.score_samples(x), rtol=0, atol=1e-8)
    order = np.argsort(-theirs.weights_)
    assert np.allclose(posterior, theirs.predict_proba(x)[:, order], atol=1e-9)


@given(st.integers(1, 99), st.integers(0, 2**32 - 1))
def test_posterior_does_not_depend_on_the_batch(cut: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(100, 4))
    shapes = rng.normal(size=(3, 4, 4))
    fitted = mixture.Mixture(
        np.array([0.5, 0.3, 0.2]), rng.normal(size=(3, 4)), shapes @ shapes.mT + np.eye(4)
    )
    whole = fitted.posterior(x)
    first, second = fitted.posterior(x[:cut]), fitted.posterior(x[cut:])
    for i in range(2):
        assert np.array_equal(whole[i], np.concatenate([first[i], second[i]]))


def test_components_come_by_weight_and_twins_overlap() -> None:
    means = np.array([[0.0, 0.0], [9.0, 0.0], [9.0, 0.0]])
    found = mixture.canonical(np.array([0.2, 0.5, 0.3]), means, np.stack([np.eye(2)] * 3))
    assert found.weights.tolist() == [0.5, 0.3, 0.2]
    overlap = mixture.bhattacharyya(found)
    assert overlap[0, 1] == pytest.approx(1)
    assert overlap[0, 2] == pytest.approx(np.exp(-81 / 8))  # equal unit covariances: exp(-d^2/8)
    assert mixture.effective_components(np.full(8, 1 / 8)) == pytest.approx(8)
    assert mixture.effective_components(np.full(3, 1 / 3), overlap) == pytest.approx(
        3 ** (1 / 3) * 1.5 ** (2 / 3),
        rel=1e-3,  # one alone, and twins that count as one
    )


def test_same_bytes_again_in_any_order_of_parts(tmp_path: Path) -> None:
    truth = galaxies(400)
    contents = []
    for name, edges in (("one", ()), ("two", (150,)), ("three", (50, 210))):
        context = Context(Workspace.open(tmp_path / name))
        table, fitted = run(context, THREE, plant(context.workspace, truth, edges=edges))
        place = context.workspace.place(fitted)
        contents.append((table.to_pylist(), (place / "mixture.safetensors").read_bytes()))
    assert contents[0] == contents[1] == contents[2]


def test_next_release_leaves_old_rows_alone(context: Context) -> None:
    truth = galaxies(500)
    first = {k: v[:300] if k != "columns" else _cut(v, 300) for k, v in truth.items()}
    old = plant(context.workspace, first, name="a", edges=(200,))
    table, fitted = run(context, THREE, old)
    grown = plant(context.workspace, truth, name="b", edges=(200, 300))
    made: list[Any] = []

    def counting(function: Any, items: Any) -> Any:
        made.extend(items)
        return map(function, made)

    again = Context(context.workspace, map=counting)
    ref = clusters.assign(again, fitted, grown.stamps, grown.embeddings)
    later = pq.read_table(context.workspace.place(ref) / "assignments.parquet")
    assert len(made) == 1
    assert later.slice(0, 300).to_pylist() == table.to_pylist()


def _cut(columns: dict[str, Any], stop: int) -> dict[str, Any]:
    return {name: values[:stop] for name, values in columns.items()}


def test_every_object_ends_somewhere(context: Context) -> None:
    truth = galaxies(300)
    columns = truth["columns"]
    columns["concentration"][0] = np.nan  # one of two: too many
    status = np.ones(300, np.int32)
    status[1] = BLANK
    truth["vector"][2] = np.nan
    planted = plant(context.workspace, truth, status=status)
    table, _ = run(context, THREE, planted)
    assert table["unassigned"].to_pylist()[:3] == ["unmeasured", "no_stamp", None]
    assert table["cluster"].to_pylist()[:2] == [-1, -1]
    assert table["label"].to_pylist()[:2] == [None, None]
    assert table["probability"].to_pylist()[:2] == [None, None]
    assert table["probabilities"].to_pylist()[:2] == [None, None]
    table, _ = run(context, Clustering(on="embedding", components=3), planted)
    assert table["unassigned"].to_pylist()[:3] == [None, "no_stamp", "no_embedding"]
    lenient = Clustering(components=3, columns=WANTED, imputed=0.5)
    table, _ = run(context, lenient, planted)
    assert table["unassigned"].to_pylist()[:3] == [None, "no_stamp", None]
    assert table["imputed"].to_pylist()[:3] == [1, None, 0]
    strict = Clustering(components=3, columns=WANTED, faintest=1.0)
    table, _ = run(context, strict, planted)
    faint = np.array(table["unassigned"].to_pylist()) == "faint"
    assert faint.any()
    assert (table["cluster"].to_numpy()[faint] == -1).all()


@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_few_objects(context: Context, count: int) -> None:
    planted = plant(context.workspace, galaxies(count))
    table, fitted = run(context, Clustering(columns=WANTED), planted)
    assert len(table) == count
    facts = json.loads((context.workspace.place(fitted) / "clusters.json").read_text())
    assert facts["notes"]
    assert facts["components"] == min(count, 1)
    assert set(table["cluster"].to_pylist()) <= {0}


def test_anomaly_score_grows_with_distance(context: Context) -> None:
    truth = galaxies(300)
    truth["columns"]["asymmetry"][:3] = [1, 100, 10_000]  # ever stranger, and beyond the clip
    table, _ = run(context, THREE, plant(context.workspace, truth))
    score = table["anomaly_score"].to_numpy()
    assert score[0] < score[1] < score[2]
    assert score[1] > np.quantile(score, 0.98)


def test_transforms_are_fitted_on_training_alone(context: Context) -> None:
    truth = galaxies(400)
    split = np.array(["train"] * 300 + ["test"] * 100)
    _, first = run(context, THREE, plant(context.workspace, truth, name="a", split=split))
    changed = galaxies(400)
    for values in changed["columns"].values():
        values[300:] *= 100
    other = Context(Workspace.open(context.workspace.root.with_name("other")))
    _, second = run(other, THREE, plant(other.workspace, changed, name="a", split=split))
    contents = [
        (c.workspace.place(r) / "mixture.safetensors").read_bytes()
        for c, r in ((context, first), (other, second))
    ]
    assert contents[0] == contents[1]


MEASURES = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


@given(st.lists(MEASURES, min_size=3, max_size=50), st.sampled_from(["log", "rank", "asinh"]))
def test_transforms_keep_order(values: list[float], transform: Any) -> None:
    raw = np.array(values)[:, None]
    fitted = features.fit_columns(raw, (Feature(column="x", transform=transform),), 3.0)
    z, filled = fitted.apply(raw)
    assert np.isfinite(z).all()
    assert not filled.any()
    assert (np.diff(z[np.argsort(raw[:, 0], kind="stable"), 0]) >= -1e-9).all()


def test_stored_and_restored_way_is_the_same() -> None:
    rng = np.random.default_rng(0)
    raw, vector = rng.lognormal(size=(200, 2)), rng.normal(size=(200, 6))
    settings = Clustering(on="both", columns=WANTED, embedding_axes=3)
    names = ("concentration", "asymmetry")
    way = features.fit_vectors(settings, names, raw, vector, np.ones(200, bool))
    assert way.names == (*names, "embedding_01", "embedding_02", "embedding_03")
    facts, arrays = features.stored(way)
    again = features.restored_vectors(json.loads(json.dumps(facts)), arrays)
    for a, b in zip(way.apply(raw, vector), again.apply(raw, vector), strict=True):
        assert np.array_equal(a, b)
    z = way.apply(raw, vector)[0]
    assert np.allclose(z[:, :2].std(axis=0), 1)
    assert np.allclose(z[:, 2:].std(axis=0), settings.embedding_weight)


def test_a_wide_embedding_alone_is_clustered_by_its_leading_axes() -> None:
    """832 features of a contrastive network would make a mixture of 350,000 covariances."""
    vector, rows = np.random.default_rng(0).normal(size=(300, 100)), np.ones(300, bool)
    for asked, taken in ((None, 64), (12, 12)):
        settings = Clustering(on="embedding", embedding_axes=asked)
        assert len(features.fit_vectors(settings, (), None, vector, rows).names) == taken
    beside = Clustering(on="both", columns=WANTED)
    raw = np.random.default_rng(1).lognormal(size=(300, 2))
    names = ("concentration", "asymmetry")
    assert len(features.fit_vectors(beside, names, raw, vector, rows).names) == 2 + 8


def test_axes_of_a_collapsed_embedding() -> None:
    dead = np.zeros((50, 3))
    dead[:, 1] = np.linspace(-1, 1, 50)
    assert features.fit_axes(dead, 3, 1.0).axes.shape == (1, 3)
    assert np.isfinite(features.fit_axes(np.zeros((50, 3)), 3, 1.0).apply(dead)).all()


def test_a_wrong_column_names_the_nearest(context: Context) -> None:
    planted = plant(context.workspace, galaxies(50))
    wrong = Clustering(columns=(Feature(column="concentraton"),))
    with pytest.raises(InputError, match="did you mean 'concentration'"):
        run(context, wrong, planted)
    with pytest.raises(InputError, match="needs a model"):
        clusters.fit(
            context, Clustering(on="both", columns=WANTED), planted.stamps, None, planted.sample
        )


def test_patterns_take_all_that_fit_and_may_take_none() -> None:
    wanted = (Feature(column="colour_*"), Feature(column="gini"), Feature(column="haze_*"))
    present = ("gini", "colour_g_r", "colour_r_i", "m20")
    found = [feature.column for feature in features.chosen_columns(wanted, present)]
    assert found == ["colour_g_r", "colour_r_i", "gini"]
    fewer = features.chosen_columns(wanted, present, without=("*_i", "gini"))
    assert [feature.column for feature in fewer] == ["colour_g_r", "gini"]  # gini by its name


def test_scheme_reads_in_words(context: Context) -> None:
    settings = Clustering(components=3, columns=(Feature(column="axis_ratio"), *WANTED), restarts=3)
    _, fitted = run(context, settings, plant(context.workspace, galaxies(600)))
    facts = json.loads((context.workspace.place(fitted) / "clusters.json").read_text())
    readings = [entry["reading"] for entry in facts["scheme"].values()]
    assert any("concentrated" in text for text in readings)
    assert any("diffuse" in text and "symmetric" in text for text in readings)
    assert list(facts["scheme"]) == ["c00", "c01", "c02"]
    assert sum(entry["weight"] for entry in facts["scheme"].values()) == pytest.approx(1)
    assert scheme.reading({"concentration": 0.1}, {}) == "ordinary"


def test_spec_round_trip() -> None:
    for settings in (Clustering(), Clustering(on="both", columns=WANTED, components=5)):
        assert spec.load(Clustering, spec.dump(settings)) == settings
