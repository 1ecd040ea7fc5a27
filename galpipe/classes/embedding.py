"""The embedding stage: one vector per object, whole catalogue, shard by shard."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn

from galpipe.models.checkpoints import load_model, load_spec
from galpipe.models.engine import as_brightness, fixed_arithmetic
from galpipe.models.spec import VIEWS, Embedding
from galpipe.models.vade import Network
from galpipe.stages import Context
from galpipe.stamps.batches import Selection, Stamps
from galpipe.stamps.gather import part_path, read_index
from galpipe.stamps.parts import ArrayLayout, Part, PartLayout, create
from galpipe.status import Status
from galpipe.workspace import Ref, address, write_bytes

VERSION = 1


def embed(context: Context, settings: Embedding, model: Ref, stamps: Ref) -> Ref:
    """Embed every stamp; the Ref holds an index, its parts the vectors.

    One embedding part per stamp part, addressed by (model, Embedding, stamp part): a catalogue that
    grows makes only new ones.  Arrays: `vector` (latent), the posterior mean; `responsibility`
    (component), the model's own p(c|z) at that mean; `reconstruction_error`, the mean squared
    difference of stamp and drawing in units of 0..1.  Rows without a usable stamp are NaN.
    """
    workspace = context.workspace
    parents = {"model": model, "stamps": stamps}
    ref = address("embeddings", VERSION, settings, parents)
    if workspace.manifest(ref) is not None:
        return ref
    manifest = workspace.manifest(stamps)
    assert manifest is not None
    parts = []
    progress = context.progress
    total = sum(part["objects"] for part in manifest["parts"])
    progress.start("embed", total, "object")
    for entry in manifest["parts"]:
        part = _embed_part(context, settings, model, entry["part"])
        parts.append({"part": part.digest, "stamps": entry["part"], "objects": entry["objects"]})
    progress.finish()
    place = workspace.begin(ref)
    of = {entry["stamps"]: entry["part"] for entry in parts}
    index = read_index(workspace, stamps)
    column = [None if part is None else of[part] for part in index["part"].to_pylist()]
    table = pa.table(
        {
            "object_id": index["object_id"],
            "part": pa.array(column, pa.string()),
            "row": index["row"].cast(pa.int32()),
        }
    )
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    write_bytes(place / "index.parquet", buffer.getvalue().to_pybytes())
    return workspace.commit(ref, settings, parents, parts=parts)


@dataclass(frozen=True)
class _Shard:
    """One shard to embed: paths and numbers, small enough to send anywhere."""

    model: Path
    stamps: Path
    target: Path
    shard: int
    usable: NDArray[np.int64]  # rows of the part with a stamp, ascending, within this shard
    settings: Embedding


def _embed_part(context: Context, settings: Embedding, model: Ref, digest: str) -> Ref:
    workspace = context.workspace
    parents = {"model": model.digest, "stamps": digest}
    ref = address("embedding-part", VERSION, settings, parents)
    source = Part(part_path(workspace, "stamps", digest))
    if workspace.manifest(ref) is not None:
        context.progress.advance(len(source))
        return ref
    network = load_spec(workspace.place(model))
    layout = PartLayout(
        objects=len(source),
        shard=settings.shard,
        chunk=settings.shard,  # vectors are small, and read whole
        arrays=(
            ArrayLayout("vector", "float32", (network.latent,), ("latent",), np.nan),
            ArrayLayout("responsibility", "float32", (network.components,), ("component",), np.nan),
            ArrayLayout("reconstruction_error", "float32", fill=np.nan),
        ),
    )
    place = workspace.begin(ref, clean=False)
    create(place, layout, source.object_ids, {"model": model.digest, "stamps": digest})
    target = Part(place)
    missing = target.missing()
    done = len(source) - sum(_length(target, shard) for shard in missing)
    context.progress.advance(done)
    usable = np.flatnonzero(source.read("status") & Status.OK)
    work = []
    for shard in missing:
        span = target.rows(shard)
        wanted = usable[np.searchsorted(usable, span.start) : np.searchsorted(usable, span.stop)]
        work.append(_Shard(workspace.place(model), source.path, place, shard, wanted, settings))
    for count in context.network_map(_embed_shard, work):
        context.progress.advance(count)
    return workspace.commit(ref, settings, parents, objects=len(source), content=target.content())


def _length(part: Part, shard: int) -> int:
    rows = part.rows(shard)
    return int(rows.stop - rows.start)


def _embed_shard(work: _Shard) -> int:
    """Embed one shard and commit it; the number of its rows.  Runs in any process."""
    target = _part(work.target)
    rows = target.rows(work.shard)
    length = int(rows.stop - rows.start)
    with fixed_arithmetic(work.settings.threads):
        network = _network(work.model)
        wanted = work.usable - rows.start
        selection = Selection(work.stamps, work.usable)
        stamps = Stamps([selection], VIEWS[network.spec.view], buffer=1)
        arrays = {
            "vector": np.full((length, network.spec.latent), np.nan, np.float32),
            "responsibility": np.full((length, network.spec.components), np.nan, np.float32),
            "reconstruction_error": np.full(length, np.nan, np.float32),
        }
        if len(wanted):
            # Read in this thread: it takes a hundredth of the arithmetic, which has all cores.
            for images, places in stamps.ordered(work.settings.micro_batch):
                answer = embed_images(network, images, stamps.unit_scale, work.settings.micro_batch)
                for name, values in answer.items():
                    arrays[name][wanted[places]] = values
    facts = {"embedded": len(wanted), "rows": length}
    target.write(work.shard, arrays, facts)
    return length


@lru_cache(maxsize=2)
def _part(path: Path) -> Part:
    """The parts of this process's shards, opened once: their layout never changes."""
    return Part(path)


@lru_cache(maxsize=1)
def _network(folder: Path) -> Network:
    """The model of this process's shards, loaded once: an output never changes.

    Its activations overwrite their inputs, which no gradient needs here: the same bits, and less
    memory to walk through.
    """
    network = load_model(folder)
    for layer in network.modules():
        if isinstance(layer, nn.LeakyReLU):
            layer.inplace = True
    return network


@torch.inference_mode()
def embed_images(
    network: Network, images: NDArray[np.generic], unit_scale: float, micro_batch: int
) -> dict[str, NDArray[np.float32]]:
    """Embed up to `micro_batch` stored stamps, (N, band, y, x), padded with zeros to that number.

    The padding keeps the arithmetic of each row the same, whatever its neighbours and however many
    they are.
    """
    count = len(images)
    if count < micro_batch:
        padding = np.zeros((micro_batch - count, *images.shape[1:]), images.dtype)
        images = np.concatenate([images, padding])
    x = as_brightness(torch.from_numpy(images), unit_scale)
    mean = network.encode(x).mean
    difference = network.decode(mean).sub_(x).flatten(1)
    error = torch.linalg.vector_norm(difference, dim=1) ** 2 / difference.shape[1]
    answer = {
        "vector": mean,
        "responsibility": network.mixture.responsibilities(mean),
        "reconstruction_error": error,
    }
    return {name: value[:count].numpy() for name, value in answer.items()}
