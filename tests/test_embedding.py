"""Embedding: the same bytes whatever the order, the neighbours, the shards and the process."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from galpipe.classes.embedding import embed, embed_images, overlapped
from galpipe.errors import InputError
from galpipe.models.checkpoints import load_model
from galpipe.models.engine.arithmetic import fixed_arithmetic
from galpipe.models.spec import Embedding
from galpipe.models.training import train
from galpipe.models.vade.network import VadeNetwork
from galpipe.stages import Context
from galpipe.stamps.parts import Part
from galpipe.workspace import Ref, Workspace
from tests import stamped

SETTINGS = Embedding(micro_batch=32, threads=1, shard=64)
NAMES = ("vector", "responsibility", "reconstruction_error")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Ref, Ref]:
    workspace = Workspace.open(tmp_path_factory.mktemp("embedded"))
    stamps, catalogue = stamped.commit(workspace, [stamped.galaxies(200)])
    model = train(Context(workspace), stamped.NETWORK, stamped.TRAINING, stamps, catalogue)
    return workspace, model, stamps


def content(workspace: Workspace, ref: Ref) -> list[str]:
    manifest = workspace.manifest(ref)
    assert manifest is not None
    return [
        Part(workspace.place(Ref("embedding-part", p["part"]))).content() for p in manifest["parts"]
    ]


def vectors(workspace: Workspace, ref: Ref) -> dict[str, dict[int, bytes]]:
    """Each object's bytes, by array and id."""
    manifest = workspace.manifest(ref)
    assert manifest is not None
    found: dict[str, dict[int, bytes]] = {name: {} for name in NAMES}
    for entry in manifest["parts"]:
        part = Part(workspace.place(Ref("embedding-part", entry["part"])))
        for name in NAMES:
            values = part.read(name)
            found[name] |= {int(i): values[n].tobytes() for n, i in enumerate(part.object_ids)}
    return found


def test_vectors_are_the_posterior_means(trained: tuple[Workspace, Ref, Ref]) -> None:
    workspace, model, stamps = trained
    ref = embed(Context(workspace), SETTINGS, model, stamps)
    manifest = workspace.manifest(ref)
    assert manifest is not None
    assert [part["objects"] for part in manifest["parts"]] == [200]
    part = Part(workspace.place(Ref("embedding-part", manifest["parts"][0]["part"])))
    network = load_model(workspace.place(model))
    x = torch.from_numpy(stamped.galaxies(200)).float() / 255
    mean = network.encode(x).mean
    np.testing.assert_allclose(part.read("vector"), mean.numpy(), atol=1e-4)
    rows = part.read("responsibility")
    np.testing.assert_allclose(rows.sum(1), 1, atol=1e-5)
    error = ((network.decode(mean) - x) ** 2).flatten(1).mean(1).numpy()
    np.testing.assert_allclose(part.read("reconstruction_error"), error, atol=1e-5)
    index = pq.read_table(workspace.place(ref) / "index.parquet")
    assert index.column_names == ["object_id", "part", "row"]
    assert set(index["part"].to_pylist()) == {manifest["parts"][0]["part"]}


@pytest.mark.parametrize("shard", [32, 96, 256])
def test_bytes_do_not_depend_on_order_or_shards(
    trained: tuple[Workspace, Ref, Ref], tmp_path: Path, shard: int
) -> None:
    """The same galaxies in reverse order, in other shards and beside unusable neighbours."""
    workspace, model, stamps = trained
    ref = embed(Context(workspace), SETTINGS, model, stamps)
    truth = vectors(workspace, ref)
    status = np.ones(200, np.int32)
    status[::7] = 16
    images = stamped.galaxies(200)[::-1].copy()
    name = f"turned{shard}"
    turned, _ = stamped.commit(
        workspace, [images], name=name, statuses=[status], shard=shard, first_id=0
    )
    settings = Embedding(micro_batch=32, threads=1, shard=shard)
    found = vectors(workspace, embed(Context(workspace), settings, model, turned))
    for key in NAMES:
        for number in range(200):
            mine = found[key][number]
            if status[number] == 16:
                assert np.isnan(np.frombuffer(mine, np.float32)).all()
            else:
                assert mine == truth[key][10**18 + 199 - number]


@given(count=st.integers(1, 32), first=st.integers(0, 160), seed=st.integers(0, 100))
@settings(deadline=None, max_examples=20)
def test_neighbours_in_a_batch_change_no_bit(count: int, first: int, seed: int) -> None:
    torch.manual_seed(0)
    network = VadeNetwork(stamped.NETWORK, 1, 16).eval()
    images = stamped.galaxies(200)
    with fixed_arithmetic(1):
        alone = embed_images(network, images[first : first + 1], 255.0, 32)
        mixed = np.concatenate([stamped.galaxies(count - 1, seed), images[first : first + 1]])
        together = embed_images(network, mixed, 255.0, 32)
    for name in NAMES:
        assert alone[name][0].tobytes() == together[name][-1].tobytes()


