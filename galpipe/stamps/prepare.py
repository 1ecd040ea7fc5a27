"""The stage `prepare`: cutouts become stamps and measured columns, shard by shard.

One stamp part is made per cutout part, with the same rows in the same order.  Its address holds
the preparation, the frozen scaling and the cutout part alone, so that it stays when the catalogue
grows, and only the parts of new objects are made.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe.stages import Context
from galpipe.stamps.morphology import columns
from galpipe.stamps.parts import ArrayLayout, Part, PartLayout, create
from galpipe.stamps.pixels import prepare_images
from galpipe.stamps.spec import Preparation
from galpipe.stamps.stretch import stored, stretched, unit_scale
from galpipe.status import names
from galpipe.workspace import Ref, address

VERSION = 1
FROM_PIXELS = ("image", "image_unmasked", "measured", "status", "coverage")
BYTES_AT_ONCE = 64 << 20  # of cutouts read together; bounds the memory of a worker


@dataclass(frozen=True)
class ShardWork:
    """One shard of one stamp part: small and picklable, for any worker."""

    cutouts: Path
    stamps: Path
    shard: int
    spec: Preparation
    scale: tuple[float, ...]


def prepare(context: Context, spec: Preparation, scaling: Ref, cutouts: Ref) -> Ref:
    """Prepare all cutouts; returns Ref("stamps") (see the module for what its parts are)."""
    workspace = context.workspace
    stamps = address("stamps", VERSION, spec, {"scaling": scaling, "cutouts": cutouts})
    if workspace.manifest(stamps) is not None:
        return stamps
    scale = read_scale(workspace.place(scaling) / "scaling.json")
    manifest = workspace.manifest(cutouts)
    assert manifest is not None, "prepare needs committed cutouts"
    parts = [Ref("cutout-part", digest) for digest in manifest["parts"]]
    made = [_part_ref(spec, scaling, part) for part in parts]
    works: list[ShardWork] = []
    objects: list[int] = []
    done = 0
    for source, target in zip(parts, made, strict=True):
        cutout_part = Part(workspace.place(source))
        objects.append(len(cutout_part))
        if workspace.manifest(target) is not None:
            done += len(cutout_part)
            continue
        place = workspace.begin(target, clean=False)
        _create(place, cutout_part, spec, source, scaling)
        stamp_part = Part(place)
        missing = stamp_part.missing()
        works += [
            ShardWork(workspace.place(source), place, shard, spec, scale) for shard in missing
        ]
        waiting = sum(_count(stamp_part.rows(shard)) for shard in missing)
        done += len(stamp_part) - waiting
    context.progress.start("prepare", sum(objects), "objects", done)
    for prepared in context.map(prepare_shard, works):
        context.progress.advance(prepared)
    context.progress.finish()
    records = []
    for source, target, count in zip(parts, made, objects, strict=True):
        records.append({"part": target.digest, "cutouts": source.digest, "objects": count})
        if workspace.manifest(target) is None:
            part = Part(workspace.place(target))
            tally: Counter[str] = Counter()
            for facts in part.facts():
                tally.update(facts["by_status"])
            workspace.commit(
                target,
                spec,
                {"scaling": scaling, "cutouts": source},
                objects=count,
                content=part.content(),
                by_status=dict(tally),
            )
    index = _index(context, cutouts, parts, made)
    place = workspace.begin(stamps)
    pq.write_table(index, place / "index.parquet")
    return workspace.commit(
        stamps,
        spec,
        {"scaling": scaling, "cutouts": cutouts},
        objects=index.num_rows,
        parts=records,
        by_status=_by_status(index["status"].to_numpy()),
    )


def prepare_shard(work: ShardWork) -> int:
    """Prepare and commit one shard; returns its number of objects."""
    source, target = Part(work.cutouts), Part(work.stamps)
    rows = target.rows(work.shard)
    bands = tuple(str(band) for band in source.group.attrs["bands"])  # type: ignore[union-attr]
    small = {
        name: source.read(name, rows)
        for name in ("ny", "nx", "status", "ra", "dec", "pixel_scale", "coverage")
    }
    image = source.array("image")
    size = int(np.prod(image.shape[1:])) * max(image.dtype.itemsize, 4)
    step = max(1, BYTES_AT_ONCE // max(size, 1))
    step = max(1, step // source.chunk) * source.chunk if step > source.chunk else step
    scale = np.asarray(work.scale, np.float64)
    done: dict[str, list[NDArray[Any]]] = {name: [] for name in FROM_PIXELS}
    for start in range(rows.start, rows.stop, step):
        some = slice(start, min(start + step, rows.stop))
        here = slice(some.start - rows.start, some.stop - rows.start)
        prepared = prepare_images(
            source.read("image", some),
            small["ny"][here],
            small["nx"][here],
            small["status"][here],
            bands,
            work.spec,
        )
        for name in ("image", "image_unmasked"):
            unit = stretched(getattr(prepared, name), scale, work.spec.stretch)
            done[name].append(stored(unit, work.spec.dtype))
        for name in ("measured", "status", "coverage"):
            done[name].append(getattr(prepared, name))
    arrays = {name: np.concatenate(some) for name, some in done.items()}
    given = small["coverage"]
    arrays["coverage"] *= np.where(np.isfinite(given), given, np.float32(1))
    arrays |= {name: small[name] for name in ("ra", "dec", "pixel_scale")}
    target.write(work.shard, arrays, {"by_status": _by_status(arrays["status"])})
    return _count(rows)


def read_scale(path: Path) -> tuple[float, ...]:
    """The fitted intensities per band that a scaling keeps."""
    return tuple(float(value) for value in json.loads(path.read_text())["scale"])


def _part_ref(spec: Preparation, scaling: Ref, cutout_part: Ref) -> Ref:
    return address("stamp-part", VERSION, spec, {"scaling": scaling, "cutouts": cutout_part})


def _count(rows: slice) -> int:
    return int(rows.stop) - int(rows.start)


def _create(place: Path, cutouts: Part, spec: Preparation, source: Ref, scaling: Ref) -> None:
    """The empty stamp part."""
    bands = [str(band) for band in cutouts.group.attrs["bands"]]  # type: ignore[union-attr]
    table = columns(bands)
    planes = bands if spec.colour == "bands" else [spec.colour]
    shape = (len(planes), spec.size, spec.size)
    dims = ("band", "y", "x")
    nan = float("nan")
    described = tuple(
        (key, [getattr(column, key) for column in table]) for key in ("unit", "ucd", "description")
    )
    arrays = (
        ArrayLayout("image", spec.dtype, shape, dims),
        ArrayLayout("image_unmasked", spec.dtype, shape, dims),
        ArrayLayout("measured", "float32", (len(table),), ("column",), nan, attributes=described),
        ArrayLayout("status", "int32"),
        ArrayLayout("ra", "float64", fill=nan),
        ArrayLayout("dec", "float64", fill=nan),
        ArrayLayout("pixel_scale", "float32", fill=nan),
        ArrayLayout("coverage", "float32"),
    )
    layout = PartLayout(len(cutouts), spec.shard, spec.chunk, arrays)
    attributes = {
        "bands": planes,
        "measured_bands": bands,
        "unit_scale": unit_scale(spec.dtype),
        "cutouts": source.digest,
        "scaling": scaling.digest,
    }
    create(place, layout, cutouts.object_ids, attributes, [column.name for column in table])


def _index(context: Context, cutouts: Ref, parts: list[Ref], made: list[Ref]) -> pa.Table:
    """Catalogue rows in order: object_id, part, row and the stamp's status."""
    given = pq.read_table(context.workspace.place(cutouts) / "index.parquet")
    status = given["status"].to_numpy().astype(np.int32)
    rows = given["row"].to_numpy()
    held = given["part"]
    renamed = pa.nulls(given.num_rows, pa.string())
    for source, target in zip(parts, made, strict=True):
        here = pc.fill_null(pc.equal(held, source.digest), False).combine_chunks()
        renamed = pc.if_else(here, target.digest, renamed)
        where = np.flatnonzero(here.to_numpy(zero_copy_only=False))
        status[where] = Part(context.workspace.place(target)).read("status")[rows[where]]
    return pa.table(
        {
            "object_id": given["object_id"],
            "part": renamed,
            "row": given["row"],
            "status": pa.array(status, pa.int32()),
        }
    )


def _by_status(status: NDArray[np.int32]) -> dict[str, int]:
    """How many objects have each combination of bits, by name."""
    values, counts = np.unique(status, return_counts=True)
    return {names(int(value)): int(n) for value, n in zip(values, counts, strict=True)}
