"""The training stage: a model fitted on the training split, resumable exactly at any step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from galpipe import spec
from galpipe.errors import InputError
from galpipe.models import checkpoints, kinds
from galpipe.models.account import Account
from galpipe.models.backbones import learnt
from galpipe.models.engine.arithmetic import device_of, fixed_arithmetic, seed_all
from galpipe.models.engine.group import Group
from galpipe.models.engine.loop import JUDGING, Fitting
from galpipe.models.engine.spec import Training
from galpipe.models.engine.state import CHECKPOINT
from galpipe.models.material import Material, only
from galpipe.models.restarts import attempts, best_of
from galpipe.models.shared import JOB, LOG, refuse_too_many, share
from galpipe.models.spec import VIEWS, VaDE
from galpipe.models.splits import Splits, read_splits
from galpipe.models.targets import Targets, read_targets
from galpipe.stages import Context
from galpipe.workspace import Ref, address, write_json

VERSION = 3
STEPS = 25  # of a shortened training, per epoch
SMALLEST_BATCH = 8


def train(
    context: Context,
    model: Any,
    training: Training,
    stamps: Ref,
    catalogue: Ref,
    start: Ref | None = None,
) -> Ref:
    """Fit a network on the training split of the stamps; the Ref holds weights, history, figures.

    Addressed by what it learns from (stamp parts, the rows of each split, the values of what is
    learnt of them), so that the same stamps reuse it.  `start` is the model whose weights learnt
    encoders begin with.  Its whole state is kept on the way: a run that is killed ends with the
    same bytes.  Raises InputError where the training split is too small, the network does not fit
    the stamps or the loss is not finite.
    """
    workspace = context.workspace
    splits, targets = learnt_from(context, model, stamps, catalogue)
    settings = {"model": spec.identity(model), "training": spec.identity(training)}
    parents = splits.digests | {
        f"{name} targets": targets.digest(rows) for name, rows in splits.rows.items()
    }
    if start is not None:
        parents["start"] = start.digest
    ref = address("model", VERSION, settings, parents)
    if workspace.manifest(ref) is not None:
        return ref
    if not splits.objects["train"]:
        raise InputError(
            "training: no object of the training split has a usable stamp and all that is to be "
            "learnt of it; give a larger sample, or mend the columns of [model]."
        )
    device = device_of(training.device, "training")
    refuse_too_many(training, splits.objects["train"])
    tries = attempts(model, training, splits)
    if len(tries) > 1:
        trained = [train(context, *own, stamps, catalogue, start) for own in tries]
        return best_of(context, ref, settings, parents, trained)
    place = workspace.begin(ref, clean=False)
    with (
        fixed_arithmetic(training.threads),
        context.tracker.run("training", f"{model.kind} {ref.digest[:8]}", ref.digest) as run,
    ):
        account = Account(context, run, model, training, splits)
        if training.processes > 1:  # then nothing is left to do for `fitting` but to wear the end
            share(account, workspace, model, training, stamps, catalogue, start, place)
        weights = None if start is None else checkpoints.weights(workspace.place(start))
        fitting = fitting_of(
            model, training, splits, targets, place, device, account.say, weights=weights
        )
        account.begin(**fitting.facts())
        fitting.run(account.epoch, account.note)
        account.end()
        seed_all(training.seed, len(fitting.epochs), JUDGING)
        figures, alarms = fitting.learner.finish(fitting.material, context.progress)
        checkpoints.save_model(place, fitting.network)
        write_json(place / "history.json", fitting.state.history)
        run.metrics({f"test_{k}": v for k, v in figures.items()}, step=fitting.state.epochs)
        run.tags(
            {
                "alarms": "; ".join(alarms) or "none",
                "parts_of_a_batch": str(fitting.state.accumulate),
            }
        )
        run.file(place / "history.json")
        run.model(place, model.kind, "candidate")
    for name in (CHECKPOINT, JOB, LOG):
        (place / name).unlink(missing_ok=True)
    for alarm in alarms:
        context.progress.say(f"training: {alarm}")
    return workspace.commit(
        ref, settings, parents, figures=figures, alarms=alarms, objects=splits.objects,
        accumulate=fitting.state.accumulate,
    )  # fmt: skip


def learnt_from(
    context: Context, model: Any, stamps: Ref, catalogue: Ref
) -> tuple[Splits, Targets]:
    """The stamps that a model learns from, by split, and what it learns of them."""
    workspace = context.workspace
    targets = read_targets(workspace, stamps, catalogue, kinds.wanted(model))
    learnable = kinds.learnable(model, targets)
    return only(read_splits(workspace, stamps, catalogue), learnable), targets


def facts_of(model: Any, splits: Splits, targets: Targets) -> dict[str, Any]:
    """What the training split decides of a network: names of classes, and of numbers the scale."""
    rows = splits.rows["train"]
    facts: dict[str, Any] = {}
    for want in kinds.wanted(model):
        if want.kind == "class":
            names = targets.classes[want.name]
            counts = np.bincount(targets.values[want.name][rows], minlength=len(names))
            facts[want.name] = {"names": list(names), "objects": counts.tolist()}
        else:
            values = targets.values[want.name][rows].astype(np.float64)
            known = np.isfinite(values)
            count = np.maximum(known.sum(0), 1)
            mean = np.where(known, values, 0.0).sum(0) / count
            scatter = np.sqrt(np.where(known, (values - mean) ** 2, 0.0).sum(0) / count)
            facts[want.name] = {
                "columns": list(want.columns),
                "mean": mean.tolist(),
                "scatter": np.maximum(scatter, 1e-12).tolist(),
            }
    return facts


def shortened(model: Any, training: Training, objects: int) -> tuple[Any, Training]:
    """Model and training of a pruned run: about `pruned` epochs in the same proportions.

    Batches shrink, so that an epoch over few `objects` still takes STEPS of them.
    """
    if training.pruned is None:
        return model, training
    total = training.epochs
    if isinstance(model, VaDE):
        from galpipe.models.vade import schedule

        total = schedule.length(model.schedule)
        shorter = schedule.shortened(model.schedule, training.pruned)
        model = dataclasses.replace(model, schedule=shorter)
    if training.pruned >= total:
        return model, training
    rate = training.rate
    if rate.kind == "exponential":
        rate = dataclasses.replace(rate, every=1)
    return model, dataclasses.replace(
        training,
        epochs=min(training.epochs, training.pruned),
        rate=rate,
        batch=min(training.batch, max(SMALLEST_BATCH, objects // STEPS)),
    )


def fitting_of(
    model: Any,
    training: Training,
    splits: Splits,
    targets: Targets,
    folder: Path,
    device: torch.device,
    say: Callable[[str], None],
    group: Group | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> Fitting:
    """A training as it is kept in a folder, or a new one.

    `group`: the processes that share it; `weights`: those that learnt encoders begin with.
    """
    group = group or Group()
    own = (group.rank, group.size)
    material = Material(splits, targets.values, VIEWS[model.view], training, device, own)
    torch.manual_seed(training.seed)
    facts = facts_of(model, splits, targets)
    network = kinds.network_of(model, material.bands, material.size, facts)
    if weights is not None:
        learnt.begin(network, weights)
    learner = kinds.learner_of(network.to(device).eval(), training).to(device)
    return Fitting(learner, material, training, folder, say, group)
