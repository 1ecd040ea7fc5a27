"""Whether probabilities came true: reliability in bins, and the error of calibration."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Numbers = dict[str, list[float]]

BINS = 15


def reliability(highest: Floats, right: NDArray[np.bool_], bins: int = BINS) -> Numbers:
    """Objects by the probability of their label, in bins of equal numbers: what came true.

    `highest` (object) are the probabilities of the labels, `right` whether they are true.  Gives
    the number of `objects`, the mean `probability` and the `accuracy` of every bin.
    """
    parts = [p for p in np.array_split(np.argsort(highest, kind="stable"), bins) if len(p)]
    return {
        "objects": [len(part) for part in parts],
        "probability": [float(highest[part].mean()) for part in parts],
        "accuracy": [float(right[part].mean()) for part in parts],
    }


def calibration_error(bins: Numbers) -> float | None:
    """Expected calibration error, 0..1: the mean over objects of |probability - accuracy|.

    Both are the means of the object's bin (Nguyen & O'Connor 2015).  None without objects.
    """
    objects = np.array(bins["objects"], np.float64)
    if not objects.sum():
        return None
    gap = np.abs(np.array(bins["probability"]) - np.array(bins["accuracy"]))
    return float((objects * gap).sum() / objects.sum())
