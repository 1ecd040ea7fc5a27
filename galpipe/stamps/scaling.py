"""The stage `scaling`: the intensity per band that a stretch takes as 1, from the training split.

It is fitted at the first release and then kept, so that the pixels of old and new stamps mean
the same for as long as the survey lives.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe.stages import Context
from galpipe.stamps.parts import Part
from galpipe.stamps.pixels import prepare_images
from galpipe.stamps.spec import Given, OwnRange, Preparation
from galpipe.stamps.stretch import fitted_scale
from galpipe.status import Status
from galpipe.workspace import Ref, address, write_json

VERSION = 1
MOST_OBJECTS = 4096  # a percentile of this many is known to a percent
ROWS_AT_ONCE = 16  # rows held in double precision at once, of large cutouts 2 MB each


@dataclass(frozen=True)
class BrightestWork:
    """Some training objects of one cutout part."""

    cutouts: Path
    rows: tuple[int, ...]
    spec: Preparation


def fit_scaling(context: Context, spec: Preparation, cutouts: Ref, catalogue: Ref) -> Ref:
    """Fit the scaling of the stretch; returns Ref("scaling") with scaling.json.

    Takes the 4096 training objects that come first by a hash of their id, prepares them up to the
    stretch, and takes the percentile of their brightest pixels, band by band.
    """
    workspace = context.workspace
    scaling = address("scaling", VERSION, spec, {"cutouts": cutouts, "catalogue": catalogue})
    if workspace.manifest(scaling) is not None:
        return scaling
    manifest = workspace.manifest(cutouts)
    assert manifest is not None, "scaling needs committed cutouts"
    planes = (
        _planes(workspace.place(Ref("cutout-part", manifest["parts"][0])), spec)
        if manifest["parts"]
        else 1
    )
    brightest = np.zeros((0, planes), np.float32)
    if not isinstance(spec.stretch, Given | OwnRange):
        works = _works(context, spec, cutouts, catalogue)
        context.progress.start("scaling", sum(len(work.rows) for work in works), "objects")
        found: list[NDArray[np.float32]] = []
        for values in context.map(brightest_pixels, works):
            found.append(values)
            context.progress.advance(len(values))
        context.progress.finish()
        if found:
            # Sorted, so that the order in which workers end does not matter.
            brightest = np.sort(np.concatenate(found), axis=0)
    place = workspace.begin(scaling)
    scale = fitted_scale(brightest, spec.stretch)
    write_json(place / "scaling.json", {"scale": scale, "objects": len(brightest)})
    return workspace.commit(
        scaling, spec, {"cutouts": cutouts, "catalogue": catalogue}, scale=scale
    )


def brightest_pixels(work: BrightestWork) -> NDArray[np.float32]:
    """Each prepared stamp's brightest pixel before the stretch, (object, band); NaN: none."""
    part = Part(work.cutouts)
    bands = tuple(str(band) for band in part.group.attrs["bands"])  # type: ignore[union-attr]
    rows = np.asarray(work.rows)
    small = {name: part.read(name)[rows] for name in ("ny", "nx", "status")}
    found = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        here = slice(start, start + ROWS_AT_ONCE)
        images: Any = part.array("image").oindex[rows[here]]
        prepared = prepare_images(
            np.asarray(images),
            small["ny"][here],
            small["nx"][here],
            small["status"][here],
            bands,
            work.spec,
            columns_too=False,
        )
        good = ((prepared.status & Status.OK) > 0) & ((prepared.status & Status.NO_SOURCE) == 0)
        found.append(np.where(good[:, None], prepared.image.max(axis=(2, 3)), np.float32(np.nan)))
    return np.concatenate(found)


def _works(
    context: Context, spec: Preparation, cutouts: Ref, catalogue: Ref
) -> list[BrightestWork]:
    """The chosen training objects, by cutout part and shard."""
    workspace = context.workspace
    index = pq.read_table(workspace.place(cutouts) / "index.parquet")
    split = pq.read_table(workspace.place(catalogue) / "catalogue.parquet", columns=["split"])
    ids = index["object_id"].to_pylist()
    parts = index["part"].to_pylist()
    rows = index["row"].to_pylist()
    train = [
        k
        for k, name in enumerate(split["split"].to_pylist())
        if name == "train" and parts[k] is not None
    ]
    train.sort(key=lambda k: hashlib.sha256(str(ids[k]).encode()).digest())
    chosen: dict[tuple[str, int], list[int]] = {}
    for k in train[:MOST_OBJECTS]:
        chosen.setdefault((parts[k], rows[k] // spec.shard), []).append(rows[k])
    return [
        BrightestWork(workspace.place(Ref("cutout-part", part)), tuple(sorted(some)), spec)
        for (part, _), some in sorted(chosen.items())
    ]


def _planes(part: Path, spec: Preparation) -> int:
    """How many bands the stamps of these cutouts have."""
    return 1 if spec.colour != "bands" else int(Part(part).array("image").shape[1])
