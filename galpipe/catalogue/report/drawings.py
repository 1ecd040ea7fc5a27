"""What the network makes of galaxies: drawings with their residuals, and galaxies of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from galpipe.catalogue.galleries import coloured
from galpipe.catalogue.heldout import per_row, thinned
from galpipe.catalogue.reconstruction import images
from galpipe.catalogue.redrawn import can, generated, redrawn
from galpipe.catalogue.report.pictures import jpeg
from galpipe.catalogue.report.release import Inputs, Labels, Release
from galpipe.classes.anew.network import conditions_of, view_of
from galpipe.workspace import Ref, Workspace

EACH = 4  # best, random and worst drawn stamps
SAMPLES = 8  # galaxies drawn from each component
COMPONENTS = 24  # components shown, the heaviest ones


@dataclass(frozen=True)
class Drawn:
    """One stamp, what the network makes of it, and the difference."""

    id: str
    error: float
    stamp: str
    drawing: str
    residual: str


@dataclass(frozen=True)
class Reconstructions:
    """Groups of stamps by how well they are drawn; residuals share one scale, -limit to +limit."""

    groups: dict[str, list[Drawn]]
    limit: float
    n: int
    judged_on: str


@dataclass(frozen=True)
class Component:
    """One component of the network's mixture, as the network draws it."""

    name: str
    weight: float
    mean: str
    samples: list[str]


def reconstructions(
    workspace: Workspace, release: Release, inputs: Inputs, fewest: int, seed: int
) -> Reconstructions | None:
    """The best, random and the worst drawn of the held-out stamps (of all, where few are held out).

    None without a network or without a finite error.
    """
    if inputs.model is None:
        return None
    rows = np.flatnonzero(release.usable & (release.split == "test"))
    judged_on = "held-out"
    if len(rows) < fewest:
        rows, judged_on = np.flatnonzero(release.usable), "all"
    error = per_row(workspace, inputs.embeddings, "reconstruction_error", rows)
    if error is None or not np.isfinite(error).any():
        return None
    order = np.argsort(error, kind="stable")[: int(np.isfinite(error).sum())]
    few = min(EACH, len(order) // 3)
    middle = order[few : len(order) - few]
    some = np.sort(np.random.default_rng(seed).permutation(middle)[:EACH])
    chosen = {"best": order[:few], "random": some, "worst": order[len(order) - few :][::-1]}
    shown = np.concatenate(list(chosen.values()))
    stack = images(workspace, inputs.stamps, rows[shown], view_of(workspace, inputs.model))
    given = conditions_of(workspace, inputs.embeddings, rows[shown])
    drawings = redrawn(workspace, inputs.model, stack, given)
    residual = (stack - drawings).mean(axis=1)
    limit = float(np.quantile(np.abs(residual), 0.999)) or 1.0
    cards = [
        Drawn(
            release.ids[rows[place]],
            float(error[place]),
            jpeg(_eight_bit(coloured(stack[i]))),
            jpeg(_eight_bit(coloured(drawings[i]))),
            jpeg(_diverging(residual[i] / limit)),
        )
        for i, place in enumerate(shown)
    ]
    groups: dict[str, list[Drawn]] = {}
    begin = 0
    for name, members in chosen.items():
        groups[name] = cards[begin : begin + len(members)]
        begin += len(members)
    return Reconstructions({k: v for k, v in groups.items() if v}, limit, len(order), judged_on)


def components(workspace: Workspace, model: Ref | None, seed: int) -> list[Component]:
    """The heaviest components of the network's mixture, each with its mean and random galaxies."""
    if model is None or not can(workspace, model, "mixture"):
        return []
    weights, means, samples = generated(workspace, model, SAMPLES, seed)
    order = np.argsort(-weights, kind="stable")[:COMPONENTS]
    return [
        Component(
            f"m{k:02d}",
            float(weights[k]),
            jpeg(_eight_bit(coloured(means[k]))),
            [jpeg(_eight_bit(coloured(sample))) for sample in samples[k]],
        )
        for k in order
    ]


def map_rows(release: Release, most: int) -> Labels:
    """Assigned objects to put on a map, evenly along the catalogue."""
    return thinned(np.flatnonzero(release.cluster >= 0), most)


def _eight_bit(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _diverging(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """-1 to 1 as blue, white and red."""
    shades: NDArray[np.uint8] = colormaps["RdBu_r"](
        np.clip((values.astype(np.float64) + 1) / 2, 0, 1), bytes=True
    )[..., :3]
    return shades
