"""Retrieval of Hubble images: which part is to be made, its shards, and the ledger.

As with archives that serve fields, a part also holds the rows that failed because the archive did
not answer; such a row decides nothing, and the next run makes a further part of just those.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from galpipe import spec as specs
from galpipe.archives.download import Downloader
from galpipe.archives.hst.fetching import FetchWork, address_of, fetch_shard
from galpipe.archives.hst.mosaics import OpenTile, open_tiles
from galpipe.archives.hst.request import Target, locate
from galpipe.archives.hst.serving import answering
from galpipe.archives.ledger import (
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
from galpipe.archives.planning import part_layout
from galpipe.archives.spec import Hst, HstSky, Hubble, Mosaic
from galpipe.archives.trouble import BadImageError
from galpipe.errors import InputError
from galpipe.stages import Context
from galpipe.stamps import parts
from galpipe.stamps.parts import ArrayLayout, Part, PartLayout
from galpipe.status import Status, count
from galpipe.workspace import Ref, address, write_bytes

VERSION = 1
MEND = "mend the positions of the sample, or archive.bands, archive.pixels and the addresses"


def retrieve_hst(context: Context, spec: Hst | HstSky, catalogue: Ref, base: Ref | None) -> Ref:
    """Fetch the pixels of every object of a catalogue that an earlier release (`base`) lacks.

    As `galpipe.archives.retrieve.retrieve`, for images of the Hubble Space Telescope.
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
    lines = [
        kept.get((target.id, target.version))
        or Line(target.version, None, -1, target.status, None, None, target.reason)
        for target in targets
    ]
    made = _fetch(context, spec, [t for t in targets if lines[t.row].status == 0], lines)
    refuse_none(lines, MEND)
    ref = _commit(context, spec, table["object_id"], lines, [*kept_parts, *made], base)
    if not any(line.status & Status.FAILED for line in lines):
        workspace.begin(asked)
        workspace.commit(asked, spec, {}, cutouts=ref.digest)
    return ref


def _commit(
    context: Context, spec: Hst | HstSky, ids: Any, lines: list[Line], held: list[str],
    base: Ref | None,
) -> Ref:  # fmt: skip
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
    place = workspace.begin(ref)
    ledger = object_ledger(ids, spec.bands, lines)
    write_bytes(place / LEDGER, table_bytes(ledger))
    write_bytes(place / INDEX, index_bytes(ids, lines))
    return workspace.commit(
        ref, spec, {"base": base.digest if base else None}, content=content,
        parts=[part for part in held if part in used], objects=len(lines),
        by_status=count(line.status for line in lines), by_band=count_bands(ledger),
    )  # fmt: skip


def _fetch(
    context: Context, spec: Hst | HstSky, waiting: Sequence[Target], lines: Sequence[Line]
) -> list[str]:
    """Fetch what is waiting, enter it into the ledger, and return the parts that hold it."""
    made: list[str] = []
    fresh = False
    while waiting and not fresh:
        ref, layout = plan(spec, waiting, made[-1] if made else None)
        fresh = context.workspace.manifest(ref) is None
        if fresh:
            _write(context, spec, ref, layout, waiting)
        part = Part(context.workspace.place(ref))
        _enter(part, waiting, lines)
        failed = [target for target in waiting if lines[target.row].status & Status.FAILED]
        if fresh and len(failed) == len(waiting):
            shutil.rmtree(part.path)
            break
        if fresh:
            context.workspace.commit(ref, spec, {}, objects=len(waiting), content=part.content())
        made.append(ref.digest)
        waiting = failed
    return made


def plan(
    spec: Hst | HstSky, waiting: Sequence[Target], after: str | None
) -> tuple[Ref, PartLayout]:
    """The part for objects to fetch; `after` is the part whose failed rows they are."""
    side = max(target.side for target in waiting)
    layout = part_layout(spec, len(waiting), "float32", side, 0, variance=spec.variance)
    bands, nan = (len(spec.bands),), float("nan")
    units = {"exposure": "s", "zero_point": "mag(AB) of 1 electron/s"}
    arrays = [
        *layout.arrays,
        *(
            ArrayLayout(name, "float32", bands, ("band",), nan, attributes=(("unit", unit),))
            for name, unit in units.items()
        ),
        ArrayLayout("proposal", "int32", bands, ("band",), -1),
    ]
    layout = dataclasses.replace(layout, arrays=tuple(arrays))
    contents = [[target.id, target.version] for target in waiting]
    store = [side, layout.shard, spec.variance]
    parents = {"objects": contents, "store": store, "after": after}
    return address("cutout-part", VERSION, spec, parents), layout


def _write(
    context: Context, spec: Hst | HstSky, ref: Ref, layout: PartLayout, targets: Sequence[Target]
) -> None:
    """Make the shards of a part that are not there, wherever the context's map runs them."""
    path = context.workspace.begin(ref, clean=False)
    ids: Any = [target.id for target in targets]
    attributes = {
        "bands": list(spec.bands),
        "unit": "electron/s/pixel",
        "rows": "y up, as in FITS",
        "rights": spec.rights,
    }
    parts.create(path, layout, np.asarray(ids), attributes)
    part = Part(path)
    missing = part.missing()
    if not missing:
        return
    left = sum(part.rows(shard).stop - part.rows(shard).start for shard in missing)
    with answering(context, spec) as answered:
        tiles = _tiles(answered)
        context.progress.start("retrieve", len(targets), "objects", len(targets) - left)
        work = (
            FetchWork(answered, str(path), shard, tuple(targets[part.rows(shard)]), tiles)
            for shard in missing
        )
        for written in context.map(fetch_shard, work):
            context.progress.advance(written)
        context.progress.finish()


def _tiles(spec: Hubble) -> tuple[OpenTile, ...]:
    """The tiles of a mosaic with their headers read; raises InputError where one is no good."""
    if not isinstance(spec.pixels, Mosaic):
        return ()
    try:
        with Downloader(spec, address_of(spec)) as downloader:
            return tuple(open_tiles(spec, downloader))
    except BadImageError as error:
        raise InputError(
            f"archive.pixels.tiles: {error.reason}; mend the tile, or run again later."
        ) from None


def _enter(part: Part, targets: Sequence[Target], lines: Sequence[Line]) -> None:
    """Take over into the ledger what the shards of a part say of their objects."""
    row = 0
    for facts in part.facts():
        for checksum, status, reason, source in zip(
            facts["sha256"], facts["status"], facts["reason"], facts["source"], strict=True
        ):
            line = lines[targets[row].row]
            line.sha256, line.status, line.reason, line.source = checksum, status, reason, source
            if status & Status.OK:
                line.part, line.row = part.path.name, row
            row += 1
