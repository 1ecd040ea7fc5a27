"""Several processes that share a training, started by torchrun and tied to this one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PACKAGES = Path(__file__).parents[3]  # the folder that galpipe is in, for the processes to find
STOP_LIMIT = 4.0  # seconds for torchrun and its processes to end
LOG_TAIL = 2000  # characters of the log that a failure shows


class Failed(Exception):
    """The processes ended without having finished; the text is the end of what they printed."""


@contextlib.contextmanager
def ranks(job: Path, processes: int, threads: int, log: Path) -> Iterator[Iterator[dict[str, Any]]]:
    """Start so many processes on one machine for a job; what they tell, until the last has ended.

    None of them outlives the block, or this process, whichever way either ends.  What they print
    goes to `log`.  Raises Failed where one ends with an error.
    """
    paths = [str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment: Mapping[str, str] = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": str(threads),
    }
    with log.open("wb") as printed:
        process = subprocess.Popen(  # noqa: S603 our own module and interpreter
            [
                sys.executable, "-m", "torch.distributed.run",
                "--nnodes", "1", "--nproc-per-node", str(processes), "--rdzv-backend", "c10d",
                "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1",
                "-m", "galpipe.models.engine.ranks", str(job),
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=printed,
            env=environment, start_new_session=True,
        )  # fmt: skip
    try:
        yield _heard(process, log)
    finally:
        _stop(process)


def _heard(process: subprocess.Popen[bytes], log: Path) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)
    if process.wait():
        raise Failed(log.read_text(errors="replace")[-LOG_TAIL:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End torchrun and its processes: these end by themselves once their input is closed."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_LIMIT)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    process.stdout.close()
