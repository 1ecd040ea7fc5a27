"""Training: the same bytes whatever happens on the way, and a model that knows its galaxies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from galpipe import spec
from galpipe.errors import InputError
from galpipe.models.checkpoints import WEIGHTS, load_model
from galpipe.models.engine.state import CHECKPOINT
from galpipe.models.spec import Training, VaDE
from galpipe.models.training import train
from galpipe.stages import Context, Silent
from galpipe.status import Status
from galpipe.workspace import Ref, Workspace
from tests import stamped


def changed(value: Any, **fields: Any) -> Any:
    return spec.load(type(value), {**spec.dump(value), **fields})


def scheduled(**fields: Any) -> VaDE:
    """The small network with another schedule."""
    schedule = {**spec.dump(stamped.NETWORK.schedule), **fields}
    made: VaDE = changed(stamped.NETWORK, schedule=schedule)
    return made


class Killed(BaseException):
    """Stands for a signal: nothing in the library may catch it."""


class KillAt(Silent):
    """Progress that ends the process's work when the given number of epochs is done."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def advance(self, count: int = 1, note: str = "") -> None:
        self.left -= count
        if self.left == 0:
            raise Killed


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Ref, Ref]:
    workspace = Workspace.open(tmp_path_factory.mktemp("trained"))
    stamps, catalogue = stamped.commit(workspace, [stamped.galaxies(210), stamped.galaxies(90, 1)])
    return workspace, stamps, catalogue


