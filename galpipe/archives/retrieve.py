"""The stage `retrieve`: every object's pixels, raw, in the parts of the store `cutouts`.

What an earlier release holds already stays where it is; an image counts as the same while the bytes
behind it are the same (`version`), wherever they lie and whatever their file is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from galpipe import spec as specs
from galpipe.archives.folder import Found, open_folder
from galpipe.archives.headers import Looked, look_at_headers, look_at_versions
from galpipe.archives.ledger import (
    ABSENT,
    INDEX,
    LEDGER,
    Line,
    count_bands,
    earlier_lines,
    index_bytes,
    object_ledger,
    refuse_none,
    table_bytes,
)
from galpipe.archives.planning import NewCutout, PlannedPart, plan_parts
from galpipe.archives.sources import describe
from galpipe.archives.spec import Archive, Folder, Hst, HstSky, Vo
from galpipe.archives.writing import ShardWork, write_shard
from galpipe.stages import Context
from galpipe.stamps import parts
from galpipe.stamps.parts import Part
from galpipe.status import Status, count
from galpipe.workspace import Ref, address, write_bytes

VERSION = 1


def retrieve(context: Context, spec: Archive, catalogue: Ref, base: Ref | None) -> Ref:
    """Read the pixels of every object of a catalogue that an earlier release (`base`) lacks.

    Returns the Ref of the ledger, `index.parquet`, with one row per row of the catalogue.
    What is wrong with one object is told by its status and reason.  Raises InputError where the
    archive cannot be read, or where no object at all has a usable image.
    """
    if isinstance(spec, Vo):
        from galpipe.archives.vo.retrieve import retrieve_vo

        return retrieve_vo(context, spec, catalogue, base)
    if isinstance(spec, Hst | HstSky):
        from galpipe.archives.hst.retrieve import retrieve_hst

        return retrieve_hst(context, spec, catalogue, base)
    if not isinstance(spec, Folder):
        from galpipe.archives.served import retrieve_served  # a folder needs no network client

        return retrieve_served(context, spec, catalogue, base)
    workspace = context.workspace
    table = pq.read_table(
        workspace.place(catalogue) / "catalogue.parquet", columns=["object_id", "ra", "dec", "file"]
    )
    ids: list[int | str] = table["object_id"].to_pylist()
    found = look_at_versions(
        context, spec, open_folder(spec).locate(ids, table["file"].to_pylist())
    )
    # What the pixels are, wherever they lie: fits and figures rest on this, never on the parts.
    content = specs.digest(
        [specs.identity(spec), ids, [one.version or one.reason for one in found]]
    )
    earlier = workspace.manifest(base) if base is not None else None
    if base is not None and earlier is not None and earlier["content"] == content:
        return base
    ref = address("cutouts", VERSION, spec, {"content": content, "base": base})
    if workspace.manifest(ref) is not None:
        return ref
    kept, kept_parts = earlier_lines(context, spec, base)
    lines = [_line(id, one, kept) for id, one in zip(ids, found, strict=True)]
    fresh = [row for row, one in enumerate(found) if one.source is not None and _is_new(lines[row])]
    looked = look_at_headers(context, spec, [found[row] for row in fresh])
    new = _new_cutouts(table, ids, found, lines, fresh, looked)
    planned = plan_parts(spec, new)
    _write(context, spec, planned)
    for part in planned:
        _enter(Part(workspace.place(part.ref)), part, lines)
    refuse_none(lines, "mend sample.file, archive.bands or archive.path")
    used = {line.part for line in lines if line.part is not None}
    made = [p for p in kept_parts if p in used] + [part.ref.digest for part in planned]
    place = workspace.begin(ref)
    write_bytes(place / INDEX, index_bytes(table["object_id"], lines))
    ledger = object_ledger(table["object_id"], spec.bands, lines)
    write_bytes(place / LEDGER, table_bytes(ledger))
    return workspace.commit(
        ref,
        spec,
        {"base": base.digest if base else None},
        content=content,
        parts=made,
        objects=len(lines),
        by_status=count(line.status for line in lines),
        by_band=count_bands(ledger),
    )


def _line(id: int | str, found: Found, kept: dict[tuple[int | str, str], Line]) -> Line:
    """What is known of an object before its pixels are read."""
    source = describe(found.source) if found.source is not None else None
    # An image that is gone from the source keeps the pixels that an earlier release fetched.
    absent = found.version is None and bool(found.status & Status.MISSING_FILE)
    old = kept.get((id, ABSENT if absent else found.version or ""))
    if old is not None:
        source = old.source if absent else source
        return Line(
            old.version, old.part, old.row, old.status, source, old.sha256, old.reason
        )  # fmt: skip
    return Line(found.version, None, -1, found.status, source, None, found.reason or None)


def _is_new(line: Line) -> bool:
    return line.status == 0


def _new_cutouts(
    table: pa.Table,
    ids: Sequence[int | str],
    found: Sequence[Found],
    lines: Sequence[Line],
    fresh: Sequence[int],
    looked: Sequence[Looked],
) -> list[NewCutout]:
    """The objects to read; those with a bad header get their status at once."""
    ra = table["ra"].to_numpy(zero_copy_only=False)
    dec = table["dec"].to_numpy(zero_copy_only=False)
    new = []
    for row, look in zip(fresh, looked, strict=True):
        one = found[row]
        if look.header is None:
            lines[row].status, lines[row].reason = look.status, look.reason
        elif one.source is not None and one.version is not None:
            new.append(
                NewCutout(
                    row, ids[row], one.version, one.source, look.header, look.psf_side,
                    float(ra[row]), float(dec[row]),
                )
            )  # fmt: skip
    return new


def _write(context: Context, spec: Folder, planned: Sequence[PlannedPart]) -> None:
    """Make the parts that are not there, shard by shard, wherever the context's map runs them."""
    workspace = context.workspace
    waiting = [part for part in planned if workspace.manifest(part.ref) is None]
    attributes = {
        "bands": list(spec.bands),
        "unit": "as in the source",
        "rows": "y as in the file: down in JPEG and PNG, up in FITS",
        "rights": spec.rights,
    }
    for part in waiting:
        objects: Any = [cutout.id for cutout in part.objects]
        parts.create(
            workspace.begin(part.ref, clean=False), part.layout, np.asarray(objects), attributes
        )
    total = sum(len(part.objects) for part in planned)
    work = list(_shards(context, spec, waiting))
    done = total - sum(len(shard.sources) for shard in work)
    context.progress.start("retrieve", total, "objects", done)
    for written in context.map(write_shard, work):
        context.progress.advance(written)
    context.progress.finish()
    for part in waiting:
        content = Part(workspace.place(part.ref)).content()
        workspace.commit(part.ref, spec, {}, objects=len(part.objects), content=content)


def _shards(context: Context, spec: Folder, waiting: Sequence[PlannedPart]) -> Iterator[ShardWork]:
    """The shards that are not committed yet."""
    for planned in waiting:
        path = context.workspace.place(planned.ref)
        part = Part(path)
        image = planned.layout.arrays[0]
        for shard in part.missing():
            members = planned.objects[part.rows(shard)]
            yield ShardWork(
                spec=spec,
                part=str(path),
                shard=shard,
                bucket=image.shape[-1],
                dtype=str(image.dtype),
                psf_side=planned.psf_side,
                sources=tuple(cutout.source for cutout in members),
                ra=tuple(cutout.ra for cutout in members),
                dec=tuple(cutout.dec for cutout in members),
            )


def _enter(part: Part, planned: PlannedPart, lines: Sequence[Line]) -> None:
    """Take over into the ledger what the shards of a part say of their objects."""
    row = 0
    for facts in part.facts():
        for checksum, status, reason in zip(
            facts["sha256"], facts["status"], facts["reason"], strict=True
        ):
            line = lines[planned.objects[row].catalogue_row]
            line.sha256, line.status, line.reason = checksum, status, reason
            if status & Status.OK:
                line.part, line.row = planned.ref.digest, row
            row += 1
