"""The engine: whatever is switched on, a training goes on exactly from any step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from galpipe.errors import InputError
from galpipe.models.engine.arithmetic import fixed_arithmetic
from galpipe.models.engine.augment import mirrored, quarter_turned
from galpipe.models.engine.average import Average
from galpipe.models.engine.loop import Fitting
from galpipe.models.engine.meter import Meter
from galpipe.models.engine.spec import Augmentation, Constant, Plateau, Training
from galpipe.models.engine.state import CHECKPOINT, plain
from galpipe.models.engine.step import pieces
from galpipe.models.learner import Epoch
from galpipe.models.network import Batch
from galpipe.stamps.batches import Selection, Stamps
from tests import small_network

EVERYTHING = Training(
    batch=16,
    buffer=2,
    threads=1,
    epochs=6,
    accumulate=2,
    optimiser="adamw",
    weight_decay=0.01,
    learning_rate=5e-3,
    rate=Plateau(factor=0.5, patience=1),
    l2=1e-4,
    clip_norm=1.0,
    average=0.9,
    patience=2,
    save_every=0.0,
    augment=Augmentation(rotations="any", shift=0.1, zoom=0.1, brightness=0.1, noise=0.01),
)
PLAIN = Training(
    batch=16, buffer=2, threads=1, epochs=2, learning_rate=5e-3, rate=Constant(),
    augment=Augmentation(flips=False),
)  # fmt: skip


class Killed(BaseException):
    """Stands for a signal: nothing in the library may catch it."""


def changed(training: Training, **fields: Any) -> Training:
    from galpipe import spec

    return spec.load(Training, {**spec.dump(training), **fields})


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_network.plant(tmp_path_factory.mktemp("parts") / "part")


def run(fitting: Fitting) -> tuple[bytes, str]:
    """All epochs; the bytes of all weights and the history."""
    with fixed_arithmetic(1):
        fitting.run(lambda epoch, record, speed: None)
    weights = safetensors.torch.save(plain(fitting.learner.state_dict()))
    return weights, json.dumps(fitting.state.history)


def begin(*arguments: Any, **named: Any) -> Fitting:
    with fixed_arithmetic(1):
        return small_network.fitting(*arguments, **named)


def killing(at: int) -> Callable[[Batch, Epoch], None]:
    """What ends the work at the forward pass number `at`."""
    calls = iter(range(1, 10**6))

    def seen(batch: Batch, epoch: Epoch) -> None:
        if next(calls) == at:
            raise Killed

    return seen


@pytest.mark.parametrize("save_every", [0.0, 1e9])
def test_killed_at_any_step_it_ends_with_the_same_bytes(
    part: Path, tmp_path: Path, save_every: float
) -> None:
    """Everything at once, killed in either half of any batch, by turns of 7 forward passes."""
    training = changed(EVERYTHING, save_every=save_every)
    undisturbed = begin(tmp_path / "undisturbed", part, training)
    expected = run(undisturbed)
    epochs = undisturbed.state.epochs
    assert epochs > 3 and undisturbed.best
    kills = 0
    for at in (7, 13, 8, 14, 9, 15, 20, 25, 30, 10**5):
        going_on = begin(tmp_path / "killed", part, training, seen=killing(at))
        try:
            found = run(going_on)
        except Killed:
            kills += 1
            continue
        break
    assert kills >= 3
    assert found == expected


def test_killed_while_an_epoch_is_judged_it_tells_the_same(
    part: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All steps of the epoch are taken and kept; what was said of them is not."""
    training = changed(PLAIN, save_every=0.0, rate={"kind": "exponential", "final": 1e-4})
    expected = run(begin(tmp_path / "undisturbed", part, training))
    going_on = begin(tmp_path / "killed", part, training)
    judge = going_on.learner.judge

    def killed(batches: Iterable[Batch], epoch: Epoch) -> dict[str, float]:
        if epoch.number == 1:
            raise Killed
        return judge(batches, epoch)

    monkeypatch.setattr(going_on.learner, "judge", killed)
    with pytest.raises(Killed):
        run(going_on)
    again = begin(tmp_path / "killed", part, training)
    assert (again.state.epochs, again.state.step) == (1, again.material.steps)
    assert run(again) == expected


def test_a_damaged_or_foreign_state_is_told_and_begun_anew(part: Path, tmp_path: Path) -> None:
    expected = run(begin(tmp_path / "a", part, PLAIN))
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / CHECKPOINT, tmp_path / "b" / CHECKPOINT)
    content = (tmp_path / "b" / CHECKPOINT).read_bytes()
    (tmp_path / "b" / CHECKPOINT).write_bytes(content.replace(b'"format":"2"', b'"format":"1"'))
    said: list[str] = []
    assert run(begin(tmp_path / "b", part, PLAIN, say=said.append)) == expected
    assert said == ["training: the state kept is damaged, or an earlier version's; beginning anew"]


