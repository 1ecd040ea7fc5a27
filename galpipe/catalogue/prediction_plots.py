"""The plots of predicted votes and values: predicted against true ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"  # Okabe & Ito (2008)


def pages(figures: Mapping[str, Any]) -> dict[str, Figure]:
    """The figure by the name of its file; empty where nothing was judged."""
    if not drawable(figures):
        return {}
    page = values(figures) if figures["kind"] == "regression" else votes(figures)
    page.suptitle(title(figures), fontsize=10, x=0.01, ha="left", parse_math=False)
    return {"predictions": page}


def drawable(figures: Mapping[str, Any]) -> bool:
    """Whether there are judged objects to draw."""
    first = figures if figures["kind"] == "regression" else figures["first"]
    return bool(first["seen"])


def values(figures: Mapping[str, Any]) -> Figure:
    """Predicted values against true ones; bars reach one predicted standard deviation."""
    figure = Figure(figsize=(4.8, 4.6), layout="constrained")
    axes = figure.subplots()
    seen, told, scatter = (np.array(figures[k]) for k in ("seen", "predicted", "scatter"))
    low, high = figures["scale"]
    margin = 0.04 * (high - low)
    axes.plot([low, high], [low, high], color=GREY, linewidth=1)
    # True values are steps: spread along x, in order of the prediction, they can all be seen.
    step = np.min(np.diff(np.unique(seen))) if len(np.unique(seen)) > 1 else 0.0
    shift = np.zeros(len(seen))
    for value in np.unique(seen):
        mine = np.flatnonzero(seen == value)
        order = mine[np.argsort(told[mine], kind="stable")]
        shift[order] = (np.arange(len(mine)) + 0.5) / len(mine) - 0.5
    x = seen + 0.7 * step * shift
    axes.errorbar(x, told, scatter, fmt="o", color=BLUE, markersize=2.2, elinewidth=0.4, alpha=0.6)
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(low - margin, high + margin)
    axes.set_xlabel(f"{figures['column']} of the table", parse_math=False)
    axes.set_ylabel(f"predicted {figures['column']}", parse_math=False)
    _plain(axes)
    return figure


def votes(figures: Mapping[str, Any]) -> Figure:
    """Predicted fractions of the first question's answers against those of the votes cast."""
    first = figures["first"]
    count = len(first["answers"])
    figure = Figure(figsize=(2.9 * count + 0.4, 3.3), layout="constrained")
    grid = figure.subplots(1, count, squeeze=False, sharey=True)
    seen, told = np.array(first["seen"]), np.array(first["predicted"])
    for k, (axes, answer) in enumerate(zip(grid[0], first["answers"], strict=True)):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
        axes.plot(seen[:, k], told[:, k], "o", color=BLUE, markersize=2.8, alpha=0.6)
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_aspect("equal")
        axes.set_xlabel(f"votes: {answer.replace('_', ' ')}", parse_math=False)
        _plain(axes)
    grid[0, 0].set_ylabel("predicted fraction")
    return figure


def title(figures: Mapping[str, Any]) -> str:
    """What is drawn, of how many objects, with the error."""
    where = "held-out objects" if figures["judged_on"] == "test" else "all objects"
    if figures["kind"] == "regression":
        error = figures["mean_absolute_error"]
        told = "" if error is None else f": mean absolute error {error:.2f}"
        return f"{figures['column']}, {figures['n']} {where}{told}"
    error = figures["first"]["rmse"]
    told = "" if error is None else f": root mean square error {error:.3f}"
    return f"{figures['first']['question']}\n{len(figures['first']['seen'])} {where}{told}"


def _plain(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
