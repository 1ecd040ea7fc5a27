"""The real command, killed and interrupted: nothing stays behind, nothing is lost, same bytes."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import sky
from tests.running import call, command, committed, environment, labels, processes_of

MODEL = """kind = "vade"
latent = 4
components = 3
encoder = [{ channels = 4 }, { channels = 8 }]
decoder = [{ channels = 8 }, { channels = 4 }]

initialisation_restarts = 1
[model.schedule]
warm_up = 3
cycles = 1
annealing = 2
static = 2
[training]
threads = 1
batch = 32
"""


@pytest.fixture(scope="module")
def survey(sky_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sky.survey_file(tmp_path_factory.mktemp("stop") / "sky.toml", sky_folder, MODEL)


@pytest.fixture(scope="module")
def undisturbed(survey: Path) -> Path:
    root = survey.parent / "undisturbed"
    done = call("run", survey, "--workspace", root, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["objects"] == 240 and summary["mlflow_run_id"]
    assert set(summary["stages"]) == {
        "sample", "retrieve", "prepare", "train", "embed", "cluster", "evaluate", "publish",
    }  # fmt: skip
    return root


def _stop_when(
    survey: Path, root: Path, reached: Callable[[], bool], number: signal.Signals
) -> tuple[int, str]:
    """Start the command, send it alone a signal once a point is reached; exit code and messages."""
    process = subprocess.Popen(
        command("run", survey, "--workspace", root),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, process.stdout.read() if process.stdout else ""
    process.send_signal(number)
    sent = time.monotonic()
    output, _ = process.communicate(timeout=30)
    assert time.monotonic() - sent < 10
    return process.returncode, output


def _nothing_stays(root: Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and processes_of(root):
        time.sleep(0.1)
    assert processes_of(root) == []


def _states(root: Path) -> tuple[list[str], list[str]]:
    """The states of all flow runs in Prefect's and of all runs in MLflow's database."""
    with sqlite3.connect(root / "prefect" / "prefect.db") as prefect:
        flows = [row[0] for row in prefect.execute("select state_type from flow_run")]
    prefect.close()
    if not (root / "mlflow.db").exists():
        return flows, []
    with sqlite3.connect(root / "mlflow.db") as mlflow:
        runs = [row[0] for row in mlflow.execute("select status from runs")]
    mlflow.close()
    return flows, runs


def test_killed_at_any_stage_it_goes_on_to_the_same_bytes(
    survey: Path, undisturbed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "w"
    points: list[Callable[[], bool]] = [
        lambda: any(root.glob("store/cutout-part/*/shards/*.json")),
        lambda: len(list(root.glob("store/stamp-part/*/shards/*.json"))) >= 2,
        lambda: any(root.glob("store/model/*/checkpoint*")),
        lambda: any(root.glob("store/embeddings/*/manifest.json")),
        lambda: any(root.glob("store/evaluation/*")),
    ]
    for reached in points:
        before = committed(root)
        code, _ = _stop_when(survey, root, reached, signal.SIGKILL)
        assert code == -signal.SIGKILL
        _nothing_stays(root)
        assert committed(root) >= before
    done = call("run", survey, "--workspace", root)
    assert done.returncode == 0, done.stderr
    assert "an earlier run was killed" in done.stderr
    assert labels(root) == labels(undisturbed)
    flows, runs = _states(root)
    assert sorted(set(flows)) == ["COMPLETED", "CRASHED"] and flows.count("COMPLETED") == 1
    assert set(runs) <= {"FINISHED", "KILLED"}
    _nothing_stays(root)


def test_interrupted_it_ends_with_130_and_goes_on(
    survey: Path, undisturbed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "w"
    code, output = _stop_when(
        survey, root, lambda: any(root.glob("store/model/*/checkpoint*")), signal.SIGINT
    )
    assert code == 130, output
    assert "Traceback" not in output and "run the same command to go on" in output
    _nothing_stays(root)
    flows, runs = _states(root)
    assert "RUNNING" not in flows and "RUNNING" not in runs
    done = call("run", survey, "--workspace", root)
    assert done.returncode == 0, done.stderr
    assert labels(root) == labels(undisturbed)


def test_a_second_run_is_told_who_holds_the_workspace(survey: Path, tmp_path: Path) -> None:
    root = tmp_path / "w"
    process = subprocess.Popen(
        command("run", survey, "--workspace", root),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(),
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not (root / "open-run.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        second = call("run", survey, "--workspace", root)
        assert second.returncode == 2
        assert f"in use by process {process.pid}" in second.stderr
    finally:
        process.kill()
        process.wait()
    _nothing_stays(root)


def test_a_model_and_its_vectors_reach_the_labels(undisturbed: Path) -> None:
    import galpipe

    table = galpipe.open_labels(str(undisturbed), "sky")
    assert table["model"].null_count == 0
    assert set(table["model_cluster"].to_pylist()) <= {0, 1, 2}
