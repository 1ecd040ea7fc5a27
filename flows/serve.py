"""`galpipe serve`: both dashboards on loopback and the worker of scheduled runs, in one command."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from flows.servers import Server, announce, prefect_home, start, start_prefect, withdraw
from flows.signals import answered
from galpipe.errors import InputError
from galpipe.tracking import DATABASE, EMPTY, server_environment
from galpipe.workspace import Workspace

MLFLOW_APP = "mlflow.server.fastapi_app:app"
LOOK = 0.5  # seconds between two looks at the servers
WORKER_START_LIMIT = 90.0  # seconds; a first start makes the deployments: 8 s on two idle cores
WORKER_STOP_LIMIT = 6.5  # seconds; runs in progress get 5 of them
POLL = 2  # seconds between two questions for scheduled runs


class Worker:
    """The process that takes scheduled runs; `wait` returns when it does."""

    def __init__(self, process: subprocess.Popen[bytes], ready: int, log: Path) -> None:
        self.name, self.process, self.log = "worker", process, log
        self._ready = ready

    def wait(self) -> None:
        """Return when the worker takes runs; raises InputError where it ended or never does."""
        limit = time.monotonic() + WORKER_START_LIMIT
        while not select.select([self._ready], [], [], LOOK)[0] and time.monotonic() < limit:
            continue
        said = select.select([self._ready], [], [], 0)[0] and os.read(self._ready, 64)
        os.close(self._ready)
        if not said:
            self.stop()
            raise InputError(f"the Prefect worker did not start; its log is {self.log}.")

    def stop(self) -> None:
        """End the worker and its runs, which keep what they committed; at most a few seconds."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(WORKER_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_worker(root: Path, environment: Mapping[str, str]) -> Worker:
    """Start the worker of a workspace; it runs surveys with the Python of this process."""
    log = prefect_home(root) / "worker.log"
    reader, writer = os.pipe()
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 our own module and interpreter
            [
                sys.executable, "-m", "flows.worker",
                str(root.absolute()), str(os.getpid()), str(writer),
            ],
            stdin=subprocess.PIPE, stdout=output, stderr=output,
            env={**os.environ, **environment}, pass_fds=(writer,), start_new_session=True,
        )  # fmt: skip
    os.close(writer)
    return Worker(process, reader, log)


def worker_environment(root: Path, api: str) -> dict[str, str]:
    """What the worker and its runs find in their environment."""
    own = str(Path(sys.executable).parent)
    return {
        "PREFECT_API_URL": api,
        "PREFECT_HOME": str(prefect_home(root)),
        "PREFECT_WORKER_QUERY_SECONDS": str(POLL),
        "GALPIPE_WORKSPACE": str(root.absolute()),
        "PATH": os.pathsep.join([own, os.environ.get("PATH", os.defpath)]),
    }


def start_mlflow(root: Path, port: int = 0) -> Server:
    """Start an MLflow server on the workspace's own store."""
    log = root.absolute() / "mlflow" / "server.log"
    EMPTY.give(root.absolute() / DATABASE)
    return start("MLflow", MLFLOW_APP, "/health", port, server_environment(root), log)


def serve(workspace: Path | str, prefect_port: int = 4200, mlflow_port: int = 5000) -> int:
    """Show both dashboards and run what is scheduled or started there, until Ctrl-C or SIGTERM.

    Returns the exit status 0.  Runs on the workspace from the command line go on beside it, and use
    its Prefect server while it lives.  Runs of its own worker end with it, and can be gone on with.
    Raises InputError where a port is in use.
    """
    root = Workspace.open(workspace).root
    with answered(), contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as parts:
        prefect = start_prefect(root, prefect_port, dashboard=True)
        parts.callback(prefect.stop)
        mlflow = start_mlflow(root, mlflow_port)
        parts.callback(mlflow.stop)
        for server in (prefect, mlflow):
            server.wait()
        announce(root, prefect.address, mlflow.address)
        parts.callback(withdraw, root)
        parts.callback(prefect.let_go)  # both end at the same time
        print(f"Prefect  {prefect.address}\nMLflow   {mlflow.address}", flush=True)
        api = f"{prefect.address}/api"
        worker = start_worker(root, worker_environment(root, api))
        parts.callback(worker.stop)
        worker.wait()
        tool = shlex.quote(str(Path(sys.executable).with_name("prefect")))
        print(f"Worker   PREFECT_API_URL={api} {tool} deployment run survey/demo", flush=True)
        print(
            "Start a run with the line above, or at Deployments in the Prefect dashboard.\n"
            "Ctrl-C ends all of it; a run in progress can be gone on with.",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        while True:
            time.sleep(LOOK)
            for part in (prefect, mlflow, worker):
                if part.process.poll() is not None:
                    text = f"the {part.name} process ended; its log is {part.log}."
                    print(f"galpipe: {text}", file=sys.stderr)
                    return 1
    return 0
