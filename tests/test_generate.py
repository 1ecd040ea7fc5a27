"""`galpipe generate`: stamps and tables of new galaxies, and figures that tell good from bad."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from galpipe import releases, survey
from galpipe.catalogue.synthetic import judgement, shapes
from galpipe.catalogue.synthetic.request import Request
from galpipe.catalogue.synthetic.stage import generate
from galpipe.catalogue.synthetic.textures import power_spectrum, textures
from galpipe.catalogue.synthetic.twosample import auroc, energy_distance, nearest
from galpipe.chain import Chain
from galpipe.cli import main
from galpipe.errors import InputError
from galpipe.models.autoencoder.spec import Autoencoder
from galpipe.models.convolutions.spec import Layers
from galpipe.models.engine.spec import OneCycle, Training
from galpipe.models.flow_vae.spec import Flow, FlowVae
from galpipe.models.spec import Stack, VaDE
from galpipe.models.training import train
from galpipe.models.vade.spec import Annealing
from galpipe.stages import Context
from galpipe.stamps.morphology import columns
from galpipe.stamps.parts import Part
from galpipe.workspace import Workspace
from tests import sky
from tests.running import call, run_chain

LAYERS = Layers(channels=(8, 16))
TRAINING = Training(batch=16, epochs=8, threads=1, buffer=2, learning_rate=2e-3, rate=OneCycle())
FLOW = FlowVae(latent=4, layers=LAYERS, prior=Flow(width=16, steps=150))
MODEL = """\
kind = "flow_vae"
latent = 4
layers = { channels = [8, 16] }
prior = { kind = "flow", width = 16, steps = 150 }

[training]
batch = 16
epochs = 4
"""


@pytest.fixture(scope="module")
def published(sky_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a workspace that has a release of a flow_vae."""
    folder = tmp_path_factory.mktemp("generate")
    file = sky.survey_file(folder / "sky.toml", sky_folder, MODEL)
    text = file.read_text()
    assert 'file = "file"' in text
    file.write_text(text.replace('file = "file"', 'file = "file"\nsplit = { test = 0.25 }'))
    run_chain(file, folder / "workspace")
    return folder


