"""Retrieval from VO archives: which part is to be made, its shards, and the ledger.

As with archives that serve fields, a part also holds the rows that failed because the archive did
not answer; such a row decides nothing, and the next run makes a further part of just those.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe import spec as specs
from galpipe.archives.ledger import (
    INDEX,
    LEDGER,
    SCHEMA,
    Line,
    count_bands,
    earlier_lines,
    index_bytes,
    outcome,
    refuse_none,
    table_bytes,
)
from galpipe.archives.planning import part_layout
from galpipe.archives.spec import Hips, Vo
from galpipe.archives.vo import images
from galpipe.archives.vo.access import Access, token_of
from galpipe.archives.vo.images import BandEnd, Fetched
from galpipe.archives.vo.located import Place, locate
from galpipe.archives.vo.standing import answering
from galpipe.archives.writing import judge
from galpipe.errors import InputError
from galpipe.stages import Context
from galpipe.stamps import parts
from galpipe.stamps.parts import Part, PartLayout
from galpipe.status import Status, count
from galpipe.workspace import Ref, address, write_bytes

VERSION = 1
MEND = "mend the positions of the sample, or archive.pixels and the addresses of the archive"
FACTS = ("sha256", "status", "reason", "source", "bands")  # of a shard, by row
Bands = dict[int | str, dict[str, BandEnd]]


@dataclass(frozen=True)
class VoWork:
    """One shard of a part and the objects that fill it, in row order; small and picklable."""

    spec: Vo
    part: str  # path of the part
    shard: int
    places: tuple[Place, ...]


def retrieve_vo(context: Context, spec: Vo, catalogue: Ref, base: Ref | None) -> Ref:
    """Fetch the pixels of every object of a catalogue that an earlier release (`base`) lacks.

    As `galpipe.archives.retrieve.retrieve`, for archives that speak VO protocols.
    """
    workspace = context.workspace
    table = pq.read_table(workspace.place(catalogue) / "catalogue.parquet")
    places = locate(spec, table)
    versions = specs.digest([[place.id, place.version, place.status] for place in places])
    asked = address("cutouts-asked", VERSION, spec, {"versions": versions, "base": base})
    known = workspace.manifest(asked)
    if known is not None and workspace.manifest(Ref("cutouts", known["cutouts"])) is not None:
        return Ref("cutouts", known["cutouts"])
    _check(spec)
    kept, kept_parts = earlier_lines(context, spec, base)
    lines = [
        kept.get((place.id, place.version))
        or Line(place.version, None, -1, place.status, None, None, place.reason)
        for place in places
    ]
    bands = _earlier_bands(context, base, kept_parts)
    made = _fetch(context, spec, [p for p in places if lines[p.row].status == 0], lines, bands)
    refuse_none(lines, MEND)
    outcome = [[line.version, line.status, line.sha256] for line in lines]
    content = specs.digest([specs.identity(spec), table["object_id"].to_pylist(), outcome])
    ref = address("cutouts", VERSION, spec, {"content": content, "base": base})
    earlier = workspace.manifest(base) if base is not None else None
    if base is not None and earlier is not None and earlier["content"] == content:
        ref = base
    elif workspace.manifest(ref) is None:
        used = {line.part for line in lines}
        folder = workspace.begin(ref)
        write_bytes(folder / INDEX, index_bytes(table["object_id"], lines))
        ledger = _ledger(spec, places, lines, bands)
        write_bytes(folder / LEDGER, table_bytes(ledger))
        workspace.commit(
            ref, spec, {"base": base.digest if base else None}, content=content,
            parts=[part for part in (*kept_parts, *made) if part in used], objects=len(lines),
            by_status=count(line.status for line in lines), by_band=count_bands(ledger),
        )  # fmt: skip
    if not any(line.status & Status.FAILED for line in lines):
        workspace.begin(asked)
        workspace.commit(asked, spec, {}, cutouts=ref.digest)
    return ref


def _earlier_bands(context: Context, base: Ref | None, kept: Sequence[str]) -> Bands:
    """How the bands of the objects of an earlier release ended, where any of it is kept."""
    if base is None or not kept:
        return {}
    rows = pq.read_table(context.workspace.place(base) / LEDGER).to_pylist()
    bands: Bands = {}
    for row in rows:
        ended = BandEnd(row["status"], row["reason"], row["url"], row["sha256"])
        bands.setdefault(row["object_id"], {})[row["band"]] = ended
    return bands


def _ledger(spec: Vo, places: Sequence[Place], lines: Sequence[Line], bands: Bands) -> pa.Table:
    """One row per object and band; where no band was asked for, all end as the object."""
    ends = [
        bands.get(place.id, {}).get(band)
        or BandEnd(lines[place.row].status, lines[place.row].reason, None, None)
        for place in places
        for band in spec.bands
    ]
    columns: list[list[Any]] = [
        [outcome(end.status) for end in ends], [end.status for end in ends],
        [end.reason for end in ends], [end.source for end in ends],
        [end.digest for end in ends], [None] * len(ends),
    ]  # fmt: skip
    ids = [place.id for place in places for _ in spec.bands]
    return pa.table(
        {
            "object_id": pa.array(ids),
            "band": pa.array(list(spec.bands) * len(places), pa.string()),
            **{
                field.name: pa.array(values, field.type)
                for field, values in zip(SCHEMA, columns, strict=True)
            },
        }
    )


def _check(spec: Vo) -> None:
    """Refuse a survey whose archive cannot be asked at all."""
    token_of(spec)
    key = "hips2fits" if isinstance(spec.pixels, Hips) else "sia"
    if spec.embedded is None and not getattr(spec, key):
        raise InputError(
            f"archive.{key}: cutouts of kind {spec.pixels.kind!r} need the address of the service; "
            "name it."
        )


def _fetch(
    context: Context, spec: Vo, waiting: Sequence[Place], lines: Sequence[Line], bands: Bands
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
        _enter(part, waiting, lines, bands)
        failed = [place for place in waiting if lines[place.row].status & Status.FAILED]
        if fresh and len(failed) == len(waiting):
            shutil.rmtree(part.path)
            break
        if fresh:
            context.workspace.commit(ref, spec, {}, objects=len(waiting), content=part.content())
        made.append(ref.digest)
        waiting = failed
    return made


def plan(spec: Vo, waiting: Sequence[Place], after: str | None) -> tuple[Ref, PartLayout]:
    """The part for objects to fetch; `after` is the part whose failed rows they are."""
    colour = isinstance(spec.pixels, Hips) and spec.pixels.format == "jpeg"
    dtype, side = "uint8" if colour else "float32", max(place.side for place in waiting)
    layout = part_layout(spec, len(waiting), dtype, side, 0)
    contents = [[place.id, place.version] for place in waiting]
    parents = {"objects": contents, "store": [dtype, side, layout.shard], "after": after}
    return address("cutout-part", VERSION, spec, parents), layout


def _write(
    context: Context, spec: Vo, ref: Ref, layout: PartLayout, places: Sequence[Place]
) -> None:
    """Make the shards of a part that are not there, wherever the context's map runs them."""
    path = context.workspace.begin(ref, clean=False)
    ids: Any = [place.id for place in places]
    resampled = isinstance(spec.pixels, Hips)
    colour = isinstance(spec.pixels, Hips) and spec.pixels.format == "jpeg"
    attributes = {
        "bands": list(spec.bands),
        "unit": "as in the source",
        "rows": "y down, as in JPEG" if colour else "y up, as in FITS",
        "rights": spec.rights,
        "service": spec.service,
        "resampled": resampled,
    }
    parts.create(path, layout, np.asarray(ids), attributes)
    part = Part(path)
    missing = part.missing()
    if not missing:
        return
    left = sum(part.rows(shard).stop - part.rows(shard).start for shard in missing)
    with answering(context, spec) as answered:
        context.progress.start("retrieve", len(places), "objects", len(places) - left)
        work = [
            VoWork(answered, str(path), shard, tuple(places[part.rows(shard)])) for shard in missing
        ]
        for written in context.map(fetch_shard, work):
            context.progress.advance(written)
        context.progress.finish()


