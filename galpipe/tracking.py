"""Runs kept in MLflow: what was trained and judged, from what, with which figures and files.

The only module that imports MLflow, and only when a run begins (1 s).  The store is SQLite in
`<workspace>/mlflow.db` with files in `<workspace>/mlflow/`, or what `MLFLOW_TRACKING_URI` names.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from galpipe.empty_database import Empty
from galpipe.errors import InputError

FLUSH_EVERY = 2.0  # seconds: metrics in between are written together (5 ms a batch on SQLite)
SAMPLE_EVERY = 5.0  # seconds between two samples of processor, memory, disk and GPU
PARAMETER_LENGTH = 6000  # characters MLflow takes
BATCH = 100  # parameters or tags MLflow takes at once; it takes 1000 metrics
KIND = {"mlflow.experimentKind": "custom_model_development"}  # the dashboard's view of it
DATABASE = "mlflow.db"  # in the workspace
EMPTY = Empty("mlflow", ("alembic_version", "workspaces"))
FORBIDDEN = re.compile(r"[^\w\-. /:]")  # characters MLflow refuses in names


class MlflowTracker:
    """A `galpipe.stages.Tracker`; one experiment per survey.

    `workspace` is the folder of the workspace, `mark` what tells its runs from those of other
    workspaces in the same store.  `opened` lists (kind, run id) in order of opening, and
    `overhead` counts the seconds spent here.
    """

    def __init__(self, workspace: Path, experiment: str, mark: str) -> None:
        self.folder = workspace.absolute()
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or store_uri(workspace)
        self.experiment, self.mark = experiment, mark
        self.opened: list[tuple[str, str]] = []
        self.overhead = 0.0
        self._client: Any = None
        self._experiment_id: str | None = None

    @contextlib.contextmanager
    def run(self, kind: str, name: str, digest: str) -> Iterator[MlflowRun]:
        """A run of one kind (training, evaluation) of the output with this digest.

        It ends FINISHED, FAILED after an error, KILLED after an interruption.  A training gone on
        with is a new run that names the one before; the evaluation of the same output is one run,
        opened again.
        """
        with self._timed():
            client, experiment = self._connect(), self._experiment()
            earlier = self._earlier(experiment, kind, digest)
            again = earlier is not None and kind != "training"
            if earlier is not None and again:
                run_id: str = earlier.info.run_id
                client.update_run(run_id, status="RUNNING")
            else:
                tags = {
                    "galpipe.kind": kind,
                    "galpipe.digest": digest,
                    "galpipe.workspace": self.mark,
                    "galpipe.process": str(os.getpid()),
                }
                if earlier is not None:
                    tags["galpipe.goes_on_from"] = earlier.info.run_id
                run_id = client.create_run(experiment, run_name=name, tags=tags).info.run_id
            self.opened.append((kind, run_id))
            monitor = self._monitor(run_id, again)
        tracked = MlflowRun(self, run_id)
        status = "FINISHED"
        try:
            yield tracked
        except Exception:
            status = "FAILED"
            raise
        except BaseException:
            status = "KILLED"
            raise
        finally:
            with self._timed():
                monitor.finish()
                tracked.flush()
                client.set_terminated(run_id, status)

    def close_stale(self) -> int:
        """Mark the runs that a dead process of this workspace left RUNNING as KILLED; how many.

        Only to be called by the writer of the workspace, with no run open.
        """
        with self._timed():
            client, token, ended = self._connect(), None, 0
            experiments = [found.experiment_id for found in client.search_experiments()]
            chosen = f"tags.`galpipe.workspace` = '{self.mark}' and attributes.status = 'RUNNING'"
            while experiments:
                page = client.search_runs(experiments, chosen, max_results=100, page_token=token)
                for run in page:
                    client.set_terminated(run.info.run_id, "KILLED")
                ended, token = ended + len(page), page.token
                if not token:
                    break
            return ended

    def link(self, run_id: str, dashboard: str) -> str:
        """The address of a run's page; `dashboard` is where `galpipe serve` shows this store."""
        base = self.uri if self.uri.startswith("http") else dashboard
        return f"{base.rstrip('/')}/#/experiments/{self._experiment()}/runs/{run_id}"

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.overhead += time.perf_counter() - begin

    def _connect(self) -> Any:
        if self._client is None:
            if self.uri.startswith("http"):
                _refuse_silent(self.uri)
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            import mlflow

            for logger in ("mlflow", "alembic"):
                logging.getLogger(logger).setLevel(logging.WARNING)
            # An interruption amid a statement is raised as it is; the pool would tell of the cursor
            # that it cannot close then, with a traceback of its own.
            logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
            own = self.folder / DATABASE if self.uri == store_uri(self.folder) else None
            fresh = own is not None and not own.exists()
            if own is not None:
                EMPTY.give(own)
            self._client = mlflow.MlflowClient(self.uri)
            if own is not None and fresh:  # nobody has added to the rows that MLflow begins with
                EMPTY.keep(own)
        return self._client

    def _experiment(self) -> str:
        """The id of the survey's experiment, made where it is missing."""
        if self._experiment_id is None:
            client = self._connect()
            found = client.get_experiment_by_name(self.experiment)
            if found is None:
                # A server keeps files where it was told to; our own store keeps them beside it.
                files = None if self.uri.startswith("http") else (self.folder / "mlflow").as_uri()
                self._experiment_id = client.create_experiment(self.experiment, files, KIND)
            else:
                if found.lifecycle_stage == "deleted":
                    client.restore_experiment(found.experiment_id)
                self._experiment_id = found.experiment_id
        assert self._experiment_id is not None
        return self._experiment_id

    def _earlier(self, experiment: str, kind: str, digest: str) -> Any:
        """The newest run of the same kind and output, or None."""
        chosen = (
            f"tags.`galpipe.kind` = '{kind}' and tags.`galpipe.digest` = '{digest}' "
            f"and tags.`galpipe.workspace` = '{self.mark}'"
        )
        found = self._connect().search_runs(
            [experiment], chosen, max_results=1, order_by=["attributes.start_time DESC"]
        )
        return found[0] if found else None

    def _monitor(self, run_id: str, again: bool) -> Any:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(
            run_id, sampling_interval=SAMPLE_EVERY, resume_logging=again, tracking_uri=self.uri
        )
        monitor.start()
        return monitor