def command(published: Path, *words: str | Path) -> Any:
    return call("generate", "sky", "--workspace", published / "workspace", *words)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(published: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a catalogue of 70 new galaxies, and what was said of it."""
    target = published / "new"
    done = command(published, "--count", "70", "--judged", "25", "--output", target, "--json")
    assert done.returncode == 0, done.stderr
    return target, json.loads(done.stdout)


def test_new_galaxies_lie_as_prepared_stamps_do(
    published: Path, made: tuple[Path, dict[str, Any]]
) -> None:
    target, told = made
    new = Part(target / "stamps")
    workspace = Workspace.open(published / "workspace", create=False)
    (real,) = (workspace.root / "store" / "stamp-part").iterdir()
    prepared = Part(real)
    for name in ("image", "image_unmasked", "status", "ra", "coverage"):
        one, other = new.array(name), prepared.array(name)
        assert (one.dtype, one.shape[1:]) == (other.dtype, other.shape[1:]), name
    for name in ("bands", "unit_scale"):
        assert new.group.attrs[name] == prepared.group.attrs[name]
    named = new.read("column").tolist()  # colours are lost in a grey stamp
    assert named == prepared.read("column").tolist()[: len(named)] and "m20" in named
    assert np.isnan(new.read("ra")).all() and (new.read("status") == 1).all()
    stamps = new.read("image")
    assert len(stamps) == 70 and stamps.max() > 100 and len(np.unique(stamps.mean((1, 2, 3)))) > 60
    table = pq.read_table(target / "catalogue.parquet")
    assert table["object_id"].to_pylist() == list(range(1, 71))
    names = [column.name for column in columns(new.group.attrs["bands"])]  # type: ignore[arg-type]
    assert table.column_names == ["object_id", *names]
    own = np.stack([table[name].to_numpy() for name in names], 1)
    assert np.array_equal(own, new.read("measured"), equal_nan=True)
    assert told["folder"] == str(target) and told["count"] == 70 and told["kind"] == "flow_vae"
    kept = json.loads((target / "generated.json").read_text())
    assert kept == {k: v for k, v in told.items() if k not in ("folder", "judgement")}


def test_a_judgement_has_every_figure_beside_its_control(
    made: tuple[Path, dict[str, Any]],
) -> None:
    target, told = made
    figures = json.loads((target / "judgement.json").read_text())
    assert figures == told["judgement"]
    assert figures["n"]["generated"] == 25 and figures["n"]["held_out"] >= 20
    for space in ("own", "statmorph"):
        for who in ("generated", "control"):
            found = figures["auroc"][space][who]
            assert 0 <= found["auroc"] <= 1 and 0 < found["error"] < 0.2
    near = figures["nearest_training_image"]
    assert near["generated"] > 0.2 * near["held_out"]
    assert set(figures["statistics"]) == set(shapes.STATMORPH)
    for name in ("stamps.png", "statistics.png"):
        assert (target / "plots" / name).stat().st_size > 10_000


def test_the_same_request_gives_the_same_bytes_and_a_longer_one_begins_alike(
    published: Path,
    made: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process alone, where it was made by a command with workers of its own."""
    target, _ = made
    words = ["generate", "sky", "--workspace", str(published / "workspace"), "--workers", "1"]
    words += ["--count", "70", "--judged", "25", "--output", str(tmp_path / "again")]
    assert main(words) == 0
    assert digests(tmp_path / "again") == digests(target)
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == str(tmp_path / "again")
    assert "real against generated, statmorph: AUROC" in said
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "is there already; give another folder with --output" in told
    images = Part(target / "stamps").read("image")
    found = {}
    for name, request in {"fewer": Request(66), "other": Request(66, seed=1)}.items():
        drawn(published, request, tmp_path / name)
        found[name] = Part(tmp_path / name / "stamps").read("image")
    assert np.array_equal(found["fewer"], images[:66])
    assert not np.array_equal(found["other"], images[:66])
    assert not (tmp_path / "fewer" / "judgement.json").exists()


def drawn(published: Path, request: Request, target: Path) -> dict[str, Any]:
    workspace = Workspace.open(published / "workspace", create=False)
    return generate(Context(workspace), releases.record(workspace, "sky", "r1"), request, target, 0)


# Other models: trained on the same stamps, in a workspace without a release.


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Stamps to train any model on."""

    workspace: Workspace
    refs: dict[str, Any]

    def record(self, model: Any = None) -> dict[str, Any]:
        """What `generate` reads of a release whose model this is."""
        refs = {name: self.refs[name].digest for name in ("stamps", "sample")}
        if model is not None:
            context = Context(self.workspace)
            ref = train(context, model, TRAINING, self.refs["stamps"], self.refs["sample"])
            refs["model"] = ref.digest
        return {"survey": "sky", "release": "r1", "refs": refs}

    def draw(self, model: Any, request: Request, target: Path) -> Part:
        generate(Context(self.workspace), self.record(model), request, target, 0)
        return Part(target / "stamps")


@pytest.fixture(scope="module")
def prepared(sky_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    file = sky.survey_file(folder / "sky.toml", sky_folder)
    chain = Chain(survey.load(file), Context(Workspace.open(folder / "workspace")))
    for stage in ("sample", "retrieve", "prepare"):
        chain.run(stage)
    return Prepared(chain.context.workspace, chain.refs)


def test_galaxies_of_a_stated_size_are_of_that_size(prepared: Prepared, tmp_path: Path) -> None:
    """A flow conditioned on r50 and the axis ratio: given one, the other is like real ones."""
    prior = dataclasses.replace(FLOW.prior, steps=600)
    model = dataclasses.replace(FLOW, conditions=("r50", "axis_ratio"), prior=prior)
    prepared.draw(model, Request(150), tmp_path / "every")
    every = pq.read_table(tmp_path / "every" / "catalogue.parquet").to_pandas()
    assert every["condition_axis_ratio"].min() < 0.4 and every["condition_axis_ratio"].max() > 0.8
    assert np.corrcoef(every["condition_r50"], every["r50"])[0, 1] > 0.8
    assert np.corrcoef(every["condition_axis_ratio"], every["axis_ratio"])[0, 1] > 0.4
    sizes = []
    for value in (5.0, 9.0):
        target = tmp_path / str(value)
        prepared.draw(model, Request(100, given={"r50": value}), target)
        table = pq.read_table(target / "catalogue.parquet").to_pandas()
        assert (table["condition_r50"] == value).all()
        sizes.append(table["r50"].median())
    assert sizes[1] - sizes[0] > 1.5
    told = generate(
        Context(prepared.workspace), prepared.record(model), Request(3, given={"r50": 80.0}),
        tmp_path / "far", 0,
    )  # fmt: skip
    assert len(told["notes"]) == 1 and "r50 = 80 is outside the training's" in told["notes"][0]


VADE = VaDE(
    latent=4, components=3, encoder=(Stack(channels=8), Stack(channels=8)),
    decoder=(Stack(channels=8), Stack(channels=8)), initialisation_restarts=2,
    schedule=Annealing(warm_up=4, annealing=2, static=4),
)  # fmt: skip


def test_galaxies_of_a_component_are_told_to_be_of_it(prepared: Prepared, tmp_path: Path) -> None:
    """What VaDE draws of a component, VaDE itself finds in that component."""
    from galpipe.models.checkpoints import load_model
    from galpipe.workspace import Ref

    record = prepared.record(VADE)
    network: Any = load_model(prepared.workspace.place(Ref("model", record["refs"]["model"])))
    weights = network.mixture.weights()
    told = 0
    for component in np.flatnonzero(weights.numpy() > 0.05):
        part = prepared.draw(VADE, Request(100, component=int(component)), tmp_path / f"{told}")
        images = torch.from_numpy(part.read("image")).float() / 255
        table = pq.read_table(tmp_path / f"{told}" / "catalogue.parquet")
        assert set(table["condition_component"].to_pylist()) == {component}
        with torch.no_grad():
            found = network.embed(images, None)["responsibility"].argmax(1)
        assert float((found == component).float().mean()) > 0.6
        told += 1
    assert told >= 2


REFUSED: dict[str, tuple[Any, Request, str]] = {
    "draws nothing": (Autoencoder(latent=2, layers=LAYERS), Request(5), "draws no new galaxies"),
    "no such component": (VADE, Request(5, component=3), "the model has 0 to 2"),
    "no components": (FLOW, Request(5, component=0), "has no components"),
    "no conditions": (FLOW, Request(5, given={"r50": 3.0}), "it takes none; leave --given out"),
    "no prior to leave out": (VADE, Request(5, normal=True), "only a flow_vae"),
    "no model": (None, Request(5), "has no model"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_model_cannot_draw_is_one_sentence(
    case: str, prepared: Prepared, tmp_path: Path
) -> None:
    model, request, expected = REFUSED[case]
    with pytest.raises(InputError, match=expected) as caught:
        generate(Context(prepared.workspace), prepared.record(model), request, tmp_path / "x", 0)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_folder_is_left_alone(
    prepared: Prepared, tmp_path: Path
) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(InputError, match="x is there already; give another folder"):
        generate(Context(prepared.workspace), prepared.record(VADE), Request(5), tmp_path / "x", 0)
    assert (tmp_path / "x").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--count", "0"), "0 is not a positive whole number"),
        (("--count", "3", "--given", "redshift"), "redshift is not COLUMN=VALUE"),
        (("--count", "3", "--given", "redshift=inf"), "redshift=inf is not COLUMN=VALUE"),
        (("--count", "3", "--release", "never"), "never"),
        (("--count", "3"), "too few to be judged; give at least 25 of each, or --judged 0"),
    ],
)
def test_a_wrong_command_ends_with_2(
    published: Path,
    words: tuple[str, ...],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = ("--workspace", str(published / "workspace"), "--output", str(tmp_path / "x"))
    try:
        code: Any = main(["generate", "sky", *place, *words])
    except SystemExit as refused:
        code = refused.code
    assert code == 2 and expected in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


# The mathematics of the judgement.


def test_the_two_sample_test_against_its_closed_form() -> None:
    """Normal samples d apart: AUROC is Phi(d / sqrt 2) for the best classifier."""
    random = np.random.default_rng(0)
    one, same = random.normal(size=(2, 600, 3))
    apart = random.normal(size=(600, 3))
    apart[:, 1] += 1.0
    assert auroc(one, same, 0)["auroc"] == pytest.approx(0.5, abs=0.05)
    best = 0.5 * (1 + math.erf(1.0 / 2))
    told = auroc(one, apart, 0)
    assert best - 0.06 < told["auroc"] < best + 0.02
    assert 0.005 < told["error"] < 0.03
    one[300:, 2] = np.nan  # a value that is missing in one sample alone tells it apart
    assert auroc(one, same, 0)["auroc"] > 0.7


def test_the_energy_distance_is_without_bias_and_grows() -> None:
    random = np.random.default_rng(1)
    same = [energy_distance(*random.normal(size=(2, 80, 4))) for _ in range(40)]
    assert abs(np.mean(same)) < 3 * np.std(same) / math.sqrt(40)
    # In one dimension, N(0, 1) against N(d, 1): 2 E|x - y| - 2 E|x - x'| of folded normals.
    one = random.normal(size=(3000, 1))
    one = (one - one.mean()) / one.std()
    other = random.normal(size=(3000, 1)) + 1.5

    def folded(d: float) -> float:
        return 2 / math.sqrt(math.pi) * math.exp(-d * d / 4) + d * math.erf(d / 2)

    assert energy_distance(one, other) == pytest.approx(2 * folded(1.5) - 2 * folded(0), rel=0.1)


def test_the_nearest_image_is_found() -> None:
    random = np.random.default_rng(2)
    images, others = random.uniform(size=(300, 20)), random.uniform(size=(70, 20))
    each = np.sqrt(((images[:, None] - others) ** 2).mean(2)).min(1)
    assert np.allclose(nearest(images, others), each, atol=1e-5)
    assert nearest(others[3:4], others)[0] < 1e-3


def test_a_wave_is_seen_at_its_number_scale_and_angle() -> None:
    axis = np.arange(32)
    wave = np.cos(2 * np.pi * 8 * axis / 32)
    across = np.tile(wave, (32, 1))[None]
    waves, power = power_spectrum(np.concatenate([across, 3 * across]))
    assert waves[power[0].argmax()] == 8
    assert power[1] == pytest.approx(9 * power[0])
    white = np.random.default_rng(3).normal(size=(400, 32, 32))
    assert power_spectrum(white)[1].mean(0) == pytest.approx(1, abs=0.06)
    along = textures(across)[0], textures(across.transpose(0, 2, 1))[0]
    answers = [one[3:].reshape(3, 4, 3).mean(2) for one in along]  # (octave, angle)
    assert np.unravel_index(answers[0].argmax(), (3, 4))[1] == 0
    assert np.unravel_index(answers[1].argmax(), (3, 4))[1] == 2


def disc(count: int, axis_ratio: float, length: float, seed: int) -> Any:
    """Exponential discs with a little noise, uint8 (count, 1, 64, 64)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64] - 31.5
    found = []
    for angle in random.uniform(0, np.pi, count):
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        light = 180 * np.exp(-np.hypot(u, v / axis_ratio) / length)
        found.append(light + 12 + random.normal(0, 1.5, light.shape))
    return np.clip(np.rint(found), 0, 255).astype(np.uint8)[:, None]


