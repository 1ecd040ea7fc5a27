"""What the conditions of a conditional network are worth, on galaxies kept out of training.

Two questions.  Does it draw held-out galaxies better under their own conditions than under those
of others?  And where one galaxy is drawn at other values of a condition, does it change as held-out
galaxies do along that condition?  That is interpolation in a column of the catalogue: it says what
galaxies look like that have another value, and is no redshifting of the one that is drawn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.catalogue.heldout import thinned
from galpipe.catalogue.measuring import QUANTITIES, measured
from galpipe.catalogue.reconstruction import images
from galpipe.catalogue.redrawn import columns_of, compared, drawn_at, redrawn
from galpipe.catalogue.trends import Slope, averaged, regressed, share
from galpipe.classes import gather
from galpipe.classes.anew.network import conditions_of, view_of
from galpipe.workspace import Ref, Workspace

PERMUTATIONS = 20
MOST_JUDGED = 2000  # held-out objects whose losses are compared
MOST_DRAWN = 200  # of them, drawn at other values
VALUES = 11  # of a condition at which they are drawn
MOST_BINS, FEWEST_IN_BIN = 8, 5  # of the galaxies along a condition, in the figure
RANGE = (0.05, 0.95)  # quantiles of the held-out objects' conditions, between which

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def condition_figures(
    workspace: Workspace,
    catalogue: Ref,
    stamps: Ref,
    model: Ref | None,
    embeddings: Ref | None,
    seed: int,
) -> dict[str, Any] | None:
    """Losses under own and shuffled conditions, and trends; None without such a network.

    Held-out objects alone, whatever their number.  `unknown` counts those whose conditions are not
    known, which are drawn at the mean and not judged here.
    """
    found = held_out_conditions(workspace, catalogue, stamps, embeddings)
    if found is None or model is None:
        return None
    rows, values, unknown = found
    columns = columns_of(workspace, model)
    figures: dict[str, Any] = {
        "columns": columns, "n": len(rows), "unknown": unknown, "loss": None, "trends": {},
    }  # fmt: skip
    if len(rows) < 2:
        return figures
    some = thinned(np.arange(len(rows)), MOST_JUDGED)
    stack = images(workspace, stamps, rows[some], view_of(workspace, model))
    figures["loss"] = _losses(workspace, model, stack, values[some], seed)
    few = thinned(np.arange(len(some)), MOST_DRAWN)
    for place, column in enumerate(columns):
        figures["trends"][column] = _trends(workspace, model, stack, values[some], few, place)
    return figures


def condition_headline(figures: Mapping[str, Any]) -> dict[str, float | int | None]:
    """The figures of the conditions that a reader asks for first, flat."""
    flat: dict[str, float | int | None] = {
        "conditions_judged": figures["n"],
        "conditions_unknown": figures["unknown"],
    }
    if figures["loss"] is not None:
        names = ("own", "unknown", "shuffled", "shuffled_scatter", "gain", "gain_error")
        flat |= {f"conditions_loss_{name}": figures["loss"][name] for name in names}
    for column, trend in figures["trends"].items():
        for quantity, found in trend["quantities"].items():
            for name in ("galaxies", "interpolated"):
                slope = found[name]
                plain = re.sub(r"[^A-Za-z0-9_.-]", "_", column)  # as trackers name figures
                flat[f"trend_{plain}_{quantity}_{name}"] = slope and slope["slope"]
    return flat


def held_out_conditions(
    workspace: Workspace, catalogue: Ref, stamps: Ref, embeddings: Ref | None
) -> tuple[Rows, Floats, int] | None:
    """Catalogue rows of the test split with known conditions, their values, and how many have none.

    None where the vectors were not made under conditions.
    """
    usable = gather.read_index(workspace, stamps).usable
    held_out = np.flatnonzero(usable & (gather.splits(workspace, catalogue) == "test"))
    given = conditions_of(workspace, embeddings, held_out)
    if given is None:
        return None
    known = np.isfinite(given).all(axis=1)
    return held_out[known], given[known], int((~known).sum())


def reach(values: Floats) -> tuple[float, float]:
    """The range of one condition that is drawn."""
    low, high = np.quantile(values, RANGE)
    return float(low), float(high)


def _losses(
    workspace: Workspace, model: Ref, stack: NDArray[np.float32], values: Floats, seed: int
) -> dict[str, Any]:
    """Means per image; `gain` is what shuffling costs, object by object, with its error."""
    own, unknown, shuffled = compared(workspace, model, stack, values, PERMUTATIONS, seed)
    means = shuffled.mean(axis=1)
    cost = shuffled.mean(axis=0) - own
    return {
        "n": len(own),
        "own": float(own.mean()),
        "unknown": float(unknown.mean()),
        "shuffled": float(means.mean()),
        "shuffled_scatter": float(means.std(ddof=1)),
        "permutations": len(shuffled),
        "gain": float(cost.mean()),
        "gain_error": float(cost.std(ddof=1) / np.sqrt(len(cost))),
    }


def _trends(
    workspace: Workspace,
    model: Ref,
    stack: NDArray[np.float32],
    values: Floats,
    few: Rows,
    place: int,
) -> dict[str, Any]:
    """Slopes of the quantities along one condition, per unit of it, within the range drawn."""
    low, high = reach(values[:, place])
    within = (values[:, place] >= low) & (values[:, place] <= high)
    found: dict[str, Any] = {"low": low, "high": high, "n": int(within.sum()), "quantities": {}}
    if len(np.unique(values[within, place])) < 2:
        return found
    stamps_ = measured(stack[within])
    drawings = measured(redrawn(workspace, model, stack[within], values[within]))
    # As many galaxies lie between two of these values as between any other two, so that a trend
    # that is no straight line has the same mean slope in drawings and galaxies.
    grid = np.quantile(values[within, place], np.linspace(0, 1, VALUES))
    at = drawn_at(workspace, model, stack[few], values[few], place, grid)
    other = [measured(drawn) for drawn in at]
    for name in QUANTITIES:
        data = regressed(stamps_[name], values[within], place)
        own = regressed(drawings[name], values[within], place)
        moved = averaged(np.stack([drawn[name] for drawn in other]), grid)
        found["quantities"][name] = {
            "galaxies": _plain(data),
            "redrawn": _plain(own),
            "interpolated": _plain(moved),
            "recovered": share(moved, data),
            "typical": _median(stamps_[name]),
            "binned": _binned(values[within, place], stamps_[name]),
            "drawn": {
                "values": grid.tolist(),
                "mean": [_mean(drawn[name]) for drawn in other],
            },
        }
    return found


def _binned(values: Floats, quantity: Floats) -> dict[str, list[float]]:
    """Means of the galaxies in bins of equal number along the condition, with their errors."""
    finite = np.flatnonzero(np.isfinite(quantity))
    order = finite[np.argsort(values[finite], kind="stable")]
    bins = (
        np.array_split(order, min(MOST_BINS, len(order) // FEWEST_IN_BIN))
        if len(order) >= (FEWEST_IN_BIN)
        else []
    )
    return {
        "values": [float(values[rows].mean()) for rows in bins],
        "mean": [float(quantity[rows].mean()) for rows in bins],
        "error": [float(quantity[rows].std(ddof=1) / np.sqrt(len(rows))) for rows in bins],
    }


def _plain(slope: Slope | None) -> dict[str, float] | None:
    return None if slope is None else {"slope": slope.value, "error": slope.error}


def _median(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None


def _mean(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None
