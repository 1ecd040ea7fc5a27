"""A release planted into a workspace: committed sample, stamps and embeddings of known classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from galpipe.stamps.parts import ArrayLayout, Part, PartLayout, create
from galpipe.status import Status
from galpipe.workspace import Ref, Workspace

BLANK = int(Status.BLANK)


@dataclass(frozen=True)
class Planted:
    """Refs of a planted release, and the truth behind it."""

    sample: Ref
    stamps: Ref
    embeddings: Ref | None
    classes: np.ndarray[Any, Any]


def galaxies(count: int, seed: int = 0, size: int = 16) -> dict[str, Any]:
    """`count` galaxies of three planted classes in four measured columns, an embedding and a stamp.

    Position angle, S/N and neighbour flux know nothing of the class.
    """
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, count)
    axis_ratio = np.clip(rng.uniform(0.2, 1.0, count), 0.2, 1)
    concentration = np.array([2.5, 3.5, 4.5])[classes] + rng.normal(0, 0.15, count)
    asymmetry = 10 ** (np.array([-1.5, -0.5, -1.0])[classes] + rng.normal(0, 0.08, count))
    columns = {
        "axis_ratio": axis_ratio,
        "position_angle": rng.uniform(0, 180, count),
        "concentration": concentration,
        "asymmetry": asymmetry,
        "r50": rng.lognormal(1.5, 0.2, count),
        "snr": rng.lognormal(3, 0.4, count),
        "neighbour_flux_ratio": np.where(rng.random(count) < 0.7, 0, rng.exponential(0.2, count)),
    }
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(x, y / axis_ratio[:, None, None])
    image = np.clip(255 * np.exp(-radius / (1 + classes[:, None, None])), 0, 255).astype(np.uint8)
    vector = np.eye(5)[classes] * 4 + rng.normal(0, 0.4, (count, 5))
    responsibility = np.full((count, 4), 0.02)
    responsibility[np.arange(count), classes] = 0.94
    return {
        "columns": columns,
        "image": image[:, None],
        "vector": vector.astype(np.float32),
        "responsibility": responsibility.astype(np.float32),
        "classes": classes,
    }


def plant(
    workspace: Workspace,
    truth: Mapping[str, Any],
    *,
    name: str = "a",
    edges: tuple[int, ...] = (),
    embedded: bool = True,
    status: Any = None,
    inputs: Mapping[str, Any] | None = None,
    split: Any = None,
) -> Planted:
    """Commit a release whose parts end at `edges` and at the end; rows without OK have no part.

    The first parts of two releases planted with the same edges are the same outputs.
    """
    classes = np.asarray(truth["classes"])
    count = len(classes)
    ids = np.arange(count, dtype=np.int64) + 10**18
    bits = np.full(count, int(Status.OK), np.int32) if status is None else np.asarray(status)
    rng = np.random.default_rng(1)
    if split is None:
        split = rng.choice(["train", "validation", "test"], 10**5, p=[0.7, 0.1, 0.2])[:count]
    sample = _table(
        workspace,
        Ref("sample", name),
        "catalogue.parquet",
        pa.table(
            {
                "object_id": ids,
                "split": pa.array([str(s) for s in split]),
                "status": np.zeros(count, np.int32),
                **{f"input_{key}": values for key, values in (inputs or {}).items()},
            }
        ),
    )
    part_of = np.full(count, None, object)
    row_of = np.full(count, -1, np.int32)
    stamp_facts, embedding_facts = [], []
    place_of = np.full(count, None, object)
    for number, (start, stop) in enumerate(zip((0, *edges), (*edges, count), strict=True)):
        rows = np.flatnonzero(bits[start:stop] & 1) + start
        if not len(rows):
            continue
        digest = f"stamps-{number}-{stop}"
        _part(
            workspace,
            Ref("stamp-part", digest),
            ids[rows],
            {
                "image": truth["image"][rows],
                "image_unmasked": truth["image"][rows],
                "measured": np.stack([c[rows] for c in truth["columns"].values()], axis=1),
                "status": bits[rows],
            },
            tuple(truth["columns"]),
        )
        part_of[rows], row_of[rows] = digest, np.arange(len(rows))
        stamp_facts.append({"part": digest, "cutouts": "none", "objects": len(rows)})
        if embedded:
            mine = f"embedding-{number}-{stop}"
            error = np.full(len(rows), 0.001, np.float32)
            _part(
                workspace,
                Ref("embedding-part", mine),
                ids[rows],
                {
                    "vector": truth["vector"][rows],
                    "responsibility": truth["responsibility"][rows],
                    "reconstruction_error": error,
                },
            )
            place_of[rows] = mine
            embedding_facts.append({"part": mine, "stamps": digest, "objects": len(rows)})
    index = {"object_id": ids, "row": row_of, "status": bits.astype(np.int32)}
    stamps = _table(
        workspace,
        Ref("stamps", name),
        "index.parquet",
        pa.table({**index, "part": pa.array(part_of.tolist(), pa.string())}),
        parts=stamp_facts,
    )
    embeddings = None
    if embedded:
        embeddings = _table(
            workspace,
            Ref("embeddings", name),
            "index.parquet",
            pa.table({**index, "part": pa.array(place_of.tolist(), pa.string())}),
            parts=embedding_facts,
        )
    return Planted(sample, stamps, embeddings, classes)


def _table(workspace: Workspace, ref: Ref, name: str, table: pa.Table, **facts: Any) -> Ref:
    pq.write_table(table, workspace.begin(ref) / name)
    return workspace.commit(ref, None, {}, **facts)


def _part(
    workspace: Workspace,
    ref: Ref,
    ids: Any,
    arrays: Mapping[str, Any],
    columns: tuple[str, ...] = (),
) -> None:
    if workspace.manifest(ref):
        return
    layouts = tuple(
        ArrayLayout(
            key,
            np.float32 if values.dtype.kind == "f" else values.dtype,
            values.shape[1:],
            _dims(key, values.ndim),
            np.nan if values.dtype.kind == "f" else 0,
        )
        for key, values in arrays.items()
    )
    path: Path = workspace.begin(ref)
    attributes = {"unit_scale": 255.0, "bands": ["r"]}
    create(path, PartLayout(len(ids), 128, 64, layouts), ids, attributes, columns)
    part = Part(path)
    for shard in part.missing():
        rows = part.rows(shard)
        part.write(shard, {key: values[rows] for key, values in arrays.items()}, {})
    workspace.commit(ref, None, {})


def _dims(key: str, ndim: int) -> tuple[str, ...]:
    if key.startswith("image"):
        return ("band", "y", "x")
    return () if ndim == 1 else ("column" if key == "measured" else "latent",)
