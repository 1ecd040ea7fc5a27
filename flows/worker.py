"""The worker of `galpipe serve`: takes scheduled runs from Prefect, each in a process of its own.

Run as `python -m flows.worker WORKSPACE PARENT READY`, with Prefect's address in the environment.
It sees that the pool and the deployments of `deploy/prefect.yaml` are there, settles what an
earlier worker left, writes to the descriptor READY when it takes runs, and ends with the process
PARENT: runs in progress are asked to end first, and what they committed stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import yaml  # type: ignore[import-untyped]
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Cancelled
from prefect.workers.process import ProcessWorker

import flows
from flows import stale
from flows.session import workspace_mark
from galpipe.errors import WorkspaceInUse
from galpipe.workspace import Workspace

POOL = "galpipe"
MINE = WorkPoolFilter.model_validate({"name": {"any_": [POOL]}})
DEPLOYMENTS = Path(flows.__file__).resolve().parents[1] / "deploy" / "prefect.yaml"
LOOK = 1.0  # seconds between two looks at the parent
RUN_PATIENCE = 5.0  # seconds a run has to end in, before it is ended
GRACE = 1.5  # seconds the worker itself has to end in
MISSED = timedelta(minutes=1)  # a scheduled run that is later than this was missed


def main() -> None:
    """Prepare the server, say so, and work until the parent ends."""
    root, parent, ready = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        with get_client(sync_client=True) as client:
            make_pool(client)
            deploy(client)
            close_left(client, root)
            skip_missed(client)
        os.write(ready, b"ready")
        os.close(ready)
        worker = ProcessWorker(
            name="galpipe serve", work_pool_name=POOL, create_pool_if_not_found=False
        )
        asyncio.run(worker.start())


def make_pool(client: SyncPrefectClient) -> None:
    """Make the local work pool where it is absent."""
    pool = WorkPoolCreate(
        name=POOL,
        type=ProcessWorker.type,
        description="Surveys on the machine of `galpipe serve`, each run in its own process.",
        base_job_template=ProcessWorker.get_default_base_job_template(),
    )
    with contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(pool)


def deploy(client: SyncPrefectClient) -> None:
    """Make the deployments of `deploy/prefect.yaml` where they are absent.

    Those that are there are left as they are: their schedules may have been changed by hand.
    """
    if not DEPLOYMENTS.exists():  # installed without the top folder: the user brings a file
        return
    names = [one["name"] for one in yaml.safe_load(DEPLOYMENTS.read_text())["deployments"]]
    there = {one.name for one in client.read_deployments(work_pool_filter=MINE)}
    absent = [f"--name={name}" for name in names if name not in there]
    if absent:
        subprocess.run(  # noqa: S603 our own file and interpreter
            [
                sys.executable, "-m", "prefect", "--no-prompt", "deploy",
                "--prefect-file", str(DEPLOYMENTS), *absent,
            ],
            cwd=DEPLOYMENTS.parents[1], stdin=subprocess.DEVNULL, check=True,
        )  # fmt: skip


def close_left(client: SyncPrefectClient, root: Path) -> None:
    """Mark as Crashed what no process works on: nothing can, where nobody holds the workspace."""
    mark = workspace_mark(Path(os.path.abspath(root)))
    if stale.unfinished(client, mark, None):
        with contextlib.suppress(WorkspaceInUse), Workspace.open(root).writer("galpipe serve"):
            stale.close_stale(client, mark, None)


def skip_missed(client: SyncPrefectClient) -> None:
    """Cancel scheduled runs whose time passed while no worker ran; the next ones come in time."""
    late = FlowRunFilter.model_validate(
        {
            "state": {"type": {"any_": ["SCHEDULED"]}},
            "expected_start_time": {"before_": datetime.now(UTC) - MISSED},
        }
    )
    for run in client.read_flow_runs(flow_run_filter=late, work_pool_filter=MINE):
        if run.auto_scheduled:
            message = "Nobody ran `galpipe serve` at its time."
            client.set_flow_run_state(run.id, Cancelled(message=message), force=True)


def _follow(parent: int) -> None:
    """Wait for the parent's end; then end the runs, and this process."""
    while os.getppid() == parent:
        readable, _, _ = select.select([0], [], [], LOOK)
        if readable and not os.read(0, 64):
            break
    end_runs()
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(GRACE)
    os._exit(0)


def end_runs() -> None:
    """Ask the runs in progress to end, and end what does not, with all its processes."""
    runs = psutil.Process().children()
    below = psutil.Process().children(recursive=True)
    for run in runs:
        with contextlib.suppress(psutil.NoSuchProcess):
            run.terminate()
    psutil.wait_procs(runs, timeout=RUN_PATIENCE)
    for process in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


if __name__ == "__main__":
    main()
