"""What a network learns beside pixels: columns of the catalogue, one value per object.

A column is one of the input table, `redshift`, `ra` or `dec`, or a measured column of the stamps.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe.errors import InputError
from galpipe.stamps import gather
from galpipe.workspace import Ref, Workspace

Array = NDArray[Any]


@dataclass(frozen=True)
class Wanted:
    """What a model asks of the table: a class, numbers, or counts of votes."""

    name: str  # of the target, in a batch
    columns: tuple[str, ...]
    kind: Literal["class", "numbers"]
    required: bool = True  # objects without it are not learnt from
    key: str = "model"  # of the survey file, for messages


@dataclass(frozen=True)
class Targets:
    """Values by name, one row per catalogue row, and the classes' names."""

    values: Mapping[str, Array]  # class: int64, -1 where there is none; numbers: float32 (rows, K)
    classes: Mapping[str, tuple[str, ...]]
    usable: NDArray[np.bool_]  # rows that have all that is required

    def digest(self, rows: Array) -> str:
        """Of the values of some catalogue rows, in their order."""
        made = hashlib.sha256()
        for name in sorted(self.values):
            values = np.ascontiguousarray(self.values[name][rows])
            made.update(name.encode() + str(self.classes.get(name)).encode() + values.tobytes())
        return made.hexdigest()[:32]


def read_targets(
    workspace: Workspace, stamps: Ref, catalogue: Ref, wanted: Sequence[Wanted]
) -> Targets:
    """The targets of every catalogue row.  Raises InputError for a column that is not there.

    The names of classes are those of the whole table in alphabetical order, so that a split that
    lacks one changes nothing.
    """
    table = pq.read_table(workspace.place(catalogue) / "catalogue.parquet")
    values: dict[str, Array] = {}
    classes: dict[str, tuple[str, ...]] = {}
    usable: NDArray[np.bool_] = np.ones(len(table), bool)
    for want in wanted:
        if want.kind == "class":
            names = _names(_column(workspace, stamps, table, want.columns[0], want.key))
            classes[want.name] = tuple(sorted({name for name in names if name is not None}))
            place = {name: number for number, name in enumerate(classes[want.name])}
            values[want.name] = np.array(
                [-1 if name is None else place[name] for name in names], np.int64
            )
            there = np.asarray(values[want.name] >= 0)
        else:
            columns = [
                _numbers(_column(workspace, stamps, table, name, want.key), name, want.key)
                for name in want.columns
            ]
            values[want.name] = np.stack(columns, 1).astype(np.float32)
            there = np.asarray(np.isfinite(values[want.name]).all(1))
        if want.required:
            usable &= there
    return Targets(values, classes, usable)


def of_stamps(workspace: Workspace, catalogue: Ref, columns: Sequence[str]) -> tuple[bool, ...]:
    """Which of the columns are measured on the stamps, and not given in the table."""
    names = pq.read_schema(workspace.place(catalogue) / "catalogue.parquet").names
    return tuple(_in_table(names, name) is None for name in columns)


def _in_table(names: Sequence[str], name: str) -> str | None:
    """What a column is called in the catalogue; None where it has it not."""
    if f"input_{name}" in names:
        return f"input_{name}"
    return name if name in ("redshift", "ra", "dec") and name in names else None


def _column(
    workspace: Workspace, stamps: Ref, table: pa.Table, name: str, key: str
) -> pa.ChunkedArray:
    given = _in_table(table.column_names, name)
    if given is not None:
        return table[given]
    measured = gather.column_names(workspace, stamps)
    if name in measured:
        found = gather.gather(workspace, stamps, ["measured"])["measured"]
        return pa.chunked_array([pa.array(found[:, measured.index(name)].astype(np.float64))])
    own = [n.removeprefix("input_") for n in table.column_names if n.startswith("input_")]
    near = difflib.get_close_matches(name, [*own, *measured], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"the table has {', '.join(own[:20])}."
    raise InputError(f"[{key}]: there is no column {name!r}; {hint}")


def _names(column: pa.ChunkedArray) -> list[str | None]:
    """Class names; None for null, NaN and blank cells."""
    return [
        None if value is None or value != value or not str(value).strip() else str(value).strip()
        for value in column.to_pylist()
    ]


def _numbers(column: pa.ChunkedArray, name: str, key: str) -> NDArray[np.float64]:
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    try:
        cast = column.cast(pa.float64())
    except pa.ArrowInvalid:
        raise InputError(f"[{key}]: the column {name!r} holds no numbers.") from None
    return np.asarray(cast.to_numpy(zero_copy_only=False), np.float64)