def fresh(tmp_path: Path, count: int = 300) -> tuple[Workspace, Ref, Ref]:
    workspace = Workspace.open(tmp_path / "workspace")
    stamps, catalogue = stamped.commit(
        workspace, [stamped.galaxies(count * 7 // 10), stamped.galaxies(count * 3 // 10, 1)]
    )
    return workspace, stamps, catalogue


def weights(workspace: Workspace, ref: Ref) -> bytes:
    return (workspace.place(ref) / WEIGHTS).read_bytes()


@pytest.fixture(scope="module")
def undisturbed(ready: tuple[Workspace, Ref, Ref]) -> Ref:
    workspace, stamps, catalogue = ready
    return train(Context(workspace), stamped.NETWORK, stamped.TRAINING, stamps, catalogue)


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_resumed_equals_uninterrupted(
    ready: tuple[Workspace, Ref, Ref], undisturbed: Ref, tmp_path: Path, after: int
) -> None:
    """Killed after any epoch, in the warm-up, before and after the mixture is initialised."""
    workspace, stamps, catalogue = fresh(tmp_path)
    arguments = (stamped.NETWORK, stamped.TRAINING, stamps, catalogue)
    with pytest.raises(Killed):
        train(Context(workspace, progress=KillAt(after)), *arguments)
    (waiting,) = (workspace.root / "store" / "model").iterdir()
    assert workspace.manifest(Ref("model", waiting.name)) is None
    counted: list[int] = []

    class Counting(Silent):
        def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
            counted.append(total - done)

    ref = train(Context(workspace, progress=Counting()), *arguments)
    assert counted == [5 - after]
    assert ref == undisturbed
    for name in (WEIGHTS, "history.json", "model.json", "manifest.json"):
        one, two = workspace.place(ref) / name, ready[0].place(undisturbed) / name
        assert one.read_bytes() == two.read_bytes(), name
    assert not (workspace.place(ref) / CHECKPOINT).exists()


def test_a_damaged_checkpoint_begins_anew(
    ready: tuple[Workspace, Ref, Ref], undisturbed: Ref, tmp_path: Path
) -> None:
    workspace, stamps, catalogue = fresh(tmp_path)
    (workspace.begin(undisturbed) / CHECKPOINT).write_bytes(b"not safetensors")
    ref = train(Context(workspace), stamped.NETWORK, stamped.TRAINING, stamps, catalogue)
    assert weights(workspace, ref) == weights(ready[0], undisturbed)


def test_a_second_call_returns_at_once(ready: tuple[Workspace, Ref, Ref], undisturbed: Ref) -> None:
    workspace, stamps, catalogue = ready
    progress = KillAt(1)
    again = train(
        Context(workspace, progress=progress), stamped.NETWORK, stamped.TRAINING, stamps, catalogue
    )
    assert (again, progress.left) == (undisturbed, 1)


def test_other_galaxies_or_settings_are_another_model(
    ready: tuple[Workspace, Ref, Ref], undisturbed: Ref
) -> None:
    workspace, stamps, catalogue = ready
    short = scheduled(warm_up=0, cycles=1, annealing=0, static=1)
    other = changed(stamped.TRAINING, seed=1)
    refs = {undisturbed}
    refs.add(train(Context(workspace), short, stamped.TRAINING, stamps, catalogue))
    refs.add(train(Context(workspace), short, other, stamps, catalogue))
    fewer = stamped.commit(workspace, [stamped.galaxies(150)], name="b")
    refs.add(train(Context(workspace), short, stamped.TRAINING, *fewer))
    assert len(refs) == 4
    assert len({weights(workspace, ref) for ref in refs}) == 4


def test_only_usable_stamps_of_the_training_split_are_learnt_from(tmp_path: Path) -> None:
    """Pixels of the other splits and of unusable rows may be anything: the weights stay."""
    images = stamped.galaxies(120)
    status = np.ones(120, np.int32)
    status[::10] = 16
    split = np.array(["train"] * 7 + ["validation", "test", "train"])[np.arange(120) // 3 % 10]
    unseen = (split != "train") | (status == 16)
    spoilt = images.copy()
    spoilt[unseen] = 255 - spoilt[unseen]
    made = []
    for number, pixels in enumerate((images, spoilt)):
        workspace = Workspace.open(tmp_path / str(number))
        stamps, catalogue = stamped.commit(workspace, [pixels], statuses=[status])
        ref = train(Context(workspace), stamped.NETWORK, stamped.TRAINING, stamps, catalogue)
        made.append(weights(workspace, ref))
    assert made[0] == made[1]


def test_planted_kinds_become_components(ready: tuple[Workspace, Ref, Ref], tmp_path: Path) -> None:
    """Discs, needles and rings: VaDE's own argmax parts them, also on galaxies it never saw."""
    import torch

    workspace, stamps, catalogue = ready
    ref = train(
        Context(workspace),
        scheduled(warm_up=8, cycles=2),
        stamped.TRAINING,
        stamps,
        catalogue,
    )
    manifest = workspace.manifest(ref)
    assert manifest is not None
    assert manifest["figures"]["explained_variance"] > 0.95
    assert manifest["alarms"] == []
    assert manifest["figures"]["k_effective"] > 2.5
    network = load_model(workspace.place(ref))
    x = torch.from_numpy(stamped.galaxies(150, seed=9)).float() / 255
    found = network.mixture.responsibilities(network.encode(x).mean).argmax(1).numpy()
    pairs = {(int(a), int(b)) for a, b in zip(np.arange(150) % 3, found, strict=True)}
    assert len(pairs) == 3


def test_more_components_than_kinds_are_alarmed(ready: tuple[Workspace, Ref, Ref]) -> None:
    workspace, stamps, catalogue = ready
    many = changed(stamped.NETWORK, components=12, overlap_alarm=0.3, occupancy_alarm=0.9)
    tags: dict[str, str] = {}
    figures: dict[str, float] = {}
    steps: list[int] = []
    datasets: dict[str, int] = {}

    class Run:
        run_id: str | None = None

        def params(self, values: Mapping[str, Any]) -> None:
            assert values["model.components"] == 12

        def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
            steps.append(-1 if step is None else step)
            figures.update(values)

        def tags(self, values: Mapping[str, str]) -> None:
            tags.update(values)

        def dataset(self, name: str, digest: str, context: str, rows: int) -> None:
            datasets[context] = rows

        def file(self, path: Path, folder: str = "") -> None:
            assert json.loads(path.read_text())

        def model(self, folder: Path, name: str, alias: str) -> None:
            assert (folder / WEIGHTS).exists()

    class Kept:
        @contextmanager
        def run(self, kind: str, name: str, digest: str) -> Iterator[Run]:
            assert kind == "training"
            yield Run()

    ref = train(Context(workspace, tracker=Kept()), many, stamped.TRAINING, stamps, catalogue)
    manifest = workspace.manifest(ref)
    assert manifest is not None
    assert manifest["alarms"]
    assert all(alarm in tags["alarms"] for alarm in manifest["alarms"])
    assert manifest["figures"]["k_effective"] < manifest["figures"]["k_occupied"] <= 12
    assert steps[:5] == [0, 1, 2, 3, 4]
    assert {"train_divergence", "validation_elbo", "test_mse"} <= figures.keys()
    assert datasets == {"train": 240, "validation": 30, "test": 30}


def test_too_few_galaxies_are_refused(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "workspace")
    stamps, catalogue = stamped.commit(workspace, [stamped.galaxies(10)])
    with pytest.raises(InputError, match="too few for 12 components"):
        train(
            Context(workspace),
            changed(stamped.NETWORK, components=12),
            Training(),
            stamps,
            catalogue,
        )


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    workspace, stamps, catalogue = fresh(tmp_path, 100)
    wild = changed(stamped.TRAINING, learning_rate=1e12, rate={"kind": "constant"})
    with pytest.raises(InputError, match="not finite in epoch"):
        train(Context(workspace), stamped.NETWORK, wild, stamps, catalogue)


def test_the_paper_layers_train_too(tmp_path: Path) -> None:
    """Pooled, not linear, sampled categories, decay of weights, clipped gradients."""
    workspace, stamps, catalogue = fresh(tmp_path, 100)
    model: VaDE = changed(
        stamped.NETWORK,
        sampling="pooled",
        linear=False,
        categorical="sampled",
        output="relu",
        channels_last=False,
        view="unmasked",
        reconstruction=1.0,
    )
    rate = {"kind": "exponential", "final": 1e-4, "every": 3}
    training = changed(stamped.TRAINING, clip=1.0, l2=0.01, rate=rate)
    ref = train(Context(workspace), model, training, stamps, catalogue)
    history = json.loads((workspace.place(ref) / "history.json").read_text())
    assert [record["phase"] for record in history] == ["warm-up"] * 2 + ["annealing"] + [
        "static"
    ] * 2
    assert history[-1]["train_squared_difference"] < history[0]["train_squared_difference"]


def test_a_network_without_a_usable_stamp_is_one_sentence(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "workspace")
    blank = np.full(60, int(Status.BLANK), np.int32)
    stamps, catalogue = stamped.commit(workspace, [stamped.galaxies(60)], statuses=[blank])
    with pytest.raises(InputError, match="no object of the training split has a usable stamp"):
        train(Context(workspace), stamped.NETWORK, stamped.TRAINING, stamps, catalogue)
