"""Predicted values, such as Hubble types, against those of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from galpipe.catalogue.predictions import FEWEST, Judged, boosted, spearman, within
from galpipe.models.regression.scale import apart_of
from galpipe.models.regression.spec import Regression

Floats = NDArray[np.float64]


def figures(
    spec: Regression, judged: Judged, targets: Mapping[str, Any], array: Callable[[str], Floats]
) -> dict[str, Any]:
    """Errors along the scale, on objects that lie on it; recall of those that stand apart.

    An object that stands apart is found where its kind is likelier than the scale as a whole and
    any other kind.  `spread` is the mean of the predicted scatters, beside the error.
    """
    truth = targets["value"][:, 0].astype(np.float64)
    kind = apart_of(spec, torch.from_numpy(truth)).numpy()
    value, scatter = array("value"), array("value_scatter")
    rows = judged.rows[kind[judged.rows] < 0]
    train = judged.train[kind[judged.train] < 0]
    away = (value - truth)[rows]
    known = len(rows) >= FEWEST
    trees = boosted(judged, truth, train, rows, "absolute_error") if known else None
    based = None if trees is None else _mean(np.abs(trees - truth[rows]))
    return {
        "n": len(rows),
        "column": spec.value,
        "scale": [spec.scale[0], spec.scale[-1]],
        "mean_absolute_error": _mean(np.abs(away)),
        "error_of_it": float(np.abs(away).std() / np.sqrt(len(rows))) if known else None,
        "baseline_mean_absolute_error": based,
        "constant_mean_absolute_error": (
            _mean(np.abs(np.median(truth[train]) - truth[rows])) if len(train) else None
        ),
        "root_mean_square": float(np.sqrt((away**2).mean())) if known else None,
        "bias": _mean(away),
        "spearman": spearman(value[rows], truth[rows]),
        "spread": _mean(scatter[rows]),
        **within(away, scatter[rows]),
        "apart": _apart(spec, judged, kind, array("value_probability")),
        "seen": np.round(truth[rows], 3).tolist(),
        "predicted": np.round(value[rows], 3).tolist(),
        "scatter": np.round(scatter[rows], 3).tolist(),
    }


def _apart(
    spec: Regression, judged: Judged, kind: NDArray[np.int64], chances: Floats
) -> list[dict[str, Any]]:
    """Recall and precision of every kind that stands apart, against the scale as a whole."""
    steps, rows = len(spec.scale), judged.rows
    along = chances[rows, :steps].sum(axis=1)
    best = np.column_stack([along, chances[rows, steps:]]).argmax(axis=1) - 1
    found = []
    for number, one in enumerate(spec.apart):
        true, said = kind[rows] == number, best == number
        right = int((true & said).sum())
        found.append(
            {
                "name": one.name,
                "value": one.value,
                "learnt": int((kind[judged.train] == number).sum()),
                "n": int(true.sum()),
                "labelled": int(said.sum()),
                "recall": right / int(true.sum()) if true.any() else None,
                "precision": right / int(said.sum()) if said.any() else None,
            }
        )
    return found


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) >= FEWEST else None
