"""The autoencoder: its start, how faithfully it draws, and what its error says of strangeness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from galpipe import spec
from galpipe.catalogue.heldout import HeldOut
from galpipe.catalogue.spec import Evaluation, Truth
from galpipe.catalogue.strangeness import (
    auroc,
    complexity,
    strangeness_figures,
    strangeness_headline,
)
from galpipe.classes.embedding import embed
from galpipe.errors import InputError
from galpipe.models.autoencoder.network import AutoencoderNetwork
from galpipe.models.autoencoder.spec import Autoencoder
from galpipe.models.checkpoints import load_model
from galpipe.models.convolutions.drawings import Faithfulness
from galpipe.models.convolutions.spec import Layers
from galpipe.models.engine.spec import OneCycle, Training
from galpipe.models.spec import Embedding
from galpipe.models.training import train
from galpipe.models.vade.initialisation import principal_axes
from galpipe.stages import Context
from galpipe.workspace import Ref, Workspace
from tests import stamped

MODEL = Autoencoder(latent=4, layers=Layers(channels=(8, 16)))
TRAINING = Training(
    batch=16, epochs=10, threads=1, buffer=2, learning_rate=3e-3, rate=OneCycle()
)  # fmt: skip
ODD = 30  # of the last galaxies of the planted ones


def chequered(count: int) -> Any:
    """Galaxies with half their pixels dark, as no training galaxy has them."""
    images = stamped.galaxies(count, seed=9).copy()
    images[..., ::2, ::2] = 0
    images[..., 1::2, 1::2] = 0
    return images


def principal(images: Any, others: Any, latent: int) -> float:
    """Mean squared error of others drawn from their first principal components."""
    flat, told = (one.reshape(len(one), -1).astype(np.float64) / 255 for one in (images, others))
    average = flat.mean(0)
    axes = np.linalg.svd(flat - average, full_matrices=False)[2][:latent]
    centred = told - average
    return float(((centred - centred @ axes.T @ axes) ** 2).mean())


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Ref, Ref]:
    """450 galaxies; those of the second part, in rows of all splits, are of a strange class."""
    workspace = Workspace.open(tmp_path_factory.mktemp("autoencoder") / "workspace")
    stamps, catalogue = stamped.commit(workspace, [stamped.galaxies(450), chequered(ODD)])
    path = workspace.place(catalogue) / "catalogue.parquet"
    table = pq.read_table(path)
    names = ["plain"] * 450 + ["chequered"] * ODD
    split = np.array(table["split"].to_pylist())
    split[450:] = "test"  # never learnt from
    table = table.set_column(1, "split", pa.array(split.tolist()))
    pq.write_table(table.append_column("input_kind", pa.array(names)), path)
    return workspace, stamps, catalogue


@pytest.fixture(scope="module")
def learnt(planted: tuple[Workspace, Ref, Ref]) -> Ref:
    workspace, stamps, catalogue = planted
    return train(Context(workspace), MODEL, TRAINING, stamps, catalogue)


def test_it_starts_at_the_principal_components() -> None:
    """The linear path alone draws as the truncated components do."""
    images = stamped.galaxies(200)
    network = AutoencoderNetwork(MODEL, 1, 16)
    pixels = images.reshape(200, -1).astype(np.float32) / 255
    average, axes, scatter = principal_axes(pixels, 4, 0)
    network.body.start_linear(average, axes, scatter)
    told = torch.from_numpy(images).float() / 255
    with torch.no_grad():
        error = float(((network.redraw(told) - told) ** 2).mean())
        latent = network.embed(told, None)["vector"]
    assert error == pytest.approx(principal(images, images, 4), rel=1e-3)
    assert torch.allclose(latent.std(0), torch.ones(4), atol=0.05)


def test_it_draws_better_than_as_many_principal_components(
    planted: tuple[Workspace, Ref, Ref], learnt: Ref
) -> None:
    workspace, _, _ = planted
    network = load_model(workspace.place(learnt))
    seen, new = stamped.galaxies(450), stamped.galaxies(150, seed=4)
    told = torch.from_numpy(new).float() / 255
    with torch.no_grad():
        error = float(((network.redraw(told) - told) ** 2).mean())
    assert error < 0.8 * principal(seen, new, 4)


def test_figures_of_faithfulness_are_those_of_the_whole_split() -> None:
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.uniform(size=(50, 1, 8, 8)).astype(np.float32))
    drawn = images + 0.1 * torch.from_numpy(random.normal(size=images.shape).astype(np.float32))
    whole, parts = Faithfulness(), Faithfulness()
    whole.add(drawn, images)
    for some in torch.split(torch.arange(50), 7):
        parts.add(drawn[some], images[some])
    truth, found = images.double(), whole.figures()
    mse = float(((drawn.double() - truth) ** 2).mean())
    assert found["mse"] == pytest.approx(mse, rel=1e-5)
    assert found["pixel_variance"] == pytest.approx(float(truth.var(correction=0)), rel=1e-5)
    assert found["mse_share"] == pytest.approx(mse / float(truth.var(correction=0)), rel=1e-5)
    about = float(((truth - truth.mean(0)) ** 2).mean())
    assert found["explained_variance"] == pytest.approx(1 - mse / about, rel=1e-5)
    assert parts.figures() == pytest.approx(found, rel=1e-9)


def test_the_error_is_that_of_the_drawing_and_finds_what_is_unlike_all_seen(
    planted: tuple[Workspace, Ref, Ref], learnt: Ref
) -> None:
    workspace, stamps, catalogue = planted
    network = load_model(workspace.place(learnt))
    plain, odd = stamped.galaxies(60, seed=4), chequered(60)
    errors = []
    for images in (plain, odd):
        told = torch.from_numpy(images).float() / 255
        with torch.no_grad():
            error = network.embed(told, None)["reconstruction_error"]
            drawn = network.redraw(told)
        assert torch.allclose(error, ((drawn - told) ** 2).flatten(1).mean(1), rtol=1e-4)
        errors.append(error)
    assert errors[1].min() > errors[0].max()
    embeddings = embed(Context(workspace), Embedding(), learnt, stamps, catalogue)
    rows = np.arange(450 - 90, 450 + ODD)
    objects = judged(rows)
    figures = strangeness_figures(
        workspace, STRANGE, catalogue, stamps, learnt, embeddings, objects
    )
    assert figures is not None
    assert (figures["n"], figures["strange"]) == (len(rows), ODD)
    scores = figures["scores"]
    assert scores["reconstruction_error"]["auroc"] == 1.0
    assert scores["anomaly_score"]["auroc"] == pytest.approx(0.5, abs=0.15)
    assert [name for name, told in scores.items() if told["baseline"]] == [
        "complexity", "flux",
    ]  # fmt: skip
    assert scores["flux"]["auroc"] == pytest.approx(0.5, abs=1e-9)
    assert scores["complexity"]["correlation_complexity"] == pytest.approx(1)
    flat = strangeness_headline(figures)
    assert flat["strange_reconstruction_error_auroc"] == 1.0


STRANGE = Evaluation(truth=Truth(classes="kind", strange=("chequered",)))


def judged(rows: Any) -> HeldOut:
    """Objects whose anomaly scores are random."""
    number = len(rows)
    kinds = np.array(["chequered" if row >= 450 else "plain" for row in rows], dtype=object)
    nothing = np.zeros(number)
    return HeldOut(
        rows=rows, judged_on="test", cluster=np.zeros(number, np.int64), model_cluster=None,
        anomaly=np.random.default_rng(0).normal(size=number), probability=nothing,
        measured={"flux": np.where(rows >= 450, 1.0, rows % 2 * 2.0)},
        classes=kinds, votes={}, train=np.arange(100),
    )  # fmt: skip


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    random = np.random.default_rng(2)
    score = np.round(random.normal(size=120), 1)  # with ties
    strange = random.uniform(size=120) < 0.3
    pairs = score[strange][:, None] - score[~strange]
    told = auroc(score, strange, 0)
    assert told["auroc"] == pytest.approx(float((pairs > 0).mean() + 0.5 * (pairs == 0).mean()))
    assert told["error"] is not None and 0.02 < told["error"] < 0.1
    score[::2] = np.nan
    assert auroc(score, strange, 0)["n"] == 60
    assert auroc(score, np.arange(120) < 5, 0)["auroc"] is None


def test_complexity_is_the_size_of_a_png_file(
    planted: tuple[Workspace, Ref, Ref], tmp_path: Path
) -> None:
    workspace, stamps, _ = planted
    sizes = complexity(workspace, stamps, np.array([3, 455, 7]), "image")
    expected = []
    for image in (stamped.galaxies(450)[3], chequered(ODD)[5], stamped.galaxies(450)[7]):
        Image.fromarray(image[0]).save(tmp_path / "one.png")
        expected.append((tmp_path / "one.png").stat().st_size)
    assert sizes.tolist() == expected


def test_strange_classes_that_are_not_there_are_refused(
    planted: tuple[Workspace, Ref, Ref],
) -> None:
    workspace, stamps, catalogue = planted
    wrong = Evaluation(truth=Truth(classes="kind", strange=("checkered",)))
    with pytest.raises(InputError, match="no class 'checkered'; did you mean 'chequered'"):
        strangeness_figures(workspace, wrong, catalogue, stamps, None, None, judged(np.arange(20)))
    with pytest.raises(InputError, match="strange names classes of a column"):
        spec.load(Truth, {"strange": ["ring"]})
    none = strangeness_figures(
        workspace, Evaluation(), catalogue, stamps, None, None, judged(np.arange(20))
    )
    assert none is None
