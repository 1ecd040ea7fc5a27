"""The plot of the re-observation: how often labels flip, by condition and along S/N and size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from galpipe.catalogue.reobservation import ALONG

# Okabe & Ito (2008), told apart by colour-blind readers; markers tell the same.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
ALONG_DRAWN = ("noisier", "dimmer", "blurred", "all")  # conditions drawn against S/N and size


def draw(figures: Mapping[str, Any] | None, folder: Path) -> list[Path]:
    """Write the plot where there is something to show; its path."""
    if figures is None:
        return []
    from galpipe.catalogue.plots import write

    return [write(flips(figures), folder / "reobservation.png")]


def flips(figures: Mapping[str, Any]) -> Figure:
    """Rates of all conditions, then of those that lose light or sharpness against S/N and size."""
    figure = Figure(figsize=(11.0, 3.6), layout="constrained")
    bars, *along = figure.subplots(1, 3, width_ratios=(1.15, 1, 1))
    _bars(bars, figures)
    for axes, (name, words) in zip(along, ALONG.items(), strict=True):
        _along(axes, figures, name, words)
    along[0].legend(fontsize=7.5, frameon=False)
    top = max(axes.get_ylim()[1] for axes in along)
    for axes in along:
        axes.set_ylim(0, top)
    figure.suptitle(
        f"Labels of {figures['n']} {_who(figures)} observed again", fontsize=10, x=0.01, ha="left"
    )
    return figure


def _bars(axes: Axes, figures: Mapping[str, Any]) -> None:
    told = figures["conditions"]
    places = np.arange(len(told))[::-1]
    for offset, key, label, colour in (
        (0.2, None, "all labels", "#0072B2"),
        (-0.2, "sure", f"probability ≥ {figures['sure']:g}", "#999999"),
    ):
        values = [one if key is None else one[key] for one in told]
        rates = [np.nan if one["rate"] is None else 100 * one["rate"] for one in values]
        errors = [0.0 if one["error"] is None else 100 * one["error"] for one in values]
        axes.barh(places + offset, rates, 0.36, xerr=errors, color=colour, label=label,
                  error_kw={"linewidth": 1})  # fmt: skip
    axes.set_yticks(places, [one["words"] for one in told], fontsize=8.5)
    axes.set_xlim(left=0)
    axes.axvline(10, color="#444444", linewidth=0.8, linestyle=":")
    axes.set_xlabel("labels that flip (%)")
    axes.legend(fontsize=7.5, frameon=False)
    _plain(axes)


def _along(axes: Axes, figures: Mapping[str, Any], name: str, words: str) -> None:
    told = [one for one in figures["conditions"] if one["name"] in ALONG_DRAWN]
    for one, colour, marker in zip(told, COLOURS, MARKERS, strict=False):
        bins = [b for b in one["along"][name] if b["rate"] is not None]
        axes.errorbar(
            [b["median"] for b in bins],
            [100 * b["rate"] for b in bins],
            [100 * b["error"] for b in bins],
            color=colour, marker=marker, markersize=4, linewidth=1, label=one["words"],
        )  # fmt: skip
    if any(one["along"][name] for one in told):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.tick_params(axis="x", which="both", labelsize=7.5)
    axes.set_xlabel(f"{words}, before")
    axes.set_ylabel("labels that flip (%)")
    _plain(axes)


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _who(figures: Mapping[str, Any]) -> str:
    return "held-out objects" if figures["judged_on"] == "test" else "objects"
