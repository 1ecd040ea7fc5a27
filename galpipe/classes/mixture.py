"""A Gaussian mixture: fitted by scikit-learn, applied by plain arithmetic that no batch changes.

The density is p(x) = sum_k w_k N(x; m_k, S_k) with full covariances S_k.  `Mixture` works through
the Cholesky factors of the covariances element by element, without BLAS, so that the posterior of
an object has the same bits whichever objects stand beside it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Mixture:
    """A fitted mixture of `components` Gaussians in `dimensions` dimensions."""

    weights: Floats  # (component), sum 1, decreasing
    means: Floats  # (component, dimension)
    covariances: Floats  # (component, dimension, dimension), positive definite

    @property
    def components(self) -> int:
        return len(self.weights)

    def log_joint(self, x: Floats) -> Floats:
        """log w_k N(x; m_k, S_k) for x of (object, dimension): (object, component)."""
        objects, dimensions = x.shape
        found = np.empty((objects, self.components))
        columns = np.ascontiguousarray(x.T)
        for k in range(self.components):
            factor = np.linalg.cholesky(self.covariances[k])
            # Forward substitution of L y = x - m, one dimension after the other.
            y = np.empty((dimensions, objects))
            for j in range(dimensions):
                rest = columns[j] - self.means[k, j]
                for i in range(j):
                    rest = rest - factor[j, i] * y[i]
                y[j] = rest / factor[j, j]
            distance = np.zeros(objects)
            for j in range(dimensions):
                distance = distance + y[j] * y[j]
            norm = dimensions * np.log(2 * np.pi) / 2 + np.log(np.diag(factor)).sum()
            found[:, k] = np.log(self.weights[k]) - norm - distance / 2
        return found

    def posterior(self, x: Floats) -> tuple[Floats, Floats]:
        """p(k | x) of (object, component) and log p(x) of (object)."""
        joint = self.log_joint(x)
        highest = joint.max(axis=1)
        density = np.zeros(len(x))
        for k in range(self.components):  # in a fixed order, object by object
            density = density + np.exp(joint[:, k] - highest)
        log_density = highest + np.log(density)
        return np.exp(joint - log_density[:, None]), log_density


@dataclass(frozen=True)
class Restart:
    """One run of expectation-maximisation, for the record."""

    seed: int
    train: float  # mean log-likelihood per object, nats
    judged: float  # the same on the objects that choose between restarts
    iterations: int
    converged: bool


def fit_mixture(
    x: Floats,
    judge: Floats,
    *,
    components: int,
    regularisation: float,
    restarts: int,
    iterations: int,
    seed: int,
) -> tuple[Mixture, list[Restart]]:
    """Fit to x (object, dimension); of all restarts keep the likeliest on `judge`.

    Starts from k-means++ (Arthur & Vassilvitskii 2007).  x needs one object or more, and at least
    `components` of them.  One BLAS thread, so that the bytes do not depend on the number of cores.
    Components come by decreasing weight.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    if len(x) < 2:
        variance = np.eye(x.shape[1])[None] * (1 + regularisation)
        return Mixture(np.ones(1), x[:1].copy(), variance), []
    tried: list[Restart] = []
    best: GaussianMixture | None = None
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for restart in range(restarts):
            one = GaussianMixture(
                components,
                covariance_type="full",
                reg_covar=regularisation,
                max_iter=iterations,
                init_params="k-means++",
                random_state=seed + restart,
            ).fit(x)
            tried.append(
                Restart(
                    seed + restart,
                    float(one.score(x)),
                    float(one.score(judge)),
                    int(one.n_iter_),
                    bool(one.converged_),
                )
            )
            if tried[-1].judged >= max(run.judged for run in tried):
                best = one
    assert best is not None
    return canonical(best.weights_, best.means_, best.covariances_), tried


def canonical(weights: Floats, means: Floats, covariances: Floats) -> Mixture:
    """The same mixture with its components by decreasing weight, ties by their means."""
    keys = [*means.T[::-1], -weights]  # the last key leads
    order = np.lexsort(keys)
    return Mixture(
        np.ascontiguousarray(weights[order] / weights.sum()),
        np.ascontiguousarray(means[order]),
        np.ascontiguousarray(covariances[order]),
    )


def bhattacharyya(mixture: Mixture) -> Floats:
    """Overlap of every pair of components, 0 (apart) to 1 (the same): (component, component).

    exp(-D) with D = (1/8) d' S^-1 d + (1/2) ln(|S| / sqrt(|S_a||S_b|)), S = (S_a + S_b)/2
    (Bhattacharyya 1943; Kailath 1967, eq. 6).
    """
    count = mixture.components
    overlap = np.eye(count)
    log_det = [np.linalg.slogdet(covariance)[1] for covariance in mixture.covariances]
    for a in range(count):
        for b in range(a):
            shared = (mixture.covariances[a] + mixture.covariances[b]) / 2
            apart = mixture.means[a] - mixture.means[b]
            distance = apart @ np.linalg.solve(shared, apart) / 8
            distance += (np.linalg.slogdet(shared)[1] - (log_det[a] + log_det[b]) / 2) / 2
            overlap[a, b] = overlap[b, a] = np.exp(-max(distance, 0.0))
    return overlap


def effective_components(weights: Floats, overlap: Floats | None = None) -> float:
    """K_effective: as many equally large and distinct components would be as diverse.

    exp(-sum_k p_k log sum_l overlap_kl p_l) of the shares p (Leinster & Cobbold 2012, order 1): two
    identical components count as one.  Without an overlap all are taken as distinct, and it is the
    exponential of the shares' entropy.
    """
    p = weights / weights.sum()
    alike = p if overlap is None else overlap @ p
    used = p > 0
    return float(np.exp(-(p[used] * np.log(alike[used])).sum()))
