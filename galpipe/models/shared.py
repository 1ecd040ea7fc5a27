"""A training whose steps several processes take together, told as if it were done here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from galpipe import spec
from galpipe.errors import InputError
from galpipe.models.account import Account
from galpipe.models.engine import launch
from galpipe.models.engine.loop import out_of_memory
from galpipe.models.engine.spec import Training
from galpipe.models.engine.state import kept_state
from galpipe.models.engine.step import parts_after
from galpipe.workspace import Ref, Workspace, write_json

JOB, LOG = "job.json", "processes.log"  # in the training's folder, until it is done


def refuse_too_many(training: Training, objects: int) -> None:
    """Refuse processes that would have none of the `objects` to learn from, or no GPU."""
    if training.processes > objects or training.processes > training.batch:
        raise InputError(
            f"[training] processes = {training.processes} are too many to share {objects} usable "
            f"stamps in batches of {training.batch}; give fewer."
        )
    if training.device == "cuda" and training.processes > torch.cuda.device_count():
        raise InputError(
            f"[training] processes = {training.processes} need a GPU each, and this machine has "
            f"{torch.cuda.device_count()}; give fewer."
        )


def share(
    account: Account,
    workspace: Workspace,
    model: Any,
    training: Training,
    stamps: Ref,
    catalogue: Ref,
    start: Ref | None,
    place: Path,
) -> None:
    """Let `processes` take all the steps that are left; the last state is then kept in `place`.

    A process that runs out of memory stops them all, as the others wait for its gradients: they
    begin again from the state that was kept last, with batches in more parts.
    """
    job = {
        "workspace": str(workspace.root.absolute()),
        "folder": str(place.absolute()),
        "model": spec.dump(model),
        "training": spec.dump(training),
        "stamps": stamps.digest,
        "catalogue": [catalogue.stage, catalogue.digest],
        "start": None if start is None else start.digest,
    }
    parts = training.accumulate
    while True:
        write_json(place / JOB, {**job, "accumulate": parts})
        if _took_all(account, training, place):
            return
        kept = kept_state(place)
        each = math.ceil(training.batch / training.processes)
        parts = parts_after(max(parts, kept.accumulate if kept else 1), each)
        account.say(out_of_memory(parts))


def _took_all(account: Account, training: Training, place: Path) -> bool:
    """Whether the processes came to the end; False where the memory did."""
    short = False
    log = place / LOG
    try:
        with launch.ranks(place / JOB, training.processes, training.threads, log) as messages:
            for message in messages:
                match message:
                    case {"refused": text}:
                        raise InputError(text)
                    case {"out_of_memory": _}:
                        short = True
                    case {"begun": facts}:
                        account.begin(**facts)
                    case {"epoch": number, "record": record, "speed": speed}:
                        account.epoch(number, record, speed)
                    case {"note": text}:
                        account.note(text)
                    case {"say": text}:
                        account.say(text)
    except launch.Failed as failed:
        if not short:
            raise InputError(
                f"training: one of the {training.processes} processes ended with an error; all "
                f"that they printed is in {log}, and its end is: {failed}"
            ) from None
    return not short
