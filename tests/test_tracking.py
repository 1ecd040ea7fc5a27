"""Runs in a real MLflow store: what is kept, how runs end, what a later run closes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from galpipe import tracking
from galpipe.errors import InputError
from galpipe.models.training import train
from galpipe.stages import Context
from galpipe.tracking import MlflowTracker
from galpipe.workspace import Workspace
from tests import stamped

# What MLflow does with SQLAlchemy and pydantic is for MLflow to mend.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
DIGEST = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracked")


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def tracker(root: Path, request: pytest.FixtureRequest) -> Iterator[MlflowTracker]:
    """A tracker with an experiment and a mark of its own, in the store of the module."""
    name = request.node.name
    yield MlflowTracker(root, f"survey {name}", f"mark-{name}")


def read(tracker: MlflowTracker, run_id: str) -> Any:
    return tracker._connect().get_run(run_id)


def test_a_training_keeps_parameters_metrics_data_and_the_model(
    tracker: MlflowTracker, tmp_path: Path
) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"weights")
    with tracker.run("training", "vade", DIGEST) as run:
        run.params({"latent": 20, "schedule": {"epochs": 3}, "long": "x" * 10_000})
        for epoch in range(3):
            run.metrics({"train/loss": 1 / (1 + epoch), "K effective (%)": 12.0}, epoch)
        run.dataset("stamps", DIGEST, "train", 240)
        run.file(tmp_path / "weights.safetensors", "plots")
        run.model(tmp_path, "tracked/vade", "published")
        run.model(tmp_path, "tracked/vade", "published")
        run.tags({"device": "cpu"})
    assert run.run_id is not None
    kept, client = read(tracker, run.run_id), tracker._connect()
    assert kept.info.status == "FINISHED"
    assert kept.data.params["schedule.epochs"] == "3"
    assert len(kept.data.params["long"]) == tracking.PARAMETER_LENGTH
    losses = client.get_metric_history(run.run_id, "train/loss")
    assert [(m.step, m.value) for m in losses] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert kept.data.metrics["K effective ___"] == 12.0
    assert kept.inputs.dataset_inputs[0].dataset.digest == DIGEST
    assert kept.data.tags["galpipe.digest"] == DIGEST
    assert [f.path for f in client.list_artifacts(run.run_id, "plots")] == [
        "plots/weights.safetensors"
    ]
    version = client.get_model_version_by_alias("tracked_vade", "published")
    assert version.run_id == run.run_id
    assert len(client.search_model_versions("name = 'tracked_vade'")) == 1


def test_figures_waiting_and_the_machine_are_in_mlflow(
    tracker: MlflowTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real training: each epoch's figures and its waiting for stamps, and the machine's own."""
    monkeypatch.setattr(tracking, "SAMPLE_EVERY", 0.2)
    workspace = Workspace.open(tmp_path / "workspace")
    stamps, catalogue = stamped.commit(workspace, [stamped.galaxies(300)])
    context = Context(workspace, tracker=tracker)
    train(context, stamped.NETWORK, stamped.TRAINING, stamps, catalogue)
    ((kind, run_id),) = tracker.opened
    client: Any = tracker._connect()

    def history(name: str) -> list[float]:
        found = sorted(client.get_metric_history(run_id, name), key=lambda metric: metric.step)
        assert [metric.step for metric in found] == list(range(5)), name
        return [metric.value for metric in found]

    assert kind == "training"
    losses = history("train_loss")
    assert losses[-1] < losses[0]
    assert all(0 <= share <= 1 for share in history("waiting_share"))
    for rate, seconds in zip(
        history("megabytes_per_second"), history("epoch_seconds"), strict=True
    ):
        assert rate * seconds == pytest.approx(240 * 16 * 16 / 1e6)  # uint8 stamps of 16 pixels
    assert history("learning_rate")[0] == stamped.TRAINING.learning_rate
    run = client.get_run(run_id)
    assert run.data.tags["parts_of_a_batch"] == "1"
    assert 0 <= run.data.metrics["system/cpu_utilization_percentage"] <= 100
    assert run.data.metrics["system/system_memory_usage_megabytes"] > 0


