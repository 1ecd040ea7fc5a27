"""What orchestration costs a run: Prefect, Dask and MLflow, start-up and bookkeeping.

    python -m benchmarks.orchestration

Runs the flow with its real servers twice over a chain whose stages only wait, in a new workspace
(the first run makes the databases), and prints the seconds of the parts and of the whole.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flows.dask_map import DaskMap
from flows.servers import start_prefect
from galpipe.tracking import MlflowTracker
from tests.running import environment
from tests.standing_chain import square, write_survey

DIGEST = "0" * 32


def prefect_server(root: Path) -> float:
    """Seconds from the start of a server to its first answer."""
    begin = time.perf_counter()
    server = start_prefect(root)
    server.wait()
    seconds = time.perf_counter() - begin
    server.stop()
    return seconds


def imported(module: str) -> float:
    """Seconds to import a module in a new interpreter."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - begin


def tracked_run(root: Path) -> float:
    """Seconds that a tracker takes for one training of 30 epochs."""
    tracker = MlflowTracker(root, "benchmark", "mark")
    with tracker.run("training", "benchmark", DIGEST) as run:
        for epoch in range(30):
            run.metrics({f"figure {n}": 0.0 for n in range(10)}, epoch)
    return tracker.overhead


def spread() -> tuple[float, float]:
    """Seconds to start and end two workers, and milliseconds per item on top of its own work."""
    shard_map = DaskMap(workers=2)
    list(shard_map(square, range(2)))
    begin = time.perf_counter()
    list(shard_map(abs, range(200)))
    per_item = (time.perf_counter() - begin) / 200
    shard_map.close()
    return shard_map.overhead, 1000 * per_item


def whole_run(survey: Path, root: Path) -> dict[str, float]:
    """The summary of one run of the command."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.standing_chain", str(survey), str(root)],
        check=True, capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    summary: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return summary


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        survey = write_survey(root)
        figures = {
            "Prefect server, first start (makes its database)": prefect_server(root),
            "Prefect server, later start": prefect_server(root),
            "import prefect": imported("prefect.flows"),
            "MLflow, first training of 30 epochs": tracked_run(root),
            "MLflow, a later one": tracked_run(root),
            "Dask, two workers, start and end": (dask := spread())[0],
            "first run, orchestration": whole_run(survey, root / "ws")["orchestration_seconds"],
            "second run, orchestration": whole_run(survey, root / "ws")["orchestration_seconds"],
        }
        for name, seconds in figures.items():
            print(f"{name:<50} {seconds:8.2f} s")
        print(f"{'Dask, an item of work beside its own time':<50} {dask[1]:8.2f} ms")


if __name__ == "__main__":
    main()
