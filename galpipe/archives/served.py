"""Retrieval from archives that serve fields: which parts are to be made, and their ledger.

A part is addressed by its objects before any byte is fetched, so it also holds rows that failed
because the archive did not answer.  Such a row decides nothing: no ledger with one counts as the
answer to what was asked, and the next run makes a further part of just the objects that failed,
addressed by them and by the part that lacks them.  A part of which every row failed is dropped.
All else (no coverage, a damaged file, an object off its frame) is decided and stays.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe import spec as specs
from galpipe.archives.bill import estimate
from galpipe.archives.fetching import FetchWork, fetch_shards
from galpipe.archives.framecache import FrameCache
from galpipe.archives.frames import FieldName
from galpipe.archives.ledger import Ledger, ids_digest
from galpipe.archives.located import Targets, frame_path, locate, needed_columns
from galpipe.archives.packing import pack, shard_size
from galpipe.archives.planning import part_layout
from galpipe.archives.psfield import SIDE as PSF_SIDE
from galpipe.archives.sky import answering
from galpipe.archives.spec import Frames, Sdss, Sky
from galpipe.stages import Context
from galpipe.stamps import parts
from galpipe.stamps.parts import Part, PartLayout
from galpipe.status import Status, count
from galpipe.workspace import Ref, address

VERSION = 2
MEND = "mend the positions and columns of the sample, or the addresses and sizes of the archive"
FIELD_BITS = (1, 1 << 16, 1 << 19, 1 << 35)  # field, camcol, run, rerun in one number


@dataclass(frozen=True)
class Task:
    """Whole shards, and the rows (of the part) that fill them."""

    shards: range
    start: int
    stop: int


@dataclass(frozen=True)
class ServedPart:
    """A part to be made: its address and shape, its objects in row order, and who writes what."""

    ref: Ref
    layout: PartLayout
    targets: Targets
    tasks: tuple[Task, ...]


def retrieve_served(context: Context, spec: Sdss | Sky, catalogue: Ref, base: Ref | None) -> Ref:
    """Fetch the pixels of every object of a catalogue that an earlier release (`base`) lacks.

    As `galpipe.archives.retrieve.retrieve`, for archives that answer over a network.
    """
    workspace = context.workspace
    file = pq.ParquetFile(workspace.place(catalogue) / "catalogue.parquet")
    table = file.read(columns=needed_columns(spec, file.schema_arrow.names))
    targets = locate(spec, table)
    del table
    versions = _digest(targets)
    asked = address("cutouts-asked", VERSION, spec, {"versions": versions, "base": base})
    known = workspace.manifest(asked)
    if known is not None and workspace.manifest(Ref("cutouts", known["cutouts"])) is not None:
        return Ref("cutouts", known["cutouts"])
    ledger = Ledger(targets, spec.bands)
    ledger.keep(context, spec, base)
    _fetch(context, spec, ledger)
    ledger.refuse_none(MEND)
    ref = _commit(context, spec, ledger, base)
    if not (ledger.status & int(Status.FAILED)).any():
        workspace.begin(asked)
        workspace.commit(asked, spec, {}, cutouts=ref.digest)
    return ref


def _digest(targets: Targets) -> str:
    """A digest of what is wanted: ids and versions, in their order."""
    total = hashlib.sha256(ids_digest(targets.ids))
    total.update(targets.keys.tobytes())
    total.update(targets.status.tobytes())
    return total.hexdigest()[: specs.DIGEST_CHARACTERS]


def _fetch(context: Context, spec: Sdss | Sky, ledger: Ledger) -> None:
    """Fetch what is waiting, and enter it into the ledger with the parts that hold it."""
    waiting = ledger.targets.take(np.flatnonzero(ledger.status == 0))
    made: str | None = None
    while len(waiting):
        planned = plan(spec, waiting, made)
        fresh = context.workspace.manifest(planned.ref) is None
        if fresh:
            _write(context, spec, planned)
        part = Part(context.workspace.place(planned.ref))
        _enter(part, planned, ledger)
        failed = (ledger.status[waiting.rows] & int(Status.FAILED)) != 0
        waiting = waiting.take(np.flatnonzero(failed))
        if fresh and len(waiting) == len(planned.targets):
            shutil.rmtree(part.path)
            break
        if fresh:
            context.workspace.commit(
                planned.ref, spec, {}, objects=len(planned.targets), content=part.content()
            )
        made = planned.ref.digest
        if fresh:
            break


def plan(spec: Sdss | Sky, waiting: Targets, after: str | None) -> ServedPart:
    """The part for objects to fetch; `after` is the part whose failed rows they are.

    Rows lie field by field, in the order of the sky's runs.
    """
    if isinstance(spec.pixels, Frames):
        order = np.lexsort((waiting.rows, field_keys(waiting.fields)))
        keys = field_keys(waiting.fields)[order]
        starts = np.concatenate([[0], np.flatnonzero(np.diff(keys)) + 1])
        dtype, side = "float32", waiting.largest_side
    else:  # colour images are fetched one by one
        order, starts = np.argsort(waiting.rows), np.arange(len(waiting))
        dtype, side = "uint8", spec.pixels.side
    counts = np.diff(np.append(starts, len(waiting)))
    frames = spec.pixels if isinstance(spec.pixels, Frames) else None
    layout = part_layout(
        spec, len(waiting), dtype, side, PSF_SIDE if frames and frames.psf else 0,
        psf_bands=bool(frames), variance=bool(frames and frames.variance),
        extinction=bool(frames and frames.deredden),
    )  # fmt: skip
    shard = layout.shard
    sizes = counts.tolist()
    if frames:  # a chunk of one row, so that a shard can have any size
        shard = shard_size(sizes, shard)
        layout = PartLayout(layout.objects, shard, 1, layout.arrays)
    packed = pack(sizes, shard)
    fields = np.fromiter((n for task in packed for n in task.fields), np.int64, len(sizes))
    # The rows of each field follow each other from where the fields before it end.
    taken = counts[fields]
    ends = np.cumsum(taken)
    inside = np.arange(len(waiting)) - np.repeat(ends - taken, taken)
    targets = waiting.take(order[np.repeat(starts[fields], taken) + inside])
    tasks, field, first = [], 0, 0
    for task in packed:
        field += len(task.fields)
        last = int(ends[field - 1])
        tasks.append(Task(task.shards, first, last))
        first = last
    parents = {"objects": _digest(targets), "store": [dtype, side, shard], "after": after}
    return ServedPart(address("cutout-part", VERSION, spec, parents), layout, targets, tuple(tasks))


def field_keys(fields: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number per field, in the order of run, camcol and field; neighbours differ by 1."""
    keys: NDArray[np.int64] = fields @ np.array(FIELD_BITS[::-1], np.int64)
    return keys