def _enter(part: Part, places: Sequence[Place], lines: Sequence[Line], bands: Bands) -> None:
    """Take over into the ledger what the shards of a part say of their objects."""
    row = 0
    for facts in part.facts():
        for checksum, status, reason, source, ends in zip(
            *(facts[name] for name in FACTS), strict=True
        ):
            bands[places[row].id] = {band: BandEnd(*end) for band, end in ends.items()}
            line = lines[places[row].row]
            line.sha256, line.status, line.reason, line.source = checksum, status, reason, source
            if status & Status.OK:
                line.part, line.row = part.path.name, row
            row += 1


def fetch_shard(work: VoWork) -> int:
    """Fetch and write one shard; returns how many objects it has.  Runs in any process.

    What is wrong with one object becomes its status and reason, kept in the shard's marker.
    """
    part = Part(work.part)
    rows = _Rows(part, work.places)
    pool = ThreadPoolExecutor(work.spec.connections, "fetch")
    try:
        with Access(work.spec) as access:
            for row, fetched in enumerate(_in_order(pool, access, work.places)):
                rows.put(row, fetched)
    finally:  # nothing is under way where all went well; an interrupted run does not wait
        pool.shutdown(wait=False, cancel_futures=True)
    rows.write(part, work.shard)
    return len(work.places)


