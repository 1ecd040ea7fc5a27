"""A network that begins with what the network of another survey has learnt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from galpipe import survey
from galpipe.errors import InputError
from galpipe.models import checkpoints, kinds
from galpipe.models.backbones.grid import resampled
from galpipe.models.backbones.learnt import LearntEncoder, begin
from galpipe.models.backbones.spec import Learnt, PlainCnn
from galpipe.models.classifier.spec import Classifier
from galpipe.models.contrastive.network import ContrastiveNetwork
from galpipe.models.contrastive.spec import Contrastive
from galpipe.models.engine.spec import Training
from galpipe.models.engine.step import _optimiser
from tests import sky
from tests.running import labels, run_chain

FIRST = """kind = "contrastive"
pixels = 24
encoder = { kind = "cnn", channels = [8, 16] }
[training]
epochs = 2
batch = 32
threads = 1
"""
SECOND = """kind = "classifier"
classes = "kind"
encoder = { kind = "learnt", share = 0.25 }
dense = 8
views = 2
[training]
epochs = 3
batch = 16
threads = 1
"""
SOURCE = Contrastive(pixels=24, encoder=PlainCnn(channels=(8, 16)))
LEARNT = Learnt(encoder=SOURCE.encoder, pooling=SOURCE.pooling, pixels=24, share=0.25)


def pair(folder: Path, first: str = FIRST, second: str = SECOND, start: str = "first.toml") -> Path:
    """The survey files `first.toml` and, which is returned, `second.toml` that starts with it."""
    for name, model in (("first", first), ("second", second)):
        path = sky.survey_file(folder / f"{name}.toml", folder / "sky", model)
        text = path.read_text().replace('name = "sky"', f'name = "{name}"')
        text = text.replace("size = 32", 'size = 32\ncolour = "bands"')
        if name == "second":
            text = f'start = "{start}"\n' + text.replace("[cluster]", '[cluster]\non = "model"')
        path.write_text(text)
    return folder / "second.toml"


def moved(trained: set[Path]) -> float:
    """How far the classifier's first filters are from those it began with, in their length.

    Fresh ones would be farther away than their length.
    """
    found = {
        checkpoints.description(path)["model"]["kind"]: checkpoints.weights(path)
        for path in trained
    }
    name = "backbone.layers.0.weight"
    first = found["contrastive"][f"encoder.{name}"]
    last = found["classifier"][f"backbone.pooled.{name}"]
    assert first.shape == last.shape
    return float((first - last).norm() / first.norm())


def test_learnt_features_are_those_of_the_survey_they_come_from() -> None:
    torch.manual_seed(0)
    source = ContrastiveNetwork(SOURCE, 3, 32).eval()
    facts = {"class": {"names": ["a", "b"], "objects": [5, 5]}}
    network = kinds.network_of(Classifier(classes="kind", encoder=LEARNT), 3, 32, facts).eval()
    images = torch.rand(4, 3, 32, 32)
    theirs = source.encoder(torch.nn.functional.interpolate(images, 24))
    (ours,) = (module for module in network.modules() if isinstance(module, LearntEncoder))
    before = ours(images)
    begin(network, source.state_dict())
    assert ours(images).shape == theirs.shape and not torch.equal(before, ours(images))
    assert torch.equal(ours(images), source.encoder(resampled(images, 24)))
    narrow = kinds.network_of(Classifier(classes="kind", encoder=LEARNT), 1, 32, facts)
    with pytest.raises(InputError, match="other images than these stamps of 1 bands and 32 pixels"):
        begin(narrow, source.state_dict())


def test_crops_are_seen_each_by_itself() -> None:
    torch.manual_seed(0)
    one, two = (
        LearntEncoder(replace(LEARNT, crops=crops), 3, 32).eval() for crops in ((1.0,), (0.5, 1.0))
    )
    two.load_state_dict(one.state_dict())
    images = torch.rand(4, 3, 32, 32)
    inner = torch.nn.functional.interpolate(
        images[:, :, 8:24, 8:24], 24, mode="bilinear", align_corners=False
    )
    found = two(images)
    assert found.shape == (4, two.features) and two.features == 2 * one.features
    assert torch.equal(found[:, one.features :], one(images))
    outside = images.clone()
    outside[:, :, 8:24, 8:24] = 0
    assert not torch.equal(two(outside)[:, : one.features], found[:, : one.features])
    # Half a pixel beside the crop its border goes on; inside it is plain bilinear resampling.
    seen = resampled(images, 24, 0.5)
    torch.testing.assert_close(seen[:, :, 2:-2, 2:-2], inner[:, :, 2:-2, 2:-2])


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
def test_what_has_learnt_before_learns_more_slowly(optimiser: str) -> None:
    facts = {"class": {"names": ["a", "b"], "objects": [5, 5]}}
    network = kinds.network_of(Classifier(classes="kind", encoder=LEARNT), 3, 32, facts)
    learner = kinds.learner_of(network, Training(optimiser=optimiser))
    made = _optimiser(learner, learner.training_spec)
    slow = {
        id(p) for m in network.modules() if isinstance(m, LearntEncoder) for p in m.parameters()
    }
    for group in made.param_groups:
        for parameter in group["params"]:
            assert group["share"] == (0.25 if id(parameter) in slow else 1.0)
    told = sum(len(group["params"]) for group in made.param_groups)
    assert told == len(list(learner.parameters()))


def test_a_start_is_read_with_the_survey(tmp_path: Path) -> None:
    read = survey.load(pair(tmp_path))
    assert read.start is not None and read.start.name == "first"
    assert read.model.encoder == LEARNT  # type: ignore[union-attr]
    first = survey.load(tmp_path / "first.toml")
    assert survey.before(read.start) == survey.Survey(
        name="first", sample=first.sample, archive=first.archive, prepare=first.prepare,
        model=first.model, training=first.training,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"start": "nowhere.toml"}, "nowhere.toml: there is no such survey file"),
        ({"second": SECOND.replace('"learnt", share = 0.25', '"cnn"')}, "kind 'learnt' in"),
        ({"second": SECOND.replace("share", "pixels")}, "leave 'pixels' out"),
        (
            {"first": 'kind = "autoencoder"\nlatent = 4\n'},
            "kind 'autoencoder'; name a survey",
        ),
        ({"first": SECOND.replace('"learnt", share = 0.25', '"cnn"')}, "kind 'classifier'; name"),
        ({"start": "second.toml"}, "second.toml starts, in the end, with the network of this"),
    ],
)
def test_a_start_that_cannot_be_is_said_in_one_sentence(
    tmp_path: Path, changed: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        survey.load(pair(tmp_path, **changed))


def test_learnt_encoders_need_a_start(tmp_path: Path) -> None:
    path = pair(tmp_path)
    path.write_text(path.read_text().removeprefix('start = "first.toml"\n'))
    with pytest.raises(InputError, match="the path of a survey file is missing"):
        survey.load(path)


def test_the_first_network_is_trained_once_and_decides_the_second(tmp_path: Path) -> None:
    sky.draw(tmp_path / "sky", objects=120)
    second = pair(tmp_path)
    store = tmp_path / "w" / "store" / "model"
    run_chain(second, tmp_path / "w")
    trained = {path.parent for path in store.glob("*/manifest.json")}
    assert len(trained) == 2
    assert not (tmp_path / "w" / "releases" / "first").exists()  # a network, not a release
    run_chain(tmp_path / "first.toml", tmp_path / "w", until="train")
    assert {path.parent for path in store.glob("*/manifest.json")} == trained
    # The other way round: the same bytes.
    run_chain(tmp_path / "first.toml", tmp_path / "other", until="train")
    run_chain(second, tmp_path / "other")
    assert labels(tmp_path / "w", name="second") == labels(tmp_path / "other", name="second")
    page = (tmp_path / "w" / "releases" / "second" / "r1" / "report.html").read_text()
    assert "begun with what the network of first had learnt, was trained on" in page
    # What was learnt there is where the second begins, and another start is another network.
    assert 0 < moved(trained) < 0.2
    pair(tmp_path, first=FIRST.replace("epochs = 2", "epochs = 1"))
    run_chain(second, tmp_path / "w", until="train")
    assert len({path.parent for path in store.glob("*/manifest.json")}) == 4


def test_a_start_may_have_had_one_itself(tmp_path: Path) -> None:
    """Views, then classes, then classes again: every network begins with the one before."""
    sky.draw(tmp_path / "sky", objects=120)
    pair(tmp_path)
    third = tmp_path / "third.toml"
    text = (tmp_path / "second.toml").read_text().replace('name = "second"', 'name = "third"')
    third.write_text(text.replace("first.toml", "second.toml").replace("dense = 8", "dense = 4"))
    read = survey.load(third)
    assert read.start is not None and read.start.start is not None
    assert (read.start.name, read.start.start.name) == ("second", "first")
    assert read.model.encoder == LEARNT  # type: ignore[union-attr]
    run_chain(third, tmp_path / "w", until="train")
    store = tmp_path / "w" / "store" / "model"
    found: dict[int | None, torch.Tensor] = {}
    for path in store.glob("*/manifest.json"):
        weights = checkpoints.weights(path.parent)
        (first,) = (name for name in weights if name.endswith("layers.0.weight"))
        found[checkpoints.description(path.parent)["model"].get("dense")] = weights[first]
    assert set(found) == {None, 8, 4}
    for before, after in ((None, 8), (8, 4)):
        assert 0 < float((found[before] - found[after]).norm() / found[before].norm()) < 0.2


@pytest.mark.slow
def test_several_processes_begin_with_what_was_learnt(tmp_path: Path) -> None:
    sky.draw(tmp_path / "sky", objects=120)
    second = pair(tmp_path, second=SECOND + "processes = 2\n")
    run_chain(second, tmp_path / "w", until="train")
    store = tmp_path / "w" / "store" / "model"
    assert 0 < moved({path.parent for path in store.glob("*/manifest.json")}) < 0.2
