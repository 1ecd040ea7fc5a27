"""Evaluation: information against scikit-learn and planted truth; figures for every kind of run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn import metrics

from galpipe import spec
from galpipe.catalogue import information
from galpipe.catalogue.evaluation import evaluate
from galpipe.catalogue.occupancy import alarms, soft_overlap
from galpipe.catalogue.separation import baselines, separation
from galpipe.catalogue.spec import Evaluation, Truth
from galpipe.classes import clusters
from galpipe.classes.spec import Clustering, Feature
from galpipe.errors import InputError
from galpipe.stages import Context
from galpipe.workspace import Workspace
from tests.planted import BLANK, Planted, galaxies, plant

WANTED = (Feature(column="concentration"), Feature(column="asymmetry", transform="log"))
THREE = Clustering(components=3, columns=WANTED, restarts=2)
QUICK = Evaluation(
    truth=Truth(classes="kind", votes=("p_one",), vote_counts="votes"),
    permutations=20,
    silhouettes=100,
    gallery=3,
)

labellings = st.integers(2, 60).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 4), min_size=n, max_size=n)] * 2)
)


@given(labellings)
def test_agreement_equals_scikit_learn(pair: tuple[list[int], list[int]]) -> None:
    a, b = np.array(pair[0]), np.array(pair[1])
    assert information.mutual_information(a, b) == pytest.approx(
        metrics.mutual_info_score(a, b), abs=1e-12
    )
    assert information.normalised_mutual_information(a, b) == pytest.approx(
        metrics.normalized_mutual_info_score(a, b), abs=1e-9
    )
    assert information.adjusted_rand_index(a, b) == pytest.approx(
        metrics.adjusted_rand_score(a, b), abs=1e-12
    )
    assert np.array_equal(information.contingency(a, b), metrics.cluster.contingency_matrix(a, b))


@given(labellings)
def test_information_given_nothing_is_information(pair: tuple[list[int], list[int]]) -> None:
    a, b = np.array(pair[0]), np.array(pair[1])
    same = information.conditional_information(a, b, np.zeros(len(a)), permutations=2)
    assert same.value == pytest.approx(information.mutual_information(a, b), abs=1e-9)
    told = information.conditional_information(a, b, b, permutations=2)
    assert told.value == pytest.approx(0, abs=1e-9)
    names = np.array(["class " + str(i) for i in b])
    assert information.mutual_information(a, names) == pytest.approx(same.value, abs=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_chance_is_taken_off(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 12, 1400), rng.integers(0, 12, 1400)
    found = information.corrected_information(a, b, permutations=50, seed=1)
    assert found.permuted_mean == pytest.approx(11 * 11 / 2 / 1400, rel=0.15)  # Miller (1955)
    assert found.z is not None
    assert abs(found.z) < 6
    assert found.corrected == found.value - found.permuted_mean


def test_inclination_alone_tells_nothing_beyond_it() -> None:
    rng = np.random.default_rng(0)
    axis_ratio = rng.uniform(0.1, 1, 5000)
    spiral = rng.random(5000) < 0.4
    classes = np.where(axis_ratio < 0.3, "edge-on", np.where(spiral, "spiral", "smooth"))
    by_ratio = information.quantile_bins(axis_ratio, 12)
    blind = information.information_beyond_inclination(by_ratio, classes, axis_ratio)
    assert information.normalised_mutual_information(by_ratio, classes) > 0.2
    assert abs(blind.corrected) < 0.05  # the border of a class cuts a decile
    seeing = information.information_beyond_inclination(
        by_ratio + 100 * spiral, classes, axis_ratio, permutations=20
    )
    assert seeing.value > 0.9


def test_position_angle_sorting_is_caught() -> None:
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 180, 2000)
    bins = information.angle_bins(angle)
    assert bins.max() == 11
    assert np.array_equal(bins, information.angle_bins(angle + 180))
    honest = information.corrected_information(rng.integers(0, 12, 2000), bins)
    sorting = information.corrected_information((angle // 45).astype(int), bins)
    assert honest.z is not None
    assert sorting.z is not None
    assert abs(honest.z) < 3
    assert sorting.z > 100


def test_bound_of_perfect_clusters() -> None:
    classes = np.repeat(np.arange(4), 300)
    perfect = classes * 3 + np.tile(np.arange(3), 400)  # 12 pure clusters of equal size
    assert information.highest_normalised_information(classes, 12) == pytest.approx(
        information.normalised_mutual_information(perfect, classes)
    )
    assert information.highest_normalised_information(classes, 4) == pytest.approx(1)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=300))
def test_quantile_bins_keep_ties_together(values: list[float]) -> None:
    array = np.array(values)
    bins = information.quantile_bins(array, 10)
    assert bins.min() >= 0
    assert bins.max() <= 9
    for value in set(values):
        assert len(set(bins[array == value].tolist())) == 1


def test_planted_separation_is_preferred() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 600)
    vectors = np.eye(3)[classes] * 8 + rng.normal(size=(600, 3))
    good = separation(vectors, classes, most=200, seed=0)
    poor = separation(vectors, rng.permutation(classes), most=200, seed=0)
    assert good["silhouette"] > 0.5 > poor["silhouette"]
    assert good["calinski_harabasz"] > 100 * poor["calinski_harabasz"]
    for labels in baselines(vectors, vectors, 3, 0).values():
        assert metrics.adjusted_rand_score(classes, labels) > 0.98
    assert separation(vectors, np.zeros(600, int), most=200, seed=0)["silhouette"] is None


def test_dead_and_duplicate_components_are_alarmed() -> None:
    memberships = np.zeros((300, 4))
    memberships[:100, 0] = 1
    memberships[100:, 1] = memberships[100:, 2] = 0.5  # two components for one thing
    overlap = soft_overlap(memberships)
    assert overlap[1, 2] == pytest.approx(1)
    assert overlap[0, 1] == 0
    found = alarms([100, 120, 80, 0], overlap, ["a", "b", "c", "d"])
    assert found["dead"] == ["d"]
    assert [entry["pair"] for entry in found["duplicates"]] == [["b", "c"]]
    assert len(found["alarms"]) == 2


class Recorder:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {"metrics": {}, "files": []}
        self.run_id = None

    @contextmanager
    def run(self, kind: str, name: str, digest: str) -> Iterator[Recorder]:
        self.kept["kind"], self.kept["digest"] = kind, digest
        yield self

    def params(self, values: Mapping[str, Any]) -> None: ...

    def tags(self, values: Mapping[str, str]) -> None: ...

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.kept["metrics"].update(values)

    def dataset(self, name: str, digest: str, context: str, rows: int) -> None: ...

    def file(self, path: Path, folder: str = "") -> None:
        self.kept["files"].append(path.name)

    def model(self, folder: Path, name: str, alias: str) -> None: ...


def judged(
    folder: Path,
    count: int = 500,
    settings: Clustering = THREE,
    how: Evaluation = QUICK,
    **plan: Any,
) -> tuple[dict[str, Any], Path, Recorder]:
    """Plant, cluster and evaluate; the figures, the folder of the output and the tracker."""
    tracker = Recorder()
    context = Context(Workspace.open(folder), tracker=tracker)
    truth = galaxies(count)
    kinds = [None if i == 0 else f"class {k}" for i, k in enumerate(truth["classes"])]
    inputs = {
        "kind": kinds,
        "p_one": (truth["classes"] == 1) * 0.9 + 0.05,
        "votes": np.where(np.arange(count) % 10 == 0, 5, 40),
    }
    planted = plant(context.workspace, truth, **{"inputs": inputs, **plan})
    ref = _evaluate(context, planted, settings, how)
    place = context.workspace.place(ref)
    assert _evaluate(context, planted, settings, how) == ref
    return json.loads((place / "figures.json").read_text()), place, tracker


def _evaluate(context: Context, planted: Planted, settings: Clustering, how: Evaluation) -> Any:
    fitted = clusters.fit(context, settings, planted.stamps, planted.embeddings, planted.sample)
    assigned = clusters.assign(context, fitted, planted.stamps, planted.embeddings)
    return evaluate(
        context, how, planted.sample, planted.stamps, None, planted.embeddings, fitted, assigned
    )


def test_figures_of_planted_classes(tmp_path: Path) -> None:
    figures, place, tracker = judged(tmp_path / "w", 900)
    assert figures["judged_on"] == "test"
    for who in ("published", "model"):
        classes = figures[who]["classes"]
        assert classes["nmi"] > 0.95
        assert classes["beyond_inclination"]["corrected"] > 0.8
        assert classes["n"] <= figures["n"]
        assert abs(figures[who]["nuisances"]["position_angle"]["z"]) < 4
        assert figures[who]["nuisances"]["redshift"] is None
        means = [c["mean"] for c in figures[who]["votes"]["p_one"]["clusters"] if c["n"] > 5]
        assert max(means) == pytest.approx(0.95, abs=0.05)
        assert min(means) == pytest.approx(0.05, abs=0.05)
    assert figures["all_objects"]["n"] == 900
    assert figures["all_objects"]["classes"]["nmi"] > 0.95
    votes = figures["published"]["votes"]["p_one"]["clusters"]
    assert sum(c["n"] for c in votes) < 0.95 * figures["n"]  # too few votes: left out
    assert set(figures["separation"]) == {"clustered", "latent"}
    assert set(figures["separation"]["latent"]) == {
        "published", "model", "k_means", "gaussian_mixture",
    }  # fmt: skip
    assert figures["model"]["components"]["dead"] == ["m03"]
    assert figures["reconstruction"]["mse"] == pytest.approx(0.001, rel=1e-4)
    assert 0.5 < figures["reconstruction"]["variance_explained"] < 1
    plots = sorted(p.name for p in (place / "plots").iterdir())
    assert {"confusion.png", "members_typical.png", "nuisances.png", "votes.png"} <= set(plots)
    for plot in plots:
        with Image.open(place / "plots" / plot) as image:
            assert np.asarray(image.convert("L")).std() > 5  # not an empty page
    assert set(plots) < set(tracker.kept["files"])
    assert tracker.kept["kind"] == "evaluation"
    assert tracker.kept["metrics"]["published_nmi"] > 0.95
    assert all(np.isfinite(list(tracker.kept["metrics"].values())))


@pytest.mark.parametrize("count", [0, 1, 60])
def test_few_objects_without_truth_or_model(tmp_path: Path, count: int) -> None:
    figures, _, _ = judged(
        tmp_path / "w", count, Clustering(columns=WANTED), Evaluation(), embedded=False, inputs={}
    )
    assert figures["judged_on"] == "all"
    assert figures["n"] == count
    assert figures["model"] is None
    assert figures["published"]["classes"] is None
    assert figures["reconstruction"] is None


def test_one_cluster_empty_in_the_held_out_split(tmp_path: Path) -> None:
    truth = galaxies(500)
    split = np.where(truth["classes"] == 2, "train", np.resize(["train", "test"], 500))
    figures, _, _ = judged(tmp_path / "w", 500, split=split)
    assert 0 in figures["components"]["occupancy"]
    assert len(figures["components"]["dead"]) == 1
    assert any("is dead" in text for text in figures["alarms"])


def test_objects_without_stamps_are_not_judged(tmp_path: Path) -> None:
    status = np.where(np.arange(400) % 4 == 0, BLANK, 1).astype(np.int32)
    figures, _, _ = judged(tmp_path / "w", 400, status=status)
    assert figures["n"] < 90


def test_nothing_usable(tmp_path: Path) -> None:
    figures, _, _ = judged(tmp_path / "w", 20, status=np.full(20, BLANK, np.int32))
    assert figures["n"] == 0
    assert any("no object is usable" in text for text in figures["notes"])


def test_same_figures_again(tmp_path: Path) -> None:
    first, place, _ = judged(tmp_path / "a", 300)
    second, other, _ = judged(tmp_path / "b", 300)
    assert first == second
    for plot in sorted((place / "plots").iterdir()):
        assert plot.read_bytes() == (other / "plots" / plot.name).read_bytes()


def test_a_wrong_truth_column_names_the_nearest(tmp_path: Path) -> None:
    wrong = Evaluation(truth=Truth(classes="knd"))
    with pytest.raises(InputError, match="did you mean 'kind'"):
        judged(tmp_path / "w", 60, how=wrong)


def test_spec_round_trip() -> None:
    assert spec.load(Evaluation, spec.dump(QUICK)) == QUICK