def _in_order(
    pool: ThreadPoolExecutor, access: Access, places: Sequence[Place]
) -> Iterator[Fetched]:
    """What is fetched of each object, a few of them ahead of the one that is needed."""
    ahead = 2 * access.spec.connections
    begun = [pool.submit(images.fetch, access, place) for place in places[:ahead]]
    for number in range(len(places)):
        found = begun[number].result()
        if number + ahead < len(places):
            begun.append(pool.submit(images.fetch, access, places[number + ahead]))
        begun[number] = None  # type: ignore[call-overload]  # its pixels are in the store
        yield found


class _Rows:
    """The arrays of one shard, filled row by row."""

    def __init__(self, part: Part, places: Sequence[Place]) -> None:
        number = len(places)
        image = part.array("image")
        empty = np.nan if image.dtype.kind == "f" else 0
        nan = np.full(number, np.nan, np.float32)
        self._places = places
        self._arrays: dict[str, NDArray[Any]] = {
            "image": np.full((number, *image.shape[1:]), empty, image.dtype),
            "ny": np.zeros(number, np.int32),
            "nx": np.zeros(number, np.int32),
            "status": np.zeros(number, np.int32),
            "ra": np.array([place.ra for place in places]),
            "dec": np.array([place.dec for place in places]),
            "pixel_scale": nan.copy(),
            "coverage": np.zeros(number, np.float32),
            "noise": nan.copy(),
            "psf_fwhm": nan.copy(),
            "wcs": np.full((number, 8), np.nan),
        }
        self._facts: dict[str, list[Any]] = {name: [None] * number for name in FACTS}

    def put(self, row: int, fetched: Fetched) -> None:
        """Put what was fetched of one object into its row."""
        status, reason, arrays = fetched.status, fetched.reason, self._arrays
        if fetched.stamp is not None:
            pixels = fetched.stamp.pixels
            status, reason, arrays["coverage"][row] = judge(pixels)
            ny, nx = pixels.shape[1:]
            arrays["image"][row, :, :ny, :nx] = pixels
            arrays["ny"][row], arrays["nx"][row] = ny, nx
            arrays["pixel_scale"][row] = fetched.stamp.pixel_scale
            arrays["wcs"][row] = fetched.stamp.wcs
            self._facts["sha256"][row] = fetched.stamp.digest
            short = self._places[row].cut_short
            if status & Status.OK and short is not None:
                status, reason = status | Status.EDGE, short
        arrays["status"][row] = int(status)
        self._facts["status"][row] = int(status)
        self._facts["reason"][row], self._facts["source"][row] = reason, fetched.source
        self._facts["bands"][row] = {
            band: [int(end.status), end.reason, end.source, end.digest]
            for band, end in fetched.bands.items()
        }

    def write(self, part: Part, shard: int) -> None:
        """Write the shard whole and commit it."""
        part.write(shard, self._arrays, self._facts)
