"""How well labels part the vectors they were made on, beside k-means and a plain mixture."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def separation(vectors: Floats, labels: Labels, *, most: int, seed: int) -> dict[str, Any]:
    """Calinski-Harabasz index and mean silhouette of vectors (object, dimension).

    Larger is better for both; neither is comparable between different vectors (METHODS F2).  The
    silhouette is the mean over at most `most` objects drawn with `seed`.  None where there are
    fewer than two clusters, or no cluster with two objects.
    """
    from sklearn.metrics import calinski_harabasz_score, silhouette_score

    distinct = len(np.unique(labels))
    if not 2 <= distinct < len(labels):
        return {"n": len(labels), "calinski_harabasz": None, "silhouette": None}
    drawn = np.arange(len(labels))
    if len(drawn) > most:
        drawn = np.sort(np.random.default_rng(seed).choice(len(labels), most, replace=False))
    enough = 2 <= len(np.unique(labels[drawn])) < len(drawn)
    return {
        "n": len(labels),
        "calinski_harabasz": float(calinski_harabasz_score(vectors, labels)),
        "silhouette": float(silhouette_score(vectors[drawn], labels[drawn])) if enough else None,
        "silhouette_n": len(drawn),
    }


def baselines(train: Floats, judged: Floats, components: int, seed: int) -> dict[str, Labels]:
    """Labels of `judged` by k-means and by a mixture as scikit-learn gives them, fitted on `train`.

    The same number of clusters on the same vectors; fewer where there are fewer objects.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    if len(train) < 2 or not len(judged):
        return {}
    count = min(components, len(np.unique(train, axis=0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        k_means = KMeans(count, n_init=4, random_state=seed).fit(train)
        mixture = GaussianMixture(count, reg_covar=1e-4, random_state=seed).fit(train)
    return {
        "k_means": k_means.predict(judged).astype(np.int64),
        "gaussian_mixture": mixture.predict(judged).astype(np.int64),
    }
