"""The linear probe: a straight rule, judged on what it has not seen, in figures and the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from galpipe.catalogue import logistic
from galpipe.catalogue.probe import FEW_LABELS, FEWEST, probe_figures, probe_headline
from galpipe.catalogue.spec import Evaluation, Truth
from galpipe.workspace import Ref, Workspace
from tests.planted import BLANK, galaxies, plant

PROBED = Evaluation(truth=Truth(classes="kind"))


def blobs(count: int, seed: int = 0, apart: float = 3.0) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    random = np.random.default_rng(seed)
    classes = random.integers(0, 3, count)
    return np.eye(4)[classes] * apart + random.normal(size=(count, 4)), classes


def test_the_rule_is_that_of_scikit_learn_on_standardised_vectors() -> None:
    known, classes = blobs(300)
    asked, _ = blobs(100, 1)
    scale, shift = np.array([1.0, 50.0, 0.01, 1.0]), np.array([0.0, 9.0, 0.0, -4.0])
    told = logistic.predictions(known * scale + shift, classes, asked * scale + shift, (0.01, 1.0))
    z, to = (known - known.mean(0)) / known.std(0), (asked - known.mean(0)) / known.std(0)
    for answer, strength in zip(told, (0.01, 1.0), strict=True):
        plain = LogisticRegression(C=strength, max_iter=1000).fit(z, classes).predict(to)
        assert (answer == plain).mean() > 0.98


def test_one_class_or_a_dimension_that_does_not_vary() -> None:
    vectors, classes = blobs(60)
    (told,) = logistic.predictions(vectors, np.full(60, 2), vectors, (1.0,))
    assert told.tolist() == [2] * 60
    vectors[:, 3] = 7.0
    asked = vectors.copy()
    asked[:, 3] = 1e9  # which cannot speak
    (told,) = logistic.predictions(vectors, classes, asked, (1.0,))
    assert (told == classes).mean() > 0.9


def test_the_strength_is_chosen_where_it_was_not_fitted() -> None:
    """Many dimensions of noise and few objects: a strong penalty; clean and many: a weak one."""
    random = np.random.default_rng(0)
    classes = random.integers(0, 2, 60)
    noisy = np.concatenate(
        [classes[:, None] + random.normal(size=(60, 1)), random.normal(size=(60, 200))], axis=1
    )
    assert logistic.chosen_by_folds(noisy, classes) < max(logistic.STRENGTHS)
    many = random.normal(size=(3000, 2))
    border = (many @ [1.0, 0.02] > 0).astype(np.int64)
    assert logistic.chosen_by(many[:1000], border[:1000], many[1000:], border[1000:]) == max(
        logistic.STRENGTHS
    )


def planted(folder: Path, count: int = 900, **plan: object) -> tuple[Workspace, Ref, Ref, Ref]:
    workspace = Workspace.open(folder)
    truth = galaxies(count)
    kinds = [None if i % 50 == 0 else f"class {k}" for i, k in enumerate(truth["classes"])]
    made = plant(workspace, truth, **{"inputs": {"kind": kinds}, **plan})
    assert made.embeddings is not None
    return workspace, made.sample, made.stamps, made.embeddings


def test_planted_classes_are_read_from_what_knows_them(tmp_path: Path) -> None:
    workspace, sample, stamps, embeddings = planted(tmp_path / "w")
    figures = probe_figures(workspace, PROBED, sample, stamps, embeddings)
    assert figures is not None
    assert figures["names"] == ["class 0", "class 1", "class 2"]
    assert 130 < figures["n"] < 230 and figures["few_labels"] == FEW_LABELS
    told = figures["descriptions"]
    assert list(told) == ["embedding", "columns", "embedding_and_columns", "principal_components"]
    assert told["embedding"]["dimensions"] == 5
    assert told["embedding_and_columns"]["dimensions"] == 5 + told["columns"]["dimensions"]
    for name in ("embedding", "embedding_and_columns", "principal_components"):
        assert told[name]["accuracy"] > 0.97 and told[name]["macro_f1"] > 0.97, name
        assert told[name]["few"]["accuracy"] > 0.95
        assert 0 <= told[name]["few"]["accuracy_scatter"] < 0.05
    flat = probe_headline(figures)
    assert flat["probe_embedding_accuracy"] == told["embedding"]["accuracy"]
    assert flat["probe_n"] == figures["n"]
    assert probe_figures(workspace, PROBED, sample, stamps, embeddings) == figures


def test_vectors_that_know_nothing_are_at_chance_on_the_test_split(tmp_path: Path) -> None:
    """Many random dimensions fit the training split, and only that."""
    workspace = Workspace.open(tmp_path / "w")
    truth = galaxies(600)
    random = np.random.default_rng(1)
    truth["vector"] = random.normal(size=(600, 150)).astype(np.float32)
    kinds = [f"class {k}" for k in truth["classes"]]
    made = plant(workspace, truth, inputs={"kind": kinds})
    figures = probe_figures(workspace, PROBED, made.sample, made.stamps, made.embeddings)
    assert figures is not None
    assert figures["descriptions"]["embedding"]["accuracy"] < figures["largest_class"] + 0.12
    assert figures["few_labels"] is None
    assert figures["descriptions"]["embedding"]["few"] is None


def test_where_there_is_nothing_to_probe(tmp_path: Path) -> None:
    workspace, sample, stamps, embeddings = planted(tmp_path / "w", 120)
    assert probe_figures(workspace, Evaluation(), sample, stamps, embeddings) is None
    assert probe_figures(workspace, PROBED, sample, stamps, None) is None
    few, sample, stamps, embeddings = planted(
        tmp_path / "few", 120, split=["train"] * (121 - FEWEST) + ["test"] * (FEWEST - 1)
    )
    assert probe_figures(few, PROBED, sample, stamps, embeddings) is None
    blank, sample, stamps, embeddings = planted(
        tmp_path / "blank", 60, status=np.full(60, BLANK, np.int32)
    )
    assert probe_figures(blank, PROBED, sample, stamps, embeddings) is None


def test_the_test_split_teaches_nothing(tmp_path: Path) -> None:
    """Other classes of the test objects change the figures, never the rule or its strength."""
    truth = galaxies(500)
    split = np.resize(["train", "train", "validation", "test"], 500)
    found = []
    for number in range(2):
        workspace = Workspace.open(tmp_path / str(number))
        kinds = np.array([f"class {k}" for k in truth["classes"]])
        if number:
            kinds[split == "test"] = np.random.default_rng(0).permutation(kinds[split == "test"])
        made = plant(workspace, truth, inputs={"kind": kinds.tolist()}, split=split)
        found.append(probe_figures(workspace, PROBED, made.sample, made.stamps, made.embeddings))
    first, second = found
    assert first is not None and second is not None
    for name, told in first["descriptions"].items():
        assert told["strength"] == second["descriptions"][name]["strength"]
        if name != "columns":
            assert told["accuracy"] > 0.95 > 0.6 > second["descriptions"][name]["accuracy"]


@pytest.mark.parametrize("count", [0, 1, 30])
def test_the_evaluation_of_few_objects(tmp_path: Path, count: int) -> None:
    from tests.test_evaluation import judged

    figures, _, _ = judged(tmp_path / "w", count)
    assert figures["probe"] is None
    assert not any(name.startswith("probe") for name in figures["headline"])


def test_the_evaluation_keeps_the_probe_and_tells_the_tracker(tmp_path: Path) -> None:
    from tests.test_evaluation import judged

    figures, _, tracker = judged(tmp_path / "w", 400)
    told = figures["probe"]["descriptions"]["embedding"]["accuracy"]
    assert told > 0.95
    assert tracker.kept["metrics"]["probe_embedding_accuracy"] == told
