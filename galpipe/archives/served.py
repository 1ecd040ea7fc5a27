"""Retrieval from archives that serve fields: which parts are to be made, and their ledger.

A part is addressed by its objects before any byte is fetched, so it also holds rows that failed
because the archive did not answer.  Such a row decides nothing: no ledger with one counts as the
answer to what was asked, and the next run makes a further part of just the objects that failed,
addressed by them and by the part that lacks them.  A part of which every row failed is dropped.
All else (no coverage, a damaged file, an object off its frame) is decided and stays.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from galpipe import spec as specs
from galpipe.archives.fetching import FetchWork, fetch_shards
from galpipe.archives.ledger import INDEX, Line, earlier_lines, index_bytes, refuse_none
from galpipe.archives.located import Target, locate
from galpipe.archives.packing import Task, pack, shard_size
from galpipe.archives.planning import part_layout
from galpipe.archives.sky import answering
from galpipe.archives.spec import Frames, Sdss, Sky
from galpipe.stages import Context
from galpipe.stamps import parts
from galpipe.stamps.parts import Part, PartLayout
from galpipe.status import Status, count
from galpipe.workspace import Ref, address, write_bytes

VERSION = 1
MEND = "mend the positions and columns of the sample, or the addresses and sizes of the archive"


@dataclass(frozen=True)
class ServedPart:
    """A part to be made: its address and shape, its objects in row order, and who writes what."""

    ref: Ref
    layout: PartLayout
    targets: tuple[Target, ...]
    tasks: tuple[tuple[range, tuple[Target, ...]], ...]  # shards, and the objects that fill them


def retrieve_served(context: Context, spec: Sdss | Sky, catalogue: Ref, base: Ref | None) -> Ref:
    """Fetch the pixels of every object of a catalogue that an earlier release (`base`) lacks.

    As `galpipe.archives.retrieve.retrieve`, for archives that answer over a network.
    """
    workspace = context.workspace
    table = pq.read_table(workspace.place(catalogue) / "catalogue.parquet")
    targets = locate(spec, table)
    versions = specs.digest([[target.id, target.version, target.status] for target in targets])
    asked = address("cutouts-asked", VERSION, spec, {"versions": versions, "base": base})
    known = workspace.manifest(asked)
    if known is not None and workspace.manifest(Ref("cutouts", known["cutouts"])) is not None:
        return Ref("cutouts", known["cutouts"])
    kept, kept_parts = earlier_lines(context, spec, base)
    lines = [_line(target, kept) for target in targets]
    made = _fetch(context, spec, [t for t in targets if lines[t.row].status == 0], lines)
    refuse_none(lines, MEND)
    ref = _commit(context, spec, table["object_id"], lines, [*kept_parts, *made], base)
    if not any(line.status & Status.FAILED for line in lines):
        workspace.begin(asked)
        workspace.commit(asked, spec, {}, cutouts=ref.digest)
    return ref


def _line(target: Target, kept: dict[tuple[int | str, str], Line]) -> Line:
    """What is known of an object before anything is fetched."""
    old = kept.get((target.id, target.version))
    if old is not None:
        return old
    return Line(target.version, None, -1, target.status, target.source, None, target.reason)


def _fetch(
    context: Context, spec: Sdss | Sky, waiting: Sequence[Target], lines: Sequence[Line]
) -> list[str]:
    """Fetch what is waiting, enter it into the ledger, and return the parts that hold it."""
    made: list[str] = []
    while waiting:
        planned = plan(spec, waiting, made[-1] if made else None)
        fresh = context.workspace.manifest(planned.ref) is None
        if fresh:
            _write(context, spec, planned)
        part = Part(context.workspace.place(planned.ref))
        _enter(part, planned, lines)
        waiting = [t for t in waiting if lines[t.row].status & Status.FAILED]
        if fresh and len(waiting) == len(planned.targets):
            shutil.rmtree(part.path)
            break
        if fresh:
            context.workspace.commit(
                planned.ref, spec, {}, objects=len(planned.targets), content=part.content()
            )
        made.append(planned.ref.digest)
        if fresh:
            break
    return made


def plan(spec: Sdss | Sky, waiting: Sequence[Target], after: str | None) -> ServedPart:
    """The part for objects to fetch; `after` is the part whose failed rows they are."""
    fields = [list(members) for _, members in groupby(sorted(waiting, key=_place), key=_field)]
    counts = [len(members) for members in fields]
    if isinstance(spec.pixels, Frames):
        dtype, side = "float32", max(target.side for target in waiting)
    else:
        dtype, side = "uint8", spec.pixels.side
    layout = part_layout(spec, len(waiting), dtype, side, 0)
    shard = layout.shard
    if isinstance(spec.pixels, Frames):  # a chunk of one row, so that a shard can have any size
        shard = shard_size(counts, shard)
        layout = PartLayout(layout.objects, shard, 1, layout.arrays)
    packed: list[Task] = pack(counts, shard)
    tasks = tuple(
        (task.shards, tuple(target for number in task.fields for target in fields[number]))
        for task in packed
    )
    targets = tuple(target for _, members in tasks for target in members)
    contents = [[target.id, target.version] for target in targets]
    parents = {"objects": contents, "store": [dtype, side, shard], "after": after}
    return ServedPart(address("cutout-part", VERSION, spec, parents), layout, targets, tasks)


def _place(target: Target) -> tuple[Any, ...]:
    """Rows field by field, and in catalogue order."""
    field = target.field
    where = (field.rerun, field.run, field.camcol, field.field) if field is not None else ()
    return (*where, target.row)


def _field(target: Target) -> Any:
    """What must be fetched by one task; colour images are fetched one by one."""
    return target.field if target.field is not None else target.row


def _write(context: Context, spec: Sdss | Sky, planned: ServedPart) -> None:
    """Make the shards of a part that are not there, wherever the context's map runs them."""
    path = context.workspace.begin(planned.ref, clean=False)
    ids: Any = [target.id for target in planned.targets]
    frames = isinstance(spec.pixels, Frames)
    attributes = {
        "bands": list(spec.bands),
        "unit": "nanomaggy/pixel" if frames else "as in the source",
        "rows": "y up, as in FITS" if frames else "y down, as in JPEG",
        "rights": spec.rights,
    }
    parts.create(path, planned.layout, np.asarray(ids), attributes)
    part = Part(path)
    missing = set(part.missing())
    work = [task for task in planned.tasks if missing & set(task[0])]
    left = sum(part.rows(shard).stop - part.rows(shard).start for shard in missing)
    if not work:
        return
    with answering(context, spec) as answered:
        context.progress.start(
            "retrieve", len(planned.targets), "objects", len(planned.targets) - left
        )
        todo = [FetchWork(answered, str(path), shards, members) for shards, members in work]
        for written in context.map(fetch_shards, todo):
            context.progress.advance(written)
        context.progress.finish()


