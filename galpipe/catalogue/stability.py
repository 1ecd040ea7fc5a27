"""Whether the clusters are the galaxies' or the sample's: fits on two disjoint halves compared."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.catalogue.information import adjusted_rand_index
from galpipe.catalogue.spec import Stability
from galpipe.classes.fitted import Clusters
from galpipe.classes.mixture import Mixture, canonical, fit_mixture
from galpipe.classes.spec import Clustering

Floats = NDArray[np.float64]


def stability(
    spec: Stability | None, clustering: Clustering, fitted: Clusters, train: Floats, judged: Floats
) -> dict[str, Any] | None:
    """Adjusted Rand indices, on `judged`, of mixtures fitted on halves of `train`.

    Vectors are those that were clustered, (object, dimension).  `seeded`: both halves start from
    the published mixture, so that what differs is the galaxies; `afresh`: from k-means++ with the
    restarts of the survey, so that the optimiser differs as well.  `published`: each seeded half
    against the published mixture.  None where not asked for, where the labels are a network's own,
    or with too few objects for halves.
    """
    if spec is None or fitted.mixture is None or fitted.own is not None:
        return None
    train = train[np.isfinite(train).all(axis=1)]
    judged = judged[np.isfinite(judged).all(axis=1)]
    components = fitted.components
    if len(train) // 2 < clustering.smallest * components or len(judged) < 2:
        return None
    random = np.random.default_rng(spec.seed)
    whole = fitted.mixture.posterior(judged)[0].argmax(axis=1)
    seeded, afresh, published = [], [], []
    for number in range(spec.splits):
        order = random.permutation(len(train))
        halves = [train[np.sort(half)] for half in np.array_split(order, 2)]
        again = [
            continued(fitted.mixture, half, clustering.regularisation, clustering.iterations)
            for half in halves
        ]
        anew = [
            fit_mixture(
                half,
                half,
                components=components,
                regularisation=clustering.regularisation,
                restarts=clustering.restarts,
                iterations=clustering.iterations,
                seed=spec.seed + 1000 * (2 * number + which),
            )[0]
            for which, half in enumerate(halves)
        ]
        first, second = (m.posterior(judged)[0].argmax(axis=1) for m in again)
        seeded.append(adjusted_rand_index(first, second))
        published += [adjusted_rand_index(one, whole) for one in (first, second)]
        first, second = (m.posterior(judged)[0].argmax(axis=1) for m in anew)
        afresh.append(adjusted_rand_index(first, second))
    return {
        "n": len(judged),
        "half": len(train) // 2,
        "splits": spec.splits,
        "seeded": _spread(seeded),
        "published": _spread(published),
        "afresh": _spread(afresh),
    }


def continued(start: Mixture, x: Floats, regularisation: float, iterations: int) -> Mixture:
    """Expectation-maximisation on x (object, dimension), from a given mixture."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = GaussianMixture(
            start.components,
            covariance_type="full",
            reg_covar=regularisation,
            max_iter=iterations,
            weights_init=start.weights,
            means_init=start.means,
            precisions_init=np.linalg.inv(start.covariances),
            init_params="random",  # of nothing: all three are given
            random_state=0,
        ).fit(x)
    return canonical(fit.weights_, fit.means_, fit.covariances_)


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "mean": float(np.mean(values)),
        "lowest": float(np.min(values)),
        "highest": float(np.max(values)),
    }
