"""Signals and the ends of processes, with real servers: what is left, what is closed, how fast."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from tests.running import HANG, environment
from tests.standing_chain import write_survey

LIMIT = 10.0  # seconds in which an ended run must be gone


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A survey file and a workspace, shared: a first Prefect database takes seconds to make."""
    folder = tmp_path_factory.mktemp("processes")
    write_survey(folder)
    return folder


@contextlib.contextmanager
def running(place: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """The command over the standing chain, in a process group of its own as a shell starts it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.standing_chain", place / "standing.toml", place / "ws"],
        env=environment() | settings, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        try:
            yield process
        except pytest.fail.Exception:
            assert process.stderr is not None
            print(process.stderr.read())
            raise
        finally:
            process.kill()


def wait_for(stream: IO[str] | None, text: str) -> None:
    assert stream is not None
    said: list[str] = []
    for line in stream:
        said.append(line)
        if text in line:
            return
    pytest.fail(f"the process ended before it said {text!r}: {''.join(said[-20:])}")


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def with_workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The run's processes as soon as there are the server, a resource tracker, two workers."""
    deadline = time.monotonic() + HANG
    while len(children := descendants(process)) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return children


def assert_gone(processes: list[psutil.Process], seconds: float = LIMIT) -> None:
    """None of them runs any more; what is dead but not yet waited for by init counts as gone."""
    deadline = time.monotonic() + seconds
    left = processes
    while left and time.monotonic() < deadline:
        left = [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        time.sleep(0.05)
    assert not left


def newest_states(place: Path) -> tuple[str, set[str]]:
    """The state of the newest flow run, and those of its task runs, as Prefect keeps them."""
    with contextlib.closing(sqlite3.connect(place / "ws/prefect/prefect.db")) as database:
        (flow_run, state), *_ = database.execute(
            "select id, state_name from flow_run order by start_time desc"
        ).fetchall()
        tasks = database.execute(
            "select state_name from task_run where flow_run_id = ?", [flow_run]
        ).fetchall()
    return state, {name for (name,) in tasks}


def tracked_states(place: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(place / "ws/mlflow.db")) as database:
        return [s for (s,) in database.execute("select status from runs order by start_time")]


def finish(place: Path) -> str:
    """Run the same command again to its end; returns what it said on standard error."""
    with running(place) as process:
        _, said = process.communicate(timeout=HANG)
        assert process.returncode == 0, said
    return said


def test_ctrl_c_among_dask_workers(place: Path) -> None:
    with running(place, STANDING_WORKERS="2", STANDING_ITEM="0.5") as process:
        wait_for(process.stderr, "prepare: 12 shards")
        children = with_workers(process)
        begin = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
        _, said = process.communicate(timeout=LIMIT)
        assert time.monotonic() - begin < LIMIT
    assert process.returncode == 130
    assert "Traceback" not in said
    assert_gone(children, 1.0)
    state, tasks = newest_states(place)
    assert state == "Crashed"
    assert tasks == {"Completed", "Crashed"}
    assert not (place / "ws/open-run.json").exists()


def test_sigterm_during_training(place: Path) -> None:
    with running(place, STANDING_EPOCH="30") as process:
        wait_for(process.stdout, "epoch 0")
        children = descendants(process)
        process.terminate()
        _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert_gone(children, 1.0)
    assert newest_states(place)[0] == "Crashed"
    assert tracked_states(place)[-1] == "KILLED"


def test_a_second_ctrl_c_ends_at_once_what_does_not_listen(place: Path) -> None:
    with running(place, STANDING_EPOCH="30", STANDING_DEAF="1") as process:
        wait_for(process.stdout, "epoch 0")
        children = descendants(process)
        process.send_signal(signal.SIGINT)
        wait_for(process.stderr, "once more")
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=LIMIT)
        assert time.monotonic() - begin < 2.0
    assert process.returncode == 130
    assert_gone(children)
    assert (place / "ws/open-run.json").exists()  # so that the next run closes what is open


@pytest.mark.slow  # waits for the forced end; the thread that forces it is the one tested above
def test_what_does_not_listen_is_ended_in_time(place: Path) -> None:
    with running(place, STANDING_EPOCH="60", STANDING_DEAF="1") as process:
        wait_for(process.stdout, "epoch 0")
        children = descendants(process)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=LIMIT)
    assert process.returncode == 130
    assert_gone(children)


def test_kill_9_leaves_nothing_and_the_next_run_closes_what_is_open(place: Path) -> None:
    with running(place, STANDING_EPOCH="30") as process:
        wait_for(process.stdout, "epoch 0")
        children = descendants(process)
        process.kill()
        process.wait()
    assert_gone(children)
    assert newest_states(place)[0] == "Running"
    assert "an earlier run was killed" in finish(place)
    state, tasks = newest_states(place)
    assert (state, tasks) == ("Completed", {"Completed"})
    with contextlib.closing(sqlite3.connect(place / "ws/prefect/prefect.db")) as database:
        for table in ("flow_run", "task_run"):
            query = f"select count(*) from {table} where state_name = 'Running'"
            assert database.execute(query).fetchone() == (0,)
    assert "RUNNING" not in tracked_states(place)
    assert not (place / "ws/open-run.json").exists()


def test_kill_9_among_dask_workers(place: Path) -> None:
    with running(place, STANDING_WORKERS="2", STANDING_ITEM="30") as process:
        wait_for(process.stderr, "prepare: 12 shards")
        children = with_workers(process)
        process.kill()
        process.wait()
    assert_gone(children)


SERVE = "import sys; from flows.serve import serve; sys.exit(serve(sys.argv[1], 0, 0))"


@pytest.fixture
def dashboards(place: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A `galpipe serve` on free ports, with its addresses."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, place / "ws"], env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    with process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline().split() for _ in range(2)]
            yield process, dict(lines)  # type: ignore[arg-type]
        finally:
            process.kill()


def get(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=10) as answer:
        content: bytes = answer.read()
    return content


def test_serve_shows_both_dashboards_and_a_run_outlives_it(place: Path, dashboards: Any) -> None:
    process, addresses = dashboards
    assert b"<!doctype html>" in get(addresses["Prefect"]).lower()
    assert b"<!doctype html>" in get(addresses["MLflow"]).lower()
    servers = descendants(process)
    with running(place, STANDING_WORKERS="2", STANDING_EPOCH="2") as run:
        wait_for(run.stdout, "epoch 0")
        own = [" ".join(child.cmdline()) for child in descendants(run)]
        # No server of its own: the tracker of resources, and what workers are forked from.
        assert len(own) <= 2 and all("multiprocessing" in line for line in own)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=LIMIT)
        _, said = run.communicate(timeout=HANG)
    assert process.returncode == 0
    assert_gone(servers, 1.0)
    assert run.returncode == 0, said
    assert newest_states(place) == ("Completed", {"Completed"})


def test_serve_killed_leaves_no_server(dashboards: Any) -> None:
    process, _ = dashboards
    servers = descendants(process)
    process.kill()
    process.wait()
    assert_gone(servers)
