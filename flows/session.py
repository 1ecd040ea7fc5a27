"""A run's hold on its workspace: the writer's lock, the context of the stages, the word it leaves.

A run from the command line takes the lock before it starts any server, one from a Prefect
deployment when its flow begins; both pass through `session`, and within one process the second
call joins the first.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.dask_map import DaskMap
from galpipe import progress
from galpipe.chain import Chain
from galpipe.spec import digest
from galpipe.stages import Context, Progress, serial_map
from galpipe.survey import Survey
from galpipe.tracking import MlflowTracker
from galpipe.workspace import OPEN_RUN, Workspace, write_json

IDENTITY = "identity.json"


@dataclass
class Session:
    """What one run holds."""

    survey: Survey
    context: Context
    map: DaskMap
    tracker: MlflowTracker
    mark: str  # the tag of this workspace's runs in Prefect and MLflow
    stale: bool  # an earlier run ended without saying so
    _chain: Chain | None = None

    def chain(self, release: str | None, prune: int | None) -> Chain:
        """The chain of this run; the same one for all who ask."""
        if self._chain is None:
            self._chain = Chain(self.survey, self.context, release, prune)
        return self._chain


_open: dict[Path, Session] = {}


@contextlib.contextmanager
def session(
    survey: Survey,
    root: Path,
    command: str,
    *,
    workers: int | None = None,
    dask: str | None = None,
    progress_to: Progress | None = None,
) -> Iterator[Session]:
    """Hold the workspace for a run of a survey; raises WorkspaceInUse where another run does."""
    place = Path(os.path.abspath(root))
    if place in _open:
        yield _open[place]
        return
    workspace = Workspace.open(root)
    with workspace.writer(command):
        word = workspace.root / OPEN_RUN
        mark = workspace_mark(place)
        tracker = MlflowTracker(place, survey.name, mark)
        shard_map = DaskMap(workers, dask)
        # On one machine a network takes all cores by itself; a cluster's workers have their own.
        network_map = shard_map if dask else serial_map
        watcher = progress_to or progress.choose()
        context = Context(workspace, shard_map, network_map, watcher, tracker)
        opened = Session(survey, context, shard_map, tracker, mark, stale=word.exists())
        write_json(word, {"process": os.getpid(), "host": socket.gethostname(), "command": command})
        _open[place] = opened
        try:
            yield opened
        finally:
            del _open[place]
            context.progress.finish()
            shard_map.close()
            # Not reached when the process is killed: then the next run cleans up after it.
            if not opened.stale:
                word.unlink(missing_ok=True)


def workspace_mark(place: Path) -> str:
    """What tells the runs of this workspace from others' on a shared server.

    It stays while the workspace stays where it is, on any host that sees it; a copy has another.
    """
    path = place / IDENTITY
    if not path.exists():
        write_json(path, {"id": uuid.uuid4().hex})
    identity = json.loads(path.read_text())["id"]
    return f"galpipe-{digest([identity, str(place.resolve())])[:12]}"
