"""A map of the clustered vectors in two dimensions, coloured by classes and by nuisances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from galpipe.catalogue.report.charts import INK, MARKERS, OKABE_ITO, SOFT, round_ticks
from galpipe.catalogue.report.release import Quantity

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

POINTS = 1500  # objects on the map, at most
FEWEST = 60  # objects below which neighbourhoods mean nothing: principal axes in their place
ITERATIONS = 500
PANEL = 3.7  # inches
# A ring of colours without white: blue, dark, vermilion, light and back, by lightness for those who
# see no red or green.
ANGLES = LinearSegmentedColormap.from_list(
    "angles", ["#2b8cc4", "#2d1e4f", "#d55e00", "#dcc46a", "#2b8cc4"]
)


def flattened(vectors: Floats, seed: int) -> tuple[Floats, str]:
    """(object, 2) places on a map of (object, dimension) vectors, and how they were found.

    t-SNE (van der Maaten & Hinton 2008) from the principal axes, one thread, so that the same
    vectors give the same map.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        if len(vectors) < FEWEST or vectors.shape[1] < 3:
            return _principal(PCA, vectors), "the first two principal axes"
        perplexity = float(np.clip(len(vectors) / 50, 10, 40))
        start = PCA(2, svd_solver="full").fit_transform(vectors)
        start = start / start[:, 0].std() * 1e-4
        map_ = TSNE(
            2, perplexity=perplexity, init=start.astype(np.float32), max_iter=ITERATIONS,
            random_state=seed, n_jobs=1, learning_rate="auto",
        ).fit_transform(vectors.astype(np.float32))  # fmt: skip
    return np.asarray(map_, np.float64), f"t-SNE, perplexity {perplexity:.0f}"


def _principal(pca: Any, vectors: Floats) -> Floats:
    count = min(2, *vectors.shape)
    found = np.zeros((len(vectors), 2))
    if len(vectors) > 1:
        found[:, :count] = pca(count, svd_solver="full").fit_transform(vectors)
    return found


def latent_map(
    places: Floats,
    cluster: Labels,
    names: Sequence[str],
    truth: NDArray[Any] | None,
    nuisances: Mapping[str, Quantity],
    rows: Labels,
) -> Figure:
    """Panels of the same map; `truth` and `nuisances` are of the whole catalogue, `rows` shown."""
    panels = 1 + (truth is not None) + len(nuisances)
    columns = min(3, panels)
    lines = -(-panels // columns)
    figure = Figure(figsize=(PANEL * columns, (PANEL + 0.1) * lines), layout="constrained")
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in grid[panels:]:
        axes.set_axis_off()
    left = iter(grid)
    _kinds(next(left), places, cluster, names, "clusters")
    if truth is not None:
        mine = truth[rows]
        kinds = sorted({str(name) for name in mine if name is not None})
        code = {name: i for i, name in enumerate(kinds)}
        codes = np.array([-1 if name is None else code[str(name)] for name in mine], np.int64)
        _kinds(next(left), places, codes, [_short(name) for name in kinds], "true classes")
    for key, quantity in nuisances.items():
        _amounts(next(left), figure, places, quantity, rows, cyclic=key == "position_angle")
    return figure


def _frame(axes: Axes, places: Floats, title: str) -> None:
    axes.set_title(title, fontsize=9.5, loc="left", color=INK, parse_math=False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#c9d0d8")
    low, high = places.min(axis=0), places.max(axis=0)
    room = np.maximum(0.04 * (high - low), 1e-3)
    axes.set_xlim(low[0] - room[0], high[0] + room[0])
    axes.set_ylim(low[1] - room[1], high[1] + room[1])


def _size(places: Floats) -> float:
    return float(np.clip(11000 / max(len(places), 1), 5.0, 26.0))


def _cloud(axes: Axes, places: Floats, size: float, **looks: Any) -> Any:
    return axes.scatter(places[:, 0], places[:, 1], s=size, linewidths=0, rasterized=True, **looks)


def _kinds(axes: Axes, places: Floats, codes: Labels, names: Sequence[str], title: str) -> None:
    """Points by class: a colour and a marker each, and its name where it is densest."""
    _frame(axes, places, title)
    unknown = codes < 0
    taken: list[tuple[float, float]] = []
    _cloud(axes, places[unknown], _size(places), color="#d0d5db")
    for code, name in enumerate(names):
        mine = places[codes == code]
        colour = OKABE_ITO[code % len(OKABE_ITO)]
        marker = MARKERS[(code + code // len(OKABE_ITO)) % len(MARKERS)]
        _cloud(axes, mine, _size(places) * 1.25, color=colour, marker=marker, alpha=0.8)
        if len(mine):
            x, y = _free(_densest(mine), taken, len(name), axes)
            axes.text(
                x, y, name, fontsize=8, weight="bold", color=INK, ha="center", va="center",
                parse_math=False,
                bbox={
                    "boxstyle": "round,pad=0.18", "facecolor": "white", "edgecolor": colour,
                    "alpha": 0.85, "linewidth": 1.0,
                },
            )  # fmt: skip


def _amounts(
    axes: Axes, figure: Figure, places: Floats, quantity: Quantity, rows: Labels, *, cyclic: bool
) -> None:
    """Points by a number, its middle 96 per cent over the colours."""
    _frame(axes, places, quantity.axis)
    values = quantity.values[rows]
    defined = np.isfinite(values)
    _cloud(axes, places[~defined], _size(places) * 0.6, color="#d9dde2")
    if not defined.any():
        return
    low, high = (0.0, 180.0) if cyclic else np.quantile(values[defined], [0.02, 0.98])
    if quantity.logarithmic and low > 0:
        scale: dict[str, Any] = {"norm": LogNorm(low, high if high > low else low * 1.01)}
    else:
        scale = {"vmin": low, "vmax": high if high > low else low + 1}
    shades = ANGLES if cyclic else "cividis"
    shown = _cloud(
        axes, places[defined], _size(places) * 1.25, c=values[defined], cmap=shades, **scale
    )
    bar = figure.colorbar(shown, ax=axes, location="bottom", shrink=0.85, aspect=28, pad=0.02)
    bar.ax.tick_params(labelsize=7.5, colors=SOFT, length=2)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    if quantity.logarithmic and low > 0:
        ticks = round_ticks(low, high)
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    elif cyclic:
        bar.set_ticks([0, 45, 90, 135, 180])


def _densest(points: Floats) -> Floats:
    """The point with the most neighbours: a name stands among its own, not between two groups."""
    if len(points) < 3:
        return np.asarray(points[0], np.float64)
    some = points[:: max(1, len(points) // 400)]
    apart = ((some[:, None] - some[None]) ** 2).sum(axis=2)
    near = np.quantile(apart, 0.1)
    return np.asarray(some[(apart <= near).sum(axis=1).argmax()], np.float64)


def _free(
    place: Floats, taken: list[tuple[float, float]], letters: int, axes: Axes
) -> tuple[float, float]:
    """The nearest place below or above where no name stands yet; it is taken from now on."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    wide, tall = (0.03 + 0.013 * letters) * (right - left), 0.062 * (high - low)
    x = min(max(float(place[0]), left + wide), right - wide)
    for step in (0, -1, 1, -2, 2, -3, 3):
        y = float(place[1]) + step * tall
        inside = low + tall < y < high - tall
        if inside and all(abs(x - u) > 2 * wide or abs(y - v) >= 0.99 * tall for u, v in taken):
            break
    taken.append((x, y))
    return x, y


def _short(name: str) -> str:
    text = name.replace("_", " ")
    return text if len(text) <= 18 else text[:17] + "…"
