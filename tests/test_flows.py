"""The flow on a real Prefect server, the map over real Dask, progress, the hold on a workspace."""

from __future__ import annotations

import contextlib
import io
import multiprocessing.forkserver
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

import flows.session
from flows.command import run
from flows.dask_map import FORKED, IN_FLIGHT, PRELOADED, DaskMap
from flows.servers import prefect_api, served
from flows.session import session, workspace_mark
from galpipe import chain, progress
from galpipe.chain import STAGES
from galpipe.errors import InputError, Interrupted, WorkspaceInUse
from galpipe.stages import Silent, serial_map
from galpipe.survey import load
from galpipe.workspace import Workspace
from tests.standing_chain import ITEMS, StandingChain, square, write_survey

# What Prefect, MLflow and Dask do with their own dependencies is for them to mend.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::UserWarning:pydantic"
)


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_survey(tmp_path_factory.mktemp("survey"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prefect server for all tests here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        with prefect_api(tmp_path_factory.mktemp("server")) as api:
            api.wait()
            yield api.url


@pytest.fixture
def standing(monkeypatch: pytest.MonkeyPatch, server: str) -> type[StandingChain]:
    """The chain of known times in place of the real one, and the server in the environment."""
    import flows.survey

    monkeypatch.setenv("PREFECT_API_URL", server)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(flows.session, "Chain", StandingChain)
    monkeypatch.setattr(flows.survey.run_stage, "retry_delay_seconds", [0.0, 0.0, 0.0])
    monkeypatch.setattr(StandingChain, "trouble", {})
    monkeypatch.setattr(StandingChain, "tried", [])
    return StandingChain


def client(server: str) -> Any:
    from prefect.client.orchestration import SyncPrefectClient

    return SyncPrefectClient(server)


def test_a_run_shows_in_prefect(
    standing: type[StandingChain], survey: Path, server: str, tmp_path: Path
) -> None:
    from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter, TaskRunFilter

    summary = run(survey=survey, workspace=tmp_path, release="B", workers=1, progress=Silent())
    assert list(summary["stages"]) == list(STAGES)
    assert summary["orchestration_seconds"] > 0
    assert len(summary["mlflow_run_id"]) == 32
    mark = workspace_mark(tmp_path)
    with client(server) as prefect:
        chosen = FlowRunFilter.model_validate({"tags": {"all_": [mark]}})
        (flow_run,) = prefect.read_flow_runs(flow_run_filter=chosen)
        mine = {"flow_run_id": {"any_": [flow_run.id]}}
        tasks = prefect.read_task_runs(task_run_filter=TaskRunFilter.model_validate(mine))
        artifacts = prefect.read_artifacts(artifact_filter=ArtifactFilter.model_validate(mine))
    assert (flow_run.name, flow_run.state_name) == ("standing B", "Completed")
    assert {(t.name, t.state_name) for t in tasks} == {(stage, "Completed") for stage in STAGES}
    expected = {f"standing-{name}" for name in (*STAGES, "summary", "mlflow-training")}
    assert {a.key for a in artifacts} == expected
    link = next(a for a in artifacts if a.key == "standing-mlflow-training")
    assert summary["mlflow_run_id"] in str(link.data)


@pytest.mark.parametrize("interrupted", [False, True])
def test_ends_of_tasks_that_got_lost_are_told_again(
    standing: type[StandingChain],
    survey: Path,
    server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupted: bool,
) -> None:
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.events.clients import PrefectEventsClient
    from prefect.events.schemas.events import Event

    emit = PrefectEventsClient._emit

    async def lose(self: PrefectEventsClient, event: Event) -> None:
        if event.event not in ("prefect.task-run.Completed", "prefect.task-run.Crashed"):
            await emit(self, event)

    monkeypatch.setattr(PrefectEventsClient, "_emit", lose)
    if interrupted:
        standing.trouble["prepare"] = [KeyboardInterrupt()]  # type: ignore[list-item]
    with pytest.raises(Interrupted) if interrupted else contextlib.nullcontext():
        run(survey=survey, workspace=tmp_path, until="prepare", workers=1, progress=Silent())
    chosen = FlowRunFilter.model_validate({"tags": {"all_": [workspace_mark(tmp_path)]}})
    with client(server) as prefect:
        tasks = prefect.read_task_runs(flow_run_filter=chosen)
    expected = {"sample": "Completed", "retrieve": "Completed", "prepare": "Completed"}
    if interrupted:
        expected["prepare"] = "Crashed"
    assert {task.name: task.state_name for task in tasks} == expected


def test_until_stops_after_a_stage(
    standing: type[StandingChain], survey: Path, tmp_path: Path
) -> None:
    summary = run(survey=survey, workspace=tmp_path, until="retrieve", progress=Silent())
    assert list(summary["stages"]) == ["sample", "retrieve"]
    assert summary["mlflow_run_id"] is None
    with pytest.raises(InputError, match="there is no stage 'retreive'"):
        run(survey=survey, workspace=tmp_path, until="retreive", progress=Silent())


def test_a_bad_input_comes_out_as_it_is_and_is_not_tried_again(
    standing: type[StandingChain], survey: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    standing.trouble["retrieve"] = [InputError("a.zip is truncated; fetch it again.")] * 2
    with pytest.raises(InputError, match=r"^a\.zip is truncated; fetch it again\.$"):
        run(survey=survey, workspace=tmp_path, progress=Silent())
    assert standing.tried == ["sample", "retrieve"]
    assert "Traceback" not in capfd.readouterr().err


def test_a_network_that_fails_is_tried_again(
    standing: type[StandingChain], survey: Path, tmp_path: Path
) -> None:
    standing.trouble["retrieve"] = [ConnectionResetError("peer"), TimeoutError("slow")]
    summary = run(survey=survey, workspace=tmp_path, until="retrieve", progress=Silent())
    assert standing.tried == ["sample", "retrieve", "retrieve", "retrieve"]
    assert list(summary["stages"]) == ["sample", "retrieve"]


def test_a_workspace_in_use_is_said_before_any_server_starts(survey: Path, tmp_path: Path) -> None:
    with (
        Workspace.open(tmp_path).writer("galpipe run other.toml"),
        pytest.raises(WorkspaceInUse, match=r"in use by process \d+ .*other\.toml"),
    ):
        run(survey=survey, workspace=tmp_path, progress=Silent())
    assert not (tmp_path / "prefect").exists()


def test_a_server_that_is_not_there_is_said(
    survey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.session, "Chain", StandingChain)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(InputError, match="no Prefect server answers there"):
        run(survey=survey, workspace=tmp_path, progress=Silent())


def test_word_of_a_dead_serve_is_not_believed(tmp_path: Path) -> None:
    assert served(tmp_path) == {}
    from flows.servers import announce, withdraw

    announce(tmp_path, "http://127.0.0.1:9", "http://127.0.0.1:9")
    assert served(tmp_path) == {}
    withdraw(tmp_path)


def test_a_session_within_a_session_joins_it(survey: Path, tmp_path: Path) -> None:
    with (
        session(load(survey), tmp_path, "one", progress_to=Silent()) as outer,
        session(load(survey), tmp_path, "two") as inner,
    ):
        assert inner is outer
        assert (tmp_path / "open-run.json").exists()
    assert not (tmp_path / "open-run.json").exists()


def test_a_copy_of_a_workspace_has_another_mark(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    mark = workspace_mark(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert workspace_mark(tmp_path / "one") == mark
    assert workspace_mark(tmp_path / "two") != mark


# The shard map over Dask.


def prepared(_: int) -> tuple[bool, int, int]:
    """Whether the stages are imported, the threads of the largest BLAS, the parent process."""
    preloaded = sys.modules.get(PRELOADED)
    ready = preloaded is not None and all(name in sys.modules for name in preloaded.MODULES)
    time.sleep(0.1)
    threads = max(library["num_threads"] for library in threadpool_info())
    return ready, threads, os.getppid()


def loaded(_item: int) -> tuple[bool, str | None, int]:
    return "torch" in sys.modules, os.environ.get("MALLOC_TRIM_THRESHOLD_"), os.getpid()


def fail(item: int) -> int:
    if item == 3:
        raise InputError("item 3 is bad; mend it.")
    return item


def die_once(path: str) -> str:
    """Take the worker down with it the first time."""
    marker = Path(path)
    if not marker.exists():
        marker.touch()
        os._exit(1)
    return path


@pytest.fixture(scope="module")
def spread() -> Iterator[DaskMap]:
    # What processes are forked from has other modules where another file of tests has started it.
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]
    with mock.patch.dict(os.environ):
        del os.environ["OMP_NUM_THREADS"]  # that of the tests' own processes
        shard_map = DaskMap(workers=2)
        yield shard_map
        shard_map.close()


def test_dask_equals_serial(spread: DaskMap) -> None:
    assert sorted(spread(square, range(ITEMS))) == list(serial_map(square, range(ITEMS)))
    assert spread.overhead > 0


def test_one_item_starts_no_worker() -> None:
    lazy = DaskMap(workers=2)
    assert list(lazy(square, [3])) == [9]
    assert list(lazy(square, [])) == []
    assert lazy._client is None


def test_workers_are_light_processes_of_their_own(spread: DaskMap) -> None:
    found = set(spread(loaded, range(8)))
    assert {(torch, trim) for torch, trim, _ in found} == {(False, None)}
    assert os.getpid() not in {process for _, _, process in found}


@pytest.mark.skipif(not FORKED, reason="this system forks no prepared processes")
def test_workers_are_forked_from_a_process_that_has_imported_what_they_need(
    spread: DaskMap,
) -> None:
    found = set(spread(prepared, range(8)))
    assert {(ready, threads) for ready, threads, _ in found} == {(True, 1)}
    (parent,) = {parent for _, _, parent in found}
    assert parent != os.getpid()


def test_items_are_taken_as_others_end(spread: DaskMap) -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = spread(square, items())
    next(results)
    assert len(taken) <= IN_FLIGHT * 2 + 2
    results.close()  # type: ignore[attr-defined]  # a generator


def test_an_exception_comes_out_as_it_is(spread: DaskMap) -> None:
    with pytest.raises(InputError, match=r"^item 3 is bad; mend it\.$"):
        list(spread(fail, range(8)))
    assert sorted(spread(square, range(3))) == [0, 1, 4]


def test_a_lost_worker_is_replaced_and_its_item_done_again(spread: DaskMap, tmp_path: Path) -> None:
    items = [str(tmp_path / name) for name in ("a", "b")]
    assert sorted(spread(die_once, items)) == items
    parents = {parent for _, _, parent in spread(prepared, range(8))}
    assert os.getpid() not in parents or not FORKED  # nor is the new one another kind of process


def test_any_scheduler_is_used_and_left_running(spread: DaskMap) -> None:
    list(spread(square, range(2)))
    address = spread._cluster.scheduler_address
    guest = DaskMap(scheduler=address)
    assert sorted(guest(square, range(3))) == [0, 1, 4]
    guest.close()
    assert sorted(spread(square, range(3))) == [0, 1, 4]


def test_busy_workers_are_ended_in_time() -> None:
    shard_map = DaskMap(workers=2)
    results = shard_map(time.sleep, [0.0, 0.0, 60.0, 60.0])
    next(results)
    workers = [psutil.Process(worker.pid) for worker in shard_map._cluster.workers.values()]
    time.sleep(0.5)
    results.close()  # type: ignore[attr-defined]  # a generator
    shard_map.close()
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive


def test_a_scheduler_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import flows.dask_map

    monkeypatch.setattr(flows.dask_map, "CONNECT_LIMIT", 0.5)
    with pytest.raises(InputError, match=r"^--dask tcp://127\.0\.0\.1:9: no Dask scheduler"):
        list(DaskMap(scheduler="tcp://127.0.0.1:9")(square, range(3)))


# Progress.


def test_lines_say_rate_and_time_left() -> None:
    stream = io.StringIO()
    lines = progress.Lines(stream, every=0.0)
    lines.start("train", 10, "epochs", done=4)
    time.sleep(0.01)
    lines.advance(2, "loss 0.5")
    lines.say("by the way")
    lines.finish()
    first, second, third, last = stream.getvalue().splitlines()
    assert first == "train: 10 epochs (4 there already)"
    assert second.startswith("train: 6/10 epochs (60 %), ")
    assert " epochs/s, " in second and second.endswith(" left, loss 0.5")
    assert third == "by the way"
    assert last == "train: 6 epochs in 0 s, loss 0.5"


def test_lines_are_few() -> None:
    stream = io.StringIO()
    lines = progress.Lines(stream, every=60.0)
    lines.start("prepare", 1000, "objects")
    for _ in range(1000):
        lines.advance()
    lines.finish()
    assert len(stream.getvalue().splitlines()) == 2


def test_bars_are_for_terminals() -> None:
    stream = io.StringIO()
    assert isinstance(progress.choose(stream), progress.Lines)
    bars = progress.Bars(stream)
    bars.start("prepare", 4, "shards")
    bars.advance(4, "done")
    bars.say("a [bracketed] word")
    bars.finish()
    bars.finish()
    assert "a [bracketed] word" in stream.getvalue()


@given(st.floats(0, 1e7))
def test_durations_read_back(seconds: float) -> None:
    text = progress.duration(seconds)
    parts = [int(part) for part in text.removesuffix(" s").split(":")]
    assert sum(n * 60**i for i, n in enumerate(reversed(parts))) == round(seconds)


def test_the_chain_in_the_flow_is_galpipes() -> None:
    import flows.survey

    assert flows.session.Chain is chain.Chain
