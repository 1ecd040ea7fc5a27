"""The objects an evaluation judges, with what it compares: labels, truth and nuisances."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe.catalogue.spec import Evaluation, Truth
from galpipe.classes import gather
from galpipe.errors import InputError
from galpipe.stages import Context
from galpipe.workspace import Ref, Workspace

Array = NDArray[Any]
Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

# What a morphological label should not depend on, and the words for it in figures and plots.
NUISANCES = {
    "position_angle": "position angle",
    "neighbour_flux_ratio": "neighbour flux",
    "r50": "apparent size (R50)",
    "snr": "signal to noise",
    "redshift": "redshift",
}
MEASURED = ("axis_ratio", "position_angle", "neighbour_flux_ratio", "r50", "snr", "flux")


@dataclass(frozen=True)
class HeldOut:
    """The judged objects, all assigned to a cluster, one entry each in the catalogue's order."""

    rows: Labels  # catalogue rows
    judged_on: str  # "test", or "all" where the held-out split is too small
    cluster: Labels
    model_cluster: Labels | None  # -1 where the model says nothing; None without a model
    anomaly: Floats
    probability: Floats
    measured: dict[str, Floats]  # columns of MEASURED that were measured, and redshift
    classes: Array | None  # class names, None in cells without one
    votes: dict[str, Floats]  # vote fractions, NaN where missing or of too few votes
    train: Labels  # catalogue rows of assigned training objects, thinned like the judged ones

    def __len__(self) -> int:
        return len(self.rows)


def held_out(
    context: Context, spec: Evaluation, catalogue: Ref, stamps: Ref, assignments: Ref
) -> HeldOut:
    """Read the judged objects of a release.  Raises InputError for a truth column not there."""
    workspace = context.workspace
    table = pq.read_table(workspace.place(catalogue) / "catalogue.parquet")
    assigned = pq.read_table(workspace.place(assignments) / "assignments.parquet")
    check_truth(spec.truth, table.column_names)
    cluster = gather.integers(assigned["cluster"], -1)
    split = np.array(table["split"].to_pylist(), dtype="U10")
    rows = np.flatnonzero((split == "test") & (cluster >= 0))
    judged_on = "test"
    if len(rows) < spec.fewest:
        rows, judged_on = np.flatnonzero(cluster >= 0), "all"
    rows = thinned(rows, spec.largest)
    model_cluster = gather.integers(assigned["model_cluster"], -1)
    measured = gather.measured(workspace, stamps, MEASURED)
    if "redshift" in table.column_names and table["redshift"].null_count < len(table):
        measured["redshift"] = floats(table["redshift"])
    return HeldOut(
        rows=rows,
        judged_on=judged_on,
        cluster=cluster[rows],
        model_cluster=model_cluster[rows] if (model_cluster >= 0).any() else None,
        anomaly=floats(assigned["anomaly_score"])[rows],
        probability=floats(assigned["probability"])[rows],
        measured={name: values[rows] for name, values in measured.items()},
        classes=_classes(table, spec.truth, rows),
        votes=_votes(table, spec.truth, rows),
        train=thinned(np.flatnonzero((split == "train") & (cluster >= 0)), spec.largest),
    )


def check_truth(truth: Truth, present: list[str]) -> None:
    """Raise InputError, naming the nearest column, where a truth column is not in the table."""
    columns = [name.removeprefix("input_") for name in present if name.startswith("input_")]
    wanted = [truth.classes, *truth.votes, truth.vote_counts]
    for name in wanted:
        if name is not None and name not in columns:
            near = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(columns[:20])}."
            raise InputError(f"[evaluate.truth]: the table has no column {name!r}; {hint}")


def thinned(rows: Labels, most: int) -> Labels:
    """At most `most` of the rows, evenly along the catalogue."""
    return rows if len(rows) <= most else rows[np.arange(most) * len(rows) // most]


def floats(column: pa.ChunkedArray) -> Floats:
    """A numeric column as float64, NaN where null."""
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def per_row(workspace: Workspace, embeddings: Ref | None, name: str, rows: Labels) -> Floats | None:
    """An array of the embeddings for some catalogue rows, float64; None where there is none."""
    if embeddings is None:
        return None
    found = gather.embedded(workspace, embeddings, name)
    return None if found is None else np.asarray(found[rows], np.float64)


def _classes(table: pa.Table, truth: Truth, rows: Labels) -> Array | None:
    if truth.classes is None:
        return None
    values = table[f"input_{truth.classes}"].take(pa.array(rows)).to_pylist()
    names = [None if v is None or v != v or str(v).strip() == "" else str(v) for v in values]
    return np.array(names, dtype=object)


def _votes(table: pa.Table, truth: Truth, rows: Labels) -> dict[str, Floats]:
    taken = table.take(pa.array(rows)) if truth.votes else table
    enough = np.ones(len(rows), bool)
    if truth.votes and truth.vote_counts is not None:
        enough = floats(taken[f"input_{truth.vote_counts}"]) >= truth.fewest_votes
    return {
        name: np.where(enough, _fraction(taken[f"input_{name}"], name), np.nan)
        for name in truth.votes
    }


def _fraction(column: pa.ChunkedArray, name: str) -> Floats:
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise InputError(f"[evaluate.truth] votes: the column {name!r} holds no numbers.")
    values = floats(column)
    return np.where((values >= 0) & (values <= 1), values, np.nan)
