"""The report's own figures: status, sky, training; and how a figure gets into the page.

Colours are those of Okabe & Ito (2008) and cividis; what a colour says, a marker or a word says.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from galpipe.catalogue.plots import any_script
from galpipe.catalogue.report.pictures import data_address
from galpipe.catalogue.report.release import Release

Floats = NDArray[np.float64]

INK, SOFT, GRID = "#1b2430", "#5b6673", "#dfe3e8"
BLUE, VERMILION, GREEN, AMBER = "#0072B2", "#D55E00", "#009E73", "#E69F00"
OKABE_ITO = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8a7f00", "#000000",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DOTS = 144  # per inch, of clouds of points, which are drawn as pixels
WIDE = 40.0  # degrees; a survey that spans more is shown on the whole sky
WIDEST, TALLEST, NARROWEST = 8.0, 5.2, 2.6  # inches, of the map of a small field
POLAR = 80.0  # degrees of declination from which RA and Dec make no plane


@dataclass(frozen=True)
class Chart:
    """A figure in the page: its data address, its width in CSS pixels and what it shows."""

    source: str
    width: int
    alt: str


def chart(figure: Figure, alt: str) -> Chart:
    """A figure as SVG; the same bytes for the same figure."""
    sink = io.BytesIO()
    width = round(figure.get_figwidth() * 96)
    FigureCanvasSVG(figure)
    settings = {"svg.hashsalt": "galpipe", "svg.fonttype": "path"}
    with matplotlib.rc_context(settings), any_script():
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(sink, format="svg", dpi=DOTS, metadata=nothing)
    text = re.sub(r"<!--.*?-->\n?", "", sink.getvalue().decode(), flags=re.DOTALL)
    return Chart(data_address(text.encode(), "image/svg+xml"), width, alt)


def plain_axes(axes: Axes) -> Axes:
    """Axes without a box: two lines, quiet ticks."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(SOFT)
    axes.tick_params(colors=INK, labelsize=8.5, length=3)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    return axes


def round_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two positive ones, as a logarithmic axis wants them."""
    if high < 4 * low:  # little more than a linear axis
        found = list(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
    else:
        first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
        steps = (1, 2, 5) if high < 50 * low else (1,)
        found = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return [float(value) for value in found if low <= value <= high]


def status_bars(by_status: Mapping[str, int]) -> Figure:
    """Objects by status: usable ones plain, others hatched."""
    names = list(by_status)
    counts = [by_status[name] for name in names]
    usable = ["OK" in name.split("|") for name in names]
    figure = Figure(figsize=(6.6, 0.32 * len(names) + 0.75), layout="constrained")
    axes = plain_axes(figure.subplots())
    bars = axes.barh(
        range(len(names)), counts, height=0.68, color=[BLUE if u else "#f6c9a8" for u in usable]
    )
    for bar, good in zip(bars, usable, strict=True):
        if not good:
            bar.set(hatch="////", edgecolor=VERMILION)
    for i, count in enumerate(counts):
        axes.text(count, i, f"  {count:,}", va="center", fontsize=8.5, color=INK)
    axes.set_yticks(range(len(names)), names, family="monospace", fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, max(counts, default=1) * 1.14)
    axes.set_xlabel("objects")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def sky_map(release: Release) -> Figure | None:
    """Where the objects lie, and where those without a usable stamp do; None without positions."""
    known = np.isfinite(release.ra) & np.isfinite(release.dec)
    if not known.any():
        return None
    ra, dec, usable = release.ra[known], release.dec[known], release.usable[known]
    middle = _mean_angle(ra)
    offset = (ra - middle + 180) % 360 - 180
    span = max(np.ptp(offset) * float(np.cos(np.radians(np.median(dec)))), np.ptp(dec))
    if span > WIDE or (np.abs(dec).max() > POLAR and span > 10):
        return _whole_sky(ra, dec, usable)
    if np.abs(dec).max() > POLAR:
        return _small_field(*_gnomonic(ra, dec), usable, None)
    return _small_field(offset, dec, usable, middle)


def _points(axes: Axes, x: Floats, y: Floats, usable: NDArray[np.bool_]) -> None:
    size = float(np.clip(6000 / max(len(x), 1), 2, 14))
    axes.scatter(
        x[usable], y[usable], s=size, color=BLUE, alpha=0.6, linewidths=0, rasterized=True,
        label=f"usable ({usable.sum():,})",
    )  # fmt: skip
    if (~usable).any():
        axes.scatter(
            x[~usable], y[~usable], s=26, color=VERMILION, marker="x", linewidths=1.1,
            label=f"no usable stamp ({(~usable).sum():,})",
        )  # fmt: skip


def _whole_sky(ra: Floats, dec: Floats, usable: NDArray[np.bool_]) -> Figure:
    """Mollweide, RA to the left, centred on 12 h or 0 h, whichever cuts fewer objects."""
    centre = 180.0 if np.cos(np.radians(ra)).mean() < 0 else 0.0
    figure = Figure(figsize=(9.2, 5.1), layout="constrained")
    axes = figure.add_subplot(projection="mollweide")
    x = -np.radians((ra - centre + 180) % 360 - 180)
    _points(axes, x, np.radians(dec), usable)
    ticks = np.arange(-150, 151, 30)
    axes.set_xticks(np.radians(ticks), [f"{(centre - t) % 360:.0f}°" for t in ticks])
    axes.tick_params(labelsize=8, colors=SOFT)
    for label in axes.get_xticklabels():  # they stand on the equator, among the objects
        label.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    axes.grid(color=GRID, linewidth=0.7)
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, 1.08), fontsize=8.5, frameon=False)
    return figure


def _small_field(x: Floats, dec: Floats, usable: NDArray[np.bool_], middle: float | None) -> Figure:
    """A field with equal scales; `middle` is the RA of x = 0, None for offsets from the centre."""
    squeeze = 1.0 if middle is None else max(float(np.cos(np.radians(np.median(dec)))), 0.05)
    wide, high = max(np.ptp(x) * squeeze, 1e-3), max(np.ptp(dec), 1e-3)
    inches = min(WIDEST / wide, TALLEST / high)
    box = max(wide * inches, NARROWEST), max(high * inches, NARROWEST)
    figure = Figure(figsize=(box[0] + 3.5, box[1] + 0.8), layout="constrained")
    axes = plain_axes(figure.subplots())
    _points(axes, x, dec, usable)
    half_x, half_y = 0.53 * box[0] / inches / squeeze, 0.53 * box[1] / inches
    centre_x, centre_y = (x.max() + x.min()) / 2, (dec.max() + dec.min()) / 2
    axes.set_xlim(centre_x + half_x, centre_x - half_x)
    axes.set_ylim(centre_y - half_y, centre_y + half_y)
    axes.set_aspect(1 / squeeze, adjustable="box")
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    digits = max(0, int(np.ceil(-np.log10(2 * half_x / 5))))
    if middle is None:
        axes.set_xlabel("offset to the east (deg)")
        axes.set_ylabel("offset to the north (deg)")
    else:
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{(value + middle) % 360:.{digits}f}°")
        )
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.{digits}f}°"))
        axes.set_xlabel("right ascension (ICRS)")
        axes.set_ylabel("declination")
    axes.xaxis.set_major_locator(MaxNLocator(max(2, round(box[0]))))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    figure.legend(loc="outside right upper", fontsize=8.5, frameon=False, markerscale=1.6)
    return figure


def _mean_angle(degrees: Floats) -> float:
    angles = np.radians(degrees)
    return float(np.degrees(np.arctan2(np.sin(angles).mean(), np.cos(angles).mean())) % 360)


def _gnomonic(ra: Floats, dec: Floats) -> tuple[Floats, Floats]:
    """Offsets in degrees on the plane that touches the sky at the objects' mean direction."""
    a, d = np.radians(ra), np.radians(dec)
    vectors = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)
    mean = vectors.mean(axis=0)
    mean /= np.linalg.norm(mean)
    a0, d0 = np.arctan2(mean[1], mean[0]), np.arcsin(mean[2])
    east = np.array([-np.sin(a0), np.cos(a0), 0.0])
    north = np.array([-np.sin(d0) * np.cos(a0), -np.sin(d0) * np.sin(a0), np.cos(d0)])
    depth = vectors @ mean
    return np.degrees(vectors @ east / depth), np.degrees(vectors @ north / depth)


