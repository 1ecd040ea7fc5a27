"""`galpipe serve`: the dashboards of Prefect and MLflow on loopback, with one command."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

from flows.servers import Server, announce, start, start_prefect, withdraw
from flows.signals import answered
from galpipe.tracking import server_environment
from galpipe.workspace import Workspace

MLFLOW_APP = "mlflow.server.fastapi_app:app"
LOOK = 0.5  # seconds between two looks at the servers


def start_mlflow(root: Path, port: int = 0) -> Server:
    """Start an MLflow server on the workspace's own store."""
    log = root.absolute() / "mlflow" / "server.log"
    return start("MLflow", MLFLOW_APP, "/health", port, server_environment(root), log)


def serve(workspace: Path | str, prefect_port: int = 4200, mlflow_port: int = 5000) -> int:
    """Show both dashboards until Ctrl-C or SIGTERM; returns the exit status 0.

    Runs on the workspace go on beside it, and use its Prefect server while it lives.  Raises
    InputError where a port is in use.
    """
    root = Workspace.open(workspace).root
    with answered(), contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as servers:
        prefect = start_prefect(root, prefect_port, dashboard=True)
        servers.callback(prefect.stop)
        mlflow = start_mlflow(root, mlflow_port)
        servers.callback(mlflow.stop)
        for server in (prefect, mlflow):
            server.wait()
        announce(root, prefect.address, mlflow.address)
        servers.callback(withdraw, root)
        print(f"Prefect  {prefect.address}\nMLflow   {mlflow.address}", flush=True)
        print("Ctrl-C ends both.", file=sys.stderr, flush=True)
        while True:
            time.sleep(LOOK)
            for server in (prefect, mlflow):
                if server.process.poll() is not None:
                    text = f"the {server.name} server ended; its log is {server.log}."
                    print(f"galpipe: {text}", file=sys.stderr)
                    return 1
    return 0
