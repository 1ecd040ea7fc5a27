"""Whole trainings from several seeds, of which the one with the best held-out bound is kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from galpipe.errors import InputError
from galpipe.models.checkpoints import DESCRIPTION, WEIGHTS
from galpipe.models.engine.spec import Training
from galpipe.models.splits import Splits
from galpipe.stages import Context
from galpipe.workspace import Ref, write_bytes, write_json

HISTORY = "history.json"


def attempts(model: Any, training: Training, splits: Splits) -> list[tuple[Any, Training]]:
    """The trainings that a model asks for, from seeds in a row; most ask for themselves alone.

    Raises InputError where several are asked for and no validation split could tell between them.
    """
    count: int = getattr(model, "restarts", 1)
    if count == 1:
        return [(model, training)]
    if not splits.objects["validation"]:
        raise InputError(
            "training: restarts are told apart by the validation split, which has no usable stamp; "
            "give a larger sample, or restarts = 1."
        )
    alone = dataclasses.replace(model, restarts=1)
    return [
        (alone, dataclasses.replace(training, seed=training.seed + number))
        for number in range(count)
    ]


def best_of(
    context: Context,
    ref: Ref,
    settings: Mapping[str, Any],
    parents: Mapping[str, Any],
    trained: Sequence[Ref],
) -> Ref:
    """Commit, as `ref`, the training with the highest bound on validation objects.

    Each of `trained` is an output of its own and stays one, so that what was killed goes on with
    the restart it was at.  model.json tells the bound of each, in nats, under `restarts`.
    """
    workspace = context.workspace
    places = [workspace.place(one) for one in trained]
    histories = [json.loads((place / HISTORY).read_text()) for place in places]
    stopped = settings["training"]["patience"] is not None
    bounds = [held_out_bound(history, stopped) for history in histories]
    best = max(range(len(bounds)), key=lambda number: (bounds[number], -number))
    told = [
        {
            "seed": settings["training"]["seed"] + number,
            "validation_elbo": bound,
            "model": trained[number].digest,
            "kept": number == best,
        }
        for number, bound in enumerate(bounds)
    ]
    place = workspace.begin(ref)
    for name in (WEIGHTS, HISTORY):
        write_bytes(place / name, (places[best] / name).read_bytes())
    description = json.loads((places[best] / DESCRIPTION).read_text())
    write_json(place / DESCRIPTION, {**description, "restarts": told})
    kept = workspace.manifest(trained[best])
    assert kept is not None, "every restart is committed before one is chosen"
    kind = str(settings["model"]["kind"])
    with context.tracker.run("training", f"{kind} {ref.digest[:8]}", ref.digest) as run:
        run.params({"restarts": len(told), "seed": told[best]["seed"]})
        run.metrics({f"restart_{n}_validation_elbo": bound for n, bound in enumerate(bounds)})
        run.metrics({f"test_{name}": value for name, value in kept["figures"].items()})
        run.tags({"alarms": "; ".join(kept["alarms"]) or "none"})
        run.file(place / HISTORY)
        run.model(place, kind, "candidate")
    figures = {**kept["figures"], "restarts": len(told), "kept_seed": told[best]["seed"]}
    return workspace.commit(
        ref, settings, parents, figures=figures, alarms=kept["alarms"], objects=kept["objects"],
        accumulate=kept["accumulate"], restarts=told,
    )  # fmt: skip


def held_out_bound(history: Sequence[Mapping[str, Any]], best: bool) -> float:
    """The validation bound in nats of the weights that a training kept.

    Those of its last epoch, or with `best` (patience) of the best epoch of its last phase.
    """
    last = [float(r["validation_elbo"]) for r in history if r["phase"] == history[-1]["phase"]]
    return max(last) if best else last[-1]
