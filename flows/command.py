"""`galpipe run`: the flow in this process, with a Prefect server beside it, and signals answered.

Ctrl-C or SIGTERM ends the run within 10 s: Prefect and MLflow are told first, what is committed
stays.  After a forced end, `kill -9` or not, the next run closes what is open there.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.servers import client_settings, full, prefect_api
from flows.session import session
from flows.signals import answered
from galpipe.chain import STAGES
from galpipe.errors import Interrupted
from galpipe.stages import Progress
from galpipe.survey import load

DRAIN_LIMIT = 3.0  # seconds for the last words to the server


def run(
    *,
    survey: Path | str,
    workspace: Path | str,
    release: str | None = None,
    prune: int | None = None,
    until: str | None = None,
    dask: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a survey and return its summary, with `orchestration_seconds` and `mlflow_run_id`.

    Arguments as of `flows.survey.survey_flow`; `progress` None shows bars on a terminal and lines
    elsewhere, on standard error.  Raises InputError as the stages raise it, and Interrupted after
    Ctrl-C or SIGTERM.
    """
    begin = time.perf_counter()
    root = Path(workspace)
    try:
        with answered():
            with (
                session(
                    load(survey), root, f"galpipe run {survey}",
                    workers=workers, dask=dask, progress_to=progress,
                ) as held,
                prefect_api(root) as api,
                environment(client_settings(root, api)),
            ):  # fmt: skip
                # While the server starts: read the table, so that bad input is told at once, and
                # import Prefect.
                held.chain(release, prune).run(STAGES[0])
                held.map.begin()
                from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

                from flows.survey import survey_flow

                own = {PREFECT_API_URL: api.url}
                if "PREFECT_HOME" in os.environ:
                    own[PREFECT_HOME] = os.environ["PREFECT_HOME"]
                api.wait()
                with temporary_settings(own), reported():
                    summary = survey_flow(
                        str(survey), str(workspace), release, prune, until, dask, workers
                    )
            worked = sum(stage["seconds"] for stage in summary["stages"].values())
            inside = held.map.overhead + held.tracker.overhead  # within stages, but not their work
            seconds = time.perf_counter() - begin - worked + inside
            summary["orchestration_seconds"] = round(seconds, 3)
    except BaseException as error:
        # Prefect's own answer to SIGTERM, in the moment before ours is in place, has no part in
        # the library's names; both mean the same.
        if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "TerminationSignal":
            raise Interrupted("interrupted") from None
        # A server that cannot write on a full disk refuses to say so.
        if type(error).__module__.startswith("prefect.") and full(root):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(root)) from None
        raise
    return summary


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the block; Prefect reads them when it is imported."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Send a run's log to the server alone, and see that it and the states of tasks arrive there.

    The terminal belongs to the progress; an error comes out of the flow as it is.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).propagate = False
    for handler in logging.getLogger().handlers:  # Prefect's console
        handler.setLevel(max(handler.level, logging.WARNING))
    try:
        yield
    finally:
        end = time.monotonic() + DRAIN_LIMIT
        EventsWorker.drain_all(timeout=DRAIN_LIMIT)
        APILogWorker.drain_all(timeout=max(end - time.monotonic(), 0.5))
