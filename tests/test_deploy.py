"""`galpipe serve` with its worker: deployed runs do the job, and all of it ends when it should."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
import yaml

from galpipe.workspace import Workspace
from tests import sky
from tests.running import HANG, call, environment, labels, run_chain
from tests.test_processes import LIMIT, assert_gone
from tests.test_stop import MODEL

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::UserWarning:pydantic"
)
DEPLOYMENTS = Path(__file__).resolve().parents[1] / "deploy" / "prefect.yaml"
SERVE = "import sys; from flows.serve import serve; sys.exit(serve(sys.argv[1], 0, 0))"
SCHEDULE_NOW = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2"}  # instead of each minute
LONG = MODEL.replace("warm_up = 3", "warm_up = 1000000")  # trains until it is ended


@pytest.fixture(scope="module")
def place(sky_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two survey files, and a workspace whose Prefect database knows the deployments."""
    folder = tmp_path_factory.mktemp("deploy")
    sky.survey_file(folder / "short.toml", sky_folder, MODEL)
    sky.survey_file(folder / "long.toml", sky_folder, LONG)
    return folder


class Serving:
    """A `galpipe serve` on free ports, asked through Prefect's own API."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, root], env=environment() | SCHEDULE_NOW, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.said = dict(self.process.stdout.readline().split(maxsplit=1) for _ in range(3))
        assert set(self.said) == {"Prefect", "MLflow", "Worker"}, self.log()
        self.api = self.said["Prefect"].strip() + "/api"
        self.idle = self.processes()

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def client(self) -> Any:
        from prefect.client.orchestration import SyncPrefectClient

        return SyncPrefectClient(self.api)

    def run(
        self,
        deployment: str,
        survey: Path,
        workspace: str = "$GALPIPE_WORKSPACE",
        until: str | None = None,
    ) -> UUID:
        """Start a run as the dashboard does; returns its id."""
        given = {"survey": str(survey), "workspace": workspace, "workers": 1, "until": until}
        with self.client() as client:
            found = client.read_deployment_by_name(f"survey/{deployment}")
            run = client.create_flow_run_from_deployment(found.id, parameters=given)
            return UUID(str(run.id))

    def state(self, run: UUID) -> Any:
        with self.client() as client:
            return client.read_flow_run(run).state

    def wait(self, run: UUID, reached: Callable[[Any], bool], seconds: float = HANG) -> Any:
        deadline = time.monotonic() + seconds
        with self.client() as client:
            while not reached(state := client.read_flow_run(run).state):
                assert time.monotonic() < deadline, (state, self.log())
                time.sleep(0.2)
        return state

    def wait_for_training(self, root: Path) -> list[psutil.Process]:
        """The processes of the run in progress, once its model has a first checkpoint."""
        deadline = time.monotonic() + HANG
        while not any(root.glob("store/model/*/checkpoint*")):
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)
        found = [process for process in self.processes() if process not in self.idle]
        assert found
        return found

    def log(self) -> str:
        return (self.root / "prefect/worker.log").read_text()

    def close(self) -> None:
        """End it the hard way, and see that all of it is gone."""
        left = self.idle
        with contextlib.suppress(psutil.NoSuchProcess):
            left = self.processes()
        self.process.kill()
        self.process.communicate()
        assert_gone(left)


@pytest.fixture(scope="module")
def serving(place: Path) -> Iterator[Serving]:
    """A `galpipe serve` for all tests that leave it as it was."""
    found = Serving(place / "ws")
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def serve(tmp_path: Path, place: Path, serving: Serving) -> Iterator[Callable[[], Serving]]:
    """Starts `galpipe serve` on a workspace of the test's own, to be ended."""
    Workspace.open(tmp_path / "ws")
    (tmp_path / "ws/prefect").mkdir()
    with (  # a database that is there already, which saves seconds
        contextlib.closing(sqlite3.connect(place / "ws/prefect/prefect.db")) as source,
        contextlib.closing(sqlite3.connect(tmp_path / "ws/prefect/prefect.db")) as target,
    ):
        source.backup(target)
    started: list[Serving] = []

    def start() -> Serving:
        started.append(Serving(tmp_path / "ws"))
        return started[-1]

    try:
        yield start
    finally:
        for one in started:
            one.close()


