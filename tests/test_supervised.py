"""Supervised labels through the chain: the network's own classes, and what they are worth."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics

import galpipe
from galpipe.catalogue import supervised
from galpipe.catalogue.supervised import bars, classification_headline, judged, macro_f1
from galpipe.catalogue.supervised_plots import pages
from galpipe.classes.predicted import moments
from galpipe.errors import InputError
from tests import sky
from tests.running import run_chain

MODEL = """
kind = "classifier"
classes = "kind"
encoder = { kind = "cnn", channels = [8, 16], stem_stride = 2 }
dense = 16
views = 4

[training]
epochs = 12
batch = 16
learning_rate = 1e-2
threads = 1
rate = { kind = "one_cycle" }
augment = { rotations = "quarter" }
"""
UNKNOWN = range(0, 300, 9)  # rows of the table without a class


def survey_file(path: Path, folder: Path, model: str = MODEL, on: str = "model") -> Path:
    written = sky.survey_file(path, folder, model)
    text = written.read_text().replace("[cluster]\n", f'[cluster]\non = "{on}"\n')
    written.write_text(text.replace("size = 32", 'size = 32\ncolour = "bands"\nalign = false'))
    return written


def without_classes(folder: Path) -> None:
    """Empty the class cells of some rows."""
    with (folder / "galaxies.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number in UNKNOWN:
        rows[number]["kind"] = ""
    with (folder / "galaxies.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which a survey of 300 planted galaxies was classified."""
    folder = tmp_path_factory.mktemp("classified")
    sky.draw(folder / "sky", objects=300)
    without_classes(folder / "sky")
    run_chain(survey_file(folder / "sky.toml", folder / "sky"), folder / "w")
    return folder / "w"


def truth() -> list[str]:
    return [sky.KINDS[int(np.random.default_rng(n).integers(3))] for n in range(300)]


def figures(workspace: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        next((workspace / "store" / "evaluation").glob("*/figures.json")).read_text()
    )
    return found


def test_every_object_has_a_class_whether_the_table_names_it_or_not(classified: Path) -> None:
    table = galpipe.open_labels(str(classified), "sky")
    assert set(table["label"].to_pylist()) == set(sky.KINDS)
    assert set(table["label_origin"].to_pylist()) == {"classifier"}
    right = np.array([a == b for a, b in zip(table["label"].to_pylist(), truth(), strict=True)])
    assert right.mean() > 0.9 and right[list(UNKNOWN)].mean() > 0.8
    probabilities = np.array(table["probabilities"].to_pylist())
    assert probabilities.shape == (300, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    names = sorted(sky.KINDS)  # the order of the classes' numbers
    assert [names[k] for k in table["cluster"].to_pylist()] == table["label"].to_pylist()
    np.testing.assert_allclose(table["probability"].to_numpy(), probabilities.max(1))
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-30))).sum(1)
    np.testing.assert_allclose(table["entropy"].to_numpy(), entropy, atol=1e-4)
    assert np.isfinite(table["anomaly_score"].to_numpy()).all()


def test_the_scheme_names_the_classes_and_reads_them_from_the_measured_columns(
    classified: Path,
) -> None:
    path = classified / "releases" / "sky" / "r1" / "label_scheme.json"
    scheme = json.loads(path.read_text())
    assert scheme["own"] == {
        "array": "class_probability", "names": sorted(sky.KINDS), "column": "kind",
    }  # fmt: skip
    assert "flat" in scheme["scheme"]["edge_on"]["reading"]
    assert "round" in scheme["scheme"]["round"]["reading"]
    assert scheme["scheme"]["inclined"]["cluster"] == 1


