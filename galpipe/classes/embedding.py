"""The embedding stage: one vector per object, whole catalogue, shard by shard."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from galpipe.errors import InputError
from galpipe.models.checkpoints import description, load_model
from galpipe.models.engine.arithmetic import as_brightness, device_of, fixed_arithmetic
from galpipe.models.engine.shortage import ERRORS, is_of_memory
from galpipe.models.network import Network
from galpipe.models.spec import VIEWS, Embedding
from galpipe.models.targets import Wanted, read_targets
from galpipe.stages import Context, serial_map
from galpipe.stamps.batches import Selection, Stamps
from galpipe.stamps.gather import part_path, read_index
from galpipe.stamps.parts import ArrayLayout, Part, PartLayout, create
from galpipe.status import Status
from galpipe.workspace import Ref, Workspace, address, write_bytes

VERSION = 3
OVERLAPPED = 3  # shards at once on a GPU: one is read, one computed, one written

A = TypeVar("A")
B = TypeVar("B")


def embed(
    context: Context, settings: Embedding, model: Ref, stamps: Ref, catalogue: Ref | None = None
) -> Ref:
    """Embed every stamp; the Ref holds an index, its parts the vectors.

    One embedding part per stamp part, addressed by (model, Embedding, stamp part): a catalogue that
    grows makes only new ones.  The arrays are those the network gives (`Network.outputs`): `vector`
    (latent) of all; of VaDE `responsibility` (component), its own p(c|z) at the posterior mean; of
    all that draw `reconstruction_error`, the mean squared difference of stamp and drawing in units
    of 0..1.  Rows without a usable stamp are NaN.  A network that is conditioned on columns takes
    them from the `catalogue`.  Raises InputError where it lacks one.
    """
    workspace = context.workspace
    parents: dict[str, Ref | str] = {"model": model, "stamps": stamps}
    given = _conditions(context, model, stamps, catalogue)
    if given is not None:  # a release may tell of the same stamps other things
        whole = b"".join(digest.encode() + given[digest].tobytes() for digest in sorted(given))
        parents["conditions"] = hashlib.sha256(whole).hexdigest()[:32]
    ref = address("embeddings", VERSION, settings, parents)
    if workspace.manifest(ref) is not None:
        return ref
    manifest = workspace.manifest(stamps)
    assert manifest is not None
    device_of(settings.device, "embed")
    parts = []
    progress = context.progress
    total = sum(part["objects"] for part in manifest["parts"])
    progress.start("embed", total, "object")
    for entry in manifest["parts"]:
        part = _embed_part(context, settings, model, entry["part"], given)
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


def columns_told(
    workspace: Workspace, model: Ref, stamps: Ref, catalogue: Ref | None
) -> tuple[tuple[str, ...], NDArray[np.float32]] | None:
    """The columns that a network is told beside the images, (catalogue row, column); or None."""
    facts = description(workspace.place(model)).get("facts", {}).get("condition")
    if facts is None:
        return None
    assert catalogue is not None, "a network with conditions is given the catalogue they are in"
    wanted = Wanted("condition", tuple(facts["columns"]), "numbers")
    found = read_targets(workspace, stamps, catalogue, [wanted]).values["condition"]
    return wanted.columns, found


@dataclass(frozen=True)
class _Shard:
    """One shard to embed: paths and numbers, small enough to send anywhere."""

    model: Path
    stamps: Path
    target: Path
    shard: int
    usable: NDArray[np.int64]  # rows of the part with a stamp, ascending, within this shard
    conditions: NDArray[np.float32] | None  # of the usable rows, (row, condition)
    settings: Embedding


def _conditions(
    context: Context, model: Ref, stamps: Ref, catalogue: Ref | None
) -> dict[str, NDArray[np.float32]] | None:
    """What the network is conditioned on, by stamp part, (row of the part, condition).

    NaN where the catalogue has no value.  None where the network takes no conditions.
    """
    workspace = context.workspace
    told = columns_told(workspace, model, stamps, catalogue)
    if told is None:
        return None
    _, values = told
    index = read_index(workspace, stamps)
    parts, rows = np.asarray(index["part"].to_pylist(), object), index["row"].to_numpy()
    given = {}
    for digest in {str(part) for part in parts if part is not None}:
        mine = np.flatnonzero(parts == digest)
        found = np.full(
            (len(Part(part_path(workspace, "stamps", digest))), values.shape[1]), np.nan
        )
        found[rows[mine]] = values[mine]
        given[digest] = found.astype(np.float32)
    return given


def _embed_part(
    context: Context,
    settings: Embedding,
    model: Ref,
    digest: str,
    given: dict[str, NDArray[np.float32]] | None,
) -> Ref:
    workspace = context.workspace
    parents = {"model": model.digest, "stamps": digest}
    if given is not None:
        parents["conditions"] = hashlib.sha256(given[digest].tobytes()).hexdigest()[:32]
    ref = address("embedding-part", VERSION, settings, parents)
    source = Part(part_path(workspace, "stamps", digest))
    if workspace.manifest(ref) is not None:
        context.progress.advance(len(source))
        return ref
    outputs = _network(workspace.place(model)).outputs()
    layout = PartLayout(
        objects=len(source),
        shard=settings.shard,
        chunk=settings.shard,  # vectors are small, and read whole
        arrays=tuple(
            ArrayLayout(out.name, "float32", out.shape, out.dims, np.nan) for out in outputs
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
        own = None if given is None else given[digest][wanted]
        work.append(
            _Shard(workspace.place(model), source.path, place, shard, wanted, own, settings)
        )
    over = context.network_map
    if settings.device == "cuda" and over is serial_map:
        over = overlapped
    with fixed_arithmetic(settings.threads):  # threads of `overlapped` have it in common
        for count in over(_embed_shard, work):
            context.progress.advance(count)
    return workspace.commit(ref, settings, parents, objects=len(source), content=target.content())


def _length(part: Part, shard: int) -> int:
    rows = part.rows(shard)
    return int(rows.stop - rows.start)


def overlapped(function: Callable[[A], B], items: Iterable[A], /) -> Iterator[B]:
    """A map of one process whose GPU has a shard to compute while others are read and written."""
    with ThreadPoolExecutor(OVERLAPPED) as pool:
        yield from pool.map(function, items)


def _embed_shard(work: _Shard) -> int:
    """Embed one shard and commit it; the number of its rows.  Runs in any process."""
    target = _part(work.target)
    rows = target.rows(work.shard)
    length = int(rows.stop - rows.start)
    with fixed_arithmetic(work.settings.threads):
        network = _network(work.model).to(device_of(work.settings.device, "embed"))
        wanted = work.usable - rows.start
        selection = Selection(work.stamps, work.usable)
        stamps = Stamps([selection], VIEWS[network.spec.view], buffer=1)
        arrays = {
            out.name: np.full((length, *out.shape), np.nan, np.float32) for out in network.outputs()
        }
        if len(wanted):
            # Read in this thread: on a CPU it takes a hundredth of the arithmetic, which has all
            # cores.  No answer is waited for before the last is asked for, as a GPU would idle.
            answers: list[dict[str, Tensor]] = []
            with _memory_asked(work.settings):
                for images, places in stamps.ordered(work.settings.micro_batch):
                    own = None if work.conditions is None else work.conditions[places]
                    answers.append(
                        _answer(network, images, stamps.unit_scale, work.settings.micro_batch, own)
                    )
                for name, values in arrays.items():
                    whole = torch.cat([answer[name] for answer in answers])
                    values[wanted] = whole.cpu().numpy()
    facts = {"embedded": len(wanted), "rows": length}
    target.write(work.shard, arrays, facts)
    return length


@contextlib.contextmanager
def _memory_asked(settings: Embedding) -> Iterator[None]:
    """Say that a micro-batch is too large; a smaller one would be other bytes, so nobody takes it
    but who wrote the survey file."""
    try:
        yield
    except ERRORS as error:
        if not is_of_memory(error):
            raise
        raise InputError(
            f"embed: out of memory; [embed] micro_batch = {settings.micro_batch} images at a time "
            "are too many for this machine, give fewer."
        ) from None


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
    network: Network = load_model(folder)
    for layer in network.modules():
        if isinstance(layer, nn.LeakyReLU):
            layer.inplace = True
    return network


def embed_images(
    network: Network,
    images: NDArray[np.generic],
    unit_scale: float,
    micro_batch: int,
    conditions: NDArray[np.float32] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Embed up to `micro_batch` stored stamps, (N, band, y, x), padded with zeros to that number.

    The padding keeps the arithmetic of each row the same, whatever its neighbours and however many
    they are.  `conditions` are (N, condition), NaN where unknown.
    """
    answer = _answer(network, images, unit_scale, micro_batch, conditions)
    return {name: value.cpu().numpy() for name, value in answer.items()}


@torch.inference_mode()
def _answer(
    network: Network,
    images: NDArray[np.generic],
    unit_scale: float,
    micro_batch: int,
    conditions: NDArray[np.float32] | None,
) -> dict[str, Tensor]:
    """What `embed_images` gives, still on the network's device, where it may not be done yet."""
    count = len(images)
    device = next(network.parameters()).device
    stored = _there(_padded(images, micro_batch), device)
    given = None if conditions is None else _there(_padded(conditions, micro_batch), device)
    answer: dict[str, Tensor] = network.embed(as_brightness(stored, unit_scale), given)
    return {name: value[:count] for name, value in answer.items()}


def _there(values: NDArray[Any], device: torch.device) -> Tensor:
    """An array on a device; a GPU fetches it while this thread goes on."""
    here = torch.from_numpy(values)
    if device.type == "cuda":
        return here.pin_memory().to(device, non_blocking=True)
    return here


def _padded(values: NDArray[Any], rows: int) -> NDArray[Any]:
    if len(values) == rows:
        return values
    return np.concatenate([values, np.zeros((rows - len(values), *values.shape[1:]), values.dtype)])