def states(root: Path) -> dict[str, str]:
    """State names of all flow runs in Prefect's database, by id."""
    with contextlib.closing(sqlite3.connect(root / "prefect/prefect.db")) as database:
        return dict(database.execute("select id, state_name from flow_run").fetchall())


def final(state: Any) -> bool:
    return bool(state.is_final())


def test_a_run_from_the_prefect_command_line_does_the_job(
    place: Path, serving: Serving, tmp_path: Path
) -> None:
    assert f"PREFECT_API_URL={serving.api}" in serving.said["Worker"]
    assert serving.said["Worker"].strip().endswith("prefect deployment run survey/demo")
    done = subprocess.run(
        [
            sys.executable, "-m", "prefect", "deployment", "run", "survey/demo",
            "--param", f"survey={place / 'short.toml'}", "--watch",
        ],
        env=environment() | {"PREFECT_API_URL": serving.api, "PREFECT_HOME": str(tmp_path / "h")},
        capture_output=True, text=True, timeout=HANG,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + serving.log()
    assert "finished successfully" in done.stdout
    run_chain(place / "short.toml", tmp_path / "w")
    assert labels(place / "ws") == labels(tmp_path / "w")
    with contextlib.closing(sqlite3.connect(place / "ws/mlflow.db")) as database:
        assert set(database.execute("select status from runs")) == {("FINISHED",)}
    assert not Workspace(place / "ws").run_is_open()


def test_the_deployments_are_those_of_the_file(serving: Serving) -> None:
    with serving.client() as client:
        found = {one.name: one for one in client.read_deployments()}
    entries = {one["name"]: one for one in yaml.safe_load(DEPLOYMENTS.read_text())["deployments"]}
    assert set(found) == set(entries) == {"demo", "gz5"}
    for name, entry in entries.items():
        (schedule,) = found[name].schedules
        assert schedule.schedule.cron == entry["schedules"][0]["cron"]
        assert schedule.active
        assert found[name].parameters == entry["parameters"]
        assert found[name].concurrency_options.collision_strategy == "ENQUEUE"
        assert found[name].global_concurrency_limit.limit == 1
        assert found[name].work_pool_name == "galpipe"
        assert (DEPLOYMENTS.parents[1] / entry["parameters"]["survey"]).exists()


def test_a_run_cancelled_in_the_dashboard_stops_and_goes_on(
    place: Path, serving: Serving, tmp_path: Path
) -> None:
    from prefect.states import Cancelling

    root = tmp_path / "w"
    run = serving.run("demo", place / "long.toml", str(root))
    processes = serving.wait_for_training(root)
    with serving.client() as client:
        client.set_flow_run_state(run, Cancelling())
    assert_gone(processes)
    assert not Workspace(root).run_is_open()
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as database:
        assert database.execute("select status from runs").fetchall() == [("KILLED",)]
    assert serving.wait(run, final, LIMIT).name == "Cancelled"
    again = run_chain(place / "long.toml", root, until="prepare")["stages"]["prepare"]
    assert (again["done"], again["reused"]) == (0, 240)


@pytest.mark.slow
def test_of_two_runs_on_a_workspace_the_second_is_told_who_holds_it(
    place: Path, serving: Serving, tmp_path: Path
) -> None:
    from prefect.states import Cancelling

    root = tmp_path / "w"
    first = serving.run("demo", place / "long.toml", str(root))
    processes = serving.wait_for_training(root)
    queued = serving.run("demo", place / "short.toml", str(root))  # of one deployment: waits
    state = serving.wait(serving.run("gz5", place / "short.toml", str(root)), final)
    assert state.name == "Failed"
    assert "is in use by process" in state.message and "wait for it" in state.message
    assert serving.state(first).is_running()
    assert serving.state(queued).is_scheduled()
    with serving.client() as client:
        client.set_flow_run_state(queued, Cancelling())
        client.set_flow_run_state(first, Cancelling())
    assert_gone(processes)
    serving.wait(first, final)
    serving.wait(queued, final)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_ends_its_runs_cleanly(
    number: signal.Signals, place: Path, serve: Callable[[], Serving]
) -> None:
    serving = serve()
    run = serving.run("demo", place / "long.toml")
    processes = [*serving.wait_for_training(serving.root), *serving.idle]
    begin = time.monotonic()
    os.killpg(serving.process.pid, number)
    serving.process.wait(LIMIT)
    assert_gone(processes, LIMIT - (time.monotonic() - begin))
    assert serving.process.returncode == 0
    assert states(serving.root)[str(run)] == "Crashed"
    assert not Workspace(serving.root).run_is_open()


@pytest.mark.parametrize("victim", ["serve", pytest.param("worker", marks=pytest.mark.slow)])
def test_killed_it_leaves_nothing_and_the_next_serve_settles_what_it_left(
    victim: str, place: Path, serve: Callable[[], Serving]
) -> None:
    serving = serve()
    run = serving.run("demo", place / "long.toml")
    processes = [*serving.wait_for_training(serving.root), *serving.idle]
    missed = next_scheduled(serving.root)
    killed = serving.process.pid
    if victim == "worker":
        (killed,) = (p.pid for p in serving.idle if "flows.worker" in p.cmdline())
    os.kill(killed, signal.SIGKILL)
    assert_gone(processes)
    serving.process.wait(1)
    with contextlib.closing(sqlite3.connect(serving.root / "prefect/prefect.db")) as database:
        past = "2020-01-01 02:00:00.000000"
        database.execute(
            "update flow_run set expected_start_time = ?, next_scheduled_start_time = ? "
            "where id = ?", [past, past, str(missed)],
        )  # fmt: skip
        database.commit()
    again = serve()
    # Failed: it wrote to the terminal of a worker that was no more, before it noticed.
    assert again.state(run).name in {"Crashed", "Failed"}
    assert again.state(missed).name == "Cancelled"
    next_run = again.run("demo", place / "short.toml", until="sample")
    assert again.wait(next_run, final).name == "Completed"


def next_scheduled(root: Path) -> UUID:
    """The id of the next run that Prefect has scheduled."""
    query = (
        "select id from flow_run where auto_scheduled = 1 and state_type = 'SCHEDULED' "
        "order by expected_start_time limit 1"
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.closing(sqlite3.connect(root / "prefect/prefect.db")) as database:
            found = database.execute(query).fetchone()
        if found:
            return UUID(found[0])
        time.sleep(0.5)
    pytest.fail("Prefect scheduled no run")


def test_a_workspace_named_by_a_missing_variable_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.survey import named_place
    from galpipe.errors import InputError

    monkeypatch.delenv("GALPIPE_WORKSPACE", raising=False)
    with pytest.raises(InputError, match=r"\$GALPIPE_WORKSPACE, and there is no such"):
        named_place("$GALPIPE_WORKSPACE")
    monkeypatch.setenv("GALPIPE_WORKSPACE", "/somewhere")
    assert named_place("$GALPIPE_WORKSPACE") == Path("/somewhere")
    assert named_place("workspace") == Path("workspace")


# Dask, started by hand.


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[psutil.Process]]]:
    """The scheduler and two workers of `deploy/dask`, by their scripts."""
    folder = DEPLOYMENTS.parent / "dask"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    settings = environment() | {
        "PYTHON": sys.executable,
        "PORT": str(port),
        "DASHBOARD": "0",
        "CORES": "2",
        "TMPDIR": str(tmp_path),
    }
    with (tmp_path / "dask.log").open("wb") as log, contextlib.ExitStack() as stack:
        for command in (["scheduler.sh"], ["worker.sh", address]):
            process = subprocess.Popen(
                ["sh", folder / command[0], *command[1:]], env=settings, stdout=log, stderr=log,
                cwd=tmp_path, start_new_session=True,
            )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(os.killpg, process.pid, signal.SIGTERM)
        from distributed import Client

        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        mine = psutil.Process().children(recursive=True)
        yield address, [p for p in mine if "dask" in " ".join(p.cmdline())]


def trim_threshold(_item: int) -> str | None:
    return os.environ.get("MALLOC_TRIM_THRESHOLD_")


@pytest.mark.slow
def test_a_cluster_started_by_hand_gives_the_same_labels(
    cluster: tuple[str, list[psutil.Process]], place: Path, tmp_path: Path
) -> None:
    from flows.dask_map import DaskMap

    address, processes = cluster
    listening = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    guest = DaskMap(scheduler=address)
    assert set(guest(trim_threshold, range(4))) == {"134217728"}
    guest.close()
    root = tmp_path / "ws"
    done = call("run", place / "short.toml", "--workspace", root, "--dask", address)
    assert done.returncode == 0, done.stderr
    run_chain(place / "short.toml", tmp_path / "local")
    assert labels(root) == labels(tmp_path / "local")
    assert all(process.is_running() for process in processes)