def test_a_killed_embedding_goes_on_and_ends_with_the_same_bytes(
    trained: tuple[Workspace, Ref, Ref], tmp_path: Path
) -> None:
    workspace, model, stamps = trained
    undisturbed = vectors(workspace, embed(Context(workspace), SETTINGS, model, stamps))
    other = Embedding(
        micro_batch=64, threads=1, shard=64
    )  # another address, so that it is made anew
    done: list[Any] = []

    def stops(function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == 2:
                raise KeyboardInterrupt
            yield function(item)

    def counts(function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        for item in items:
            done.append(item)
            yield function(item)

    with pytest.raises(KeyboardInterrupt):
        embed(Context(workspace, network_map=stops), other, model, stamps)
    ref = embed(Context(workspace, network_map=counts), other, model, stamps)
    assert len(done) == 2  # of four shards
    whole = embed(Context(workspace, network_map=counts), other, model, stamps)
    assert (whole, len(done)) == (ref, 2)
    fresh = Workspace.open(tmp_path / "fresh")
    for needed in (model, stamps, Ref("stamp-part", "part-a-0")):
        _link(needed, workspace, fresh)
    assert content(fresh, embed(Context(fresh), other, model, stamps)) == content(workspace, ref)
    found = np.frombuffer(b"".join(vectors(workspace, ref)["vector"].values()), np.float32)
    truth = np.frombuffer(b"".join(undisturbed["vector"].values()), np.float32)
    np.testing.assert_allclose(found, truth, atol=1e-4)  # another batch changes last bits at most


def _link(ref: Ref, source: Workspace, target: Workspace) -> None:
    """The same output in a second workspace."""
    target.place(ref).parent.mkdir(parents=True, exist_ok=True)
    target.place(ref).symlink_to(source.place(ref))


def test_other_processes_write_the_same_bytes(
    trained: tuple[Workspace, Ref, Ref], tmp_path: Path
) -> None:
    workspace, model, stamps = trained
    here = content(workspace, embed(Context(workspace), SETTINGS, model, stamps))
    elsewhere = Workspace.open(tmp_path / "elsewhere")
    for ref in (model, stamps, Ref("stamp-part", "part-a-0")):
        _link(ref, workspace, elsewhere)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        there = embed(Context(elsewhere, network_map=pool.map), SETTINGS, model, stamps)
    assert content(elsewhere, there) == here


def test_shards_at_once_write_the_same_bytes(
    trained: tuple[Workspace, Ref, Ref], tmp_path: Path
) -> None:
    """As a GPU is fed: several threads, each at a shard of its own."""
    workspace, model, stamps = trained
    here = content(workspace, embed(Context(workspace), SETTINGS, model, stamps))
    elsewhere = Workspace.open(tmp_path / "elsewhere")
    for ref in (model, stamps, Ref("stamp-part", "part-a-0")):
        _link(ref, workspace, elsewhere)
    threads: set[int] = set()

    def at_once(function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        together = threading.Barrier(2)  # the first two of the four shards meet here

        def counted(item: Any) -> Any:
            threads.add(threading.get_ident())
            if item.shard < 2:
                together.wait(30)
            assert torch.are_deterministic_algorithms_enabled()
            return function(item)

        return overlapped(counted, items)

    there = embed(Context(elsewhere, network_map=at_once), SETTINGS, model, stamps)
    assert len(threads) >= 2
    assert content(elsewhere, there) == here


def test_too_little_memory_is_told_and_nothing_changed(
    trained: tuple[Workspace, Ref, Ref], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The micro-batch is in the address: it never becomes smaller by itself."""
    workspace, model, stamps = trained
    sizes: list[int] = []

    def greedy(self: VadeNetwork, images: torch.Tensor, conditions: Any) -> dict[str, Any]:
        sizes.append(len(images))
        return {"vector": torch.empty(2**50, dtype=torch.uint8)}

    monkeypatch.setattr(VadeNetwork, "embed", greedy)
    other = Embedding(micro_batch=24, threads=1, shard=64)
    with pytest.raises(InputError, match="micro_batch = 24 images at a time are too many"):
        embed(Context(workspace), other, model, stamps)
    assert sizes == [24]


def test_a_grown_catalogue_embeds_only_its_new_part(trained: tuple[Workspace, Ref, Ref]) -> None:
    workspace, model, stamps = trained
    before = workspace.manifest(embed(Context(workspace), SETTINGS, model, stamps))
    images = [stamped.galaxies(200), stamped.galaxies(40, 5)]
    grown, _ = stamped.commit(workspace, images, name="grown", prefix="a")
    asked: list[Any] = []

    def counts(function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        for item in items:
            asked.append(item)
            yield function(item)

    after = workspace.manifest(
        embed(Context(workspace, network_map=counts), SETTINGS, model, grown)
    )
    assert before is not None and after is not None
    assert after["parts"][0] == before["parts"][0]
    assert len(asked) == 1
