"""What is open in Prefect and should not be: runs that were killed, and ends that got lost."""

from __future__ import annotations

import time
from collections.abc import Collection
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Completed, Crashed

LOOK = 0.05  # seconds between two looks at what is written
PATIENCE = 3.0  # seconds in which the server is to write it
OPEN = {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}
INTERRUPTED = "The run was interrupted."
MESSAGE = "The process of this run ended without saying so; a later run closed it."


def unfinished(client: SyncPrefectClient, mark: str, current: UUID | None) -> list[FlowRun]:
    """The flow runs tagged `mark`, except `current`, that have not ended by Prefect's account."""
    chosen = FlowRunFilter.model_validate({"tags": {"all_": [mark]}, "state": OPEN})
    return [run for run in client.read_flow_runs(flow_run_filter=chosen) if run.id != current]


def close_stale(client: SyncPrefectClient, mark: str, current: UUID | None) -> int:
    """Mark the unfinished flow runs tagged `mark`, except `current`, as Crashed; how many.

    Only to be called by the writer of the workspace, so that no living run has the tag.
    """
    stale = unfinished(client, mark, current)
    for run in stale:
        tasks = TaskRunFilter.model_validate({"flow_run_id": {"any_": [run.id]}, "state": OPEN})
        for task in client.read_task_runs(task_run_filter=tasks):
            client.set_task_run_state(task.id, Crashed(message=MESSAGE), force=True)
        client.set_flow_run_state(run.id, Crashed(message=MESSAGE), force=True)
    return len(stale)


def settle(client: SyncPrefectClient, current: UUID, done: Collection[str], patience: float) -> int:
    """See that Prefect's database has the end of every task of a flow run that is about to end.

    Prefect hears of a task by events that the server takes into memory and writes a moment later;
    what is held by a server that is stopped then is lost.  What is still open when `patience`
    seconds are over is marked, those named in `done` as Completed and others as Crashed, and so
    written before this returns.  Returns how many were marked.
    """
    own = TaskRunFilter.model_validate({"flow_run_id": {"any_": [current]}})
    end = time.monotonic() + patience
    while True:
        tasks = client.read_task_runs(task_run_filter=own)
        late = [task for task in tasks if not (task.state and task.state.is_final())]
        if {task.name for task in tasks} >= set(done) and not late:
            return 0
        if time.monotonic() > end:
            break
        time.sleep(LOOK)
    for task in late:
        state: State = Completed() if task.name in done else Crashed(message=INTERRUPTED)
        client.set_task_run_state(task.id, state, force=True)
    return len(late)
