"""Whether each component carries something of its own: occupancy, dead and duplicate components."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.classes.mixture import effective_components
from galpipe.models.alarms import of_dead, of_duplicates

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

DEAD = 0.1  # a component with less than this fraction of an equal share is dead
DUPLICATE = 0.9  # overlap of two components above which they are one


def occupancy(labels: Labels, components: int) -> list[int]:
    """How many objects each of the components has; -1 (unassigned) is left out."""
    counts: list[int] = np.bincount(labels[labels >= 0], minlength=components).tolist()
    return counts


def effective_numbers(counts: Floats, overlap: Floats | None) -> dict[str, float | None]:
    """How many components are `occupied`, and how many are `effective`: those that overlap less."""
    if counts.sum() <= 0:
        return {"occupied": None, "effective": None}
    return {
        "occupied": effective_components(counts),
        "effective": effective_components(counts, overlap),
    }


def soft_overlap(memberships: Floats) -> Floats:
    """Overlap of components by the objects they share, 0..1: (component, component).

    sum_i sqrt(r_ia r_ib) / sqrt(sum_i r_ia sum_i r_ib) of memberships r (object, component): the
    Bhattacharyya coefficient of the components' distributions over the objects.
    """
    root = np.sqrt(np.maximum(memberships, 0))
    norm = np.sqrt(np.maximum(memberships.sum(axis=0), 1e-300))
    return np.asarray((root.T @ root) / np.outer(norm, norm), np.float64)


def alarms(
    counts: list[int], overlap: Floats | None, names: list[str], least: float = DEAD
) -> dict[str, Any]:
    """Dead components, duplicate pairs, and what is said of them.

    Dead is one with less than `least` of an equal share, or nothing: classes may be rare.
    """
    share = sum(counts) / max(len(counts), 1)
    dead = [k for k, count in enumerate(counts) if count < least * share or count == 0]
    pairs = []
    if overlap is not None:
        pairs = [
            (b, a, float(overlap[a, b]))
            for a in range(len(overlap))
            for b in range(a)
            if overlap[a, b] > DUPLICATE
        ]
    little = {names[k]: f"{counts[k]} of {sum(counts)} objects" for k in dead}
    sentences = of_dead(little, len(counts)) + of_duplicates(
        [(names[a], names[b], value) for a, b, value in pairs]
    )
    return {
        "dead": [names[k] for k in dead],
        "duplicates": [{"pair": [names[a], names[b]], "overlap": value} for a, b, value in pairs],
        "alarms": sentences,
    }
