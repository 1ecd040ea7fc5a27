"""The stage `retrieve`: every object's pixels, raw, in the parts of the store `cutouts`.

What an earlier release holds already stays where it is.  A part is addressed by its objects before
any byte is fetched, so it also holds rows that failed because the archive did not answer.  Such a
row decides nothing: no ledger with one counts as the answer to what was asked, and the next run
makes a further part of just the objects that failed, addressed by them and by the part that lacks
them.  A part of which every row failed is dropped.  All else (no coverage, a damaged file, an
object off its frame) is decided and stays.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from galpipe.archives.provider import PlannedPart, Provider, Unfinished
from galpipe.archives.spec import Archive, Folder, Hst, HstSky, Vo
from galpipe.stages import Context
from galpipe.stamps import parts
from galpipe.stamps.parts import Part
from galpipe.status import Status, count
from galpipe.workspace import Ref, address

FAILED = int(Status.FAILED)


def retrieve(context: Context, spec: Archive, catalogue: Ref, base: Ref | None) -> Ref:
    """Get the pixels of every object of a catalogue that an earlier release (`base`) lacks.

    Returns the Ref of the ledger, `index.parquet`, with one row per row of the catalogue, and
    `ledger.parquet`, with one per object and band.  What is wrong with one object is told by its
    status and reason.  Raises InputError where the archive cannot be asked or read, or where no
    object at all has a usable image.
    """
    workspace = context.workspace
    file = pq.ParquetFile(workspace.place(catalogue) / "catalogue.parquet")
    provider = _provider(context, spec, file)
    wanted = {"versions": provider.asked, "base": base}
    asked = address("cutouts-asked", provider.version, spec, wanted)
    known = workspace.manifest(asked)
    if known is not None and workspace.manifest(Ref("cutouts", known["cutouts"])) is not None:
        return Ref("cutouts", known["cutouts"])
    ledger = provider.ledger
    ledger.keep(context, spec, base)
    _fetch(context, provider)
    ledger.refuse_none(provider.mend)
    ref = _commit(context, provider, base)
    if not (ledger.status & FAILED).any():
        workspace.begin(asked)
        workspace.commit(asked, spec, {}, cutouts=ref.digest)
    return ref


def _provider(context: Context, spec: Archive, catalogue: pq.ParquetFile) -> Provider[Any]:
    """The archive, asked for the objects of a catalogue; imports what this kind needs alone."""
    if isinstance(spec, Folder):  # needs no network client
        from galpipe.archives.filed import Filed

        return Filed(context, spec, catalogue)
    if isinstance(spec, Vo):
        from galpipe.archives.vo.retrieve import VirtualObservatory

        return VirtualObservatory(spec, catalogue)
    if isinstance(spec, Hst | HstSky):
        from galpipe.archives.hst.retrieve import HubbleArchive

        return HubbleArchive(spec, catalogue)
    from galpipe.archives.served import FieldArchive

    return FieldArchive(spec, catalogue)


def _fetch(context: Context, provider: Provider[Any]) -> None:
    """Fetch what is waiting, and enter it into the ledger with the parts that hold it.

    Parts of earlier runs are entered first, each of the rows that the one before it lacks; what
    then fails again waits for the next run.
    """
    workspace, ledger = context.workspace, provider.ledger
    rows = np.flatnonzero(ledger.status == 0)
    after: str | None = None
    while len(rows):
        planned = provider.plan(context, rows, after)
        fresh = [part for part in planned if workspace.manifest(part.ref) is None]
        _write(context, provider, planned, fresh)
        for part in planned:
            made = Part(workspace.place(part.ref))
            _enter(provider, part, made)
            if part not in fresh:
                continue
            if (ledger.status[part.rows] & FAILED).all():
                shutil.rmtree(made.path)
            else:
                workspace.commit(
                    part.ref, provider.spec, {}, objects=len(part.rows), content=made.content()
                )
        if fresh or not planned:
            break
        after = planned[-1].ref.digest
        rows = rows[(ledger.status[rows] & FAILED) != 0]


def _write(
    context: Context,
    provider: Provider[Any],
    planned: Sequence[PlannedPart],
    fresh: Sequence[PlannedPart],
) -> None:
    """Make the shards that are not there, wherever the context's map runs them."""
    unfinished = []
    for part in fresh:
        path = context.workspace.begin(part.ref, clean=False)
        parts.create(path, part.layout, part.ids, dict(part.attributes))
        unfinished.append(Unfinished(part, Part(path), Part(path).missing()))
    waiting = [one for one in unfinished if one.missing]
    if waiting:
        total = sum(len(part.rows) for part in planned)
        left = sum(one.objects for one in waiting)
        with provider.work(context, waiting) as work:
            if work.bill is not None:
                context.progress.say(work.bill)
            context.progress.start("retrieve", total, "objects", total - left)
            for written in context.map(work.function, work.items):
                context.progress.advance(written)
            context.progress.finish()
    for made in unfinished:
        provider.tidy(made.part.path)


def _enter(provider: Provider[Any], planned: PlannedPart, part: Part) -> None:
    """Take over into the ledger what the shards of a part say of their objects."""
    number = provider.ledger.hold(planned.ref.digest)
    rows = planned.rows.tolist()
    place = 0
    for facts in part.facts():
        for at in range(len(facts["status"])):
            told = provider.told(facts, at, rows[place])
            provider.ledger.enter(rows[place], number, place, facts, at, told)
            place += 1


def _commit(context: Context, provider: Provider[Any], base: Ref | None) -> Ref:
    """The ledger, addressed by what its pixels are: fits and figures rest on this."""
    workspace, spec, ledger = context.workspace, provider.spec, provider.ledger
    content = provider.content()
    earlier = workspace.manifest(base) if base is not None else None
    if base is not None and earlier is not None and earlier["content"] == content:
        return base
    ref = address("cutouts", provider.version, spec, {"content": content, "base": base})
    if workspace.manifest(ref) is not None:
        return ref
    ledger.write(workspace.begin(ref))
    return workspace.commit(
        ref, spec, {"base": base.digest if base else None}, content=content,
        parts=ledger.held(), objects=len(ledger), by_status=count(ledger.status.tolist()),
        by_band=ledger.by_band(),
    )  # fmt: skip
