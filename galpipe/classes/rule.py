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
Layers = tuple[tuple[Floats, Floats], ...]  # of each: weights (input, output), offsets (output)

BLOCK = 4096  # objects whose hidden numbers are held at once
LAYERS = 3  # of a network: two inner ones, and the memberships
PREFIX = "steady."  # of the arrays that are kept


@dataclass(frozen=True)
class Rule:
    """Networks of plain layers, on vectors of their own, whose memberships are averaged."""

    vectors: Vectors
    networks: tuple[Layers, ...]

    def posterior(self, vectors_NU: Floats) -> Floats:
        """Memberships, (object, cluster), by sums in a fixed order: no batch changes a bit."""
        clusters = len(self.networks[0][-1][1])
        found = np.zeros((len(vectors_NU), clusters))
        for start in range(0, len(vectors_NU), BLOCK):
            some = slice(start, start + BLOCK)
            for layers in self.networks:
                found[some] += _told(layers, vectors_NU[some]) / len(self.networks)
        return found


def _told(layers: Layers, values: Floats) -> Floats:
    """The memberships that one network gives."""
    for number, (weights, offsets) in enumerate(layers):
        before = np.maximum(values, 0.0) if number else values
        values = np.tile(offsets, (len(before), 1))
        for i, row in enumerate(weights):
            values += before[:, i, None] * row
    shares: Floats = np.exp(values - values.max(axis=1, keepdims=True))
    total = np.zeros(len(shares))
    for k in range(shares.shape[1]):
        total = total + shares[:, k]
    return shares / total[:, None]


def arrays_of(rule: Rule) -> dict[str, Floats]:
    """The rule's numbers by name, as they are kept."""
    found = {f"{PREFIX}{name}": values for name, values in stored(rule.vectors)[1].items()}
    for one, layers in enumerate(rule.networks):
        for number, (weights, offsets) in enumerate(layers):
            found[f"{PREFIX}{one}.weights.{number}"] = weights
            found[f"{PREFIX}{one}.offsets.{number}"] = offsets
    return found


def restored(facts: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Rule:
    """The rule as it was kept."""
    own = {n.removeprefix(PREFIX): v for n, v in arrays.items() if n.startswith(PREFIX)}
    networks = tuple(
        tuple((own[f"{one}.weights.{n}"], own[f"{one}.offsets.{n}"]) for n in range(LAYERS))
        for one in range(facts["networks"])
    )
    return Rule(restored_vectors(facts["vectors"], own), networks)
