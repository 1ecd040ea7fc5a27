"""A first look at the images to come: which bytes they are (version), and their size and type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from galpipe.archives.folder import Found
from galpipe.archives.images import Header
from galpipe.archives.sources import Reader, Source
from galpipe.archives.spec import Folder
from galpipe.archives.trouble import BadImageError
from galpipe.stages import Context
from galpipe.workspace import address

VERSION = 1
BATCH = 1024  # objects looked at by one task


@dataclass(frozen=True)
class Looked:
    """What a header says; `header` None where it cannot be used, with the status and why."""

    header: Header | None
    psf_side: int = 0
    status: int = 0  # bits of Status
    reason: str | None = None


@dataclass(frozen=True)
class Batch:
    """Sources for one task."""

    number: int
    spec: Folder
    sources: tuple[Source, ...]


def look_at_versions(context: Context, spec: Folder, found: Sequence[Found]) -> list[Found]:
    """The same, with the version of those that only reading tells (all but files in a zip)."""
    known = list(found)
    rows = [row for row, one in enumerate(found) if one.source is not None and one.version is None]
    if not rows:
        return known
    batches = _batches(spec, [found[row].source for row in rows])
    context.progress.start("versions", len(rows), "files")
    for number, versions in context.map(read_versions, batches):
        for row, version in zip(rows[number * BATCH :], versions, strict=False):
            if isinstance(version, str):
                known[row] = replace(found[row], version=version)
            else:
                known[row] = Found(None, None, version.status, version.reason or "")
        context.progress.advance(len(versions))
    context.progress.finish()
    return known


def read_versions(batch: Batch) -> tuple[int, list[str | Looked]]:
    """The versions of a batch of sources; a source of no use gives why."""
    versions: list[str | Looked] = []
    with Reader(batch.spec) as reader:
        for source in batch.sources:
            try:
                versions.append(reader.version(source))
            except BadImageError as error:
                versions.append(Looked(None, 0, int(error.status), error.reason))
    return batch.number, versions


def look_at_headers(context: Context, spec: Folder, found: Sequence[Found]) -> list[Looked]:
    """What the headers say, in order.  Each batch is kept in the workspace, so that a run that was
    stopped does not look again.
    """
    looked: list[list[Looked]] = []
    waiting = []
    refs = {}
    for batch in _batches(spec, [one.source for one in found]):
        first = batch.number * BATCH
        versions = [one.version for one in found[first : first + BATCH]]
        ref = refs[batch.number] = address("cutout-headers", VERSION, spec, {"versions": versions})
        kept = context.workspace.manifest(ref)
        looked.append([_from_plain(line) for line in kept["headers"]] if kept else [])
        if not kept:
            waiting.append(batch)
    if not waiting:
        return [line for lines in looked for line in lines]
    left = sum(len(batch.sources) for batch in waiting)
    context.progress.start("headers", len(found), "files", len(found) - left)
    for number, lines in context.map(read_headers, waiting):
        looked[number] = lines
        context.workspace.begin(refs[number])
        plain = [_to_plain(line) for line in lines]
        context.workspace.commit(refs[number], spec, {}, headers=plain)
        context.progress.advance(len(lines))
    context.progress.finish()
    return [line for lines in looked for line in lines]


def read_headers(batch: Batch) -> tuple[int, list[Looked]]:
    """The headers of a batch of sources."""
    lines = []
    with Reader(batch.spec) as reader:
        for source in batch.sources:
            try:
                lines.append(Looked(*reader.header(source)))
            except BadImageError as error:
                lines.append(Looked(None, 0, int(error.status), error.reason))
    return batch.number, lines


def _batches(spec: Folder, sources: Sequence[Source | None]) -> list[Batch]:
    given = [source for source in sources if source is not None]
    return [
        Batch(number, spec, tuple(given[first : first + BATCH]))
        for number, first in enumerate(range(0, len(given), BATCH))
    ]


def _to_plain(line: Looked) -> list[Any]:
    header = line.header
    facts = [header.planes, header.ny, header.nx, header.dtype] if header else None
    return [facts, line.psf_side, line.status, line.reason]


def _from_plain(line: list[Any]) -> Looked:
    facts, psf_side, status, reason = line
    return Looked(Header(*facts) if facts else None, psf_side, status, reason)