def test_patience_ends_a_training_with_its_best_weights(part: Path, tmp_path: Path) -> None:
    """The network worn at the end gives the best validation figure again."""
    training = changed(PLAIN, epochs=40, patience=2, learning_rate=0.3)
    fitting = begin(tmp_path / "a", part, training)
    run(fitting)
    figures = [record["validation_loss"] for record in fitting.state.history]
    assert len(figures) == figures.index(min(figures)) + 3 < 40
    assert fitting.state.best == min(figures)
    network = fitting.best
    worn = fitting.network.state_dict()
    assert all(torch.equal(worn[name], network[name]) for name in worn)


@pytest.mark.parametrize("fields", [{"patience": 2}, {"rate": {"kind": "plateau"}}])
def test_what_goes_by_the_validation_split_needs_one(
    part: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match="goes by the validation split, which has no"):
        begin(tmp_path / "a", part, changed(PLAIN, **fields), validation=0)


def test_parts_of_a_batch_give_the_gradient_of_the_whole(part: Path, tmp_path: Path) -> None:
    """Without batch norm's batch-wise means there is nothing to tell them apart but rounding."""
    weights = []
    for accumulate in (1, 4):
        fitting = begin(
            tmp_path / str(accumulate), part, changed(PLAIN, accumulate=accumulate), dropout=0.0
        )
        fitting.network.layers[1] = torch.nn.Identity()
        run(fitting)
        weights.append(fitting.network.layers[5].weight.detach().clone())
    assert torch.allclose(*weights, atol=1e-5)


