"""Held-out galaxies drawn at other values of a condition: a strip of each, and the trend.

It is interpolation in a column of the catalogue, not redshifting: the network draws what galaxies
look like that have another value.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from galpipe.catalogue.conditions import held_out_conditions
from galpipe.catalogue.galleries import coloured
from galpipe.catalogue.measuring import QUANTITIES
from galpipe.catalogue.plots import write
from galpipe.catalogue.reconstruction import images
from galpipe.catalogue.redrawn import drawn_at
from galpipe.classes.anew.network import view_of
from galpipe.workspace import Ref, Workspace

GALAXIES = (0.1, 0.5, 0.9)  # quantiles of the condition that the galaxies of the strip have
STEPS = 9  # values of the condition at which each is drawn
DRAWN, FOUND = "#0072B2", "#D55E00"  # Okabe & Ito (2008)

Floats = NDArray[np.float64]


def interpolations(
    workspace: Workspace,
    catalogue: Ref,
    stamps: Ref,
    model: Ref | None,
    embeddings: Ref | None,
    figures: Mapping[str, Any] | None,
) -> dict[str, Figure]:
    """A figure for every condition, by column; `figures` are those of `condition_figures`.

    Left out where the held-out galaxies have one value only.
    """
    if figures is None or model is None:
        return {}
    found = held_out_conditions(workspace, catalogue, stamps, embeddings)
    if found is None or not len(found[0]):
        return {}
    rows, values, _ = found
    pages = {}
    for place, (column, trend) in enumerate(figures["trends"].items()):
        if not trend["low"] < trend["high"]:
            continue
        order = np.argsort(values[:, place], kind="stable")
        chosen = np.unique([order[round(q * (len(order) - 1))] for q in GALAXIES])
        chosen = chosen[np.argsort(values[chosen, place], kind="stable")]
        stack = images(workspace, stamps, rows[chosen], view_of(workspace, model))
        grid = np.linspace(trend["low"], trend["high"], STEPS)
        drawn = drawn_at(workspace, model, stack, values[chosen], place, grid)
        pages[column] = page(column, stack, values[chosen, place], drawn, grid, trend)
    return pages


def draw(
    workspace: Workspace,
    catalogue: Ref,
    stamps: Ref,
    model: Ref | None,
    embeddings: Ref | None,
    figures: Mapping[str, Any] | None,
    folder: Path,
) -> list[Path]:
    """Draw `interpolations` as PNG, numbered as the network's conditions are; the paths."""
    pages = interpolations(workspace, catalogue, stamps, model, embeddings, figures)
    columns = [] if figures is None else figures["columns"]
    return [
        write(figure, folder / f"interpolation_{columns.index(column) + 1}.png")
        for column, figure in pages.items()
    ]


def page(
    column: str,
    stamps: NDArray[np.float32],
    own: Floats,
    drawn: NDArray[np.float32],
    grid: Floats,
    trend: Mapping[str, Any],
) -> Figure:
    """The strips above, the trends of the measured quantities below.

    `stamps` (galaxy, band, y, x) have the values `own`; `drawn` (value, galaxy, band, y, x) are at
    the values of `grid`.
    """
    height = 0.92 * len(stamps) + 0.35
    shown = list(trend["quantities"].items())
    if not shown:  # too few galaxies for a trend
        figure = Figure(figsize=(9.6, height), layout="constrained")
        _strip(figure.subfigures(1, 1, squeeze=False)[0, 0], column, stamps, own, drawn, grid)
        return figure
    figure = Figure(figsize=(9.6, height + 2.7), layout="constrained")
    halves = figure.subfigures(2, 1, height_ratios=[height, 2.7], squeeze=False)
    _strip(halves[0, 0], column, stamps, own, drawn, grid)
    below = np.atleast_1d(halves[1, 0].subplots(1, len(shown)))
    for axes, (name, quantity) in zip(below, shown, strict=True):
        _trend(axes, column, QUANTITIES[name], quantity)
    return figure


def _strip(
    figure: SubFigure,
    column: str,
    stamps: NDArray[np.float32],
    own: Floats,
    drawn: NDArray[np.float32],
    grid: Floats,
) -> None:
    cells = figure.subplots(len(stamps), len(grid) + 1, squeeze=False)
    for i, stamp in enumerate(stamps):
        row = [stamp, *drawn[:, i]]
        for axes, picture in zip(cells[i], row, strict=True):
            axes.imshow(coloured(picture), interpolation="nearest", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
        nearest = 1 + int(np.abs(grid - own[i]).argmin())
        for side in cells[i, nearest].spines.values():
            side.set_color(FOUND)
            side.set_linewidth(2)
        cells[i, 0].set_ylabel(f"{own[i]:.3g}", fontsize=8.5, rotation=0, ha="right", va="center")
    cells[0, 0].set_title("stamp", fontsize=8.5)
    for axes, value in zip(cells[0, 1:], grid, strict=True):
        axes.set_title(f"{value:.3g}", fontsize=8.5)
    figure.suptitle(
        f"Held-out galaxies drawn at other values of {column}; framed: nearest to their own",
        fontsize=10, x=0.01, ha="left", parse_math=False,
    )  # fmt: skip


def _trend(axes: Axes, column: str, name: str, quantity: Mapping[str, Any]) -> None:
    binned, drawn = quantity["binned"], quantity["drawn"]
    axes.errorbar(
        binned["values"], binned["mean"], binned["error"], fmt="o", color=FOUND, markersize=4,
        capsize=2, label="held-out galaxies",
    )  # fmt: skip
    heights = np.array([np.nan if mean is None else mean for mean in drawn["mean"]], float)
    axes.plot(drawn["values"], heights, "-", color=DRAWN, label="the same, drawn at each value")
    axes.set_xlabel(column, fontsize=8.5, parse_math=False)
    axes.set_title(name, fontsize=8.5, loc="left")
    axes.tick_params(labelsize=8)
    axes.margins(y=0.2)
    axes.legend(fontsize=7, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
