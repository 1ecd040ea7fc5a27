"""How much one labelling says about another: information, corrected for chance by permutation.

All information is in nats.  Labels are any one-dimensional arrays of hashable, sortable values;
the functions take the objects that have both labels, and leave out nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[Any]
Codes = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Corrected:
    """An information measured on `n` objects, beside what chance gives for the same margins."""

    value: float  # plug-in estimate, biased upwards by chance
    permuted_mean: float  # of the same estimate with the labels permuted
    permuted_sigma: float
    n: int

    @property
    def corrected(self) -> float:
        """The value less its chance level; near zero, and of either sign, for independence."""
        return self.value - self.permuted_mean

    @property
    def z(self) -> float | None:
        """Distance from chance in standard deviations; None where chance has no scatter."""
        return self.corrected / self.permuted_sigma if self.permuted_sigma > 0 else None


def codes(labels: Labels) -> tuple[Codes, Labels]:
    """Labels as 0..k-1 in sorted order, and the k distinct labels."""
    distinct, coded = np.unique(labels, return_inverse=True)
    return coded.reshape(-1).astype(np.int64), distinct


def contingency(rows: Labels, columns: Labels) -> NDArray[np.int64]:
    """Counts of every pair of labels, (distinct rows, distinct columns)."""
    r, r_names = codes(rows)
    c, c_names = codes(columns)
    return _counts(r * len(c_names) + c, len(r_names) * len(c_names)).reshape(
        len(r_names), len(c_names)
    )


def entropy(counts: NDArray[Any]) -> float:
    """Shannon entropy in nats of counts of any shape, taken as one distribution."""
    total = counts.sum()
    if total == 0:
        return 0.0
    p = counts[counts > 0] / total
    return float(max(-(p * np.log(p)).sum(), 0.0))


def information(counts: NDArray[Any]) -> float:
    """Mutual information in nats of a table of counts (rows, columns); never below zero."""
    found = entropy(counts.sum(axis=0)) + entropy(counts.sum(axis=1)) - entropy(counts)
    return max(found, 0.0)


def mutual_information(first: Labels, second: Labels) -> float:
    """Plug-in mutual information of two labellings, in nats."""
    return information(contingency(first, second))


def normalised_mutual_information(first: Labels, second: Labels) -> float:
    """2 I / (H(first) + H(second)), 0..1: the arithmetic mean of Strehl & Ghosh (2002)'s family."""
    counts = contingency(first, second)
    mean = (entropy(counts.sum(axis=0)) + entropy(counts.sum(axis=1))) / 2
    return information(counts) / mean if mean > 0 else 1.0


def highest_normalised_information(classes: Labels, components: int) -> float:
    """The NMI of `components` equally large clusters, each pure: what a perfect result reads.

    With more clusters than classes NMI cannot reach 1 unless clusters stand empty; quote it
    beside this number.
    """
    h = entropy(np.unique(classes, return_counts=True)[1])
    log_k = float(np.log(max(components, 1)))
    return 2 * min(h, log_k) / (h + log_k) if h + log_k > 0 else 1.0


def adjusted_rand_index(first: Labels, second: Labels) -> float:
    """Agreement of pairs, 0 for chance and 1 for equality (Hubert & Arabie 1985, eq. 5)."""
    counts = contingency(first, second).astype(np.float64)

    def pairs(n: Floats) -> float:
        return float((n * (n - 1) / 2).sum())

    both, a, b = pairs(counts), pairs(counts.sum(axis=1)), pairs(counts.sum(axis=0))
    total = pairs(np.array([counts.sum()]))
    expected = a * b / total if total > 0 else 0.0
    highest = (a + b) / 2
    return (both - expected) / (highest - expected) if highest != expected else 1.0


def purity(clusters: Labels, classes: Labels) -> float:
    """Fraction of objects in the most frequent class of their cluster, 0..1; grows with K."""
    counts = contingency(clusters, classes)
    return float(counts.max(axis=1).sum() / counts.sum()) if counts.size else 0.0


