"""A number per galaxy: distributions over a scale, kinds beside it, and what is published."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import galpipe
from galpipe import spec
from galpipe.classes import gather
from galpipe.classes.embedding import embed
from galpipe.errors import InputError
from galpipe.models.backbones.spec import PlainCnn
from galpipe.models.engine.spec import Augmentation, OneCycle, Training
from galpipe.models.regression.scale import apart_of, distribution, label_names, membership, summary
from galpipe.models.regression.spec import Apart, Range, Regression
from galpipe.models.spec import Embedding
from galpipe.models.training import train
from galpipe.stages import Context
from galpipe.workspace import Ref, Workspace
from tests import sky, stamped
from tests.running import run_chain

HUBBLE = Regression(
    value="T",
    scale=(-5, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
    apart=(Apart(name="cD", value=-4), Apart(name="dE", value=11)),
    ranges=(Range(name="E", upto=-4), Range(name="S0", upto=-0.5), Range(name="S", upto=10)),
    width=0.5,
)
SCALE = torch.tensor(HUBBLE.scale)


@given(st.integers(0, 14), st.floats(0.05, 3.0), st.floats(0.0, 4.0))
@settings(max_examples=60, deadline=None)
def test_a_known_value_is_a_normal_distribution_on_the_scale(
    step: int, width: float, limits: float
) -> None:
    """scipy's normal density at the scale's values, of the width and the limits together."""
    value = SCALE[step : step + 1]
    told = distribution(
        replace(HUBBLE, width=width), SCALE, value,
        torch.stack([value - limits / 2, value + limits / 2], 1),
    )[0]  # fmt: skip
    density = stats.norm.pdf(SCALE, float(value), np.hypot(width, limits / 2))
    if abs(float(value) + 4) > 1e-3:
        np.testing.assert_allclose(told[:15], density / density.sum(), atol=1e-5)
        assert not told[15:].any()
    assert float(told.sum()) == pytest.approx(1, abs=1e-6)


def test_kinds_that_stand_apart_are_certain_and_limits_may_be_unknown() -> None:
    values = torch.tensor([-4.0, 11.0, 3.0])
    limits = torch.tensor([[-5.0, -3.0], [10.0, 11.0], [torch.nan, torch.nan]])
    told = distribution(HUBBLE, SCALE, values, limits)
    assert apart_of(HUBBLE, values).tolist() == [0, 1, -1]
    assert told[0, 15] == 1 and told[1, 16] == 1 and told[0].sum() == told[1].sum() == 1
    torch.testing.assert_close(told[2], distribution(HUBBLE, SCALE, values, None)[2])
    narrow = distribution(spec.load(Regression, spec.dump(HUBBLE) | {"width": 1e-3}, "x"), SCALE,
                          torch.tensor([3.4]), None)  # fmt: skip
    assert narrow[0].argmax() == HUBBLE.scale.index(3) and narrow[0].max() == 1


def test_mean_and_scatter_along_the_scale_leave_out_what_stands_apart() -> None:
    chances = torch.zeros(1, 17)
    chances[0, HUBBLE.scale.index(2)], chances[0, HUBBLE.scale.index(6)] = 0.3, 0.1
    chances[0, 16] = 0.6  # dE, whose number 11 is no later type than 10
    told = summary(SCALE, chances)
    assert float(told.value) == pytest.approx(3.0)  # (3 x 2 + 1 x 6) / 4
    assert float(told.scatter) == pytest.approx(np.sqrt(0.75 * 1 + 0.25 * 9))


def test_every_value_has_one_label() -> None:
    assert label_names(HUBBLE) == ("E", "S0", "S", "cD", "dE")
    found = membership(HUBBLE)
    assert found.shape == (17, 5) and (found.sum(1) == 1).all()
    by_value = {value: int(found[k].argmax()) for k, value in enumerate(HUBBLE.scale)}
    assert by_value[-5] == 0 and by_value[-3] == by_value[-1] == 1 and by_value[0] == 2
    assert found[15].argmax() == 3 and found[16].argmax() == 4


@pytest.mark.parametrize(
    "fields, told",
    [
        ({"scale": [0, 0, 1]}, "must rise"),
        ({"ranges": [{"name": "a", "upto": 4}]}, "must reach the scale's end"),
        ({"ranges": [{"name": "a", "upto": 4}, {"name": "b", "upto": 3}]}, "must rise"),
        ({"ranges": [{"name": "a", "upto": 10}], "apart": [{"name": "a", "value": 11}]},
         "the same name"),
        ({"apart": [{"name": "a", "value": 11}, {"name": "b", "value": 11}]}, "the same value"),
    ],
)  # fmt: skip
def test_scales_that_contradict_themselves_are_refused(fields: Any, told: str) -> None:
    values = {"value": "T", "scale": [-5, 0, 5, 10], "ranges": [], "apart": [], **fields}
    with pytest.raises(InputError, match=told):
        spec.load(Regression, values, "survey.toml")


PLANTED = Regression(
    value="number", limits=("low", "high"), scale=(0, 1, 2, 3, 4), width=0.3,
    apart=(Apart(name="needle", value=9),),
    ranges=(Range(name="dim", upto=2), Range(name="bright", upto=4)),
    encoders=(PlainCnn(channels=(8, 16)),), features=16, dropout=0.0, views=4,
)  # fmt: skip
TRAINING = Training(
    batch=32, threads=1, epochs=16, learning_rate=1e-2, rate=OneCycle(),
    augment=Augmentation(rotations="quarter"),
)  # fmt: skip


def numbered() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Stamps whose brightness is their number, 0..4, in steps; needles have none and are 9."""
    images, random = stamped.galaxies(600), np.random.default_rng(0)
    number = random.integers(0, 5, 600).astype(float)
    alike = images / images.max((1, 2, 3), keepdims=True)
    images = (255 * alike * (0.3 + 0.17 * number)[:, None, None, None]).astype(np.uint8)
    return images, np.where(np.arange(600) % 3 == 1, 9.0, number)


