"""The Prefect flow of a survey: one task per stage of `galpipe.chain`, with artifacts to look at.

The same flow runs from the command line (`flows.command`) and from a deployment or the dashboard.
"""

from __future__ import annotations

import os
import re
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import flow, runtime, task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.utilities.annotations import quote

import galpipe
from flows import stale
from flows.servers import served
from flows.session import Session, session
from flows.signals import take_back_sigterm
from galpipe.chain import STAGES, Chain, StageSummary
from galpipe.errors import InputError
from galpipe.releases import note_provenance, release_name
from galpipe.survey import load

WITH_WORKERS = ("sample", "retrieve", "prepare")  # later stages want the cores for themselves
HASTE = 0.5  # seconds that an interrupted run waits for Prefect to have written its tasks
RETRIES = (2.0, 10.0, 30.0)  # seconds before another try


def flow_run_name() -> str:
    """`gz5 r1`: the survey and its release."""
    given = runtime.flow_run.parameters
    survey = load(given["survey"])
    return f"{survey.name} {release_name(survey, given['release'], given['prune'])}"


def worth_another_try(_task: Any, _run: Any, state: Any) -> bool:
    """True where a stage failed for a cause that may be gone on the next try: the network's."""
    try:
        state.result()
    except (ConnectionError, TimeoutError):
        return True
    except Exception:
        return False
    return False


@task(
    cache_policy=NO_CACHE,  # galpipe knows by digest what is there already
    retries=len(RETRIES),
    retry_delay_seconds=list(RETRIES),
    retry_condition_fn=worth_another_try,
)
def run_stage(chain: Chain, stage: str) -> StageSummary:
    """One stage of the chain, shown as an artifact."""
    summary = chain.run(stage)
    show_stage(chain.survey.name, summary)
    return summary


@flow(name="survey", flow_run_name=flow_run_name, validate_parameters=False)
def survey_flow(
    survey: str,
    workspace: str = "workspace",
    release: str | None = None,
    prune: int | None = None,
    until: str | None = None,
    dask: str | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Run a survey up to a stage (None: to the published labels), and return its summary.

    `release` None publishes under the survey's own name for its first release, `prune` N takes N
    objects, `dask` is a scheduler's address (None: `workers` processes here, None: one per core).
    """
    if until is not None and until not in STAGES:
        raise InputError(f"there is no stage {until!r}; it takes {', '.join(STAGES)}.")
    stages = STAGES if until is None else STAGES[: STAGES.index(until) + 1]
    command = f"galpipe run {survey}"
    root = named_place(workspace)
    with session(load(survey), root, command, workers=workers, dask=dask) as held:
        take_back_sigterm()
        claim(held)
        chain = held.chain(release, prune)
        try:
            for stage in stages:
                if stage not in WITH_WORKERS:
                    held.map.close()
                run_stage.with_options(name=stage, task_run_name=stage)(
                    # quoted: Prefect shall not look for results of other tasks inside it
                    cast(Chain, quote(chain)),
                    stage,
                )
        except KeyboardInterrupt:
            settle(chain, HASTE)
            raise
        return conclude(chain, held)


def named_place(workspace: str) -> Path:
    """The folder of a workspace; deployments name it by a $VARIABLE of where they run."""
    place = os.path.expandvars(workspace)
    if place.startswith("$"):
        raise InputError(
            f"the workspace is {workspace}, and there is no such environment variable; set it "
            "where the worker runs, or give the parameter `workspace` a folder."
        )
    return Path(place)


def claim(held: Session) -> None:
    """Tag the flow run as this workspace's, and close those that a killed run left open."""
    own = UUID(runtime.flow_run.id) if runtime.flow_run.id else None
    with get_client(sync_client=True) as client:
        if own is not None:
            tags = {*(runtime.flow_run.tags or ()), held.mark, held.survey.name}
            client.update_flow_run(own, tags=sorted(tags))
        # Also after a run that ended well but could not say so, its server being gone before.
        flow_runs = stale.close_stale(client, held.mark, own)
        if held.stale:
            tracked = held.tracker.close_stale()
            held.stale = False
            held.context.progress.say(
                f"an earlier run was killed: {flow_runs} of its Prefect and {tracked} of its "
                "MLflow runs closed; going on from what it committed."
            )


def conclude(chain: Chain, held: Session) -> dict[str, Any]:
    """The summary of the run in plain values, with artifacts for the dashboard."""
    summary = chain.summary()
    runs = dict(held.tracker.opened)  # the last of each kind
    summary["mlflow_run_id"] = runs.get("training") or runs.get("evaluation")
    if summary["labels"] is not None:
        facts = {
            "published": datetime.now(UTC).isoformat(timespec="seconds"),
            "galpipe": galpipe.__version__,
            "host": socket.gethostname(),
            "prefect_flow_run_id": str(runtime.flow_run.id or ""),
            "mlflow_run_id": summary["mlflow_run_id"],
            "mlflow_runs": runs,
            "stages": summary["stages"],
        }
        note_provenance(held.context.workspace, chain.survey.name, chain.release, facts)
    dashboard = served(held.context.workspace.root).get("mlflow", "http://127.0.0.1:5000")
    for kind, run_id in runs.items():
        create_link_artifact(
            key=slug(f"{chain.survey.name}-mlflow-{kind}"),
            link=held.tracker.link(run_id, dashboard),
            link_text=f"MLflow run of the {kind}",
            description="Shown by `galpipe serve` while it runs.",
        )
    report = summary.get("report")
    if report is not None:
        create_link_artifact(
            key=slug(f"{chain.survey.name}-report"),
            link=Path(report).absolute().as_uri(),
            link_text=f"Report of {chain.survey.name} {chain.release}",
            description=f"A page that opens from a file, on the machine that made it: `{report}`",
        )
    rows = [f"| {s.name} | {s.seconds:.1f} | {s.done} | {s.reused} |" for s in chain.summaries]
    statuses = [f"| {name} | {count} |" for name, count in summary["by_status"].items()]
    create_markdown_artifact(
        key=slug(f"{chain.survey.name}-summary"),
        markdown="\n".join(
            [
                f"# {chain.survey.name} {chain.release}: {summary['objects']} objects",
                "| stage | seconds | done | reused |", "|---|---|---|---|", *rows, "",
                "| status | objects |", "|---|---|", *statuses, "",
                f"Labels: `{summary['labels']}`", "", f"Report: `{report or 'none'}`",
            ]
        ),
        description="What the run did, stage by stage.",
    )  # fmt: skip
    settle(chain, stale.PATIENCE)
    return summary


def settle(chain: Chain, patience: float) -> None:
    """See that Prefect knows how the tasks of this flow run ended."""
    if runtime.flow_run.id:
        with get_client(sync_client=True) as client:
            done = [summary.name for summary in chain.summaries]
            stale.settle(client, UUID(runtime.flow_run.id), done, patience)


def show_stage(survey: str, summary: StageSummary) -> None:
    """A table artifact of one stage."""
    facts = {"seconds": round(summary.seconds, 3), "done": summary.done, "reused": summary.reused}
    table = [{"what": what, "value": value} for what, value in {**facts, **summary.facts}.items()]
    create_table_artifact(
        table, key=slug(f"{survey}-{summary.name}"), description=f"What {summary.name} did."
    )


def slug(text: str) -> str:
    """A key Prefect takes: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
