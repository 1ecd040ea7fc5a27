"""How far two samples of galaxies are apart.

Shapes: N and M galaxies, C columns, P pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from threadpoolctl import threadpool_limits

FOLDS = 5
RESAMPLED = 200  # bootstrap samples, for the error of an AUROC

Floats = NDArray[np.float64]


def auroc(real_NC: Floats, other_MC: Floats, seed: int) -> dict[str, float]:
    """How well a classifier tells two samples apart on their columns: 0.5 is not at all.

    A classifier two-sample test (Lopez-Paz & Oquab 2017): boosted trees, every galaxy judged by
    trees that were grown without it; NaN is a value of its own.  `error` is the bootstrap's.
    """
    values = np.concatenate([real_NC, other_MC])
    truth = np.repeat([0, 1], [len(real_NC), len(other_MC)])
    trees = HistGradientBoostingClassifier(
        max_iter=100, learning_rate=0.05, max_leaf_nodes=8, random_state=seed
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    with threadpool_limits(limits=1):
        told = cross_val_predict(trees, values, truth, cv=folds, method="predict_proba")[:, 1]
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLED):
        rows = random.integers(len(truth), size=len(truth))
        if 0 < truth[rows].sum() < len(rows):
            drawn.append(roc_auc_score(truth[rows], told[rows]))
    return {"auroc": float(roc_auc_score(truth, told)), "error": float(np.std(drawn))}


def energy_distance(real_NC: Floats, other_MC: Floats) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'|, without bias; 0 for one and the same distribution.

    Szekely & Rizzo 2013.  Columns are standardised by the first sample, and the distance is per
    square root of their number, so that it does not grow with them.
    """
    centre, scatter = real_NC.mean(0), np.maximum(real_NC.std(0), 1e-12)
    x, y = (real_NC - centre) / scatter, (other_MC - centre) / scatter
    between = _distances(x, y).mean()
    within = [_distances(z, z).sum() / max(len(z) * (len(z) - 1), 1) for z in (x, y)]
    return float((2 * between - sum(within)) / np.sqrt(x.shape[1]))


def nearest(images_NP: NDArray[Any], others_MP: NDArray[Any]) -> Floats:
    """The root mean squared difference of each image and the most like of the others, (N,)."""
    x, y = images_NP.astype(np.float32), others_MP.astype(np.float32)
    squares = (y**2).sum(1)
    found = np.empty(len(x))
    for start in range(0, len(x), 256):
        some = x[start : start + 256]
        distance = (some**2).sum(1)[:, None] + squares - 2 * some @ y.T
        found[start : start + 256] = np.maximum(distance.min(1), 0)
    root: Floats = np.sqrt(found / x.shape[1])
    return root


def _distances(x: Floats, y: Floats) -> Floats:
    squared = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    distances: Floats = np.sqrt(np.maximum(squared, 0))
    return distances