def planted(folder: Path, numbers: Any, images: Any) -> tuple[Workspace, Ref, Ref]:
    workspace = Workspace.open(folder / "workspace")
    stamps, catalogue = stamped.commit(workspace, [images[:400], images[400:]])
    path = workspace.place(catalogue) / "catalogue.parquet"
    table = pq.read_table(path)
    for name, shift in (("number", 0.0), ("low", -0.2), ("high", 0.2)):
        table = table.append_column(f"input_{name}", pa.array(numbers + shift, from_pandas=True))
    pq.write_table(table, path)
    return workspace, stamps, catalogue


def test_planted_numbers_are_learnt_and_those_apart_are_found(tmp_path: Path) -> None:
    images, truth = numbered()
    unknown = np.arange(600) % 20 == 7
    workspace, stamps, catalogue = planted(tmp_path, np.where(unknown, np.nan, truth), images)
    context = Context(workspace)
    model = train(context, PLANTED, TRAINING, stamps, catalogue)
    learnt = workspace.manifest(model)
    assert learnt is not None and not learnt["alarms"]
    split = gather.splits(workspace, catalogue)
    assert learnt["objects"]["train"] == ((split == "train") & ~unknown).sum()
    embeddings = embed(context, Embedding(threads=1), model, stamps, catalogue)
    found = {
        name: gather.embedded(workspace, embeddings, name)
        for name in ("value", "value_scatter", "value_probability", "class_probability")
    }
    test, on = split == "test", truth < 9
    away = np.abs(found["value"] - truth)
    assert away[test & on].mean() < 0.35  # 1.2 for the median
    assert away[unknown & on].mean() < 0.5
    assert learnt["figures"]["absolute_error"] == pytest.approx(
        away[test & on & ~unknown].mean(), rel=1e-3
    )
    assert np.corrcoef(found["value_scatter"][test & on], away[test & on])[0, 1] > 0
    needles = found["value_probability"][:, 5] > 0.5
    assert (needles == ~on)[test].mean() > 0.95
    chances = found["class_probability"]
    np.testing.assert_allclose(chances.sum(1), 1, atol=1e-5)
    assert ((chances.argmax(1) == 2) == ~on)[test].mean() > 0.95


def test_a_value_beyond_the_scale_is_told(tmp_path: Path) -> None:
    images, truth = numbered()
    truth[5] = 6.0
    workspace, stamps, catalogue = planted(tmp_path, truth, images)
    with pytest.raises(InputError, match=r"'number' holds 6, beyond the scale \(0 to 4\); wid"):
        train(Context(workspace), PLANTED, TRAINING, stamps, catalogue)


