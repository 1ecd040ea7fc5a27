"""One of several processes that share a training: what torchrun starts, `ranks.py JOB`.

The job is a JSON file.  What is to be told goes to standard output, a JSON object a line; whatever
else is printed goes to standard error.  Standard input is never written to: its end is the end of
the process that asked for the training, and this one ends too, at once.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from galpipe import spec
from galpipe.errors import InputError
from galpipe.models import kinds
from galpipe.models.checkpoints import weights
from galpipe.models.engine.arithmetic import fixed_arithmetic
from galpipe.models.engine.group import Ranks
from galpipe.models.engine.spec import Training
from galpipe.models.engine.step import OutOfMemory
from galpipe.models.training import fitting_of, learnt_from
from galpipe.stages import Context
from galpipe.workspace import Ref, Workspace

LOOK = 1.0  # seconds between two looks at the parent


def main() -> None:
    tell = _channel()
    parent = os.getppid()
    threading.Thread(target=_watch, args=(parent,), name="tied", daemon=True).start()
    try:
        _fit(json.loads(Path(sys.argv[1]).read_text()), tell)
    except InputError as error:
        tell({"refused": str(error)})
        sys.exit(2)
    except OutOfMemory:
        tell({"out_of_memory": True})
        sys.exit(2)


def _fit(job: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
    training = spec.load(Training, job["training"], "training")
    model = kinds.spec_of(job["model"], "model")
    device = torch.device("cpu")
    if training.device == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    workspace = Workspace(Path(job["workspace"]))
    stamps, catalogue = Ref("stamps", job["stamps"]), Ref(*job["catalogue"])
    start = job["start"]
    begun = None if start is None else weights(workspace.place(Ref("model", start)))
    with fixed_arithmetic(training.threads):
        group = Ranks(device)
        say: Callable[[dict[str, Any]], None] = tell if group.rank == 0 else _silent
        splits, targets = learnt_from(Context(workspace), model, stamps, catalogue)
        fitting = fitting_of(
            model, training, splits, targets, Path(job["folder"]), device,
            lambda text: say({"say": text}), group, begun,
        )  # fmt: skip
        fitting.state.accumulate = max(fitting.state.accumulate, job["accumulate"])
        say({"begun": fitting.facts()})
        fitting.run(
            lambda epoch, record, speed: say(
                {"epoch": epoch.number, "record": record, "speed": speed}
            ),
            lambda text: say({"note": text}),
        )
        group.leave(fitting.learner)


def _silent(message: dict[str, Any]) -> None:
    """What the ranks beside the first tell, all saying the same."""


def _channel() -> Callable[[dict[str, Any]], None]:
    """What writes to standard output, which is then no longer anybody else's."""
    sys.stdout.flush()
    channel = os.dup(1)
    os.dup2(2, 1)

    def tell(message: dict[str, Any]) -> None:
        content = json.dumps(message).encode() + b"\n"
        while content:
            content = content[os.write(channel, content) :]

    return tell


def _watch(parent: int) -> None:
    """Wait for the end of standard input or of the parent, then end."""
    while os.getppid() == parent:
        readable, _, _ = select.select([0], [], [], LOOK)
        if readable and not os.read(0, 64):
            break
    os._exit(1)


if __name__ == "__main__":
    main()
