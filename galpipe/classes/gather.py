"""What the clustering and its evaluation read of a release, in the catalogue's order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe.stamps import gather as stores
from galpipe.stamps.parts import Part
from galpipe.status import Status
from galpipe.workspace import Ref, Workspace

Array = NDArray[Any]


@dataclass(frozen=True)
class Index:
    """Where the stamps of a release lie: one entry per catalogue row, in the same order."""

    object_id: pa.ChunkedArray
    part: NDArray[np.int64]  # position in `parts`; -1 where there is no stamp
    row: NDArray[np.int64]  # row in that part; -1 where there is no stamp
    status: NDArray[np.int64]  # Status bits
    parts: tuple[str, ...]  # digests of the stamp parts with objects of this release, in order

    def __len__(self) -> int:
        return len(self.part)

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Rows that have a usable stamp."""
        usable: NDArray[np.bool_] = (self.part >= 0) & ((self.status & int(Status.OK)) != 0)
        return usable


def read_index(workspace: Workspace, stamps: Ref) -> Index:
    """The index of a stamps output."""
    table = stores.read_index(workspace, stamps)
    parts = sorted({digest for digest in table["part"].to_pylist() if digest is not None})
    position = {digest: i for i, digest in enumerate(parts)}
    part = [-1 if digest is None else position[digest] for digest in table["part"].to_pylist()]
    return Index(
        table["object_id"],
        np.array(part, np.int64),
        integers(table["row"], -1),
        integers(table["status"], 0),
        tuple(parts),
    )


def stamp_part(workspace: Workspace, digest: str) -> Part:
    """A committed part of stamps."""
    return Part(stores.part_path(workspace, "stamps", digest))


def embedding_part(workspace: Workspace, digest: str) -> Part:
    """A committed part of embeddings."""
    return Part(stores.part_path(workspace, "embeddings", digest))


def embedding_parts(workspace: Workspace, embeddings: Ref) -> dict[str, str]:
    """Digest of the embedding part of each stamp part."""
    manifest = workspace.manifest(embeddings)
    assert manifest is not None, "embeddings are committed before they are read"
    return {str(entry["stamps"]): str(entry["part"]) for entry in manifest["parts"]}


def column_names(part: Part) -> tuple[str, ...]:
    """Names of a stamp part's measured columns."""
    return tuple(str(name) for name in part.read("column"))


def measured(
    workspace: Workspace, stamps: Ref, wanted: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Measured columns by name, one float64 per catalogue row, NaN where undefined.

    Wanted columns that were not measured are left out.
    """
    names = stores.column_names(workspace, stamps)
    values = stores.gather(workspace, stamps, ["measured"]).get("measured")
    if values is None:
        return {}
    return {n: values[:, names.index(n)].astype(np.float64) for n in wanted if n in names}


def embedded(workspace: Workspace, embeddings: Ref, name: str) -> Array | None:
    """One array of the embeddings per catalogue row, NaN without a stamp; None: there is none."""
    index = stores.read_index(workspace, embeddings)
    digests = [digest for digest in index["part"].unique().to_pylist() if digest is not None]
    if not digests or name not in embedding_part(workspace, digests[0]).group:
        return None
    return stores.gather(workspace, embeddings, [name])[name]


def integers(column: pa.ChunkedArray, missing: int) -> NDArray[np.int64]:
    """A column of integers as numpy, with `missing` where it is null."""
    filled: NDArray[Any] = column.fill_null(missing).to_numpy(zero_copy_only=False)
    return filled.astype(np.int64)


def splits(workspace: Workspace, catalogue: Ref) -> NDArray[np.str_]:
    """The split of every catalogue row: train, validation or test."""
    table = pq.read_table(workspace.place(catalogue) / "catalogue.parquet", columns=["split"])
    return np.array(table["split"].to_pylist(), dtype="U10")