def field_of(key: int) -> FieldName:
    """The field of a key."""
    rerun, rest = divmod(key, FIELD_BITS[3])
    run, rest = divmod(rest, FIELD_BITS[2])
    return FieldName(rerun, run, *divmod(rest, FIELD_BITS[1]))


def _write(context: Context, spec: Sdss | Sky, planned: ServedPart) -> None:
    """Make the shards of a part that are not there, wherever the context's map runs them."""
    path = context.workspace.begin(planned.ref, clean=False)
    frames = isinstance(spec.pixels, Frames)
    attributes = {
        "bands": list(spec.bands),
        "unit": "nanomaggy/pixel" if frames else "as in the source",
        "rows": "y up, as in FITS" if frames else "y down, as in JPEG",
        "rights": spec.rights,
    }
    parts.create(path, planned.layout, planned.targets.ids, attributes)
    part = Part(path)
    missing = set(part.missing())
    left = sum(part.rows(shard).stop - part.rows(shard).start for shard in missing)
    if not missing:
        FrameCache(path, spec.cache).clear()  # of a run that ended before it could
        return
    work = [task for task in planned.tasks if not missing.isdisjoint(task.shards)]
    context.progress.say(estimate(spec, planned.targets, work))
    with answering(context, spec) as answered:
        context.progress.start(
            "retrieve", len(planned.targets), "objects", len(planned.targets) - left
        )
        for written in context.map(fetch_shards, _work(answered, planned, str(path), work)):
            context.progress.advance(written)
        context.progress.finish()
    FrameCache(path, spec.cache).clear()


