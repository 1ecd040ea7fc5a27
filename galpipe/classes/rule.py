"""A small network that gives memberships, applied by plain arithmetic that no batch changes.

Shapes: N objects, U numbers of a vector, K clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.classes.features import Vectors, restored_vectors, stored

Floats = NDArray[np.float64]

BLOCK = 4096  # objects whose hidden numbers are held at once
PREFIX = "steady."  # of the arrays that are kept


@dataclass(frozen=True)
class Rule:
    """A network of plain layers on vectors of its own."""

    vectors: Vectors
    layers: tuple[tuple[Floats, Floats], ...]  # weights (input, output) and offsets (output)

    def posterior(self, vectors_NU: Floats) -> Floats:
        """Memberships, (object, cluster), by sums in a fixed order: no batch changes a bit."""
        clusters = len(self.layers[-1][1])
        found = np.empty((len(vectors_NU), clusters))
        for start in range(0, len(vectors_NU), BLOCK):
            values = vectors_NU[start : start + BLOCK]
            for number, (weights, offsets) in enumerate(self.layers):
                before = np.maximum(values, 0.0) if number else values
                values = np.tile(offsets, (len(before), 1))
                for i, row in enumerate(weights):
                    values += before[:, i, None] * row
            shares = np.exp(values - values.max(axis=1, keepdims=True))
            total = np.zeros(len(shares))
            for k in range(clusters):
                total = total + shares[:, k]
            found[start : start + BLOCK] = shares / total[:, None]
        return found


def arrays_of(rule: Rule) -> dict[str, Floats]:
    """The rule's numbers by name, as they are kept."""
    found = {f"{PREFIX}{name}": values for name, values in stored(rule.vectors)[1].items()}
    for number, (weights, offsets) in enumerate(rule.layers):
        found[f"{PREFIX}weights.{number}"], found[f"{PREFIX}offsets.{number}"] = weights, offsets
    return found


def restored(facts: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Rule:
    """The rule as it was kept."""
    own = {n.removeprefix(PREFIX): v for n, v in arrays.items() if n.startswith(PREFIX)}
    layers = tuple((own[f"weights.{n}"], own[f"offsets.{n}"]) for n in range(facts["layers"]))
    return Rule(restored_vectors(facts["vectors"], own), layers)
