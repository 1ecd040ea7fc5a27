"""The plots of an evaluation: one PNG each, the same bytes for the same figures.

Colours are cividis and Okabe & Ito's, told apart by colour-blind readers.  Nothing here touches
matplotlib's global state, so that plots can be drawn in any thread.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from galpipe.catalogue import galleries, prediction_plots, supervised_plots
from galpipe.catalogue.heldout import NUISANCES, HeldOut, per_row
from galpipe.catalogue.reconstruction import images
from galpipe.catalogue.redrawn import redrawn
from galpipe.catalogue.spec import Evaluation
from galpipe.classes.anew.network import conditions_of, view_of
from galpipe.workspace import Ref, Workspace

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"  # Okabe & Ito (2008)
DOTS = 110  # per inch
EACH = 4  # best, random and worst drawn stamps shown
QUESTIONS = 12  # vote fractions shown as histograms; all are in figures.json


def draw(
    workspace: Workspace,
    spec: Evaluation,
    objects: HeldOut,
    figures: Mapping[str, Any],
    stamps: Ref,
    model: Ref | None,
    embeddings: Ref | None,
    folder: Path,
) -> list[Path]:
    """Draw every plot that the figures have something for; the paths, in a fixed order."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{name}: {text}" for name, text in figures["scheme"].items()]
    pages: dict[str, Figure] = {}
    if len(objects) and names:
        pages |= _members(workspace, spec, objects, figures, stamps, names)
        pages["occupancy"] = occupancy(figures["components"], figures["labels"], "Published labels")
        pages["overlap"] = overlap(figures["components"], figures["labels"], "published labels")
        pages["nuisances"] = nuisances(figures)
    published = figures["published"]
    if published["classes"] is not None:
        pages["confusion"] = confusion(published["classes"], figures["labels"], "Published labels")
    if published["votes"] and names:
        pages["votes"] = votes(published["votes"], figures["labels"])
    if figures["model"] is not None:
        own = figures["model"]
        mine = [f"m{k:02d}" for k in range(len(own["components"]["occupancy"]))]
        pages["model_occupancy"] = occupancy(own["components"], mine, "Model's own components")
        pages["model_overlap"] = overlap(own["components"], mine, "model's own components")
        if own["classes"] is not None:
            pages["model_confusion"] = confusion(own["classes"], mine, "Model's own components")
    if figures["classification"] is not None and figures["classification"]["n"]:
        pages |= supervised_plots.pages(figures["classification"])
    if figures["predictions"] is not None:
        pages |= prediction_plots.pages(figures["predictions"])
    if model is not None and figures["reconstruction"] is not None:
        pages["reconstructions"] = _reconstructions(
            workspace, spec, objects, stamps, model, embeddings
        )
    return [write(page, folder / f"{name}.png") for name, page in sorted(pages.items())]


def write(figure: Figure, path: Path) -> Path:
    """Save as PNG, without the library's version or a date."""
    FigureCanvasAgg(figure)
    with any_script():
        figure.savefig(path, dpi=DOTS, metadata={"Software": None})
    return path