def test_runs_end_as_their_work_ended(tracker: MlflowTracker) -> None:
    for error, status in ((ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")):
        with pytest.raises(error), tracker.run("training", "vade", DIGEST) as run:
            run.metrics({"loss": 1.0}, 0)
            raise error
        assert run.run_id is not None
        kept = read(tracker, run.run_id)
        assert (kept.info.status, kept.data.metrics["loss"]) == (status, 1.0)


def test_a_training_gone_on_with_names_the_one_before(tracker: MlflowTracker) -> None:
    with pytest.raises(KeyboardInterrupt), tracker.run("training", "vade", DIGEST) as first:
        raise KeyboardInterrupt
    with tracker.run("training", "vade", DIGEST) as second:
        pass
    assert second.run_id is not None
    assert second.run_id != first.run_id
    assert read(tracker, second.run_id).data.tags["galpipe.goes_on_from"] == first.run_id


def test_an_evaluation_made_again_is_one_run(tracker: MlflowTracker) -> None:
    for nmi in (0.3, 0.31):
        with tracker.run("evaluation", "clusters", DIGEST) as run:
            run.params({"permutations": 100, "nmi": nmi})
            run.metrics({"nmi": nmi})
    assert len({run_id for _, run_id in tracker.opened}) == 1
    assert run.run_id is not None
    kept = read(tracker, run.run_id)
    assert (kept.info.status, kept.data.metrics["nmi"]) == ("FINISHED", 0.31)
    assert kept.data.params["nmi"] == "0.3"


def test_an_interruption_amid_a_statement_is_no_traceback(
    tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite refuses to close a cursor that it is reading; SQLAlchemy would tell of that."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.engine.base import Connection

    def torn(connection: Any, cursor: Any) -> None:
        class Reading:
            def close(self) -> None:
                raise RuntimeError("Recursive use of cursors not allowed")

        close(connection, Reading())
        raise KeyboardInterrupt

    tracker._connect()
    close = Connection._safe_close_cursor
    monkeypatch.setattr(Connection, "_safe_close_cursor", torn)
    with pytest.raises(KeyboardInterrupt), create_engine("sqlite://").connect() as connection:
        connection.execute(text("select 1")).fetchall()
    assert not caplog.records


def test_stale_runs_of_this_workspace_alone_are_closed(tracker: MlflowTracker, root: Path) -> None:
    other = MlflowTracker(root, tracker.experiment, "another workspace")
    opened = []
    for one in (tracker, other):
        tags = {"galpipe.workspace": one.mark}
        run = one._connect().create_run(one._experiment(), tags=tags)
        opened.append(run.info.run_id)
    assert tracker.close_stale() == 1
    assert [read(tracker, run_id).info.status for run_id in opened] == ["KILLED", "RUNNING"]
    assert tracker.close_stale() == 0


def test_a_deleted_experiment_is_taken_up_again(tracker: MlflowTracker, root: Path) -> None:
    tracker._connect().delete_experiment(tracker._experiment())
    again = MlflowTracker(root, tracker.experiment, tracker.mark)
    with again.run("evaluation", "clusters", DIGEST) as run:
        pass
    assert run.run_id is not None
    assert read(again, run.run_id).info.status == "FINISHED"


def test_a_server_that_is_not_there_is_said_at_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    tracker = MlflowTracker(root, "survey", "mark")
    with (
        pytest.raises(InputError, match="no MLflow server answers there"),
        tracker.run("a", "b", "c"),
    ):
        pass


def test_the_server_is_told_by_the_names_mlflow_uses() -> None:
    from mlflow.server import constants

    names = {value for name, value in vars(constants).items() if name.endswith("_ENV_VAR")}
    told = tracking.server_environment(Path("workspace"))
    assert {n for n in told if n.startswith("_MLFLOW_SERVER")} <= names
