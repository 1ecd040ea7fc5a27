"""Stamps on a page: members of clusters, the strangest objects, reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

Images = NDArray[np.float32]
Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

STAMP_INCHES = 0.8
GAP = 2  # pixels between stamps
DISPLAY_POWER = 0.6


def random_members(cluster: Labels, components: int, count: int, seed: int) -> list[Labels]:
    """Up to `count` members of every cluster, drawn without replacement: positions in `cluster`."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(cluster == k) for k in range(components)]
    return [np.sort(rng.choice(m, min(count, len(m)), replace=False)) for m in members]


def typical_members(
    cluster: Labels, anomaly: Floats, probability: Floats, components: int, count: int
) -> list[Labels]:
    """The members of every cluster in its densest part, surest and least strange first."""
    found = []
    for k in range(components):
        mine = np.flatnonzero(cluster == k)
        sure = probability[mine] >= np.median(probability[mine]) if len(mine) else mine > 0
        order = np.lexsort((anomaly[mine], ~sure))  # the surer half, by density
        found.append(mine[order][:count])
    return found


def rows_of_stamps(
    rows: Sequence[Images], names: Sequence[str], title: str, columns: int, note: str = ""
) -> Figure:
    """One row of stamps per name; images (object, band, y, x) in 0..1."""
    count = max(len(rows), 1)
    figure = Figure(figsize=(columns * STAMP_INCHES + 2.6, count * STAMP_INCHES + 0.9))
    height = count * STAMP_INCHES / (count * STAMP_INCHES + 0.9)
    left = 2.5 / (columns * STAMP_INCHES + 2.6)
    axes = figure.add_axes((left, 0.02, 1 - left - 0.01, height))
    axes.set_axis_off()
    figure.suptitle(title + (f"\n{note}" if note else ""), fontsize=11, x=0.02, ha="left", y=0.985)
    size = next((row.shape[-1] for row in rows if len(row)), 8)
    page = np.ones((count * (size + GAP), columns * (size + GAP), 3), np.float32)
    for i, row in enumerate(rows):
        for j, image in enumerate(row[:columns]):
            top, side = i * (size + GAP), j * (size + GAP)
            page[top : top + size, side : side + size] = coloured(image)
    axes.imshow(page, interpolation="nearest", aspect="auto")
    for i, name in enumerate(names):
        axes.text(
            -GAP * 2, i * (size + GAP) + size / 2, name, ha="right", va="center", fontsize=8.5
        )
    return figure


def coloured(image: Images) -> Any:
    """(band, y, x) in 0..1 as (y, x, 3): three planes as red, green, blue, others averaged.

    Raised to DISPLAY_POWER, or the outskirts of galaxies would drown in black.
    """
    if len(image) == 3:
        planes = np.moveaxis(image, 0, -1)
    else:
        planes = np.repeat(image.mean(axis=0)[:, :, None], 3, axis=2)
    return np.clip(planes, 0, 1) ** DISPLAY_POWER


def reconstructions(
    images: Images, drawn: Images, errors: Floats, title: str, names: Sequence[str]
) -> Figure:
    """Stamps, what the model makes of them, and the residuals on a scale stated beside them."""
    count = len(images)
    residual = (images - drawn).mean(axis=1)
    limit = float(np.quantile(np.abs(residual), 0.999)) or 1.0
    figure = Figure(figsize=(count * 0.95 + 1.6, 4.1))
    grid = figure.subplots(3, count, squeeze=False)
    for j in range(count):
        grid[0, j].imshow(coloured(images[j]), interpolation="nearest")
        grid[1, j].imshow(coloured(drawn[j]), interpolation="nearest")
        shown = grid[2, j].imshow(
            residual[j], cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest"
        )
        grid[0, j].set_title(f"{names[j]}\n{errors[j]:.1e}", fontsize=7.5)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    for i, name in enumerate(("stamp", "drawn", "residual")):
        grid[i, 0].set_ylabel(name, fontsize=9)
    figure.suptitle(title, fontsize=11, x=0.02, ha="left")
    figure.subplots_adjust(left=0.05, right=0.93, top=0.8, bottom=0.03, wspace=0.04, hspace=0.06)
    bar = figure.colorbar(shown, cax=figure.add_axes((0.945, 0.03, 0.012, 0.24)))
    bar.ax.tick_params(labelsize=7)
    return figure
