"""Classifiers: encoders that fit, classes learnt and told with probabilities that come true."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from galpipe import spec
from galpipe.classes.embedding import embed, embed_images
from galpipe.classes.gather import embedded
from galpipe.errors import InputError
from galpipe.models import kinds
from galpipe.models.backbones.backbone import backbone_of
from galpipe.models.backbones.drop_path import DropPath, chances
from galpipe.models.backbones.spec import ConvNext, PlainCnn, Residual, Stage, Timm
from galpipe.models.checkpoints import WEIGHTS, load_model
from galpipe.models.classifier import calibration
from galpipe.models.classifier.network import ClassifierNetwork, turned
from galpipe.models.classifier.reliability import calibration_error, reliability
from galpipe.models.engine.spec import Augmentation, OneCycle, Training
from galpipe.models.learner import Epoch
from galpipe.models.network import Batch
from galpipe.models.spec import Classifier, Embedding
from galpipe.models.training import train
from galpipe.stages import Context
from galpipe.workspace import Ref, Workspace
from tests import stamped

KINDS = ("disc", "needle", "ring")
SMALL = PlainCnn(channels=(8, 16))
CLASSIFIER = Classifier(classes="kind", encoder=SMALL, dense=16, dropout=0.1, views=4)
TRAINING = Training(
    batch=32, epochs=8, threads=1, buffer=2, optimiser="adamw", learning_rate=1e-2,
    rate=OneCycle(), augment=Augmentation(rotations="quarter"),
)  # fmt: skip
ENCODERS: tuple[Any, ...] = (
    SMALL,
    PlainCnn(channels=(8, 16), stem_stride=2),
    Residual(stem=8, stages=(Stage(channels=8, blocks=1), Stage(channels=16)), drop_path=0.2),
    Residual(stem=8, stem_stride=1, stages=(Stage(channels=8),), excitation=False),
    ConvNext(stages=(Stage(channels=8, blocks=1), Stage(channels=16, blocks=1)), kernel=3),
)


def planted(folder: Path, images: Any = None, kinds_: Any = None) -> tuple[Workspace, Ref, Ref]:
    """Stamps of discs, needles and rings, with their kinds in a column of the table."""
    images = stamped.galaxies(600) if images is None else images
    workspace = Workspace.open(folder / "workspace")
    half = len(images) * 2 // 3
    stamps, catalogue = stamped.commit(workspace, [images[:half], images[half:]])
    column = [KINDS[n % 3] for n in range(len(images))] if kinds_ is None else kinds_
    path = workspace.place(catalogue) / "catalogue.parquet"
    table = pq.read_table(path).append_column("input_kind", pa.array(column, pa.string()))
    pq.write_table(table, path)
    return workspace, stamps, catalogue


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, Ref, Ref, Ref]]:
    workspace, stamps, catalogue = planted(tmp_path_factory.mktemp("classified"))
    model = train(Context(workspace), CLASSIFIER, TRAINING, stamps, catalogue)
    yield workspace, stamps, catalogue, model


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("bands", [1, 3])
def test_an_encoder_gives_its_features_and_learns_with_all_its_parts(
    encoder: Any, bands: int
) -> None:
    torch.manual_seed(0)
    made = backbone_of(encoder, bands, 16)
    images = torch.rand(6, bands, 16, 16)
    for _ in range(2):  # the last layer of a block starts at nothing and hides the others at first
        features = made(images)
        assert features.shape == (6, made.features) and features.dtype == torch.float32
        (features * torch.randn_like(features)).sum().backward()
        with torch.no_grad():
            for parameter in made.parameters():
                assert parameter.grad is not None
                parameter -= 0.05 * parameter.grad.sign()
    unused = [n for n, p in made.named_parameters() if not (p.grad != 0).any()]
    assert not unused
    alone = made.eval()(images[2:3])
    torch.testing.assert_close(alone, made(images)[2:3], rtol=1e-5, atol=1e-6)


def test_every_option_of_an_encoder_reaches_the_network() -> None:
    sizes = [sum(p.numel() for p in backbone_of(e, 1, 16).parameters()) for e in ENCODERS]
    assert sizes[0] == 1 * 8 * 9 + 2 * 8 + 8 * 16 * 9 + 2 * 16 == sizes[1]
    assert len({backbone_of(e, 1, 16).maps(torch.zeros(2, 1, 16, 16)).shape for e in ENCODERS}) > 2


@pytest.mark.parametrize(
    ("encoder", "size", "told"),
    [
        (PlainCnn(channels=(8, 8, 8)), 7, "needs stamps of 8 pixels or more, and these have 7"),
        (Residual(), 4, "stamps of 8 pixels or more, and these have 4"),
        (
            ConvNext(patch=8),
            31,
            "this ConvNeXt needs stamps of 32 pixels or more, and these have 31",
        ),
        (PlainCnn(kernel=4), 16, "kernel must be odd, and it is 4"),
    ],
)
def test_an_encoder_that_does_not_fit_says_why(encoder: Any, size: int, told: str) -> None:
    with pytest.raises(InputError, match=told):
        backbone_of(encoder, 1, size)


def test_timm_is_used_where_it_is_installed_and_asked_for_where_not() -> None:
    if importlib.util.find_spec("timm") is None:
        with pytest.raises(InputError, match=r"install it \(pip install timm\)"):
            backbone_of(Timm(), 3, 64)
        return
    made = backbone_of(Timm(name="resnet18"), 3, 64)
    assert made(torch.rand(2, 3, 64, 64)).shape == (2, made.features)
    with pytest.raises(InputError, match="did you mean 'resnet18'"):
        backbone_of(Timm(name="resnet_18"), 3, 64)


def test_dropped_paths_keep_the_mean_and_are_whole_in_evaluation() -> None:
    torch.manual_seed(0)
    layer, ones = DropPath(0.3), torch.ones(4000, 2, 1, 1)
    dropped = layer(ones)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert (dropped[:, 0] == dropped[:, 1]).all()
    assert float(dropped.mean()) == pytest.approx(1, abs=0.05)
    assert torch.equal(layer.eval()(ones), ones)
    assert chances(3, 0.2) == [0.0, 0.1, 0.2] and chances(1, 0.2) == [0.0]


def test_planted_kinds_are_learnt_and_told_with_probabilities(
    learnt: tuple[Workspace, Ref, Ref, Ref],
) -> None:
    workspace, stamps, catalogue, model = learnt
    manifest = workspace.manifest(model)
    assert manifest is not None
    assert manifest["figures"]["accuracy"] > 0.95 and manifest["alarms"] == []
    history = json.loads((workspace.place(model) / "history.json").read_text())
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]
    assert {"validation_loss", "validation_accuracy", "train_accuracy"} <= set(history[0])
    found = embed(Context(workspace), Embedding(threads=1), model, stamps, catalogue)
    probability = embedded(workspace, found, "class_probability")
    assert probability is not None and probability.shape == (600, 3)
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-5)
    assert (probability.argmax(1) == np.arange(600) % 3).mean() > 0.95
    vector = embedded(workspace, found, "vector")
    assert vector is not None and vector.shape == (600, 16)


def test_a_row_alone_equals_the_row_among_others(
    learnt: tuple[Workspace, Ref, Ref, Ref],
) -> None:
    network = load_model(learnt[0].place(learnt[3]))
    images = stamped.galaxies(9, 5)
    together = embed_images(network, images, 255.0, 16)
    for row in (0, 4, 8):
        alone = embed_images(network, images[row : row + 1], 255.0, 16)
        assert all(np.array_equal(alone[name][0], together[name][row]) for name in together)


@pytest.mark.parametrize("views", [1, 2, 4, 8])
def test_averaged_views_make_turned_images_alike(views: int) -> None:
    torch.manual_seed(1)
    network = random_network(views=views)
    images = torch.rand(5, 1, 16, 16)
    with torch.no_grad():
        upright = network.embed(images, None)["class_probability"]
        half, quarter = (
            network.embed(images.rot90(n, (2, 3)), None)["class_probability"] for n in (2, 1)
        )
        mirrored = network.embed(images.flip(3), None)["class_probability"]
    for image, least in ((half, 2), (quarter, 4), (mirrored, 8)):
        assert torch.allclose(upright, image, atol=1e-6) is (views >= least)
    assert len(turned(images, views)) == views


def test_mirrored_views_keep_the_axis_of_aligned_stamps() -> None:
    torch.manual_seed(1)
    network = random_network(views="mirrors")
    images = torch.rand(5, 1, 16, 16)
    with torch.no_grad():
        upright = network.embed(images, None)["class_probability"]
        for axes in ((2,), (3,), (2, 3)):
            mirrored = network.embed(images.flip(axes), None)["class_probability"]
            assert torch.allclose(upright, mirrored, atol=1e-6)
        turned_once = network.embed(images.rot90(1, (2, 3)), None)["class_probability"]
    assert not torch.allclose(upright, turned_once, atol=1e-6)
    assert len(turned(images, "mirrors")) == 4


def random_network(classes: int = 3, **fields: Any) -> ClassifierNetwork:
    names = [f"class {n}" for n in range(classes)]
    facts = {"class": {"names": names, "objects": [60, 30, 10][:classes]}}
    made = Classifier(classes="kind", encoder=SMALL, **fields)
    network = kinds.network_of(made, 1, 16, facts).eval()
    assert isinstance(network, ClassifierNetwork)
    return network


def test_objects_without_a_class_are_labelled_and_never_learnt_from(tmp_path: Path) -> None:
    """Pixels of rows with an empty class cell may be anything: the weights stay."""
    images = stamped.galaxies(180)
    column: list[str | None] = [KINDS[n % 3] for n in range(180)]
    column[5::9] = [None, " "] * 10
    unknown = np.array([name is None or not name.strip() for name in column])
    spoilt = images.copy()
    spoilt[unknown] = 255 - spoilt[unknown]
    short = spec.load(Training, {**spec.dump(TRAINING), "epochs": 2})
    made = []
    for name, pixels in (("a", images), ("b", spoilt)):
        workspace, stamps, catalogue = planted(tmp_path / name, pixels, column)
        model = train(Context(workspace), CLASSIFIER, short, stamps, catalogue)
        made.append((workspace.place(model) / WEIGHTS).read_bytes())
        found = embed(Context(workspace), Embedding(threads=1), model, stamps, catalogue)
        probability = embedded(workspace, found, "class_probability")
        assert probability is not None and np.isfinite(probability).all()
        manifest = workspace.manifest(model)
        assert manifest is not None and sum(manifest["objects"].values()) == 160
    assert made[0] == made[1]


def test_a_column_of_one_class_is_refused(tmp_path: Path) -> None:
    workspace, stamps, catalogue = planted(tmp_path, stamped.galaxies(90), ["disc"] * 90)
    with pytest.raises(InputError, match="holds only 'disc'; a classifier needs two classes"):
        train(Context(workspace), CLASSIFIER, TRAINING, stamps, catalogue)


def test_too_many_classes_are_refused() -> None:
    with pytest.raises(InputError, match="1,001 different values"):
        ClassifierNetwork(CLASSIFIER, 1, 16, {"class": {"names": [str(n) for n in range(1001)]}})


def scores(count: int = 4000, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Logits, and labels drawn from their softmax."""
    torch.manual_seed(2)
    found = 1.5 * torch.randn(count, classes)
    return found, torch.multinomial(torch.softmax(found, 1), 1)[:, 0]


