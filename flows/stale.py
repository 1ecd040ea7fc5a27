"""What a killed run left open in Prefect: flow runs and task runs that no process works on."""

from __future__ import annotations

from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed

ENDED = {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}
MESSAGE = "The process of this run ended without saying so; a later run closed it."


def unfinished(client: SyncPrefectClient, mark: str, current: UUID | None) -> list[FlowRun]:
    """The flow runs tagged `mark`, except `current`, that have not ended by Prefect's account."""
    chosen = FlowRunFilter.model_validate({"tags": {"all_": [mark]}, "state": ENDED})
    return [run for run in client.read_flow_runs(flow_run_filter=chosen) if run.id != current]


def close_stale(client: SyncPrefectClient, mark: str, current: UUID | None) -> int:
    """Mark the unfinished flow runs tagged `mark`, except `current`, as Crashed; how many.

    Only to be called by the writer of the workspace, so that no living run has the tag.
    """
    stale = unfinished(client, mark, current)
    for run in stale:
        tasks = TaskRunFilter.model_validate({"flow_run_id": {"any_": [run.id]}, "state": ENDED})
        for task in client.read_task_runs(task_run_filter=tasks):
            client.set_task_run_state(task.id, Crashed(message=MESSAGE), force=True)
        client.set_flow_run_state(run.id, Crashed(message=MESSAGE), force=True)
    return len(stale)
