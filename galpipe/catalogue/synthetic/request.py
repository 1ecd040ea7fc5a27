"""What new galaxies are asked for: how many, of which component, with which conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from galpipe.errors import InputError
from galpipe.models.network import Network
from galpipe.models.splits import read_splits
from galpipe.models.targets import Wanted, read_targets
from galpipe.workspace import Ref, Workspace

NEAREST = 0.05  # of the training galaxies, whose other conditions stand for those not given
FEWEST = 32

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Request:
    """New galaxies, in the user's words."""

    count: int
    seed: int = 0
    component: int | None = None  # of a mixture; None: all, by their weights
    given: Mapping[str, float] = field(default_factory=dict)  # conditions by column
    normal: bool = False  # latent numbers from N(0, I) in place of the model's own prior


@dataclass(frozen=True)
class Conditions:
    """What the new galaxies are drawn for: (galaxy, column), with the columns' names."""

    columns: tuple[str, ...]
    values: Floats
    notes: tuple[str, ...]  # what to know of them


def check(request: Request, network: Network) -> None:
    """Raise InputError where the model cannot draw what is asked for."""
    kind = network.spec.kind
    if "generate" not in network.abilities:
        raise InputError(
            f"generate: a model of kind {kind!r} draws no new galaxies; it takes vade, flow_vae or "
            "a conditional VAE."
        )
    if request.component is not None:
        if "mixture" not in network.abilities:
            raise InputError(
                f"generate: a model of kind {kind!r} has no components; leave --component out."
            )
        components = int(network.spec.components)
        if not 0 <= request.component < components:
            raise InputError(
                f"generate: there is no component {request.component}; the model has 0 to "
                f"{components - 1}."
            )
    if request.normal and kind != "flow_vae":
        raise InputError("generate: only a flow_vae can be drawn from without its prior.")
    columns = network.facts.get("condition", {}).get("columns", [])
    unknown = [name for name in request.given if name not in columns]
    if unknown:
        told = f"it takes {', '.join(columns)}" if columns else "it takes none; leave --given out"
        raise InputError(f"generate: the model has no condition {unknown[0]!r}; {told}.")


def conditions(
    workspace: Workspace, request: Request, network: Network, stamps: Ref, catalogue: Ref
) -> Conditions | None:
    """Conditions of the new galaxies; None where the model takes none.

    They are those of training galaxies drawn at random.  Where some are given, the others are of
    galaxies drawn from the training galaxies that come nearest to them.
    """
    facts = network.facts.get("condition")
    if facts is None:
        return None
    columns = tuple(facts["columns"])
    wanted = Wanted("condition", columns, "numbers")
    targets = read_targets(workspace, stamps, catalogue, [wanted])
    rows = read_splits(workspace, stamps, catalogue).rows["train"]
    values = targets.values["condition"][rows].astype(np.float64)
    values = values[np.isfinite(values).all(1)]
    notes = []
    if request.given:
        places = [columns.index(name) for name in request.given]
        asked = np.array(list(request.given.values()))
        scatter = np.array(facts["scatter"])[places]
        distance = (((values[:, places] - asked) / scatter) ** 2).sum(1)
        number = min(max(FEWEST, int(NEAREST * len(values))), len(values))
        low, high = values[:, places].min(0), values[:, places].max(0)
        values = values[np.argsort(distance, kind="stable")[:number]]
        values[:, places] = asked
        notes = [
            f"{name} = {value:g} is outside the training's {a:g} to {b:g}: an extrapolation"
            for name, value, a, b in zip(request.given, asked, low, high, strict=True)
            if not a <= value <= b
        ]
    random = np.random.default_rng(request.seed)
    chosen = random.integers(len(values), size=request.count)
    return Conditions(columns, values[chosen], tuple(notes))
