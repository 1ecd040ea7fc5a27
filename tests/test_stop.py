"""The real command, killed and interrupted: nothing stays behind, nothing is lost, same bytes."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from tests import sky
from tests.running import HANG, call, command, committed, environment, labels, processes_of

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
    deadline = time.monotonic() + HANG
    while not (there := reached()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, process.stdout.read() if process.stdout else ""
    assert there, "the point was not reached"
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


POINTS: dict[str, Callable[[Path], bool]] = {
    "fetching": lambda root: any(root.glob("store/cutout-part/*/shards/*.json")),
    "preparing": lambda root: len(list(root.glob("store/stamp-part/*/shards/*.json"))) >= 2,
    "training": lambda root: any(root.glob("store/model/*/checkpoint*")),
    "clustering": lambda root: any(root.glob("store/embeddings/*/manifest.json")),
    "judging": lambda root: any(root.glob("store/evaluation/*")),
}


def test_killed_and_interrupted_it_goes_on_to_the_same_bytes(
    survey: Path, undisturbed: Path, tmp_path: Path
) -> None:
    _stopped_and_gone_on_with(survey, undisturbed, tmp_path / "w", ["fetching"], ["training"])


@pytest.mark.slow
def test_killed_and_interrupted_at_every_stage_it_goes_on_to_the_same_bytes(
    survey: Path, undisturbed: Path, tmp_path: Path
) -> None:
    _stopped_and_gone_on_with(survey, undisturbed, tmp_path / "w", POINTS, [])
    _stopped_and_gone_on_with(survey, undisturbed, tmp_path / "v", [], POINTS)


def _stopped_and_gone_on_with(
    survey: Path,
    undisturbed: Path,
    root: Path,
    killed: Collection[str],
    interrupted: Collection[str],
) -> None:
    """The command killed at some points, interrupted at others after them, and run to its end."""
    for name in killed:
        before = committed(root)
        code, _ = _stop_when(survey, root, lambda n=name: POINTS[n](root), signal.SIGKILL)
        assert code == -signal.SIGKILL
        _nothing_stays(root)
        assert committed(root) >= before
    for number, name in enumerate(interrupted):
        code, said = _stop_when(survey, root, lambda n=name: POINTS[n](root), signal.SIGINT)
        assert code == 130, said
        assert "Traceback" not in said and "run the same command to go on" in said
        assert ("an earlier run was killed" in said) == bool(killed and number == 0)
        _nothing_stays(root)
        flows, runs = _states(root)
        assert "RUNNING" not in flows and "RUNNING" not in runs
    done = call("run", survey, "--workspace", root)
    assert done.returncode == 0, done.stderr
    assert ("an earlier run was killed" in done.stderr) == bool(killed and not interrupted)
    assert labels(root) == labels(undisturbed)
    flows, runs = _states(root)
    assert sorted(set(flows)) == ["COMPLETED", "CRASHED"] and flows.count("COMPLETED") == 1
    assert set(runs) <= {"FINISHED", "KILLED"}
    _nothing_stays(root)


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
