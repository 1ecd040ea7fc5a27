"""Figures of one labelling: what it knows of the classes, of the votes, and of nuisances."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.catalogue import information
from galpipe.catalogue.heldout import NUISANCES, HeldOut
from galpipe.catalogue.information import Corrected
from galpipe.catalogue.spec import Evaluation

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

ROUNDEST = 0.75  # axis ratio above which a position angle says little (METHODS F13)
ANGLE_BINS = 12
QUANTILE_BINS = 10
FEWEST = 20  # objects below which a figure would be noise alone: None in its place
VOTE_BINS = 10


def agreement(
    labels: Labels, objects: HeldOut, spec: Evaluation, components: int
) -> dict[str, Any]:
    """All figures of `labels` (one per judged object, -1 for none), as plain JSON values."""
    return {
        "n": int((labels >= 0).sum()),
        "clusters": components,
        "occupied": len(np.unique(labels[labels >= 0])),
        "classes": class_figures(labels, objects, spec, components),
        "votes": vote_figures(labels, objects, components),
        "nuisances": nuisance_figures(labels, objects, spec),
    }


def class_figures(
    labels: Labels, objects: HeldOut, spec: Evaluation, components: int
) -> dict[str, Any] | None:
    """Agreement with the true classes; None without truth or with too few objects that have one."""
    if objects.classes is None:
        return None
    known = (labels >= 0) & np.array([name is not None for name in objects.classes], bool)
    if known.sum() < 2:
        return None
    mine, truth = labels[known], objects.classes[known].astype(str)
    counts = information.contingency(mine, truth)
    names = np.unique(truth).tolist()
    present = np.unique(mine).tolist()
    confusion = np.zeros((components, len(names)), np.int64)
    confusion[present] = counts
    return {
        "n": int(known.sum()),
        "nmi": information.normalised_mutual_information(mine, truth),
        "nmi_bound": information.highest_normalised_information(truth, components),
        "ari": information.adjusted_rand_index(mine, truth),
        "purity": information.purity(mine, truth),
        "largest_class": float(counts.sum(axis=0).max() / counts.sum()),
        "beyond_inclination": _beyond_inclination(mine, truth, objects, known, spec),
        "confusion": {"classes": names, "counts": confusion.tolist()},
    }


def _beyond_inclination(
    mine: Labels, truth: Any, objects: HeldOut, known: NDArray[np.bool_], spec: Evaluation
) -> dict[str, Any] | None:
    if "axis_ratio" not in objects.measured:
        return None
    axis_ratio = objects.measured["axis_ratio"][known]
    finite = np.isfinite(axis_ratio)
    if finite.sum() < FEWEST:
        return None
    return plain(
        information.information_beyond_inclination(
            mine[finite],
            truth[finite],
            axis_ratio[finite],
            permutations=spec.permutations,
            seed=spec.seed,
        )
    )


def vote_figures(labels: Labels, objects: HeldOut, components: int) -> dict[str, Any]:
    """Histogram and mean of every vote fraction per cluster."""
    edges = np.linspace(0, 1, VOTE_BINS + 1)
    found: dict[str, Any] = {}
    for question, fraction in objects.votes.items():
        clusters = []
        for k in range(components):
            mine = fraction[(labels == k) & np.isfinite(fraction)]
            clusters.append(
                {
                    "n": len(mine),
                    "mean": float(mine.mean()) if len(mine) else None,
                    "histogram": np.histogram(mine, edges)[0].tolist(),
                }
            )
        found[question] = {"edges": edges.tolist(), "clusters": clusters}
    return found


def nuisance_figures(labels: Labels, objects: HeldOut, spec: Evaluation) -> dict[str, Any]:
    """Mutual information in nats of the labels with what they should not know, less chance.

    Position angle in 12 bins for axis ratios below 0.75, the others in deciles.  A
    nuisance that was not measured, or for too few objects, is None.
    """
    found: dict[str, Any] = {}
    for name in NUISANCES:
        values = objects.measured.get(name)
        if values is None:
            found[name] = None
            continue
        use = np.isfinite(values) & (labels >= 0)
        if name == "position_angle":
            axis_ratio = objects.measured.get("axis_ratio", np.full(len(values), np.nan))
            use &= axis_ratio < ROUNDEST
        if use.sum() < FEWEST:
            found[name] = None
            continue
        if name == "position_angle":
            bins = information.angle_bins(values[use], ANGLE_BINS)
        else:
            bins = information.quantile_bins(values[use], QUANTILE_BINS)
        found[name] = plain(
            information.corrected_information(
                labels[use], bins, permutations=spec.permutations, seed=spec.seed
            )
        )
    return found


def plain(found: Corrected) -> dict[str, Any]:
    """A corrected information as JSON values."""
    return {**asdict(found), "corrected": found.corrected, "z": found.z}
