"""Run a survey in this process, stage by stage, as the flow does; or its command in another one."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import psutil

from galpipe import releases, survey
from galpipe.chain import STAGES, Chain
from galpipe.stages import Context, ShardMap, serial_map
from galpipe.workspace import Workspace

# What the stages of a survey import when they begin.
NEEDED = (
    "galpipe.archives.filed", "galpipe.archives.retrieve", "galpipe.archives.table",
    "galpipe.catalogue.evaluation", "galpipe.catalogue.labels", "galpipe.catalogue.report.stage",
    "galpipe.classes.clusters", "galpipe.sample.catalogue", "galpipe.stamps.prepare",
    "galpipe.stamps.scaling", "sklearn.cluster", "sklearn.manifold", "sklearn.metrics",
    "sklearn.mixture", "zarr",
)  # fmt: skip
HANG = 600.0  # seconds after which a process that should end or answer counts as hanging


def run_chain(
    survey_file: Path,
    root: Path,
    release: str | None = None,
    prune: int | None = None,
    until: str = STAGES[-1],
    map: ShardMap = serial_map,
) -> dict[str, Any]:
    """All stages of a survey up to one; returns the summary of the run."""
    chain = Chain(survey.load(survey_file), Context(Workspace.open(root), map=map), release, prune)
    for stage in STAGES[: STAGES.index(until) + 1]:
        chain.run(stage)
    return chain.summary()


def labels(root: Path, release: str = "r1", name: str = "sky") -> bytes:
    """The bytes of a published label file."""
    return (root / "releases" / name / release / releases.LABELS).read_bytes()


def command(*arguments: str | Path) -> list[str]:
    """The galpipe command of this environment."""
    return [sys.executable, "-m", "galpipe", *map(str, arguments)]


def call(*arguments: str | Path, timeout: float = HANG) -> subprocess.CompletedProcess[str]:
    """Run a galpipe command to its end."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=timeout, env=environment()
    )


def environment() -> dict[str, str]:
    """This process's environment, without what is its own (see `tests.conftest`).

    Nor is there what would send a run to somebody else's servers.
    """
    hidden = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "GALPIPE_WORKSPACE", "OMP_NUM_THREADS")
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    return {**kept, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}


def committed(root: Path) -> int:
    """How many outputs and shards a workspace has committed."""
    return len(Workspace(root).committed_files()) + len(
        list(root.glob("releases/*/*/release.json"))
    )


def kill_after(process: Started, root: Path, commits: int, timeout: float = HANG) -> int | None:
    """Kill -9 a process alone as soon as the workspace holds so many commits.

    Returns its exit code where it ended before, None where it was killed.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        code = process.poll()
        if code is not None:
            return code
        if committed(root) >= commits:
            process.kill()
            process.wait()
            return None
        time.sleep(0.002)
    process.kill()
    raise TimeoutError(f"{process} did not reach {commits} commits in {timeout} s")


class Started(Protocol):
    """A process that runs."""

    def poll(self) -> int | None: ...

    def kill(self) -> None: ...

    def wait(self) -> Any: ...


class ForkedChain:
    """`run_chain` in a process forked from one that has imported what the stages need."""

    def __init__(self, survey_file: Path, root: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, *NEEDED])
        self._process = context.Process(target=run_chain, args=(survey_file, root))
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> None:
        self._process.join()


def processes_of(root: Path) -> list[str]:
    """Command lines of running processes that name a workspace (in arguments or environment)."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
            if process.pid != os.getpid() and any(str(root) in word for word in words):
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found
