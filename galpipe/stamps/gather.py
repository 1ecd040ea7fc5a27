"""Small per-object arrays of many parts, gathered into the canonical order of a release."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe.stamps.parts import Part
from galpipe.workspace import Ref, Workspace

PART_STAGE = {"cutouts": "cutout-part", "stamps": "stamp-part", "embeddings": "embedding-part"}


def read_index(workspace: Workspace, ref: Ref) -> pa.Table:
    """The index of a store: object_id, part (null without pixels), row, and more by stage."""
    return pq.read_table(workspace.place(ref) / "index.parquet")


def part_path(workspace: Workspace, stage: str, digest: str) -> Path:
    """Where a part of a store (cutouts, stamps or embeddings) lies."""
    return workspace.place(Ref(PART_STAGE[stage], digest))


def gather(workspace: Workspace, ref: Ref, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Arrays of a store as numpy, one row per row of its index.

    Rows without pixels are NaN in float arrays and 0 in others.  Shapes: (objects, ...).
    """
    index = read_index(workspace, ref)
    parts = index["part"].dictionary_encode().combine_chunks()
    codes = parts.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    rows = index["row"].to_numpy()
    gathered: dict[str, NDArray[Any]] = {}
    for code, digest in enumerate(parts.dictionary.to_pylist()):
        part = Part(part_path(workspace, ref.stage, digest))
        here = np.flatnonzero(codes == code)
        for name in names:
            values = part.read(name)
            if name not in gathered:
                empty = np.nan if values.dtype.kind == "f" else 0
                gathered[name] = np.full((len(codes), *values.shape[1:]), empty, values.dtype)
            gathered[name][here] = values[rows[here]]
    return gathered


def column_names(workspace: Workspace, ref: Ref) -> tuple[str, ...]:
    """The names along the dimension `column` of a store's parts; empty where it has no part."""
    for digest in read_index(workspace, ref)["part"].unique().to_pylist():
        if digest is not None:
            return tuple(
                str(n) for n in Part(part_path(workspace, ref.stage, digest)).read("column")
            )
    return ()
