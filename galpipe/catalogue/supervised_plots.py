"""The plots of a classifier: which classes are confused, and whether probabilities come true."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"  # Okabe & Ito (2008)
TOLD = 14  # classes with numbers in the cells; of more, shades alone


def pages(figures: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures by the names of their files; there are judged objects."""
    found = {"classification": class_confusion(figures), "reliability": diagram(figures)}
    for name, page in found.items():
        page.axes[0].set_title(_titles(figures)[name], fontsize=10, loc="left")
    return found


def class_confusion(figures: Mapping[str, Any]) -> Figure:
    """True classes down, predicted ones across; shades are shares of the true class."""
    counts = np.array(figures["confusion"], np.float64)
    names = [str(name).replace("_", " ") for name in figures["names"]]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 0.62 * len(names)
    figure = Figure(figsize=(max(size, 2.6) + 3.2, max(size, 1.6) + 2.0), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(share, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for i, row in enumerate(counts) if len(names) <= TOLD else ():
        for j, count in enumerate(row):
            colour = "black" if share[i, j] > 0.55 else "white"
            axes.text(j, i, f"{count:.0f}", ha="center", va="center", color=colour, fontsize=8.5)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    figure.colorbar(shown, ax=axes, label="fraction of the true class")
    return figure


def diagram(figures: Mapping[str, Any]) -> Figure:
    """How often labels of a given probability are true, with 68 % intervals; and how many."""
    bins = figures["reliability"]
    x, y, n = (np.array(bins[k], np.float64) for k in ("probability", "accuracy", "objects"))
    spread = np.sqrt(y * (1 - y) / n + 1 / (4 * n**2)) / (1 + 1 / n)  # Wilson (1927)
    middle = (y + 1 / (2 * n)) / (1 + 1 / n)
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    low = min(float(x.min()), float((middle - spread).min()), 0.9) - 0.02
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="as stated")
    axes.vlines(x, middle - spread, middle + spread, color=BLUE, linewidth=1.2)
    axes.plot(x, y, "o", color=BLUE, markersize=4.5, label="came true")
    axes.set_xlim(low, 1.01)
    axes.set_ylim(low, 1.01)
    axes.set_aspect("equal")
    axes.set_xlabel("probability of the label")
    axes.set_ylabel("share of right labels")
    axes.legend(fontsize=8, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def _titles(figures: Mapping[str, Any]) -> dict[str, str]:
    where = "held-out objects" if figures["judged_on"] == "test" else "all objects"
    return {
        "classification": (
            f"Classes, {figures['n']} {where}: accuracy {figures['accuracy']:.3f} ± "
            f"{figures['accuracy_error']:.3f},\nmacro-F1 {figures['macro_f1']:.3f}"
        ),
        "reliability": (
            f"Calibration, {len(figures['reliability']['objects'])} bins of equal numbers:\n"
            f"expected error {figures['calibration_error']:.3f}"
        ),
    }