def _work(
    spec: Sdss | Sky, planned: ServedPart, path: str, work: Sequence[Task]
) -> Iterator[FetchWork]:
    """What each task is given, made when it is wanted."""
    owners = _Owners(planned) if isinstance(spec.pixels, Frames) else None
    for task in work:
        targets = planned.targets[task.start : task.stop]
        shared = owners.shared(targets, task) if owners is not None else {}
        yield FetchWork(spec, path, task.shards, targets, shared)


class _Owners:
    """Which task has the objects of which field."""

    def __init__(self, planned: ServedPart) -> None:
        keys = field_keys(planned.targets.fields)
        bounds = np.array([task.stop for task in planned.tasks])
        self._keys, first = np.unique(keys, return_index=True)
        self._owner = np.searchsorted(bounds, first, side="right")
        self._tasks = planned.tasks

    def shared(self, targets: Targets, task: Task) -> dict[FieldName, tuple[range, ...]]:
        """The fields whose frames this task and others may want, and the shards of the others.

        A field is wanted by its own objects, and by those of its neighbours that reach over.
        """
        own = np.unique(field_keys(targets.fields))
        found: dict[FieldName, tuple[range, ...]] = {}
        for key in np.unique(np.concatenate([own - 1, own, own + 1])).tolist():
            others = []
            for near in (key - 1, key, key + 1):
                place = int(np.searchsorted(self._keys, near))
                if place < len(self._keys) and self._keys[place] == near:
                    other = self._tasks[int(self._owner[place])]
                    if other.shards != task.shards and other.shards not in others:
                        others.append(other.shards)
            if others:
                found[field_of(key)] = tuple(others)
        return found


def _enter(part: Part, planned: ServedPart, ledger: Ledger) -> None:
    """Take over into the ledger what the shards of a part say of their objects."""
    number = len(ledger.parts)
    ledger.parts.append(part.path.name)
    rows = planned.targets.rows.tolist()
    first = 0
    for facts in part.facts():
        for at in range(len(facts["status"])):
            ledger.enter(rows[first + at], number, first + at, facts, at)
        first += len(facts["status"])


def _commit(context: Context, spec: Sdss | Sky, ledger: Ledger, base: Ref | None) -> Ref:
    """The ledger, addressed by what its pixels are: fits and figures rest on this."""
    workspace = context.workspace
    content = ledger.content(spec)
    earlier = workspace.manifest(base) if base is not None else None
    if base is not None and earlier is not None and earlier["content"] == content:
        return base
    ref = address("cutouts", VERSION, spec, {"content": content, "base": base})
    if workspace.manifest(ref) is not None:
        return ref

    def url(targets: Targets, row: int, band: str) -> str | None:
        if targets.reference is None:
            return f"dr{spec.imaging_release}/SkyServerWS/ImgCutout/{targets.source(row)}"
        field = targets.field(row)
        return frame_path(spec, field, band) if field is not None else None

    ledger.write(workspace.begin(ref), url)
    return workspace.commit(
        ref, spec, {"base": base.digest if base else None}, content=content,
        parts=ledger.held(), objects=len(ledger.targets),
        by_status=count(ledger.status.tolist()), by_band=ledger.by_band(),
    )  # fmt: skip
