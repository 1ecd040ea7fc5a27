"""The ledger of the stage `retrieve`: one line per object of the catalogue, OK or not, and why."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from galpipe import spec as specs
from galpipe.archives.spec import Folder, Sdss, Sky
from galpipe.errors import InputError
from galpipe.stages import Context
from galpipe.status import Status, names
from galpipe.workspace import Ref

INDEX = "index.parquet"
ABSENT = "absent"  # stands for the version of an image that the source no longer has


@dataclass
class Line:
    """One object's line of the ledger; `part` None where there are no pixels to use."""

    version: str | None = None
    part: str | None = None
    row: int = -1
    status: int = 0
    source: str | None = None
    sha256: str | None = None
    reason: str | None = None


def earlier_lines(
    context: Context, spec: Folder | Sdss | Sky, base: Ref | None
) -> tuple[dict[tuple[int | str, str], Line], list[str]]:
    """The lines of an earlier release by (id, version), and its parts; none where it was made by
    another spec, since that decides what becomes of the same bytes.
    """
    manifest = context.workspace.manifest(base) if base is not None else None
    if base is None or manifest is None or manifest["spec"] != specs.identity(spec):
        return {}, []
    index = pq.read_table(context.workspace.place(base) / INDEX)
    lines = {}
    for row in index.to_pylist():
        id = row.pop("object_id")
        if row["version"] is not None and not row["status"] & Status.FAILED:
            lines[id, row["version"]] = Line(**row)
            if row["status"] & Status.OK:
                lines[id, ABSENT] = lines[id, row["version"]]
    return lines, manifest["parts"]


def refuse_none(lines: Sequence[Line], mend: str) -> None:
    """A run without a single image has one cause, and it is worth a sentence; so is the `mend`."""
    if any(line.status & Status.OK for line in lines):
        return
    (status, _), number = Counter((line.status, line.reason) for line in lines).most_common(1)[0]
    reason = next(line.reason for line in lines if line.status == status)
    raise InputError(
        f"none of the {len(lines)} objects has a usable image: {number} are {names(status)} "
        f"({reason}); {mend}."
    )


def index_bytes(ids: pa.ChunkedArray, lines: Sequence[Line]) -> bytes:
    """The ledger as Parquet."""
    table = pa.table(
        {
            "object_id": ids,
            "version": pa.array([line.version for line in lines], pa.string()),
            "part": pa.array([line.part for line in lines], pa.string()),
            "row": pa.array([line.row for line in lines], pa.int32()),
            "status": pa.array([line.status for line in lines], pa.int32()),
            "source": pa.array([line.source for line in lines], pa.string()),
            "sha256": pa.array([line.sha256 for line in lines], pa.string()),
            "reason": pa.array([line.reason for line in lines], pa.string()),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
