"""Give every object its cluster, part by part, and gather the rows of a release."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe.classes import gather
from galpipe.classes.features import Reason
from galpipe.classes.fitted import (
    Memberships,
    load_clusters,
    part_inputs,
    read_arrays,
    write_arrays,
)
from galpipe.classes.predicted import part_probabilities
from galpipe.stages import Context
from galpipe.workspace import Ref, Workspace, address, write_bytes

VERSION = 1

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _PartWork:
    """One part to assign, as it travels to a worker."""

    root: str
    clusters: Ref
    stamp_part: str
    embedding_part: str | None
    output: Ref


def assign(context: Context, clusters: Ref, stamps: Ref, embeddings: Ref | None) -> Ref:
    """Give every catalogue row its cluster; returns at once where that is done.

    Parts are assigned whole, one by one, and kept: a catalogue that grows computes its new parts
    only, and the rows of the others keep their bytes.  `assignments.parquet` has the catalogue's
    rows in order: cluster, label, probability, probabilities, entropy (nats), anomaly_score
    (-log p, nats), model_cluster, imputed (columns filled in), unassigned (why, or null).
    """
    workspace = context.workspace
    parents: dict[str, Ref] = {"clusters": clusters, "stamps": stamps}
    if embeddings is not None:
        parents["embeddings"] = embeddings
    ref = address("assignments", VERSION, None, parents)
    if workspace.manifest(ref):
        return ref
    where = gather.read_index(workspace, stamps)
    embedded = {} if embeddings is None else gather.embedding_parts(workspace, embeddings)
    work = [_work(workspace, clusters, digest, embedded.get(digest)) for digest in where.parts]
    missing = [item for item in work if not workspace.manifest(item.output)]
    context.progress.start("cluster", len(work), "parts", len(work) - len(missing))
    for _ in context.map(_assign_part, missing):
        context.progress.advance()
    context.progress.finish()
    fitted = load_clusters(workspace, clusters)
    table = _gathered(workspace, where, fitted.names, [item.output for item in work])
    place = workspace.begin(ref)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(place / "assignments.parquet", sink.getvalue().to_pybytes())
    counts = np.bincount(
        gather.integers(table["cluster"], -1) + 1, minlength=fitted.components + 1
    ).tolist()
    return workspace.commit(
        ref,
        None,
        parents,
        objects=len(table),
        unassigned=counts[0],
        members=counts[1:],
        parts=[item.output.digest for item in work],
    )


def _work(
    workspace: Workspace, clusters: Ref, stamp_part: str, embedding_part: str | None
) -> _PartWork:
    parents = _part_parents(clusters, stamp_part, embedding_part)
    output = address("assignment-part", VERSION, None, parents)
    return _PartWork(str(workspace.root), clusters, stamp_part, embedding_part, output)


def _part_parents(clusters: Ref, stamp_part: str, embedding_part: str | None) -> dict[str, Any]:
    return {"clusters": clusters, "stamps": stamp_part, "embeddings": embedding_part or "none"}


def _assign_part(work: _PartWork) -> str:
    """Assign all rows of one part and commit them; the digest of the output."""
    workspace = Workspace(work.root)
    fitted = load_clusters(workspace, work.clusters)
    part = gather.stamp_part(workspace, work.stamp_part)
    status = part.read("status").astype(np.int64)
    arrays = _empty_rows(len(part), fitted.components)
    if fitted.mixture is not None:
        embedded = work.embedding_part if fitted.uses_embedding else None
        found = fitted.memberships(*part_inputs(workspace, work.stamp_part, embedded))
        own = None
        if fitted.own is not None:
            assert work.embedding_part is not None, "a network's own labels are given embeddings"
            own = part_probabilities(workspace, work.embedding_part, fitted.own["array"])
        arrays |= _published(found, own, fitted.faintest)
    arrays["reason"] = np.where(status & 1, arrays["reason"], np.uint8(Reason.NO_STAMP))
    arrays["model_cluster"] = _model_cluster(workspace, work.embedding_part, len(part))
    place = workspace.begin(work.output)
    write_arrays(place / "rows.safetensors", arrays)
    workspace.commit(
        work.output, None, _part_parents(work.clusters, work.stamp_part, work.embedding_part)
    )
    return work.output.digest


def _empty_rows(rows: int, components: int) -> dict[str, Any]:
    return {
        "cluster": np.full(rows, -1, np.int32),
        "probabilities": np.full((rows, components), np.nan, np.float32),
        "probability": np.full(rows, np.nan, np.float32),
        "entropy": np.full(rows, np.nan, np.float32),
        "anomaly_score": np.full(rows, np.nan, np.float32),
        "imputed": np.zeros(rows, np.int32),
        "reason": np.full(rows, Reason.NO_CLUSTERS, np.uint8),
    }


def _published(found: Memberships, own: Floats | None, faintest: float) -> dict[str, Any]:
    """What is published of the memberships, for the rows of one part.

    `own` are the network's probabilities, (row, class), where the labels are its own.
    """
    posterior = found.posterior if own is None else own
    highest = posterior.max(axis=1)
    entropy = -(posterior * np.log(np.maximum(posterior, 1e-300))).sum(axis=1)
    faint = (found.reason == Reason.ASSIGNED) & (highest < faintest)
    return {
        "cluster": posterior.argmax(axis=1).astype(np.int32),
        "probabilities": posterior.astype(np.float32),
        "probability": highest.astype(np.float32),
        "entropy": np.maximum(entropy, 0).astype(np.float32),
        "anomaly_score": (-found.log_density).astype(np.float32),
        "imputed": found.filled.astype(np.int32),
        "reason": np.where(faint, Reason.FAINT, found.reason).astype(np.uint8),
    }


def _model_cluster(
    workspace: Workspace, embedding_part: str | None, rows: int
) -> NDArray[np.int32]:
    """The model's own most likely component, -1 where it has none."""
    if embedding_part is None:
        return np.full(rows, -1, np.int32)
    part = gather.embedding_part(workspace, embedding_part)
    if "responsibility" not in part.group:
        return np.full(rows, -1, np.int32)
    responsibility = part.read("responsibility")
    defined = np.isfinite(responsibility).all(axis=1) & (responsibility.shape[1] > 0)
    best = np.where(defined[:, None], responsibility, 0).argmax(axis=1)
    return np.where(defined, best, -1).astype(np.int32)