@pytest.mark.parametrize("heat", [0.4, 1.0, 3.0])
def test_the_temperature_is_found(heat: float) -> None:
    found, labels = scores()
    temperature, offsets = calibration.fitted(found * heat, labels, offsets=False)
    assert temperature == pytest.approx(heat, rel=0.08) and not offsets.any()
    calibrated = torch.softmax(found * heat / temperature, 1)
    highest, best = calibrated.max(1)
    told = reliability(highest.numpy().astype(float), (best == labels).numpy())
    assert (calibration_error(told) or 0) < 0.03


def test_offsets_undo_a_shift_of_the_scores() -> None:
    found, labels = scores()
    shift = torch.tensor([1.0, -0.5, 0.0, -0.5])
    temperature, offsets = calibration.fitted(2 * found + 2 * shift, labels, offsets=True)
    assert temperature == pytest.approx(2, rel=0.1)
    torch.testing.assert_close(offsets, -shift.double(), atol=0.12, rtol=0)
    before = functional.cross_entropy((2 * found + 2 * shift).double(), labels)
    after = functional.cross_entropy((2 * found + 2 * shift) / temperature + offsets, labels)
    assert after < before - 0.1


def test_perfect_and_hopeless_scores_keep_the_temperature_in_bounds() -> None:
    labels = torch.arange(60) % 3
    perfect = 5 * functional.one_hot(labels, 3).double()
    assert calibration.COLDEST <= calibration.fitted(perfect, labels, False)[0] < 0.2
    opposite = calibration.fitted(-perfect, labels, False)[0]
    assert opposite == pytest.approx(calibration.HOTTEST)