def test_held_out_figures_are_those_of_the_published_labels(classified: Path) -> None:
    table = galpipe.open_labels(str(classified), "sky")
    known = np.array([bool(n not in UNKNOWN) for n in range(300)])
    rows = known & (np.array(table["split"].to_pylist()) == "test")
    found = figures(classified)["classification"]
    if rows.sum() < 50:  # the evaluation's own limit
        rows, _ = known, None
    assert found["judged_on"] == ("test" if rows.sum() < known.sum() else "all")
    mine, true = np.array(table["label"].to_pylist())[rows], np.array(truth())[rows]
    assert found["n"] == rows.sum() and found["without_class"] == len(UNKNOWN)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(true, mine))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(true, mine, average="macro"))
    assert found["confusion"] == metrics.confusion_matrix(true, mine).tolist()


def test_report_and_plots_speak_of_the_classes(classified: Path) -> None:
    place = next((classified / "store" / "evaluation").glob("*/figures.json")).parent
    names = {path.name for path in (place / "plots").iterdir()}
    assert {"classification.png", "reliability.png", "members_random.png"} <= names
    assert "reconstructions.png" not in names and figures(classified)["all_objects"] is None
    page = (classified / "releases" / "sky" / "r1" / "report.html").read_text()
    for text in (
        "The classifier on known classes", "learnt the classes of the column <code>kind</code>",
        "with the classes of the column", "The network learnt these classes", "Most often taken",
    ):  # fmt: skip
        assert text in page or (text == "Most often taken" and _perfect(classified)), text
    assert "never trained on" not in page and "without labels" not in page
    headline = figures(classified)["headline"]
    assert headline["classification_recall_edge_on"] > 0.8
    assert headline["classification_calibration_error"] is not None


def _perfect(workspace: Path) -> bool:
    return bool(figures(workspace)["classification"]["accuracy"] == 1)


def test_a_release_that_grows_keeps_its_labels(classified: Path, tmp_path: Path) -> None:
    shutil.copytree(classified, tmp_path / "w")
    folder = tmp_path / "sky"
    shutil.copytree(classified.parent / "sky", folder)
    sky.draw(folder, objects=330, first=300)
    without_classes(folder)
    run_chain(survey_file(tmp_path / "sky.toml", folder), tmp_path / "w", release="B")
    old, new = (galpipe.open_labels(str(tmp_path / "w"), "sky", r) for r in ("r1", "B"))
    kept = new.slice(0, 300)
    assert kept.drop_columns(["release"]).equals(old.drop_columns(["release"]))
    assert set(new.slice(300)["label"].to_pylist()) <= set(sky.KINDS)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("none", r"on = 'model' needs a model"),
        (MODEL.replace('"kind"', '"kid"'), r"\[model\]: there is no column 'kid'; did you mean"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    classified: Path, tmp_path: Path, model: str, told: str
) -> None:
    path = survey_file(tmp_path / "sky.toml", classified.parent / "sky", model)
    with pytest.raises(InputError, match=told):
        run_chain(path, tmp_path / "w", prune=60, until="cluster")


def test_a_networks_own_components_are_labels_too(classified: Path, tmp_path: Path) -> None:
    model = """
kind = "vade"
components = 3
latent = 4
schedule = { warm_up = 1, annealing = 1, static = 1 }

[training]
batch = 32
threads = 1
"""
    path = survey_file(tmp_path / "sky.toml", classified.parent / "sky", model)
    summary = run_chain(path, tmp_path / "w", prune=120)
    table = galpipe.open_labels(str(tmp_path / "w"), "sky", summary["release"])
    assert set(table["label"].to_pylist()) <= {"m00", "m01", "m02"}
    assert set(table["label_origin"].to_pylist()) == {"cluster"}
    assert table["cluster"].to_pylist() == table["model_cluster"].to_pylist()
    assert figures(tmp_path / "w")["classification"] is None


