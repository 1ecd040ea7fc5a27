"""Which stamps a training sees: the rows of each split, part by part."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe.stamps.batches import Selection
from galpipe.stamps.gather import part_path, read_index
from galpipe.status import Status
from galpipe.workspace import Ref, Workspace

SPLITS = ("train", "validation", "test")

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Splits:
    """Rows with a usable stamp, by split; parts in the order of their digests."""

    selections: Mapping[str, list[Selection]]
    rows: Mapping[str, Rows]  # catalogue rows of the selections, one after the other
    digests: dict[str, str]  # of the parts and rows of each split
    objects: dict[str, int]

    @classmethod
    def of(cls, selections: Mapping[str, list[Selection]], rows: Mapping[str, Rows]) -> Splits:
        """Splits with their digests and counts."""
        sums: dict[str, str] = {}
        for name, own in selections.items():
            digest = hashlib.sha256()
            for selection in own:
                digest.update(selection.part.name.encode() + selection.rows.astype("<i8").tobytes())
            sums[name] = digest.hexdigest()[:32]
        counts = {name: sum(len(s.rows) for s in own) for name, own in selections.items()}
        return cls(selections, rows, sums, counts)


def read_splits(workspace: Workspace, stamps: Ref, catalogue: Ref) -> Splits:
    """Divide the rows whose status holds OK as the catalogue's `split` says."""
    index = read_index(workspace, stamps)
    table = pq.read_table(
        workspace.place(catalogue) / "catalogue.parquet", columns=["object_id", "split"]
    )
    if not index["object_id"].equals(table["object_id"]):
        raise ValueError("the stamps are not those of the catalogue: their object ids differ")
    usable = (index["status"].to_numpy() & Status.OK) != 0
    parts = np.asarray(index["part"].to_pylist(), object)
    rows = index["row"].to_numpy().astype(np.int64)
    split = np.asarray(table["split"].to_pylist(), object)
    digests = sorted({str(part) for part in parts[usable] if part is not None})
    selections: dict[str, list[Selection]] = {}
    places: dict[str, Rows] = {}
    for name in SPLITS:
        selections[name], own = [], [np.empty(0, np.int64)]
        for part in digests:
            mine = np.flatnonzero(usable & (split == name) & (parts == part))
            mine = mine[np.argsort(rows[mine], kind="stable")]
            selections[name].append(Selection(part_path(workspace, "stamps", part), rows[mine]))
            own.append(mine)
        places[name] = np.concatenate(own)
    return Splits.of(selections, places)


def sampled(
    selections: Sequence[Selection], count: int, seed: int
) -> tuple[list[Selection], NDArray[Any]]:
    """At most `count` of the selected rows, drawn without replacement, and which they are."""
    chosen = list(selections)
    total = sum(len(selection.rows) for selection in chosen)
    kept: NDArray[np.bool_] = np.zeros(total, bool)
    kept[np.random.default_rng(seed).permutation(total)[:count]] = True
    if total <= count:
        kept[:] = True
    ends = np.cumsum([len(selection.rows) for selection in chosen])[:-1]
    return [
        Selection(selection.part, selection.rows[keep])
        for selection, keep in zip(chosen, np.split(kept, ends), strict=True)
    ], kept
