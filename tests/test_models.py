"""One contract for all kinds of networks: whatever a survey asks for keeps these promises.

A new kind adds a line to `KINDS`; what is particular to it has a test file of its own.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from galpipe import spec
from galpipe.classes.embedding import embed_images
from galpipe.models import kinds
from galpipe.models.autoencoder.spec import Autoencoder
from galpipe.models.backbones.spec import ConvNext, PlainCnn, Residual, Scattering, Stage
from galpipe.models.checkpoints import load_model, save_model
from galpipe.models.classifier.spec import Classifier
from galpipe.models.contrastive.spec import Contrastive, VicReg
from galpipe.models.convolutions.spec import Layers
from galpipe.models.cvae.spec import Cvae, Cvae2, FancyCvae, Vae
from galpipe.models.engine.arithmetic import fixed_arithmetic, seed_all
from galpipe.models.engine.spec import Training
from galpipe.models.flow_vae.spec import Flow, FlowVae
from galpipe.models.regression.spec import Apart, Range, Regression
from galpipe.models.training import fitting_of, learnt_from, train
from galpipe.models.votes.spec import Answer, Question, Votes
from galpipe.stages import Context
from galpipe.workspace import Ref, Workspace
from tests import stamped

LAYERS = Layers(channels=(4, 8))
# By name: a spec that trains in a second on a few hundred stamps of 16 pixels.  The table has the
# columns `kind` (disc, needle, ring), `size`, `redshift` and some votes.
KINDS: dict[str, Any] = {
    "classifier cnn": Classifier(classes="kind", encoder=PlainCnn(channels=(4, 8)), dense=8),
    "classifier convnext": Classifier(
        classes="kind", encoder=ConvNext(stages=(Stage(channels=8, blocks=1),)), dense=None, views=2
    ),
    "classifier residual": Classifier(
        classes="kind", encoder=Residual(stem=4, stages=(Stage(channels=8, blocks=1),)), dense=8
    ),
    "contrastive": Contrastive(
        encoder=Residual(stem=4, stages=(Stage(channels=8, blocks=1),)), pixels=12, turns=2
    ),
    "contrastive vicreg": Contrastive(
        encoder=ConvNext(stages=(Stage(channels=8, blocks=1),)),
        pooling="mean",
        objective=VicReg(),
        pixels=None,
        measured=("size",),
    ),
    "autoencoder": Autoencoder(latent=3, layers=LAYERS),
    "cvae": Cvae(latent=3, widths=(4, 8), conditions=("redshift",)),
    "cvae2": Cvae2(latent=3, widths=(4, 8), conditions=("redshift", "size")),
    "fancy_cvae": FancyCvae(latent=3, widths=(4, 8), conditions=("redshift",)),
    "flow_vae": FlowVae(latent=3, layers=LAYERS, prior=Flow(fitted="jointly", width=8)),
    "flow_vae after": FlowVae(latent=3, layers=LAYERS, prior=Flow(width=8, steps=30)),
    "regression": Regression(
        value="size",
        scale=(0.0, 20.0, 40.0, 60.0, 80.0),
        width=8.0,
        columns=("redshift",),
        apart=(Apart(name="odd", value=-1),),
        ranges=(Range(name="any", upto=80),),
        encoders=(Scattering(scales=2), PlainCnn(channels=(4, 8))),
        features=8,
        views=2,
    ),
    "vae": Vae(latent=3, widths=(4, 8)),
    "vade": stamped.NETWORK,
    "vade full": dataclasses.replace(stamped.NETWORK, covariance="full"),
    "votes": Votes(
        questions=(
            Question(
                name="Long?",
                answers=(
                    Answer(name="yes", column="votes_long"),
                    Answer(name="no", column="votes_short"),
                ),
            ),
            Question(
                name="Hollow?",
                after=("no",),
                answers=(
                    Answer(name="ring", column="votes_ring"),
                    Answer(name="disc", column="votes_disc"),
                ),
            ),
        ),
        columns=("size",),
        encoders=(Scattering(scales=2, angles=4), PlainCnn(channels=(4, 8))),
        features=8,
        views=2,
    ),
}
TRAINING = Training(batch=32, threads=1, buffer=2, epochs=5)


@dataclass(frozen=True)
class Trained:
    """A trained network of one kind, and where it came from."""

    model: Any
    workspace: Workspace
    stamps: Ref
    catalogue: Ref
    ref: Ref

    @property
    def place(self) -> Path:
        return self.workspace.place(self.ref)

    def network(self) -> Any:
        return load_model(self.place)


def plant(folder: Path) -> tuple[Workspace, Ref, Ref]:
    """300 simple galaxies with columns that say what they are."""
    workspace = Workspace.open(folder / "workspace")
    stamps, catalogue = stamped.commit(workspace, [stamped.galaxies(210), stamped.galaxies(90, 1)])
    path = workspace.place(catalogue) / "catalogue.parquet"
    table, rows = pq.read_table(path), np.arange(300)
    bright = np.concatenate([stamped.galaxies(210), stamped.galaxies(90, 1)]).mean((1, 2, 3))
    columns = {
        "input_kind": pa.array(np.array(["disc", "needle", "ring"])[rows % 3]),
        "input_size": pa.array(bright.astype(np.float64)),
        "redshift": pa.array(0.01 + 0.001 * rows),
        "input_votes_long": pa.array(np.where(rows % 3 == 1, 30, 2)),
        "input_votes_short": pa.array(np.where(rows % 3 == 1, 5, 40)),
        "input_votes_ring": pa.array(np.where(rows % 3 == 2, 30, 1)),
        "input_votes_disc": pa.array(np.where(rows % 3 == 0, 30, 3)),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    pq.write_table(table, path)
    return workspace, stamps, catalogue


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Ref, Ref]:
    return plant(tmp_path_factory.mktemp("kinds"))


@pytest.fixture(scope="module", params=sorted(KINDS))
def trained(planted: tuple[Workspace, Ref, Ref], request: pytest.FixtureRequest) -> Trained:
    workspace, stamps, catalogue = planted
    model = KINDS[request.param]
    ref = train(Context(workspace), model, TRAINING, stamps, catalogue)
    return Trained(model, workspace, stamps, catalogue, ref)


def conditions(network: Any, count: int) -> Any:
    """Conditions as embedding gives them: raw values, some unknown; None where none are taken."""
    facts = network.facts.get("condition")
    if facts is None:
        return None
    scatter, mean = np.array(facts["scatter"]), np.array(facts["mean"])
    given = mean + scatter * np.random.default_rng(1).normal(size=(count, len(mean)))
    given[::5] = np.nan
    return given.astype(np.float32)


def embedded(network: Any, images: Any, given: Any, micro_batch: int = 32) -> dict[str, Any]:
    with fixed_arithmetic(1):
        return embed_images(network, images, 255.0, micro_batch, given)


def test_a_spec_comes_back_from_plain_values(trained: Trained) -> None:
    model = trained.model
    assert spec.load(type(model), spec.dump(model)) == model
    assert kinds.spec_of(json.loads(spec.canonical(model)), "here") == model


def test_outputs_are_as_announced(trained: Trained) -> None:
    network = trained.network()
    given = conditions(network, 20)
    found = embedded(network, stamped.galaxies(20, 5), given)
    announced = {output.name: output.shape for output in network.outputs()}
    assert announced["vector"] == (network.latent,)
    assert {name: values.shape[1:] for name, values in found.items()} == announced
    for output in network.outputs():
        assert len(output.dims) == len(output.shape)
        assert found[output.name].dtype == np.float32
        if output.name == "condition":  # as it was given, unknown values too
            assert np.array_equal(found["condition"], given, equal_nan=True)
        else:
            assert np.isfinite(found[output.name]).all(), output.name


def test_no_row_depends_on_its_neighbours_or_on_when(trained: Trained) -> None:
    """Bit for bit: other neighbours, another place in the batch, alone, a second time."""
    network, images = trained.network(), stamped.galaxies(30, 5)
    given = conditions(network, 30)
    whole = embedded(network, images, given)
    order = np.random.default_rng(0).permutation(30)
    mixed = embedded(network, images[order], None if given is None else given[order])
    alone = embedded(network, images[7:8], None if given is None else given[7:8])
    torch.manual_seed(99)
    again = embedded(network, images, given)
    for name, values in whole.items():
        assert np.array_equal(values[order], mixed[name], equal_nan=True), name
        assert np.array_equal(values[7:8], alone[name], equal_nan=True), name
        assert np.array_equal(values, again[name], equal_nan=True), name


def test_kept_and_read_again_it_is_the_same(trained: Trained, tmp_path: Path) -> None:
    network = trained.network()
    save_model(tmp_path, network)
    other = load_model(tmp_path)
    one, two = network.state_dict(), other.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    for name in ("weights.safetensors", "model.json"):
        assert (tmp_path / name).read_bytes() == (trained.place / name).read_bytes()
    assert not any(parameter.requires_grad for parameter in other.parameters())


def test_the_loss_falls(trained: Trained) -> None:
    """Within each phase that lasts (another phase may weigh its terms in another way)."""
    history = json.loads((trained.place / "history.json").read_text())
    phases: dict[str, list[float]] = {}
    for record in history:
        phases.setdefault(record["phase"], []).append(record["train_loss"])
    lasting = [losses for losses in phases.values() if len(losses) > 1]
    assert lasting and all(losses[-1] < losses[0] for losses in lasting), phases
    assert "validation_loss" in history[-1]


def test_every_parameter_learns(trained: Trained, tmp_path: Path) -> None:
    """Over all epochs a gradient, finite and not nothing, reaches each that is not frozen."""
    context = Context(trained.workspace)
    splits, targets = learnt_from(context, trained.model, trained.stamps, trained.catalogue)
    with fixed_arithmetic(1):
        fitting = fitting_of(
            trained.model, TRAINING, splits, targets, tmp_path, torch.device("cpu"), print
        )
        parameters = {n: p for n, p in fitting.learner.named_parameters() if p.requires_grad}
        reached: set[str] = set()

        def reaches(name: str) -> Callable[[torch.Tensor], None]:
            def hook(parameter: torch.Tensor) -> None:
                assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
                if parameter.grad.any():
                    reached.add(name)

            return hook

        for name, parameter in parameters.items():
            parameter.register_post_accumulate_grad_hook(reaches(name))
        fitting.run(lambda epoch, record, speed: None)
    assert reached == set(parameters)


def test_training_again_gives_the_same_bytes(
    trained: Trained, tmp_path_factory: pytest.TempPathFactory
) -> None:
    workspace, stamps, catalogue = plant(tmp_path_factory.mktemp("again"))
    ref = train(Context(workspace), trained.model, TRAINING, stamps, catalogue)
    assert ref == trained.ref
    for name in ("weights.safetensors", "history.json", "manifest.json"):
        other = (workspace.place(ref) / name).read_bytes()
        assert other == (trained.place / name).read_bytes(), name


def test_drawings_are_images(trained: Trained) -> None:
    """What it redraws and what it draws anew: of the stamps' shape, finite, about 0..1."""
    network = trained.network()
    drawn: list[torch.Tensor] = []
    with fixed_arithmetic(1), torch.no_grad():
        if "redraw" in network.abilities:
            images = torch.from_numpy(stamped.galaxies(6, 5)).float() / 255
            given = conditions(network, 6)
            drawn.append(network.redraw(images, None if given is None else torch.from_numpy(given)))
        if "generate" in network.abilities:
            told = conditions(network, 6)
            stated = None if told is None else torch.from_numpy(told)
            seed_all(0)
            drawn.append(network.generate(6, conditions_BK=stated))
            seed_all(0)
            assert torch.equal(drawn[-1], network.generate(6, conditions_BK=stated))
    for images in drawn:
        assert images.shape == (6, network.bands, network.size, network.size)
        assert torch.isfinite(images).all()
        assert images.min() > -0.5 and images.max() < 1.5


def test_only_what_it_announces_it_can(trained: Trained) -> None:
    network = trained.network()
    assert network.abilities <= {"redraw", "generate", "mixture"}
    if "redraw" not in network.abilities:
        with pytest.raises(NotImplementedError):
            network.redraw(torch.zeros(1, network.bands, network.size, network.size))
    if "generate" not in network.abilities:
        with pytest.raises(NotImplementedError):
            network.generate(1)
    assert ("mixture" in network.abilities) == hasattr(network, "mixture")