@contextlib.contextmanager
def any_script() -> Iterator[None]:
    """Draw names of any script: those the font has not are boxes, and the figures name them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _members(
    workspace: Workspace,
    spec: Evaluation,
    objects: HeldOut,
    figures: Mapping[str, Any],
    stamps: Ref,
    names: Sequence[str],
) -> dict[str, Figure]:
    components = len(names)
    drawn = galleries.random_members(objects.cluster, components, spec.gallery, spec.seed)
    typical = galleries.typical_members(
        objects.cluster, objects.anomaly, objects.probability, components, spec.gallery
    )
    strangest = np.argsort(-objects.anomaly, kind="stable")[: 3 * spec.gallery]
    wanted = np.unique(np.concatenate([*drawn, *typical, strangest]))
    stack = images(workspace, stamps, objects.rows[wanted])

    def pick(positions: Any) -> Any:
        return stack[np.searchsorted(wanted, positions)]

    where = f"held-out objects: {figures['n']}" if figures["judged_on"] == "test" else "all objects"
    counts = figures["components"]["occupancy"]
    labels = [_wrapped(f"{n} ({c})") for n, c in zip(names, counts, strict=True)]
    rows = [strangest[i : i + spec.gallery] for i in range(0, len(strangest), spec.gallery)]
    scores = [
        f"-log p {objects.anomaly[row].max():.1f}\nto {objects.anomaly[row].min():.1f}"
        for row in rows
    ]
    return {
        "members_random": galleries.rows_of_stamps(
            [pick(p) for p in drawn], labels, "Random members of each cluster", spec.gallery, where
        ),
        "members_typical": galleries.rows_of_stamps(
            [pick(p) for p in typical], labels, "Most typical members", spec.gallery, where
        ),
        "anomalies": galleries.rows_of_stamps(
            [pick(p) for p in rows], scores, "Strangest objects", spec.gallery, where
        ),
    }


def _reconstructions(
    workspace: Workspace,
    spec: Evaluation,
    objects: HeldOut,
    stamps: Ref,
    model: Ref,
    embeddings: Ref | None,
) -> Figure:
    """The best, some random and the worst drawn of the judged objects."""
    error = per_row(workspace, embeddings, "reconstruction_error", objects.rows)
    assert error is not None
    order = np.argsort(error, kind="stable")[: np.isfinite(error).sum()]
    few = min(EACH, len(order) // 3)
    middle = np.random.default_rng(spec.seed).permutation(order[few : len(order) - few])[:EACH]
    groups = {"best": order[:few], "random": middle, "worst": order[len(order) - few :]}
    shown = np.concatenate(list(groups.values()))
    names = [name for name, group in groups.items() for _ in group]
    stack = images(workspace, stamps, objects.rows[shown], view_of(workspace, model))
    return galleries.reconstructions(
        stack,
        redrawn(workspace, model, stack, conditions_of(workspace, embeddings, objects.rows[shown])),
        error[shown],
        "Held-out galaxies, as the model draws them, and its mean squared errors",
        names,
    )


def _wrapped(text: str, width: int = 34) -> str:
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def confusion(classes: Mapping[str, Any], names: Sequence[str], title: str) -> Figure:
    """Counts of class against cluster; shades are fractions of the cluster."""
    counts = np.array(classes["confusion"]["counts"], np.float64)
    truth = [str(name).replace("_", " ") for name in classes["confusion"]["classes"]]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(
        figsize=(max(1.1 * len(truth), 4) + 2.2, 0.38 * len(names) + 2.2), layout="constrained"
    )
    axes = figure.subplots()
    shown = axes.imshow(share, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            colour = "black" if share[i, j] > 0.55 else "white"
            axes.text(j, i, f"{count:.0f}", ha="center", va="center", color=colour, fontsize=8.5)
    axes.set_xticks(range(len(truth)), truth, rotation=25, ha="right", parse_math=False)
    axes.set_yticks(range(len(names)), names)
    beyond = classes["beyond_inclination"]
    known = "" if beyond is None else f", beyond inclination {beyond['corrected']:.3f}"
    axes.set_title(
        f"{title} against the true classes (n = {classes['n']})\n"
        f"NMI {classes['nmi']:.3f} (at most {classes['nmi_bound']:.3f}), ARI {classes['ari']:.3f}, "
        f"purity {classes['purity']:.3f}{known}",
        fontsize=10,
        loc="left",
    )
    figure.colorbar(shown, ax=axes, label="fraction of the cluster")
    return figure


def votes(questions: Mapping[str, Any], names: Sequence[str]) -> Figure:
    """Histograms of each vote fraction per cluster: rows are clusters, columns questions."""
    shown = list(questions.items())[:QUESTIONS]
    figure = Figure(figsize=(1.5 * len(shown) + 1.6, 0.62 * len(names) + 1.9), layout="constrained")
    grid = figure.subplots(len(names), len(shown), squeeze=False, sharex=True)
    for j, (question, found) in enumerate(shown):
        edges = np.array(found["edges"])
        for i, cluster in enumerate(found["clusters"]):
            axes = grid[i, j]
            heights = np.array(cluster["histogram"], np.float64)
            axes.bar(
                edges[:-1],
                heights / max(heights.sum(), 1),
                np.diff(edges),
                align="edge",
                color=BLUE,
            )
            axes.set_ylim(0, 1)
            axes.set_yticks([])
            axes.set_xticks([0, 0.5, 1], ["0", "", "1"], fontsize=8)
            if cluster["mean"] is not None:
                axes.axvline(cluster["mean"], color=ORANGE, linewidth=1.5)
            for side in ("top", "right", "left"):
                axes.spines[side].set_visible(False)
            axes.text(
                0.97, 0.93, f"{cluster['n']}", ha="right", va="top", transform=axes.transAxes,
                fontsize=7, color="#444444",
            )  # fmt: skip
            if j == 0:
                axes.set_ylabel(names[i], rotation=0, ha="right", va="center", fontsize=9)
        grid[0, j].set_title(
            _wrapped(question.replace("_", " "), 17), fontsize=7.5, parse_math=False
        )
    figure.suptitle(
        _wrapped(
            "Vote fractions per cluster: share of its objects, their mean, their number",
            20 + 20 * len(shown),
        ),
        fontsize=10,
    )
    return figure


def overlap(components: Mapping[str, Any], names: Sequence[str], title: str) -> Figure:
    """Bhattacharyya overlap of every pair of components."""
    values = np.array(components["overlap"], np.float64)
    figure = Figure(
        figsize=(0.46 * len(names) + 2.4, 0.42 * len(names) + 1.9), layout="constrained"
    )
    axes = figure.subplots()
    shown = axes.imshow(values, cmap="cividis", vmin=0, vmax=1)
    if len(names) <= 16:
        for i in range(len(names)):
            for j in range(len(names)):
                colour = "black" if values[i, j] > 0.55 else "white"
                text = f"{values[i, j]:.2f}".lstrip("0") if values[i, j] < 0.995 else "1"
                axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=7)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_title(f"Overlap of the {title}", fontsize=10, loc="left")
    figure.colorbar(shown, ax=axes, label="Bhattacharyya coefficient", shrink=0.85)
    return figure


def occupancy(components: Mapping[str, Any], names: Sequence[str], title: str) -> Figure:
    """Objects per component; dead ones are marked."""
    counts = components["occupancy"]
    figure = Figure(figsize=(6.4, 0.26 * len(names) + 1.5), layout="constrained")
    axes = figure.subplots()
    dead = set(components["dead"])
    axes.barh(names, counts, color=[ORANGE if name in dead else BLUE for name in names])
    for i, (name, count) in enumerate(zip(names, counts, strict=True)):
        axes.text(
            count, i, f" {count}" + (" dead" if name in dead else ""), va="center", fontsize=8
        )
    axes.invert_yaxis()
    axes.set_xlabel("judged objects")
    axes.margins(x=0.12)
    effective = components["effective"]
    told = "" if effective is None else f": {effective:.1f} effective of {len(names)}"
    axes.set_title(f"{title}{told}", fontsize=10, loc="left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def nuisances(figures: Mapping[str, Any]) -> Figure:
    """Information of the labels on what they should not know, less chance, with two sigma of it."""
    who = [name for name in ("published", "model") if figures[name] is not None]
    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    axes = figure.subplots()
    shown = [
        name for name in NUISANCES if any(figures[w]["nuisances"][name] is not None for w in who)
    ]
    width = 0.8 / len(who)
    for k, labelling in enumerate(who):
        for i, name in enumerate(shown):
            found = figures[labelling]["nuisances"][name]
            if found is None:
                continue
            place = i + (k - (len(who) - 1) / 2) * width
            axes.bar(
                place, found["corrected"], width * 0.92, color=(BLUE, GREY)[k],
                label={"published": "published labels", "model": "model's own"}[labelling]
                if i == 0 else None,
            )  # fmt: skip
            axes.errorbar(
                place, 0, 2 * found["permuted_sigma"], color=ORANGE, capsize=4, linewidth=1.5,
                label="chance, ±2 sigma" if i == k == 0 else None,
            )  # fmt: skip
            z = "" if found["z"] is None else f"{found['z']:+.1f}\u03c3"
            top = max(found["corrected"], 2 * found["permuted_sigma"])
            axes.annotate(
                z, (place, top), (0, 4), textcoords="offset points", ha="center", fontsize=8
            )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(shown)), [_wrapped(NUISANCES[name], 14) for name in shown])
    axes.set_ylabel("mutual information less chance (nats)")
    axes.margins(y=0.15)
    axes.set_title("What the labels should not know", fontsize=10, loc="left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if shown:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure
