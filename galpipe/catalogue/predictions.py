"""What predicted vote fractions and values are worth on objects that were not learnt from.

Beside every error stands that of boosted trees on the measured columns of the same stamps, learnt
from the same objects (`baseline`), and that of the training split's mean (`constant`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.catalogue.heldout import thinned
from galpipe.catalogue.spec import Evaluation
from galpipe.classes import gather
from galpipe.classes.features import chosen_columns, defined
from galpipe.classes.spec import COLUMNS
from galpipe.models import kinds
from galpipe.models.regression.spec import Regression
from galpipe.models.targets import read_targets
from galpipe.models.votes.spec import Votes
from galpipe.stamps.gather import column_names
from galpipe.workspace import Ref, Workspace

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

FEWEST = 5  # judged objects for any figure
FEWEST_LEARNT = 50  # objects that boosted trees are fitted to
WITHOUT = ("colour_gradient_*",)  # measured columns that no trees are given by default


@dataclass(frozen=True)
class Judged:
    """The objects that predictions are judged on, and those that trees learn from."""

    rows: Rows  # catalogue rows
    train: Rows
    judged_on: str  # "test", or "all" where the held-out split is too small
    columns: Floats  # (catalogue row, measured column), what trees are given
    names: tuple[str, ...]  # of these columns


def prediction_figures(
    workspace: Workspace,
    spec: Evaluation,
    catalogue: Ref,
    stamps: Ref,
    model: Ref | None,
    embeddings: Ref | None,
) -> dict[str, Any] | None:
    """Figures of predicted votes or values on the test split; None for another network.

    Judged are objects of the test split with a stamp and a known value; where they are fewer than
    `spec.fewest`, all with a value are (and `judged_on` is "all").  Plain JSON; a figure that is
    not defined is None.
    """
    if model is None or embeddings is None:
        return None
    description = json.loads((workspace.place(model) / "model.json").read_text())
    network = kinds.spec_of(description["model"], "model.json")
    if not isinstance(network, Votes | Regression):
        return None
    vector = gather.embedded(workspace, embeddings, "vector")
    if vector is None:
        return None
    targets = read_targets(workspace, stamps, catalogue, kinds.wanted(network))
    usable = kinds.learnable(network, targets) & defined(vector)
    split = gather.splits(workspace, catalogue)
    rows, judged_on = np.flatnonzero(usable & (split == "test")), "test"
    if len(rows) < spec.fewest:
        rows, judged_on = np.flatnonzero(usable), "all"
    names, columns = _measured(workspace, stamps, network.columns)
    judged = Judged(
        thinned(rows, spec.largest),
        thinned(np.flatnonzero(usable & (split == "train")), spec.largest),
        judged_on, columns, names,
    )  # fmt: skip

    def array(name: str) -> Floats:
        found = gather.embedded(workspace, embeddings, name)
        assert found is not None, f"{network.kind} gives {name}"
        return found.astype(np.float64)

    from galpipe.catalogue import judged_values, judged_votes

    figures = (
        judged_votes.figures(network, judged, targets.values, array, spec.truth.fewest_votes)
        if isinstance(network, Votes)
        else judged_values.figures(network, judged, targets.values, array)
    )
    return {"kind": network.kind, "judged_on": judged_on, "columns": list(names), **figures}


def _measured(
    workspace: Workspace, stamps: Ref, wanted: Sequence[str]
) -> tuple[tuple[str, ...], Floats]:
    """The columns that trees are given: the network's measured ones, or those of clusters."""
    present = column_names(workspace, stamps)
    names = tuple(name for name in wanted if name in present)
    if not names:
        features = [one for one in COLUMNS if one.column in present or "*" in one.column]
        names = tuple(one.column for one in chosen_columns(features, present, WITHOUT))
    if not names:
        return (), np.zeros((0, 0))
    found = gather.measured(workspace, stamps, names)
    return names, np.stack([found[name] for name in names], axis=1)


def boosted(judged: Judged, truth: Floats, train: Rows, rows: Rows, loss: str) -> Floats | None:
    """Predictions of boosted trees on measured columns; None where there is too little to learn.

    scikit-learn's HistGradientBoostingRegressor with 150 trees at a rate of 0.05, leaves of 15
    objects or more: settings that were not tuned to any survey.
    """
    if not judged.names or len(train) < FEWEST_LEARNT:
        return None
    from sklearn.ensemble import HistGradientBoostingRegressor

    trees = HistGradientBoostingRegressor(
        loss=loss, max_iter=150, learning_rate=0.05, min_samples_leaf=15, early_stopping=False,
        random_state=0,
    )  # fmt: skip
    trees.fit(judged.columns[train], truth[train])
    found: Floats = trees.predict(judged.columns[rows])
    return found


def within(away: Floats, scatter: Floats) -> dict[str, float | None]:
    """Fractions of objects no further away than one and two standard deviations."""
    if not len(away):
        return {"within_1_sigma": None, "within_2_sigma": None}
    far = np.abs(away) / np.maximum(scatter, 1e-12)
    return {"within_1_sigma": float((far <= 1).mean()), "within_2_sigma": float((far <= 2).mean())}


def spearman(a: Floats, b: Floats) -> float | None:
    """Rank correlation; None where one of them does not vary."""
    if len(a) < FEWEST or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def prediction_headline(figures: Mapping[str, Any]) -> dict[str, float | int | None]:
    """The figures a reader asks for first, flat."""
    flat: dict[str, float | int | None] = {"predicted_n": figures["n"]}
    if figures["kind"] == "regression":
        for name in (
            "mean_absolute_error", "baseline_mean_absolute_error", "spearman", "bias",
            "within_1_sigma", "within_2_sigma",
        ):  # fmt: skip
            flat[f"predicted_{name}"] = figures[name]
        for one in figures["apart"]:
            flat[f"predicted_recall_{one['name']}"] = one["recall"]
        return flat
    for one in figures["answers"]:
        flat[f"predicted_rmse_{one['answer']}"] = one["rmse"]
    for name in ("rmse", "baseline_rmse", "within_1_sigma", "within_2_sigma"):
        flat[f"predicted_{name}"] = figures["first"][name]
    return flat