class MlflowRun:
    """A `galpipe.stages.TrackedRun` in MLflow."""

    def __init__(self, tracker: MlflowTracker, run_id: str) -> None:
        self.run_id: str | None = run_id
        self._id, self._tracker, self._client = run_id, tracker, tracker._connect()
        self._waiting: list[Any] = []
        self._flushed = time.monotonic()

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; nested tables become `table.key`.  Those there already are kept."""
        from mlflow.entities import Param

        with self._tracker._timed():
            there = self._client.get_run(self._id).data.params
            fresh = [
                Param(name, str(value)[:PARAMETER_LENGTH])
                for name, value in _flat(values)
                if name not in there
            ]
            for first in range(0, len(fresh), BATCH):
                self._client.log_batch(self._id, params=fresh[first : first + BATCH])

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics of an epoch (or of the whole run); written together, every few seconds."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [
            Metric(FORBIDDEN.sub("_", name), float(value), now, step or 0)
            for name, value in values.items()
        ]
        if time.monotonic() - self._flushed >= FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Write the metrics that wait."""
        with self._tracker._timed():
            waiting, self._waiting = self._waiting, []
            for first in range(0, len(waiting), 10 * BATCH):
                self._client.log_batch(self._id, metrics=waiting[first : first + 10 * BATCH])
            self._flushed = time.monotonic()

    def tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        with self._tracker._timed():
            tags = [RunTag(FORBIDDEN.sub("_", name), value) for name, value in values.items()]
            self._client.log_batch(self._id, tags=tags)

    def dataset(self, name: str, digest: str, context: str, rows: int) -> None:
        """Log that the run read `rows` objects of an output; `context` is train, test, ..."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        with self._tracker._timed():
            source = json.dumps({"output": name, "digest": digest})
            profile = json.dumps({"num_rows": rows})
            data = Dataset(name, digest, "galpipe", source, profile=profile)
            tag = InputTag("mlflow.data.context", context)
            self._client.log_inputs(self._id, [DatasetInput(data, [tag])])

    def file(self, path: Path, folder: str = "") -> None:
        """Keep a copy of a file (or of all files of a folder) with the run."""
        with self._tracker._timed():
            log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
            log(self._id, str(path), folder or None)

    def model(self, folder: Path, name: str, alias: str) -> None:
        """Register the files of a model as a new version of `name`, and point `alias` at it.

        A run has one version of a model: registering again only moves the alias.
        """
        from mlflow.exceptions import MlflowException

        name = re.sub(r"[/:]", "_", name)
        with self._tracker._timed():
            client = self._client
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            versions = client.search_model_versions(f"name = '{name}' and run_id = '{self._id}'")
            if versions:
                version = versions[0].version
            else:
                client.log_artifacts(self._id, str(folder), "model")
                source = f"{client.get_run(self._id).info.artifact_uri}/model"
                version = client.create_model_version(name, source, self._id).version
            client.set_registered_model_alias(name, alias, version)


def store_uri(workspace: Path) -> str:
    """The address of a workspace's own store."""
    return f"sqlite:///{workspace.absolute() / DATABASE}"


def server_environment(workspace: Path) -> dict[str, str]:
    """The environment of an MLflow server that shows a workspace's store.

    The names are those `mlflow server` itself uses towards its worker processes.
    """
    files = (workspace.absolute() / "mlflow").as_uri()
    return {
        "_MLFLOW_SERVER_FILE_STORE": store_uri(workspace),
        "_MLFLOW_SERVER_ARTIFACT_ROOT": files,
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": files,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
    }


def _refuse_silent(uri: str) -> None:
    """MLflow tries for minutes to reach a server; say at once that none is there."""
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=10).close()  # noqa: S310 as given
    except urllib.error.HTTPError:
        return  # it answers; what it wants is for MLflow to say
    except (OSError, ValueError) as error:
        raise InputError(
            f"MLFLOW_TRACKING_URI is {uri}, and no MLflow server answers there ({error}); "
            "start it, or unset the variable to keep runs in the workspace."
        ) from None


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = FORBIDDEN.sub("_", f"{prefix}{name}")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        else:
            yield key, value