MODEL = """
kind = "regression"
value = "flatness"
scale = [0, 1, 2, 3, 4]
width = 0.4
ranges = [{ name = "round disc", upto = 1.5 }, { name = "flat disc", upto = 4 }]
apart = [{ name = "spheroid", value = -9 }]
encoders = [{ kind = "scattering", scales = 3 }, { kind = "cnn", channels = [8, 16] }]
columns = ["axis_ratio", "concentration"]
features = 16
views = 2

[training]
epochs = 12
batch = 16
learning_rate = 1e-2
threads = 1
rate = { kind = "one_cycle" }
augment = { rotations = "quarter" }
"""
FLATNESS = {"round": -9, "inclined": 1, "edge_on": 3}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which the flatness of 300 planted galaxies was learnt and published."""
    folder = tmp_path_factory.mktemp("flat")
    sky.draw(folder / "sky", objects=300)
    with (folder / "sky" / "galaxies.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    random = np.random.default_rng(0)
    for row in rows:
        row["flatness"] = FLATNESS[row["kind"]]
        if row["kind"] != "round":
            row["flatness"] += int(random.integers(-1, 2))
    with (folder / "sky" / "galaxies.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    path = sky.survey_file(folder / "sky.toml", folder / "sky", MODEL)
    text = path.read_text().replace("[cluster]\n", '[cluster]\non = "model"\n')
    path.write_text(text.replace("[evaluate]\n", "[evaluate]\nfewest = 30\n"))
    run_chain(path, folder / "w")
    return folder / "w"


def kinds() -> np.ndarray[Any, Any]:
    return np.array([sky.KINDS[int(np.random.default_rng(n).integers(3))] for n in range(300)])


def test_labels_have_the_predicted_value_its_scatter_and_its_range(published: Path) -> None:
    table = galpipe.open_labels(str(published), "sky")
    kind = kinds()
    value = table["predicted_flatness"].to_numpy()
    assert value[kind == "inclined"].mean() == pytest.approx(1, abs=0.35)
    assert value[kind == "edge_on"].mean() == pytest.approx(3, abs=0.35)
    scatter = table["predicted_flatness_scatter"].to_numpy()
    # Values are the kind's plus -1, 0 or 1 at random: a standard deviation of 0.82.
    assert scatter[kind != "round"].mean() == pytest.approx(0.85, abs=0.2)
    labels = np.array(table["label"].to_pylist())
    assert (labels[kind == "round"] == "spheroid").mean() > 0.9
    assert (labels[kind == "edge_on"] == "flat disc").mean() > 0.9
    assert set(labels) == {"spheroid", "round disc", "flat disc"}


def test_held_out_figures_stand_in_files_and_report(published: Path) -> None:
    place = next((published / "store" / "evaluation").glob("*/figures.json"))
    figures: dict[str, Any] = json.loads(place.read_text())
    told = figures["predictions"]
    table = galpipe.open_labels(str(published), "sky")
    test = np.array(table["split"].to_pylist()) == "test"
    on = test & (kinds() != "round")
    assert told["judged_on"] == "test" and told["n"] == on.sum()
    value = table["predicted_flatness"].to_numpy()
    np.testing.assert_allclose(np.sort(told["predicted"]), np.sort(value[on]), atol=1e-3)
    away = np.array(told["predicted"]) - np.array(told["seen"])
    assert told["mean_absolute_error"] == pytest.approx(np.abs(away).mean(), abs=2e-3)
    assert told["mean_absolute_error"] < told["constant_mean_absolute_error"]
    # One value in three is its kind's own, the others are 1.2 standard deviations off.
    assert 0.2 < told["within_1_sigma"] < 0.7 and 0.9 < told["within_2_sigma"] <= 1
    assert told["spearman"] > 0.6
    (spheroid,) = told["apart"]
    assert spheroid["n"] == (test & ~on).sum() and spheroid["recall"] > 0.8
    assert figures["headline"]["predicted_recall_spheroid"] == spheroid["recall"]
    assert (place.parent / "plots" / "predictions.png").stat().st_size > 5_000
    page = (published / "releases" / "sky" / "r1" / "report.html").read_text()
    assert "numbers of the column <code>flatness</code>" in page and "spheroid" in page
