"""The plots of generated galaxies: stamps side by side, statistics, the power spectrum."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from galpipe.catalogue.plots import BLUE, GREY, ORANGE, write
from galpipe.catalogue.synthetic.judgement import Sample
from galpipe.catalogue.synthetic.shapes import STATMORPH

SHOWN = 10  # stamps of each sample
BINS = 24


def draw(
    folder: Path, new: Sample, held_out: Sample, figures: Mapping[str, Any], unit_scale: float
) -> list[Path]:
    """Draw both plots into a folder; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        write(_stamps(new, held_out, unit_scale), folder / "stamps.png"),
        write(_statistics(new, held_out, figures), folder / "statistics.png"),
    ]


def _stamps(new: Sample, held_out: Sample, unit_scale: float) -> Figure:
    number = min(SHOWN, len(new.stamps), len(held_out.stamps))
    figure = Figure(figsize=(1.05 * number + 0.6, 4.9), layout="constrained")
    grid = figure.subplots(4, number, squeeze=False)
    rows = (("generated", new), ("generated", new), ("held out", held_out), ("held out", held_out))
    for i, (name, one) in enumerate(rows):
        first = (i % 2) * number
        images = one.images(unit_scale)[first : first + number]
        for j, axes in enumerate(grid[i]):
            axes.set_xticks([])
            axes.set_yticks([])
            if j < len(images):
                axes.imshow(images[j], cmap="gray", vmin=0, vmax=1, origin="lower")
            if j == 0:
                axes.set_ylabel(name, fontsize=9)
    figure.suptitle("Generated galaxies, and galaxies kept out of training", fontsize=10)
    return figure


def _statistics(new: Sample, held_out: Sample, figures: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(11.0, 5.4), layout="constrained")
    grid = figure.subplots(2, 4).ravel()
    for k, (axes, text) in enumerate(zip(grid, STATMORPH.values(), strict=False)):
        real, made = (one.statmorph[:, k] for one in (held_out, new))
        good = real[np.isfinite(real)]
        if len(good):
            low, high = np.percentile(good, [0.5, 99.5])
            edges = np.linspace(low, max(high, low + 1e-6), BINS + 1)
            for values, colour, name in ((real, GREY, "held out"), (made, BLUE, "generated")):
                inside = values[np.isfinite(values)]
                weights = np.full(len(inside), 1 / max(len(values), 1))
                axes.hist(
                    np.clip(inside, edges[0], edges[-1]), edges, weights=weights, color=colour,
                    histtype="stepfilled" if colour == GREY else "step", linewidth=1.6, label=name,
                    alpha=0.6 if colour == GREY else 1.0,
                )  # fmt: skip
        axes.set_xlabel(text, fontsize=9)
        axes.set_yticks([])
    if grid[0].get_legend_handles_labels()[0]:
        grid[0].legend(fontsize=8, frameon=False)
    spectrum = figures["power_spectrum"]
    axes = grid[6]
    waves = spectrum["cycles_per_stamp"]
    axes.loglog(waves, spectrum["held_out"], color=GREY, linewidth=3, label="held out")
    axes.loglog(waves, spectrum["generated"], color=BLUE, label="generated")
    axes.set_xlabel("cycles per stamp", fontsize=9)
    axes.set_title("power spectrum", fontsize=9)
    bars = grid[7]
    names = {"own": "galpipe's columns", "statmorph": "statmorph"}
    for i, space in enumerate(names):
        for j, (who, colour) in enumerate((("generated", BLUE), ("control", GREY))):
            told = figures["auroc"][space][who]
            bars.bar(
                i + 0.36 * j, told["auroc"] - 0.5, 0.34, bottom=0.5, yerr=told["error"],
                color=colour, ecolor=ORANGE, label=who if i == 0 else None,
            )  # fmt: skip
    bars.set_xticks([0.18, 1.18], list(names.values()), fontsize=8)
    bars.set_ylim(0.4, 1.0)
    bars.axhline(0.5, color="black", linewidth=0.8)
    bars.set_title("AUROC, real against", fontsize=9)
    bars.legend(fontsize=8, frameon=False)
    figure.suptitle("Morphology of generated galaxies and of galaxies kept out", fontsize=10)
    return figure