def chances(count: int = 400, classes: int = 4, seed: int = 0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    labels = random.choice(classes, count, p=[0.5, 0.3, 0.15, 0.05])
    scores = random.normal(size=(count, classes)) + 2 * np.eye(classes)[labels]
    found = np.exp(scores)
    return found / found.sum(1, keepdims=True), labels


NAMES = ("Barred Spiral", "Unbarred Tight Spiral", "Merging", "Edge-on_no_bar")


def test_figures_equal_scikit_learn() -> None:
    found, labels = chances()
    mine = found.argmax(1)
    told = judged(found, labels, NAMES, [1, 2, 3, 4])
    assert told["accuracy"] == metrics.accuracy_score(labels, mine)
    assert told["macro_f1"] == pytest.approx(metrics.f1_score(labels, mine, average="macro"))
    assert told["log_loss"] == pytest.approx(metrics.log_loss(labels, found))
    assert told["brier"] == pytest.approx(((found - np.eye(4)[labels]) ** 2).sum(1).mean())
    recall = metrics.recall_score(labels, mine, average=None)
    precision = metrics.precision_score(labels, mine, average=None)
    assert [c["recall"] for c in told["classes"]] == pytest.approx(recall)
    assert [c["precision"] for c in told["classes"]] == pytest.approx(precision)
    assert [c["learnt"] for c in told["classes"]] == [1, 2, 3, 4]
    assert told["confusion"] == metrics.confusion_matrix(labels, mine).tolist()
    assert 0.005 < told["macro_f1_error"] < 0.1
    assert classification_headline({**told, "n": 400})["classification_recall_Merging"] > 0.5
    assert len(pages({**told, "n": 400, "names": NAMES, "judged_on": "test"})) == 2


def test_figures_of_nobody_and_of_classes_that_do_not_occur() -> None:
    nobody = judged(np.zeros((0, 4)), np.zeros(0, np.int64), NAMES, [1, 1, 1, 1])
    assert nobody["accuracy"] is None and nobody["classes"][0]["recall"] is None
    json.dumps(nobody, allow_nan=False)
    found, _ = chances(60)
    few = judged(found, np.zeros(60, np.int64), NAMES, [1, 1, 1, 1])
    assert few["classes"][1]["recall"] is None and few["classes"][1]["f1"] is None
    assert few["macro_f1"] == few["classes"][0]["f1"]
    assert macro_f1(np.zeros((2, 2), np.int64)) is None


def test_barred_and_unbarred_are_called_out() -> None:
    counts = np.array([[40, 7, 1, 2], [5, 30, 0, 0], [0, 0, 9, 0], [1, 0, 0, 8]])
    assert bars(counts, NAMES) == {
        "barred": ["Barred Spiral"], "unbarred": ["Unbarred Tight Spiral", "Edge-on_no_bar"],
        "barred_n": 50, "unbarred_n": 44, "barred_as_unbarred": 9, "unbarred_as_barred": 6,
    }  # fmt: skip
    assert bars(counts, ("round", "embarred", "unbarred", "spiral")) is None
    assert bars(counts, ("spiral_barred", "spiral_non-barred", "c", "d")) is not None
    pair = supervised.judged(*chances(), NAMES, [1, 1, 1, 1])["most_confused"]
    assert pair["first_as_second"] + pair["second_as_first"] > 0


def test_moments_of_certain_classes_are_those_of_their_members() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 3000)
    spread = np.array([0.5, 1.0, 2.0])
    z = 6 * np.eye(3)[labels][:, :2] + random.normal(size=(3000, 2)) * spread[labels][:, None]
    certain = np.eye(4)[labels]  # the fourth class has nobody
    mixture = moments(z, certain, 1e-6)
    for k in range(3):
        mine = z[labels == k]
        np.testing.assert_allclose(mixture.means[k], mine.mean(0), atol=0.02)
        np.testing.assert_allclose(mixture.covariances[k], np.cov(mine.T), atol=0.05)
    assert mixture.weights.sum() == pytest.approx(1)
    posterior, _ = mixture.posterior(z)
    assert (posterior.argmax(1) == labels).mean() > 0.95
    np.linalg.cholesky(mixture.covariances)
    _, far = mixture.posterior(np.array([[0.0, 0.0], [100.0, 100.0]]))
    assert far[1] < far[0] - 100