def test_reliability_by_hand() -> None:
    highest = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    right = np.array([True, False, True, True, False, True])
    told = reliability(highest, right, bins=3)
    assert told["objects"] == [2, 2, 2] and told["accuracy"] == [0.5, 1.0, 0.5]
    assert told["probability"] == pytest.approx([0.55, 0.75, 0.95])
    assert calibration_error(told) == pytest.approx((0.05 + 0.25 + 0.45) / 3)
    assert calibration_error(reliability(highest[:0], right[:0])) is None


@pytest.mark.parametrize("balance", ["none", "weights", "logits"])
def test_a_balance_weighs_rare_classes(balance: Any) -> None:
    """At scores that say nothing, the gradient pulls towards rare classes as the balance says."""
    network = random_network(balance=balance, strength=1.0, smoothing=0.0)
    learner = kinds.learner_of(network, TRAINING)
    nn.init.zeros_(network.score.weight)
    nn.init.zeros_(network.score.bias)
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    batch = Batch(torch.rand(100, 1, 16, 16), {"class": labels})
    learner(batch, Epoch(0)).loss.backward()
    pull = -network.score.bias.grad
    wanted = {"none": [0.6 - 1 / 3, 0.3 - 1 / 3, 0.1 - 1 / 3]}.get(balance, [0.0, 0.0, 0.0])
    torch.testing.assert_close(pull, torch.tensor(wanted), atol=1e-6, rtol=0)


def test_a_classifier_draws_nothing_and_its_spec_round_trips() -> None:
    network = random_network()
    assert network.abilities == frozenset() and network.latent == 16
    with pytest.raises(NotImplementedError, match="classifier draws no images"):
        network.redraw(torch.zeros(1, 1, 16, 16))
    again = kinds.spec_of(spec.identity(CLASSIFIER), "model")
    assert again == CLASSIFIER and spec.digest(again) == spec.digest(CLASSIFIER)