def _enter(part: Part, planned: ServedPart, lines: Sequence[Line]) -> None:
    """Take over into the ledger what the shards of a part say of their objects."""
    row = 0
    for facts in part.facts():
        for checksum, status, reason in zip(
            facts["sha256"], facts["status"], facts["reason"], strict=True
        ):
            line = lines[planned.targets[row].row]
            line.sha256, line.status, line.reason = checksum, status, reason
            if status & Status.OK:
                line.part, line.row = part.path.name, row
            row += 1


def _commit(
    context: Context,
    spec: Sdss | Sky,
    ids: pa.ChunkedArray,
    lines: Sequence[Line],
    held: Sequence[str],
    base: Ref | None,
) -> Ref:
    """The ledger, addressed by what its pixels are: fits and figures rest on this."""
    workspace = context.workspace
    outcome = [[line.version, line.status, line.sha256] for line in lines]
    content = specs.digest([specs.identity(spec), ids.to_pylist(), outcome])
    earlier = workspace.manifest(base) if base is not None else None
    if base is not None and earlier is not None and earlier["content"] == content:
        return base
    ref = address("cutouts", VERSION, spec, {"content": content, "base": base})
    if workspace.manifest(ref) is not None:
        return ref
    used = {line.part for line in lines}
    write_bytes(workspace.begin(ref) / INDEX, index_bytes(ids, lines))
    return workspace.commit(
        ref, spec, {"base": base.digest if base else None}, content=content,
        parts=[part for part in held if part in used], objects=len(lines),
        by_status=count(line.status for line in lines),
    )  # fmt: skip
