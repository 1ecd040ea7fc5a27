"""What each cluster means: a dictionary of labels with the evidence, made without any truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.classes.mixture import Mixture

Floats = NDArray[np.float64]

# What a median means that stands low or high among the training galaxies; "": not a word.
WORDS = {
    "concentration": ("diffuse", "concentrated"),
    "concentration_elliptical": ("diffuse", "concentrated"),
    "asymmetry": ("symmetric", "asymmetric"),
    "smoothness": ("smooth", "clumpy"),
    "gini": ("even light", "uneven light"),
    "m20": ("compact bright parts", "spread bright parts"),
    "r50": ("small", "large"),
    "petrosian_radius": ("small", "large"),
    "flux": ("faint", "bright"),
    "surface_brightness": ("low surface brightness", "high surface brightness"),
    "structure": ("featureless", "structured"),
    "bisymmetry_middle": ("", "two-armed or barred"),
    "isophote_twist": ("", "twisted"),
}
NOTEWORTHY = 0.5  # sigma of the training split: smaller differences are not put into words
FLAT = 0.55  # axis ratio
AXIS_RATIOS = ((0.35, "very flat"), (FLAT, "flat"), (0.8, "oval"), (1.01, "round"))


def label_name(cluster: int) -> str:
    """The name of a cluster, from its place in the order of weights."""
    return f"c{cluster:02d}"


def label_scheme(
    mixture: Mixture,
    labels: Sequence[str],
    names: Sequence[str],
    z: Floats,
    raw: Mapping[str, Floats],
    assigned: NDArray[np.int64],
) -> dict[str, Any]:
    """What each of the `labels` stands for, from the training objects assigned to it.

    z (object, dimension) are their vectors and `names` the dimensions', `raw` their measured
    columns in natural units, `assigned` their clusters.  Plain JSON; undefined medians are None.
    """
    scheme: dict[str, Any] = {}
    for cluster, label in enumerate(labels):
        members = assigned == cluster
        centre = np.median(z[members], axis=0) if members.any() else np.zeros(z.shape[1])
        medians = {name: _median(values[members]) for name, values in raw.items()}
        scheme[label] = {
            "cluster": cluster,
            "weight": float(mixture.weights[cluster]),
            "training_members": int(members.sum()),
            "reading": reading(dict(zip(names, centre.tolist(), strict=True)), medians),
            "median": medians,
            "standing": {n: round(float(c), 3) for n, c in zip(names, centre, strict=True)},
        }
    return scheme


def reading(standing: Mapping[str, float], medians: Mapping[str, float | None]) -> str:
    """A few words on a cluster, from its medians (`standing`: in sigma of the training split)."""
    words: list[str] = []
    axis_ratio = medians.get("axis_ratio")
    if axis_ratio is not None:
        words.append(next(word for limit, word in AXIS_RATIOS if axis_ratio < limit))
    telling = sorted(
        (name for name in standing if name in WORDS and abs(standing[name]) >= NOTEWORTHY),
        key=lambda name: (-abs(standing[name]), name),
    )
    for name in telling:
        word = WORDS[name][standing[name] > 0]
        flat = axis_ratio is not None and axis_ratio < FLAT
        if name == "bisymmetry_middle" and flat:
            continue  # a disc seen from the side has two sides, not two arms
        if word and word not in words and len(words) < 4:
            words.append(word)
    return ", ".join(words) or "ordinary"


def _median(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return round(float(np.median(finite)), 6) if len(finite) else None
