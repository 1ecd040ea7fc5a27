"""How a quantity goes with a condition: in held-out galaxies, and in drawings of one galaxy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FEWEST = 8  # objects from which a slope is taken


@dataclass(frozen=True)
class Slope:
    """A slope per unit of a condition with its standard error."""

    value: float
    error: float


def regressed(quantity: Floats, conditions: Floats, column: int) -> Slope | None:
    """The slope of a quantity along one condition, the others held (least squares).

    `conditions` (object, condition).  Errors are good where the scatter differs along the line
    (White 1980, HC1).  None where there are too few objects, or they do not differ.
    """
    finite = np.isfinite(quantity) & np.isfinite(conditions).all(axis=1)
    count, terms = int(finite.sum()), conditions.shape[1] + 1
    if count < max(FEWEST, terms + 2):
        return None
    centred = conditions[finite] - conditions[finite].mean(axis=0)
    design = np.column_stack([np.ones(count), centred])
    if np.linalg.matrix_rank(design) < terms:
        return None
    inverse = np.linalg.inv(design.T @ design)
    found = inverse @ design.T @ quantity[finite]
    left = quantity[finite] - design @ found
    middle = (design * (left**2)[:, None]).T @ design
    covariance = inverse @ middle @ inverse * count / (count - terms)
    return Slope(float(found[column + 1]), float(np.sqrt(covariance[column + 1, column + 1])))


def averaged(quantities: Floats, values: Floats) -> Slope | None:
    """The mean slope of galaxies that are each drawn at all values, with its error.

    `quantities` (value, object).  None where too few objects can be measured at every value.
    """
    finite = np.isfinite(quantities).all(axis=0)
    if finite.sum() < FEWEST:
        return None
    centred = values - values.mean()
    each = centred @ quantities[:, finite] / (centred**2).sum()
    return Slope(float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each))))


def share(part: Slope | None, whole: Slope | None) -> dict[str, Any] | None:
    """The part of a trend that another has, with its error; None where either is not known."""
    if part is None or whole is None or whole.value == 0:
        return None
    ratio = part.value / whole.value
    relative = np.hypot(part.error, ratio * whole.error) / abs(whole.value)
    return {"value": ratio, "error": float(relative)}