def test_the_statistics_of_exponential_discs() -> None:
    """Half the light lies within 1.678 scale lengths; statmorph and galpipe agree."""
    told = shapes.by_statmorph(disc(6, 1.0, 4.0, 0), 255.0)
    assert np.nanmedian(told["rhalf_circ"]) == pytest.approx(1.678 * 4, rel=0.08)
    flat = disc(6, 0.5, 6.0, 1)
    ellipticity = np.nanmedian(shapes.by_statmorph(flat, 255.0)["ellipticity_asymmetry"])
    assert ellipticity == pytest.approx(0.5, abs=0.06)
    names = [column.name for column in columns(["grey"])]
    own = shapes.measured(flat, 255.0, ["grey"])
    assert np.median(own[:, names.index("axis_ratio")]) == pytest.approx(0.5, abs=0.06)


def test_real_galaxies_are_not_told_from_real_ones_but_flatter_ones_are(tmp_path: Path) -> None:
    lots = [
        np.concatenate([disc(15, q, 4.0, seed), disc(15, 0.6, 5.0, seed + 1)])
        for q, seed in ((0.9, 0), (0.9, 10), (0.3, 20))
    ]
    backwards = Context(Workspace.open(tmp_path), map=lambda f, items: iter([*map(f, items)][::-1]))
    samples = judgement.samples(backwards, lots, 255.0, ["grey"])
    some = slice(judgement.AT_ONCE - 3, judgement.AT_ONCE + 3)  # in other pieces, the same
    again = np.stack([*shapes.by_statmorph(lots[2][some], 255.0).values()], 1)
    assert np.array_equal(samples[2].statmorph[some], again, equal_nan=True)
    figures = judgement.judge(samples[2], samples[0], samples[1], samples[1].stamps, 255.0, 0)
    assert figures["auroc"]["own"]["generated"]["auroc"] > 0.65
    assert figures["auroc"]["own"]["control"]["auroc"] < 0.65
    assert figures["textures"]["generated"] > 3 * abs(figures["textures"]["control"])
    medians = figures["statistics"]["ellipticity_asymmetry"]
    assert medians["generated"]["p84"] > medians["held_out"]["p84"] + 0.1
