"""Retrieval from archives that serve fields: which parts are to be made, and who makes what.

Fields are packed whole into whole shards, so that a frame is fetched and decoded by one task, once.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe import spec as specs
from galpipe.archives.bill import JPEG_BYTES_PER_PIXEL, Cost
from galpipe.archives.fetching import fetch_shards
from galpipe.archives.fieldwork import FetchWork
from galpipe.archives.framecache import FrameCache
from galpipe.archives.frames import FieldName
from galpipe.archives.ledger import Ledger, ids_digest
from galpipe.archives.located import Targets, frame_path, locate, needed_columns
from galpipe.archives.packing import pack, shard_size
from galpipe.archives.pixelmask import bit_names
from galpipe.archives.planning import part_layout
from galpipe.archives.provider import PlannedPart, Provider, Unfinished, Work
from galpipe.archives.psfield import SIDE as PSF_SIDE
from galpipe.archives.sky import answering
from galpipe.archives.spec import Frames, Sdss, Sky
from galpipe.stages import Context
from galpipe.stamps.parts import PartLayout
from galpipe.workspace import address

VERSION = 2
FIELD_BITS = (1, 1 << 16, 1 << 19, 1 << 35)  # field, camcol, run, rerun in one number
FRAME_BYTES = 2.6e6  # of a frame as bz2; 2 to 3 MB are typical
PSFIELD_BYTES = 0.5e6
MASK_BYTES = 0.1e6  # of an fpM file as gzip


@dataclass(frozen=True)
class Task:
    """Whole shards, and the rows (of the part) that fill them."""

    shards: range
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class ServedPart(PlannedPart):
    """A part to be made: its objects in row order, and who writes what."""

    targets: Targets
    tasks: tuple[Task, ...]


class FieldArchive(Provider[ServedPart]):
    """SDSS, or the sky that comes with galpipe."""

    version = VERSION
    mend = "mend the positions and columns of the sample, or the addresses and sizes of the archive"

    def __init__(self, spec: Sdss | Sky, catalogue: pq.ParquetFile) -> None:
        """Raises InputError where the columns that tell the fields or the sizes are not there."""
        columns = needed_columns(spec, catalogue.schema_arrow.names)
        targets = locate(spec, catalogue.read(columns=columns))
        self.spec: Sdss | Sky = spec
        self.targets = targets
        self.asked = _digest(targets)
        self.ledger = Ledger(
            targets.ids,
            pa.array([targets.version(row) for row in range(len(targets))], pa.string()),
            targets.status,
            targets.reasons,
            spec.bands,
            source=targets.source,
            url=self._url,
        )

    def plan(
        self, context: Context, rows: NDArray[np.int64], after: str | None
    ) -> list[ServedPart]:  # fmt: skip
        """One part; see `plan`."""
        return [plan(self.spec, self.targets.take(rows), after)]

    @contextlib.contextmanager
    def work(
        self, context: Context, unfinished: Sequence[Unfinished[ServedPart]]
    ) -> Iterator[Work]:  # fmt: skip
        """The tasks with a shard that is not there, and their bill."""
        (one,) = unfinished
        missing = set(one.missing)
        tasks = [task for task in one.planned.tasks if not missing.isdisjoint(task.shards)]
        with answering(context, self.spec) as spec:
            work = _work(spec, one.planned, str(one.part.path), tasks)
            cost = estimate(spec, one.planned.targets, tasks)
            yield Work(fetch_shards, work, cost.told(spec, spec.kind == "sky"))

    def tidy(self, path: Path) -> None:
        """Drop the frames that several tasks wanted."""
        FrameCache(path, self.spec.cache).clear()

    def content(self) -> str:
        """A digest of what the pixels of all objects are, wherever they lie."""
        total = hashlib.sha256(specs.canonical(self.spec).encode())
        for column in (self.targets.keys, self.ledger.status, self.ledger.digest):
            total.update(np.ascontiguousarray(column).data.cast("B"))
        total.update(ids_digest(self.targets.ids))
        return total.hexdigest()[: specs.DIGEST_CHARACTERS]

    def _url(self, row: int, band: str) -> str | None:
        if self.targets.reference is None:
            release = self.spec.imaging_release
            return f"dr{release}/SkyServerWS/ImgCutout/{self.targets.source(row)}"
        field = self.targets.field(row)
        return frame_path(self.spec, field, band) if field is not None else None


def _digest(targets: Targets) -> str:
    """A digest of what is wanted: ids and versions, in their order."""
    total = hashlib.sha256(ids_digest(targets.ids))
    total.update(targets.keys.tobytes())
    total.update(targets.status.tobytes())
    return total.hexdigest()[: specs.DIGEST_CHARACTERS]


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
        mask=bit_names() if frames and frames.mask else None,
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
    attributes = {
        "bands": list(spec.bands),
        "unit": "nanomaggy/pixel" if frames else "as in the source",
        "rows": "y up, as in FITS" if frames else "y down, as in JPEG",
        "rights": spec.rights,
    }
    parents = {"objects": _digest(targets), "store": [dtype, side, shard], "after": after}
    ref = address("cutout-part", VERSION, spec, parents)
    return ServedPart(ref, layout, targets.rows, targets.ids, attributes, targets, tuple(tasks))


def field_keys(fields: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number per field, in the order of run, camcol and field; neighbours differ by 1."""
    keys: NDArray[np.int64] = fields @ np.array(FIELD_BITS[::-1], np.int64)
    return keys


def field_of(key: int) -> FieldName:
    """The field of a key."""
    rerun, rest = divmod(key, FIELD_BITS[3])
    run, rest = divmod(rest, FIELD_BITS[2])
    return FieldName(rerun, run, *divmod(rest, FIELD_BITS[1]))


def estimate(spec: Sdss | Sky, targets: Targets, tasks: Sequence[Task]) -> Cost:
    """What some tasks of a part will take: each frame once, or each colour image."""
    rows = np.concatenate([np.arange(task.start, task.stop) for task in tasks])
    objects = len(rows)
    if not isinstance(spec.pixels, Frames):
        size = objects * spec.pixels.side**2 * JPEG_BYTES_PER_PIXEL
        return Cost(objects, objects, size, spec.requests_per_minute)
    fields = len(np.unique(targets.fields[rows], axis=0))
    requests, size = fields * len(spec.bands), fields * len(spec.bands) * FRAME_BYTES
    if spec.pixels.psf:
        requests, size = requests + fields, size + fields * PSFIELD_BYTES
    if spec.pixels.mask:
        masks = fields * len(spec.bands)
        requests, size = requests + masks, size + masks * MASK_BYTES
    return Cost(objects, requests, size, spec.files_per_minute)


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
