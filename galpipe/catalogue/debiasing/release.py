"""The predicted vote fractions of a published release, debiased, as a table of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe.catalogue.debiasing.matching import Asked, Debiased, debiased
from galpipe.catalogue.export import SUFFIX, export
from galpipe.catalogue.labels import FILE, Meaning, with_meanings, write_table
from galpipe.errors import InputError
from galpipe.models import kinds
from galpipe.models.checkpoints import description
from galpipe.models.votes.spec import Votes
from galpipe.models.votes.tree import answer_names, spans
from galpipe.workspace import Ref, Workspace

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Told:
    """What is said of it."""

    objects: int
    debiased: int
    cells: int
    # Of the first question's answers: name, mean fraction near by, farthest away, and debiased.
    means: list[tuple[str, float, float, float]]


def debias(
    workspace: Workspace,
    record: Mapping[str, Any],
    redshift: str,
    like: Sequence[str],
    each: int,
    format: str,
    output: Path | None,
) -> tuple[Path, Told]:
    """Write a row per object of a release, with the fractions as published and debiased.

    `redshift` and `like` are columns of the labels or carried from the input table; see
    `galpipe.catalogue.debiasing.matching.debiased`.  Raises InputError where a column is not there,
    the release has no vote fractions, or no bins can be made.
    """
    network = _network(workspace, record)
    labels = pq.read_table(workspace.release(record["survey"], record["release"]) / FILE)
    distance = _numbers(labels, redshift, "--redshift")
    alike = np.stack([_numbers(labels, name, "--like") for name in like], 1)
    names = answer_names(network)
    fractions = np.stack([_numbers(labels, f"predicted_{name}", "labels") for name in names], 1)
    place = {name: number for number, name in enumerate(names)}
    questions = [
        Asked(span, tuple(place[name] for name in question.after))
        for question, span in zip(network.questions, spans(network), strict=True)
    ]
    found = debiased(fractions, distance, alike, questions, each)
    if not (found.bin >= 0).any():
        known = int((np.isfinite(distance) & np.isfinite(alike).all(1)).sum())
        raise InputError(
            f"debias: {known} objects with {redshift} and {', '.join(like)} known are too few for "
            f"two bins of {each}; give a larger release or a smaller --each."
        )
    target = output or Path(f"{record['survey']}-{record['release']}-debiased{SUFFIX[format]}")
    _write(_table(labels["object_id"], found, fractions, distance, names), target, format)
    return target, _told(found, fractions, names[questions[0].answers])


def _network(workspace: Workspace, record: Mapping[str, Any]) -> Votes:
    if "model" in record["refs"]:
        facts = description(workspace.place(Ref("model", record["refs"]["model"])))
        network = kinds.spec_of(facts["model"], "model.json")
        if isinstance(network, Votes):
            return network
    raise InputError(
        f"debias: {record['survey']} {record['release']} has no predicted vote fractions; its "
        '[model] is not of kind = "votes".'
    )


def _numbers(labels: pa.Table, name: str, key: str) -> Floats:
    """A column of the labels, or one carried from the input table; NaN where unknown."""
    for one in (name, f"input_{name}"):
        if one in labels.column_names:
            kind = labels[one].type
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                raise InputError(f"debias: {key}: the column {name!r} holds no numbers.")
            return np.asarray(labels[one].cast(pa.float64()).to_numpy(), np.float64)
    raise InputError(
        f"debias: {key}: the labels have no column {name!r}; one of the input table is carried "
        "into them by [publish] carry."
    )


def _table(
    ids: pa.ChunkedArray, found: Debiased, fractions: Floats, distance: Floats, names: Sequence[str]
) -> pa.Table:
    columns: dict[str, Any] = {
        "object_id": ids,
        "debias_redshift": pa.array(distance, mask=~np.isfinite(distance)),
        "debias_cell": pa.array(found.cell, pa.int32()),
        "debias_bin": pa.array(found.bin, pa.int32()),
    }
    meanings = {
        "debias_redshift": Meaning("Redshift that the fractions were debiased by"),
        "debias_cell": Meaning("Number of the cell of like galaxies; -1: not debiased"),
        "debias_bin": Meaning("Bin of redshift in it, 0 the nearest; -1: not debiased"),
    }
    for k, name in enumerate(names):
        for kind, values in (("predicted", fractions), ("debiased", found.fractions)):
            own = values[:, k].astype(np.float32)
            columns[f"{kind}_{name}"] = pa.array(own, mask=~np.isfinite(own))
        meanings[f"predicted_{name}"] = Meaning(f"Fraction of votes for {name}, as published")
        meanings[f"debiased_{name}"] = Meaning(
            f"Fraction for {name}, distributed as that of like galaxies near by (Hart et al. 2016)"
        )
    return with_meanings(pa.table(columns), (), meanings)


def _write(table: pa.Table, target: Path, format: str) -> None:
    partial = target.with_name(f".{target.name}.labels")
    try:
        if target.parent.is_dir():  # `export` says where it is none
            write_table(table, partial)
        export(partial, target, format)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _told(found: Debiased, fractions: Floats, names: Sequence[str]) -> Told:
    there = found.bin >= 0
    farthest = np.zeros(len(there), bool)
    for cell in np.unique(found.cell[there]):
        mine = found.cell == cell
        farthest |= mine & (found.bin == found.bin[mine].max())
    return Told(
        len(there),
        int(there.sum()),
        len(np.unique(found.cell[there])),
        [
            (
                name,
                float(fractions[found.bin == 0, k].mean()),
                float(fractions[farthest, k].mean()),
                float(found.fractions[farthest, k].mean()),
            )
            for k, name in enumerate(names)
        ],
    )
