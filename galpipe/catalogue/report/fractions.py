"""How often each cluster is met among objects of a given size, brightness, S/N or redshift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from galpipe.catalogue.report.charts import BLUE, GRID, INK, plain_axes, round_ticks
from galpipe.catalogue.report.release import Quantity

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

BINS = 8
FEWEST = 25  # objects a bin needs on average; fewer bins where there are fewer objects


@dataclass(frozen=True)
class Binned:
    """Fractions of the clusters in bins of a quantity, with 68 per cent limits."""

    middle: Floats  # (bin) median of the quantity
    count: Labels  # (bin)
    fraction: Floats  # (cluster, bin)
    low: Floats  # (cluster, bin)
    high: Floats  # (cluster, bin)


def binned(values: Floats, cluster: Labels, components: int) -> Binned | None:
    """Bins of equal number of the assigned objects; None where fewer than two can be made."""
    use = np.isfinite(values) & (cluster >= 0)
    count = int(min(BINS, use.sum() // FEWEST))
    if count < 2:
        return None
    edges = np.unique(np.quantile(values[use], np.linspace(0, 1, count + 1)))
    if len(edges) < 3:
        return None
    where = np.clip(np.searchsorted(edges, values[use], side="right") - 1, 0, len(edges) - 2)
    mine = cluster[use]
    total = np.bincount(where, minlength=len(edges) - 1)
    hits = np.zeros((components, len(total)))
    np.add.at(hits, (mine, where), 1)
    middle = np.array([np.median(values[use][where == b]) for b in range(len(total))])
    low, high = wilson(hits, total[None, :])
    return Binned(middle, total, hits / total, low, high)


def wilson(hits: Floats, total: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """The 68 per cent limits of a binomial fraction (Wilson 1927, z = 1)."""
    p = hits / total
    middle = (p + 1 / (2 * total)) / (1 + 1 / total)
    half = np.sqrt(p * (1 - p) / total + 1 / (4 * total**2)) / (1 + 1 / total)
    return np.maximum(middle - half, 0), np.minimum(middle + half, 1)


def fractions(
    quantities: Mapping[str, Quantity], cluster: Labels, names: Sequence[str]
) -> tuple[Figure, list[tuple[Quantity, Binned]]] | None:
    """One row per cluster, one column per quantity; None where nothing can be binned."""
    found = [
        (quantity, bins)
        for quantity in quantities.values()
        if (bins := binned(quantity.values, cluster, len(names))) is not None
    ]
    if not found:
        return None
    figure = Figure(
        figsize=(min(2.75 * len(found), 10.6) + 0.7, 0.78 * len(names) + 0.75), layout="constrained"
    )
    layout: Any = figure.get_layout_engine()
    layout.set(h_pad=0.02, hspace=0.04, wspace=0.05)
    grid = figure.subplots(len(names), len(found), squeeze=False, sharex="col", sharey="row")
    for i, name in enumerate(names):
        top = max(float(bins.high[i].max()) for _, bins in found)
        for j, (quantity, bins) in enumerate(found):
            axes = plain_axes(grid[i, j])
            axes.axhline(
                np.average(bins.fraction[i], weights=bins.count), color=GRID, linewidth=1.2
            )
            error = np.abs(np.stack([bins.low[i], bins.high[i]]) - bins.fraction[i])
            axes.errorbar(
                bins.middle, bins.fraction[i], error, color=BLUE, marker="o", markersize=3.2,
                linewidth=1.1, elinewidth=1.1,
            )  # fmt: skip
            axes.set_ylim(-0.04 * top, top * 1.1)
            axes.yaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
            if quantity.logarithmic and (bins.middle > 0).all():
                axes.set_xscale("log")
                ticks = round_ticks(*axes.get_xlim())
                axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
                axes.minorticks_off()
            else:
                axes.xaxis.set_major_locator(MaxNLocator(4))
            if i == len(names) - 1:
                axes.set_xlabel(quantity.axis, parse_math=False)
        grid[i, 0].set_ylabel(
            name, rotation=0, ha="right", va="center", fontsize=10, color=INK, weight="bold"
        )
    return figure, found