def _gathered(
    workspace: Workspace, where: gather.Index, names: list[str], outputs: list[Ref]
) -> pa.Table:
    """The rows of all parts in the catalogue's order."""
    components = len(names)
    arrays = _empty_rows(len(where), components)
    arrays["reason"][:] = Reason.NO_STAMP
    arrays["model_cluster"] = np.full(len(where), -1, np.int32)
    for i, output in enumerate(outputs):
        rows = np.flatnonzero(where.part == i)
        found = read_arrays(workspace.place(output) / "rows.safetensors")
        for name, target in arrays.items():
            target[rows] = found[name][where.row[rows]]
    reason = np.where(where.usable, arrays["reason"], Reason.NO_STAMP)
    placed = np.isin(reason, (Reason.ASSIGNED, Reason.FAINT))
    cluster = np.where(reason == Reason.ASSIGNED, arrays["cluster"], -1).astype(np.int32)
    labels = np.array([*names, None], dtype=object)
    offsets = np.concatenate([[0], np.cumsum(np.where(placed, components, 0))]).astype(np.int32)
    probabilities = pa.ListArray.from_arrays(
        pa.array(offsets, mask=np.append(~placed, False)),
        pa.array(arrays["probabilities"][placed].reshape(-1)),
    )
    reasons = np.array([None if r == 0 else r.name.lower() for r in Reason], dtype=object)
    return pa.table(
        {
            "object_id": where.object_id,
            "cluster": pa.array(cluster),
            "label": pa.array(labels[cluster], pa.string()),
            "probability": pa.array(arrays["probability"], mask=~placed),
            "probabilities": probabilities,
            "entropy": pa.array(arrays["entropy"], mask=~placed),
            "anomaly_score": pa.array(arrays["anomaly_score"], mask=~placed),
            "model_cluster": pa.array(arrays["model_cluster"]),
            "imputed": pa.array(arrays["imputed"], mask=~placed),
            "unassigned": pa.array(reasons[reason], pa.string()),
        }
    )