CURVES = (  # name in the history, name on the axis
    ("elbo", "evidence lower bound (nats)"),
    ("loss", "loss"),
    ("mse", "mean squared error of the drawing"),
    ("divergence", "divergence from the prior (nats)"),
    ("accuracy", "accuracy of single views"),
)


def loss_curves(epochs: Sequence[Mapping[str, Any]], pixels: int) -> Figure:
    """What each epoch ended with: training dashed, validation whole; warm-up shaded.

    `pixels` of a stamp: the training notes squared differences summed over them.
    """
    history = [
        {**epoch, "train_mse": epoch["train_squared_difference"] / pixels}
        if "train_squared_difference" in epoch
        else epoch
        for epoch in epochs
    ]
    shown = [
        (name, title)
        for name, title in CURVES
        if any(f"{who}_{name}" in record for record in history for who in ("train", "validation"))
    ]
    if any(name == "elbo" for name, _ in shown):  # whose negative is the loss
        shown = [(name, title) for name, title in shown if name != "loss"]
    figure = Figure(figsize=(3.7 * max(len(shown), 1), 2.9), layout="constrained")
    grid = figure.subplots(1, max(len(shown), 1), squeeze=False)
    phases = [str(record.get("phase", "")) for record in history]
    for axes, (name, title) in zip(grid.flat, shown, strict=False):
        plain_axes(axes)
        _phases(axes, phases)
        for who, colour, line in (("train", AMBER, "--"), ("validation", BLUE, "-")):
            values = [record.get(f"{who}_{name}") for record in history]
            if any(value is not None for value in values):
                numbers = np.array([np.nan if v is None else v for v in values], float)
                steps = np.arange(1, len(values) + 1)
                axes.plot(steps, numbers, line, color=colour, linewidth=1.6, label=who)
        axes.set_title(title, fontsize=9, loc="left", color=INK)
        axes.set_xlim(0.5, len(history) + 0.5)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.ticklabel_format(axis="y", scilimits=(-2, 4), useMathText=True)
        axes.legend(fontsize=8, frameon=False)
    return figure


def _phases(axes: Axes, phases: Sequence[str]) -> None:
    """Bands behind the curves, named at the top."""
    begin = 0
    for i in range(1, len(phases) + 1):
        if i < len(phases) and phases[i] == phases[begin]:
            continue
        if phases[begin] == "warm-up":
            axes.axvspan(begin + 0.5, i + 0.5, color="#eef2f6", linewidth=0, zorder=0)
        if begin:
            axes.axvline(begin + 0.5, color=GRID, linewidth=0.8, zorder=0)
        begin = i
