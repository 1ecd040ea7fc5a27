"""A run that a Prefect worker started, tied to the life of that worker.

The worker calls `python -m flows.deployed`, which `deploy/prefect.yaml` gives it as the command;
the environment says which flow run it is.  Where the worker dies, by `kill -9` or otherwise, the
run is asked to end as by SIGTERM, and is ended where it does not.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path

import flows

LOOK = 0.5  # seconds between two looks at the worker
PATIENCE = 6.0  # seconds from SIGTERM to a forced end


def enter_checkout() -> dict[str, str]:
    """Prefect's pull step: go to the folder galpipe is installed from, and name it."""
    folder = Path(flows.__file__).resolve().parents[1]
    os.chdir(folder)
    return {"directory": str(folder)}


def follow(parent: int) -> None:
    """Wait for the end of the process that started this one, then end this one."""
    while os.getppid() == parent:
        time.sleep(LOOK)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(1)


def main() -> None:
    """Run the flow run of the environment variable PREFECT__FLOW_RUN_ID to its end."""
    threading.Thread(target=follow, args=(os.getppid(),), daemon=True).start()
    sys.argv = ["prefect.engine"]
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