def quantile_bins(values: Floats, bins: int) -> Codes:
    """The quantile bin of every value, 0..bins-1, about equally filled; ties stay together."""
    edges = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, values, side="right").astype(np.int64)


def angle_bins(degrees: Floats, bins: int = 12) -> Codes:
    """The bin of a position angle, which repeats after 180 degrees."""
    return np.minimum((np.mod(degrees, 180.0) / 180.0 * bins).astype(np.int64), bins - 1)


def corrected_information(
    clusters: Labels, other: Labels, *, permutations: int = 100, seed: int = 0
) -> Corrected:
    """Mutual information in nats, and what is left of it by chance (labels permuted).

    The plug-in estimate is biased by about (K-1)(B-1)/2n (Miller 1955); METHODS F13.
    """
    return conditional_information(
        clusters, other, np.zeros(len(clusters), np.int64), permutations=permutations, seed=seed
    )


def conditional_information(
    clusters: Labels, classes: Labels, given: Labels, *, permutations: int = 100, seed: int = 0
) -> Corrected:
    """I(cluster; class | given) in nats; for chance, clusters permute within each value given."""
    k, k_names = codes(clusters)
    c, c_names = codes(classes)
    g, g_names = codes(given)
    shape = (len(g_names), len(k_names), len(c_names))
    size = int(np.prod(shape))
    base = g * shape[1] * shape[2] + c

    def measure(labels: Codes) -> float:
        return _conditional(_counts(base + labels * shape[2], size).reshape(shape))

    rng = np.random.default_rng(seed)
    in_order = np.argsort(g, kind="stable")
    permuted = np.empty(permutations)
    shuffled = np.empty_like(k)
    for i in range(permutations):
        shuffled[in_order] = k[np.lexsort((rng.random(len(k)), g))]
        permuted[i] = measure(shuffled)
    mean = float(permuted.mean()) if permutations else 0.0
    sigma = float(permuted.std(ddof=1)) if permutations > 1 else 0.0
    return Corrected(measure(k), mean, sigma, len(k))


def conditional_entropy(classes: Labels, given: Labels) -> float:
    """H(class | given) in nats."""
    counts = contingency(given, classes)
    return entropy(counts) - entropy(counts.sum(axis=1))


def information_beyond_inclination(
    clusters: Labels,
    classes: Labels,
    axis_ratio: Floats,
    *,
    permutations: int = 100,
    seed: int = 0,
) -> Corrected:
    """I(cluster; class | axis-ratio decile) / H(class | decile), 0..1, with its chance level.

    NMI with Galaxy Zoo classes is mostly inclination; this is the part of the classes that the
    clusters know and the axis ratio does not (METHODS F12).  `axis_ratio` must be finite.
    """
    deciles = quantile_bins(axis_ratio, 10)
    whole = conditional_entropy(classes, deciles)
    found = conditional_information(
        clusters, classes, deciles, permutations=permutations, seed=seed
    )
    if whole <= 0:
        return Corrected(0.0, 0.0, 0.0, found.n)
    return Corrected(
        found.value / whole, found.permuted_mean / whole, found.permuted_sigma / whole, found.n
    )


def _conditional(counts: NDArray[np.int64]) -> float:
    """Sum over the first axis of p(g) I(row; column | g), from counts (given, rows, columns)."""
    n = counts.sum()
    if n == 0:
        return 0.0

    def weighted(table: NDArray[np.int64]) -> float:
        filled = table[table > 0].astype(np.float64)
        return float((filled * np.log(filled)).sum())

    found = (
        weighted(counts)
        - weighted(counts.sum(axis=1))
        - weighted(counts.sum(axis=2))
        + weighted(counts.sum(axis=(1, 2)))
    ) / n
    return float(max(found, 0.0))


def _counts(coded: Codes, size: int) -> NDArray[np.int64]:
    return np.bincount(coded, minlength=size)
