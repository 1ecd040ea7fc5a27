"""Multinomial logistic regression on vectors: what can be read from them by a linear rule.

Shapes: N objects, D dimensions.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # of the data beside the penalty, as scikit-learn's C
FOLDS = 5
ITERATIONS = 300
SMALLEST = 1e-9  # scatter of a dimension that does not vary


@dataclass(frozen=True)
class Standard:
    """Mean 0 and scatter 1 in every dimension of the objects it was fitted on."""

    mean: Floats  # (D,)
    scatter: Floats  # (D,)

    def apply(self, vectors_ND: Floats) -> Floats:
        """Standardised vectors, (N, D)."""
        return (vectors_ND - self.mean) / self.scatter


def standard(vectors_ND: Floats) -> Standard:
    """Fit on some objects; dimensions that do not vary become 0."""
    scatter = vectors_ND.std(axis=0)
    return Standard(vectors_ND.mean(axis=0), np.where(scatter > SMALLEST, scatter, np.inf))


def predictions(
    known_ND: Floats, classes_N: Labels, asked_MD: Floats, strengths: tuple[float, ...]
) -> list[Labels]:
    """The classes of other objects by one regression for each of some rising strengths, (M,) each.

    Each starts where the one before ended.  Objects of one class alone give that class.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(classes_N)) < 2:
        return [np.full(len(asked_MD), classes_N[0], np.int64)] * len(strengths)
    scale = standard(known_ND)
    known, asked = scale.apply(known_ND), scale.apply(asked_MD)
    regression = LogisticRegression(max_iter=ITERATIONS, warm_start=True)
    found = []
    for strength in strengths:
        regression.set_params(C=strength)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            regression.fit(known, classes_N)
        found.append(np.asarray(regression.predict(asked), np.int64))
    return found


def chosen_by_folds(vectors_ND: Floats, classes_N: Labels) -> float:
    """The strength whose regressions are right most often on the fold they were not shown.

    Of equals the smallest.  Folds go round by the object's place: give the objects in no order.
    """
    fold = np.arange(len(classes_N)) % FOLDS
    right = np.zeros(len(STRENGTHS))
    for number in range(FOLDS):
        mine = fold == number
        if not mine.any() or mine.all():
            continue
        told = predictions(vectors_ND[~mine], classes_N[~mine], vectors_ND[mine], STRENGTHS)
        right += [float((answer == classes_N[mine]).sum()) for answer in told]
    return STRENGTHS[int(right.argmax())]


def chosen_by(known_ND: Floats, classes_N: Labels, judges_MD: Floats, truth_M: Labels) -> float:
    """The strength whose regression is right most often on other objects; of equals the least."""
    told = predictions(known_ND, classes_N, judges_MD, STRENGTHS)
    return STRENGTHS[int(np.argmax([(answer == truth_M).mean() for answer in told]))]
