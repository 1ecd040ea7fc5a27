"""What a classifier's labels are worth: figures on galaxies of known class it has not learnt from.

A row of a confusion matrix is a true class, a column a predicted one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.catalogue.heldout import thinned
from galpipe.catalogue.spec import Evaluation
from galpipe.classes import gather
from galpipe.classes.features import defined
from galpipe.models.classifier.reliability import calibration_error, reliability
from galpipe.models.targets import Wanted, read_targets
from galpipe.workspace import Ref, Workspace

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

RESAMPLED = 500  # draws of the confusion matrix, for the error of macro-F1
BARRED = re.compile(r"\bbar(red|s)?\b")
UNBARRED = re.compile(r"\b(un ?barred|non ?barred|not barred|no bars?|without bars?|bar ?less)\b")


def classification_figures(
    workspace: Workspace,
    spec: Evaluation,
    catalogue: Ref,
    stamps: Ref,
    model: Ref | None,
    embeddings: Ref | None,
) -> dict[str, Any] | None:
    """Figures of a classifier on the test split; None for another network.

    Judged are the objects of the test split with a stamp and a class; where they are fewer than
    `spec.fewest`, all with a class are (and `judged_on` is "all").  Plain JSON; a figure
    that is not defined is None.
    """
    if model is None or embeddings is None:
        return None
    chances = gather.embedded(workspace, embeddings, "class_probability")
    if chances is None:
        return None
    description = json.loads((workspace.place(model) / "model.json").read_text())
    if "class" not in description["facts"]:  # its labels are made of what it predicts
        return None
    column = str(description["model"]["classes"])
    learnt = description["facts"]["class"]
    names: list[str] = list(learnt["names"])
    truth, unknown = _truth(workspace, stamps, catalogue, column, names)
    usable = defined(chances)
    split = gather.splits(workspace, catalogue)
    rows = np.flatnonzero(usable & (truth >= 0) & (split == "test"))
    judged_on = "test"
    if len(rows) < spec.fewest:
        rows, judged_on = np.flatnonzero(usable & (truth >= 0)), "all"
    rows = thinned(rows, spec.largest)
    found = {
        "column": column,
        "names": names,
        "judged_on": judged_on,
        "n": len(rows),
        "without_class": int((usable & (truth < 0)).sum()),
        "other_classes": unknown,
    }
    return found | judged(chances[rows].astype(np.float64), truth[rows], names, learnt["objects"])


def judged(
    probabilities: Floats, truth: Labels, names: Sequence[str], learnt: Sequence[int]
) -> dict[str, Any]:
    """Figures of probabilities (object, class) against the true classes of the same objects.

    `learnt` is how many objects of each class the network has learnt from.
    """
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    count = len(truth)
    counts = np.zeros((len(names), len(names)), np.int64)
    if not count:
        return {
            "accuracy": None, "accuracy_error": None, "macro_f1": None, "macro_f1_error": None,
            "largest_class": None, "log_loss": None, "brier": None, "calibration_error": None,
            "reliability": None, "classes": _per_class(counts, names, learnt),
            "confusion": counts.tolist(), "most_confused": None, "bars": None,
        }  # fmt: skip
    predicted = probabilities.argmax(axis=1)
    np.add.at(counts, (truth, predicted), 1)
    accuracy = float(np.trace(counts) / count)
    chance = probabilities[np.arange(count), truth]
    one_hot = np.eye(len(names))[truth]
    highest, right = probabilities.max(axis=1), predicted == truth
    bins = reliability(highest, right)
    return {
        "accuracy": accuracy,
        "accuracy_error": float(np.sqrt(accuracy * (1 - accuracy) / count)),
        "macro_f1": macro_f1(counts),
        "macro_f1_error": _macro_f1_error(counts),
        "largest_class": float(counts.sum(axis=1).max() / count),
        "log_loss": float(-np.log(np.maximum(chance, 1e-12)).mean()),
        "brier": float(((probabilities - one_hot) ** 2).sum(axis=1).mean()),
        "calibration_error": calibration_error(bins),
        "reliability": bins,
        "classes": _per_class(counts, names, learnt),
        "confusion": counts.tolist(),
        "most_confused": _most_confused(counts, names),
        "bars": bars(counts, names),
    }


def classification_headline(figures: Mapping[str, Any]) -> dict[str, float | int | None]:
    """The figures a reader asks for first, flat."""
    whole = ("n", "accuracy", "macro_f1", "log_loss", "brier", "calibration_error")
    flat: dict[str, float | int | None] = {f"classification_{n}": figures[n] for n in whole}
    for one in figures["classes"]:
        flat[f"classification_recall_{one['name']}"] = one["recall"]
    return flat


def macro_f1(counts: NDArray[np.int64]) -> float | None:
    """The mean over the classes that occur of F1 = 2 TP / (2 TP + FP + FN)."""
    both = counts.sum(axis=0) + counts.sum(axis=1)
    occurs = counts.sum(axis=1) > 0
    if not occurs.any():
        return None
    return float((2 * np.diag(counts)[occurs] / both[occurs]).mean())


def bars(counts: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any] | None:
    """How often barred and unbarred galaxies are taken for each other; None without such classes.

    Classes are told by their names: "Barred Spiral" beside "Unbarred Tight Spiral", say.
    """
    plain = [re.sub(r"[\W_]+", " ", name).lower() for name in names]
    without = [k for k, name in enumerate(plain) if UNBARRED.search(name)]
    barred = [k for k, name in enumerate(plain) if k not in without and BARRED.search(name)]
    if not barred or not without:
        return None
    return {
        "barred": [names[k] for k in barred],
        "unbarred": [names[k] for k in without],
        "barred_n": int(counts[barred].sum()),
        "unbarred_n": int(counts[without].sum()),
        "barred_as_unbarred": int(counts[np.ix_(barred, without)].sum()),
        "unbarred_as_barred": int(counts[np.ix_(without, barred)].sum()),
    }


def _truth(
    workspace: Workspace, stamps: Ref, catalogue: Ref, column: str, names: Sequence[str]
) -> tuple[Labels, int]:
    """The true class of every catalogue row, -1 where unknown; how many have one never learnt."""
    wanted = Wanted("class", (column,), "class")
    found = read_targets(workspace, stamps, catalogue, [wanted])
    place = {name: number for number, name in enumerate(names)}
    of = np.array([place.get(name, -1) for name in found.classes["class"]] + [-1], np.int64)
    given = found.values["class"]
    truth = of[given]
    return truth, int(((given >= 0) & (truth < 0)).sum())


def _per_class(
    counts: NDArray[np.int64], names: Sequence[str], learnt: Sequence[int]
) -> list[dict[str, Any]]:
    found = []
    for k, name in enumerate(names):
        right, true, said = int(counts[k, k]), int(counts[k].sum()), int(counts[:, k].sum())
        found.append(
            {
                "name": name,
                "learnt": int(learnt[k]),
                "n": true,
                "labelled": said,
                "recall": right / true if true else None,
                "recall_error": _binomial_error(right, true),
                "precision": right / said if said else None,
                "f1": 2 * right / (true + said) if true else None,
            }
        )
    return found


def _binomial_error(right: int, count: int) -> float | None:
    """Half the 68 % interval of a fraction (Wilson 1927)."""
    if not count:
        return None
    p = right / count
    return float(np.sqrt(p * (1 - p) / count + 1 / (4 * count**2)) / (1 + 1 / count))


def _macro_f1_error(counts: NDArray[np.int64]) -> float | None:
    """The scatter of macro-F1 over as many objects drawn anew."""
    total = int(counts.sum())
    random = np.random.default_rng(0)
    drawn = random.multinomial(total, counts.ravel() / total, size=RESAMPLED)
    scores = [macro_f1(one.reshape(counts.shape)) for one in drawn]
    return float(np.std([score for score in scores if score is not None]))


def _most_confused(counts: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any] | None:
    """The two classes most often taken for each other, by number."""
    both = counts + counts.T
    np.fill_diagonal(both, 0)
    if not both.any():
        return None
    a, b = (int(k) for k in np.unravel_index(both.argmax(), both.shape))
    return {
        "pair": [names[a], names[b]],
        "first_as_second": int(counts[a, b]),
        "second_as_first": int(counts[b, a]),
        "first_n": int(counts[a].sum()),
        "second_n": int(counts[b].sum()),
    }
