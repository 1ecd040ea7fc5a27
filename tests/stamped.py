"""Committed stamps of simple galaxies in a workspace: what training and embedding begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from galpipe.models.engine.spec import Exponential
from galpipe.models.spec import Stack, Training, VaDE
from galpipe.models.vade.spec import Annealing
from galpipe.stamps.parts import ArrayLayout, Part, PartLayout, create
from galpipe.status import Status
from galpipe.workspace import Ref, Workspace

NETWORK = VaDE(
    latent=3,
    components=3,
    encoder=(Stack(channels=4), Stack(channels=4)),
    decoder=(Stack(channels=4), Stack(channels=4)),
    schedule=Annealing(warm_up=2, annealing=1, static=2),
    initialisation_restarts=1,
)
TRAINING = Training(batch=32, threads=1, buffer=2, rate=Exponential(final=1e-4))


def galaxies(count: int, seed: int = 0, size: int = 16) -> np.ndarray[Any, Any]:
    """Discs, needles and rings, in turn, uint8 (count, 1, size, size)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    bright = random.uniform(0.6, 0.9, count)[:, None, None]
    width = random.uniform(2.0, 2.5, count)[:, None, None]
    kind = (np.arange(count) % 3)[:, None, None]
    round_radius, flat_radius = np.hypot(x, y) / width, np.hypot(x, 4 * y) / width
    disc, needle = np.exp(-round_radius), np.exp(-flat_radius / 2)
    ring = np.exp(-4 * (round_radius - 2) ** 2)
    image = bright * np.choose(kind, [disc, needle, ring])
    return np.asarray((255 * image).astype(np.uint8)[:, None])


def write_part(
    path: Path,
    images: np.ndarray[Any, Any],
    ids: Any,
    *,
    shard: int = 64,
    chunk: int = 32,
    status: Any = None,
    compress: bool = False,
    unit_scale: float = 255.0,
) -> Part:
    """A stamp part with every shard committed."""
    count = len(images)
    shape, dims = images.shape[1:], ("band", "y", "x")
    arrays = tuple(
        ArrayLayout(name, images.dtype, shape, dims, compress=compress)
        for name in ("image", "image_unmasked")
    )
    layout = PartLayout(count, shard, chunk, (*arrays, ArrayLayout("status", "int32")))
    create(path, layout, ids, {"unit_scale": unit_scale})
    bits = np.full(count, int(Status.OK), np.int32) if status is None else np.asarray(status)
    part = Part(path)
    for number in range(part.shards):
        rows = part.rows(number)
        part.write(
            number,
            {"image": images[rows], "image_unmasked": images[rows], "status": bits[rows]},
            {},
        )
    return part


def commit(
    workspace: Workspace,
    parts: list[np.ndarray[Any, Any]],
    *,
    name: str = "a",
    statuses: list[Any] | None = None,
    shard: int = 64,
    first_id: int = 10**18,
    prefix: str | None = None,
) -> tuple[Ref, Ref]:
    """Stamps of a catalogue whose rows lie in the given parts, one after the other; both Refs.

    Parts are named after `prefix` (or `name`); one that is committed is kept.
    """
    facts, digests, rows, bits = [], [], [], []
    begin = first_id
    for number, images in enumerate(parts):
        digest = f"part-{prefix or name}-{number}"
        count = len(images)
        status = np.full(count, 1, np.int32) if statuses is None else statuses[number]
        ref = Ref("stamp-part", digest)
        ids = np.arange(begin, begin + count)
        if workspace.manifest(ref) is None:
            write_part(workspace.begin(ref), images, ids, status=status, shard=shard)
            workspace.commit(ref, None, {})
        facts.append({"part": digest, "cutouts": "none", "objects": count})
        digests += [digest] * count
        rows.append(np.arange(count, dtype=np.int32))
        bits.append(status)
        begin += count
    total = sum(len(images) for images in parts)
    ids = np.arange(first_id, first_id + total)
    split = np.array(["train"] * 7 + ["validation", "test", "train"])[np.arange(total) // 3 % 10]
    catalogue, stamps = Ref("sample", name), Ref("stamps", name)
    pq.write_table(
        pa.table({"object_id": ids, "split": split}),
        workspace.begin(catalogue) / "catalogue.parquet",
    )
    workspace.commit(catalogue, None, {})
    index = pa.table(
        {
            "object_id": ids,
            "part": digests,
            "row": np.concatenate(rows),
            "status": np.concatenate(bits),
        }
    )
    pq.write_table(index, workspace.begin(stamps) / "index.parquet")
    workspace.commit(stamps, None, {}, parts=facts)
    return stamps, catalogue