@pytest.mark.parametrize("images", [1, 2, 3, 7, 10, 64])
@pytest.mark.parametrize("parts", [1, 2, 4, 64])
@pytest.mark.parametrize("least", [1, 2])
def test_a_batch_is_cut_evenly_and_no_part_is_too_small(
    images: int, parts: int, least: int
) -> None:
    found = pieces(images, parts, least)
    assert [row for part in found for row in range(images)[part]] == list(range(images))
    sizes = [len(range(images)[part]) for part in found]
    assert len(found) == min(parts, max(1, images // least))
    assert max(sizes) - min(sizes) <= 1 and min(sizes) >= min(least, images)


def greedy(most: int) -> Callable[[Batch, Epoch], None]:
    """A forward pass that asks the allocator for a petabyte above so many images."""

    def seen(batch: Batch, epoch: Epoch) -> None:
        if len(batch.images) > most:
            torch.empty(2**50, dtype=torch.uint8)

    return seen


def test_out_of_memory_is_answered_by_smaller_parts(part: Path, tmp_path: Path) -> None:
    """As if the parts had been asked for from the first step on, batch norm's means included."""
    said: list[str] = []
    training = changed(EVERYTHING, accumulate=1)
    fitting = begin(tmp_path / "a", part, training, seen=greedy(4), say=said.append)
    found = run(fitting)
    assert fitting.state.accumulate == 4
    assert said == [
        "training: out of memory; every batch now comes in 2 parts",
        "training: out of memory; every batch now comes in 4 parts",
    ]
    asked = begin(tmp_path / "b", part, changed(EVERYTHING, accumulate=4))
    assert run(asked) == found


def test_no_memory_for_one_image_is_told(part: Path, tmp_path: Path) -> None:
    fitting = begin(tmp_path / "a", part, PLAIN, seen=greedy(0))
    with pytest.raises(InputError, match="not enough memory for one image at a time"):
        run(fitting)


def test_other_errors_are_not_taken_for_memory(part: Path, tmp_path: Path) -> None:
    def wrong(batch: Batch, epoch: Epoch) -> None:
        torch.zeros(2) @ torch.zeros(3)

    with pytest.raises(RuntimeError, match="size"):
        run(begin(tmp_path / "a", part, PLAIN, seen=wrong))


def test_bfloat16_learns_in_less_precision(part: Path, tmp_path: Path) -> None:
    types = []

    def seen(batch: Batch, epoch: Epoch) -> None:
        types.append(torch.is_autocast_enabled("cpu"))

    low = begin(tmp_path / "low", part, changed(PLAIN, precision="bfloat16", epochs=8), seen=seen)
    run(low)
    full = begin(tmp_path / "full", part, changed(PLAIN, epochs=8))
    run(full)
    losses = [record["validation_loss"] for record in low.state.history]
    assert all(types) and losses[-1] < 0.5 * losses[0]
    assert losses != [record["validation_loss"] for record in full.state.history]
    assert losses[-1] == pytest.approx(full.state.history[-1]["validation_loss"], abs=0.1)
    assert {p.dtype for p in low.learner.parameters()} == {torch.float32}


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.slow
# torch's own compiler imports modules of torch that are written in its older one
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_compiled_it_learns_the_same(part: Path, tmp_path: Path) -> None:
    plain_one = begin(tmp_path / "plain", part, PLAIN, dropout=0.0)
    run(plain_one)
    fast = begin(tmp_path / "compiled", part, changed(PLAIN, compile=True), dropout=0.0)
    run(fast)
    assert fast._steps._module is not plain_one._steps._module
    for one, two in zip(plain_one.state.history, fast.state.history, strict=True):
        assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)


def test_no_compiler_is_told(part: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"needs a C\+\+ compiler .* 'no-such-compiler'"):
        begin(tmp_path / "a", part, changed(PLAIN, compile=True))


def test_a_last_batch_of_one_is_left_out(part: Path, tmp_path: Path) -> None:
    """Batch norm has no variance of one image; the galaxy is another in every epoch."""
    sizes: list[int] = []
    rows: list[set[int]] = [set(), set()]

    def seen(batch: Batch, epoch: Epoch) -> None:
        sizes.append(len(batch.images))
        rows[epoch.number] |= set(batch.targets["row"].tolist())

    run(begin(tmp_path / "a", part, PLAIN, objects=65, seen=seen))
    assert sizes == [16] * 8
    assert len(rows[0]) == len(rows[1]) == 64 and rows[0] != rows[1]


def test_the_average_follows_what_is_set_anew() -> None:
    layer = torch.nn.Linear(2, 1)
    average = Average(layer, 0.99)
    with torch.no_grad(), average.following():
        layer.weight.add_(1.0)
    assert torch.equal(average.tensors["weight"], layer.weight)
    with torch.no_grad():
        layer.bias.add_(1.0)
    average.update(10**6)
    assert average.tensors["bias"].item() == pytest.approx(layer.bias.item() - 0.99)


def test_waiting_is_told_as_it_was() -> None:
    """Items that take 5 ms each, taken at once or worked on for 20 ms."""
    import time

    def slow() -> Any:
        for number in range(20):
            time.sleep(0.005)
            yield number

    starved, busy = Meter(), Meter()
    starved.volume = 10**6
    for _ in starved.waiting(slow()):
        pass
    told = starved.figures()
    assert told["waiting_share"] > 0.9
    assert told["megabytes_per_second"] == pytest.approx(1 / told["epoch_seconds"])
    for _ in busy.waiting(iter(range(5))):
        time.sleep(0.02)
    assert busy.figures()["waiting_share"] < 0.1


@pytest.mark.parametrize("size", [2, 3])
def test_shares_of_an_epoch_have_nothing_in_common(part: Path, size: int) -> None:
    """As many rows each, in the same batches however often asked, and hardly one sits out."""
    rows = np.flatnonzero(np.arange(200) % 5)  # 160 of them, over 13 chunks
    stamps = Stamps([Selection(part, rows)], buffer=3)
    shares = []
    for rank in range(size):
        batches = list(stamps.shuffled(8, 0, 1, (rank, size)))
        images = np.concatenate([images for images, _ in batches])
        places = np.concatenate([where for _, where in batches])
        whole = np.concatenate([i for i, _ in Stamps([Selection(part, rows)]).ordered(200)])
        assert np.array_equal(images, whole[places])
        shares.append(places)
    assert {len(share) for share in shares} == {160 // size}
    assert len(set(np.concatenate(shares).tolist())) == 160 - 160 % size


def test_turns_and_mirrors_are_those_of_the_image() -> None:
    images = torch.arange(2 * 4 * 4, dtype=torch.uint8).view(2, 1, 4, 4).repeat(50, 1, 1, 1)
    torch.manual_seed(0)
    for made, count in ((mirrored(images), 4), (quarter_turned(images), 4)):
        kinds = {tuple(image.flatten().tolist()) for image in made[::2]}
        whole = [images[0].rot90(n, (1, 2)) for n in range(4)]
        flips = [images[0], images[0].flip(1), images[0].flip(2), images[0].flip(1).flip(2)]
        allowed = {tuple(image.flatten().tolist()) for image in [*whole, *flips]}
        assert len(kinds) == count and kinds <= allowed
