"""Votes on a tree of questions: the likelihood, the tree, and what is published of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

import galpipe
from galpipe import releases, spec
from galpipe.catalogue.heldout import held_out
from galpipe.catalogue.reobservation import labelled
from galpipe.catalogue.spec import Evaluation
from galpipe.classes import gather
from galpipe.classes.anew.degrading import Worse
from galpipe.classes.anew.network import told_of
from galpipe.classes.anew.observing import Observer, degrade
from galpipe.classes.embedding import embed
from galpipe.classes.fitted import load_clusters
from galpipe.cli import main
from galpipe.errors import InputError
from galpipe.models.backbones.spec import PlainCnn
from galpipe.models.checkpoints import load_model
from galpipe.models.engine.spec import Augmentation, OneCycle, Training
from galpipe.models.spec import Embedding
from galpipe.models.training import train
from galpipe.models.votes.dirichlet import log_likelihood, mean_and_scatter
from galpipe.models.votes.spec import Answer, Question, Votes
from galpipe.models.votes.tree import (
    answer_names,
    counts,
    label_names,
    leaf_probabilities,
    spans,
)
from galpipe.stages import Context
from galpipe.workspace import Ref, Workspace
from tests import sky, stamped
from tests.running import run_chain

counts_and_strengths = st.integers(2, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 60), min_size=n, max_size=n),
        st.lists(st.floats(1.0, 100.0), min_size=n, max_size=n),
    )
)


@given(counts_and_strengths)
@settings(max_examples=60, deadline=None)
def test_the_likelihood_is_that_of_scipy_without_the_number_of_orders(case: Any) -> None:
    votes, strengths = (np.array(one, float) for one in case)
    total = int(votes.sum())
    known = stats.dirichlet_multinomial.logpmf(votes.astype(int), strengths, total)
    orders = special.gammaln(total + 1) - special.gammaln(votes + 1).sum()
    mine = log_likelihood(torch.tensor(votes)[None], torch.tensor(strengths)[None])
    assert float(mine) == pytest.approx(known - orders, abs=1e-6)


@given(counts_and_strengths)
@settings(max_examples=30, deadline=None)
def test_mean_and_scatter_are_those_of_the_dirichlet_distribution(case: Any) -> None:
    strengths = np.array(case[1])
    mean, scatter = mean_and_scatter(torch.tensor(strengths)[None])
    np.testing.assert_allclose(mean[0], stats.dirichlet.mean(strengths), rtol=1e-9)
    np.testing.assert_allclose(scatter[0] ** 2, stats.dirichlet.var(strengths), rtol=1e-9)


def test_a_question_without_votes_says_nothing() -> None:
    strengths = torch.tensor([[2.0, 5.0]], requires_grad=True)
    likely = log_likelihood(torch.zeros(1, 2), strengths)
    likely.sum().backward()
    assert float(likely.detach()) == 0.0 and strengths.grad is not None and not strengths.grad.any()


def answers(*names: str) -> tuple[Answer, ...]:
    return tuple(Answer(name=name, column=f"votes_{name}") for name in names)


SMOOTH = Question(name="Smooth?", answers=answers("smooth", "features", "artifact"))
FLAT = Question(name="Edge-on?", after=("features",), answers=answers("edge_on", "face_on"))
ARMS = Question(name="Arms?", after=("face_on",), answers=answers("spiral", "none"))
ODD = Question(name="Odd?", after=("smooth", "features"), answers=answers("odd", "usual"),
               label=False)  # fmt: skip
TREE = Votes(questions=(SMOOTH, FLAT, ARMS, ODD))
FRACTIONS = Votes(questions=TREE.questions, given="fractions", votes="asked")


def test_counts_follow_the_tree() -> None:
    """40 people; 30 see features, 60 % of them no edge-on disc, and half of these 18 see arms."""
    given = torch.tensor([[0.25, 0.75, 0.0, 0.4, 0.6, 0.5, 0.5, 0.1, 0.9]])
    found = counts(FRACTIONS, given, torch.tensor([40.0]))
    by_name = dict(zip(answer_names(FRACTIONS), found[0].tolist(), strict=True))
    wanted = {
        "smooth": 10, "features": 30, "artifact": 0, "edge_on": 12, "face_on": 18, "spiral": 9,
        "none": 9, "odd": 4, "usual": 36,
    }  # fmt: skip
    assert by_name == pytest.approx(wanted)
    unknown = counts(FRACTIONS, torch.full((1, 9), torch.nan), torch.tensor([40.0]))
    assert not unknown.any()
    assert counts(TREE, torch.tensor([[3.0, torch.nan, -1.0]]).repeat(1, 3), None).sum() == 9


def test_labels_are_the_ways_through_the_tree() -> None:
    assert label_names(TREE) == (
        "smooth", "features, edge on", "features, face on, spiral", "features, face on, none",
        "artifact",
    )  # fmt: skip
    strengths = 1 + 20 * torch.rand(50, 9)
    fractions = torch.cat([mean_and_scatter(strengths[:, span])[0] for span in spans(TREE)], 1)
    chances = leaf_probabilities(TREE, fractions)
    torch.testing.assert_close(chances.sum(1), torch.ones(50))
    torch.testing.assert_close(
        chances[:, 2], fractions[:, 1] * fractions[:, 4] * fractions[:, 5]
    )  # features, face_on, spiral


@pytest.mark.parametrize(
    "questions, fields, told",
    [
        ((FLAT,), {}, "first question is asked of all"),
        ((SMOOTH, ARMS), {}, "no question above it answers 'face_on'"),
        ((SMOOTH, Question(name="Q", after=("smooth",), answers=answers("smooth", "x"))), {},
         "two answers are called 'smooth'"),
        ((SMOOTH, FLAT, Question(name="Q", after=("features",), answers=answers("y", "x"))), {},
         "two questions of the label follow the same answer"),
        ((SMOOTH,), {"given": "fractions"}, "`votes` is given with"),
        ((SMOOTH,), {"votes": "asked"}, "`votes` is given with"),
        ((Question(name="Q", answers=(Answer(name="a", column="t01_a_debiased"),
                                      Answer(name="b", column="b"))),), {}, "is debiased"),
    ],
)  # fmt: skip
def test_what_is_no_tree_is_refused(questions: Any, fields: Any, told: str) -> None:
    values = {"questions": [spec.dump(one) for one in questions], **fields}
    with pytest.raises(InputError, match=told):
        spec.load(Votes, values, "survey.toml")


PLANTED = Votes(
    questions=(
        Question(name="Long?", answers=answers("long", "short")),
        Question(name="Hollow?", after=("short",), answers=answers("ring", "disc")),
    ),
    encoders=(PlainCnn(channels=(8, 16)),), features=16, dropout=0.0, views=4,
)  # fmt: skip
TRAINING = Training(
    batch=32, threads=1, epochs=10, learning_rate=1e-2, rate=OneCycle(),
    augment=Augmentation(rotations="quarter"),
)  # fmt: skip
LONG, RING = np.array([0.1, 0.8, 0.25]), np.array([0.1, 0.5, 0.9])  # by kind: disc, needle, ring


def cast(objects: int, seed: int = 0) -> dict[str, Any]:
    """Votes of 25 to 50 people on discs, needles and rings; everybody's chances are the kind's."""
    random = np.random.default_rng(seed)
    kind = np.arange(objects) % 3
    asked = random.integers(25, 51, objects)
    long = random.binomial(asked, LONG[kind])
    ring = random.binomial(asked - long, RING[kind])
    return {"long": long, "short": asked - long, "ring": ring, "disc": asked - long - ring}


def planted(folder: Path, votes: dict[str, Any]) -> tuple[Workspace, Ref, Ref]:
    workspace = Workspace.open(folder / "workspace")
    stamps, catalogue = stamped.commit(workspace, [stamped.galaxies(600)])
    path = workspace.place(catalogue) / "catalogue.parquet"
    table = pq.read_table(path)
    for name, values in votes.items():
        table = table.append_column(f"input_votes_{name}", pa.array(values, pa.float64()))
    pq.write_table(table, path)
    return workspace, stamps, catalogue


def test_planted_chances_are_learnt_from_votes(tmp_path: Path) -> None:
    """The first question's errors on held-out galaxies, and scatters that mean what they say."""
    votes = cast(600)
    unasked = np.arange(600) % 10 == 4
    nobody = np.where(np.arange(600) % 20 == 4, np.nan, 0.0)  # not known, or asked in vain
    given = {name: np.where(unasked, nobody, values) for name, values in votes.items()}
    workspace, stamps, catalogue = planted(tmp_path, given)
    context = Context(workspace)
    model = train(context, PLANTED, TRAINING, stamps, catalogue)
    learnt = workspace.manifest(model)
    assert learnt is not None and not learnt["alarms"]
    split = np.array(gather.splits(workspace, catalogue))
    assert learnt["objects"]["train"] == ((split == "train") & ~unasked).sum()
    embeddings = embed(context, Embedding(threads=1), model, stamps, catalogue)
    fraction = gather.embedded(workspace, embeddings, "vote_fraction")
    scatter = gather.embedded(workspace, embeddings, "vote_scatter")
    assert fraction is not None and scatter is not None
    assert np.isfinite(fraction).all()  # those that nobody was asked about have predictions too
    kind, test = np.arange(600) % 3, split == "test"
    for column, chance in ((0, LONG), (2, RING)):
        away = (fraction[:, column] - chance[kind])[test]
        assert np.sqrt((away**2).mean()) < 0.05 < chance[kind].std() / 3
    seen = votes["long"] / (votes["long"] + votes["short"])
    assert learnt["figures"]["root_mean_square"] == pytest.approx(
        np.sqrt(((fraction[:, 0] - seen)[test & ~unasked] ** 2).mean()), rel=1e-3
    )
    assert (scatter[test] < 0.12).all()  # sharp: the votes scatter as their number alone lets them
    names = load_model(workspace.place(model)).told()["labels"]
    assert names == ["long", "short, ring", "short, disc"]


def test_a_question_without_any_vote_is_told(tmp_path: Path) -> None:
    votes = cast(600) | {"ring": np.zeros(600), "disc": np.zeros(600)}
    workspace, stamps, catalogue = planted(tmp_path, votes)
    with pytest.raises(InputError, match=r"nobody of the training split has a vote on 'Hollow\?'"):
        train(Context(workspace), PLANTED, TRAINING, stamps, catalogue)


MODEL = """
kind = "votes"
given = "fractions"
votes = "asked"
encoders = [{ kind = "scattering", scales = 3 }, { kind = "cnn", channels = [8, 16] }]
columns = ["axis_ratio", "concentration"]
features = 16
views = 2

[[model.questions]]
name = "Is it round?"
answers = [{ name = "round", column = "f_round" }, { name = "flat", column = "f_flat" }]

[[model.questions]]
name = "Is it seen edge-on?"
after = ["flat"]
answers = [{ name = "edge_on", column = "f_edge" }, { name = "tilted", column = "f_tilted" }]

[training]
epochs = 10
batch = 16
learning_rate = 1e-2
threads = 1
rate = { kind = "one_cycle" }
augment = { rotations = "quarter" }
"""
ROUND = {"round": 0.9, "inclined": 0.3, "edge_on": 0.05}
EDGE = {"round": 0.1, "inclined": 0.2, "edge_on": 0.9}


def voted(folder: Path) -> None:
    """Give the table of a drawn sky the fractions of votes on every galaxy."""
    with (folder / "galaxies.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    random = np.random.default_rng(0)
    for row in rows:
        asked = int(random.integers(30, 60))
        flat = random.binomial(asked, 1 - ROUND[row["kind"]])
        edge = random.binomial(flat, EDGE[row["kind"]]) / flat if flat else 0.0
        row |= {"asked": asked, "f_round": 1 - flat / asked, "f_flat": flat / asked}
        row |= {"f_edge": edge, "f_tilted": 1 - edge if flat else 0.0}
        row["z"] = round(random.uniform(0.02, 0.2), 4)
    with (folder / "galaxies.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which the votes on 300 planted galaxies were learnt and published."""
    folder = tmp_path_factory.mktemp("voted")
    sky.draw(folder / "sky", objects=300)
    voted(folder / "sky")
    path = sky.survey_file(folder / "sky.toml", folder / "sky", MODEL)
    text = path.read_text().replace("[cluster]\n", '[cluster]\non = "model"\n')
    text = text.replace('file = "file"', 'file = "file"\nredshift = "z"')
    asked = "[evaluate]\nfewest = 30\nreobserve = { objects = 40 }\n"
    path.write_text(text.replace("[evaluate]\n", asked))
    run_chain(path, folder / "w")
    return folder / "w"


def test_labels_have_the_predicted_fractions_and_their_scatters(published: Path) -> None:
    table = galpipe.open_labels(str(published), "sky")
    kind = np.array([sky.KINDS[int(np.random.default_rng(n).integers(3))] for n in range(300)])
    found = {name: table[f"predicted_{name}"].to_numpy() for name in ("round", "flat", "edge_on")}
    np.testing.assert_allclose(found["round"] + found["flat"], 1, atol=1e-5)
    for name in sky.KINDS:
        assert found["round"][kind == name].mean() == pytest.approx(ROUND[name], abs=0.1)
    assert found["edge_on"][kind == "edge_on"].mean() == pytest.approx(0.9, abs=0.1)
    scatter = table["predicted_round_scatter"].to_numpy()
    assert (scatter > 0).all() and scatter.mean() < 0.2
    labels = np.array(table["label"].to_pylist())
    wanted = {"round": "round", "inclined": "flat, tilted", "edge_on": "flat, edge on"}
    assert (labels == [wanted[one] for one in kind]).mean() > 0.85
    np.testing.assert_allclose(  # the probability is the product on the way
        table["probability"].to_numpy()[labels == "flat, edge on"],
        (found["flat"] * found["edge_on"])[labels == "flat, edge on"], atol=1e-5,
    )  # fmt: skip


def test_held_out_figures_stand_in_files_and_report(published: Path) -> None:
    place = next((published / "store" / "evaluation").glob("*/figures.json"))
    figures: dict[str, Any] = json.loads(place.read_text())
    told = figures["predictions"]
    assert told["judged_on"] == "test" and told["n"] >= 30
    first = told["first"]
    table = galpipe.open_labels(str(published), "sky")
    test = np.array(table["split"].to_pylist()) == "test"
    assert told["n"] == test.sum()
    mine = np.sort(table["predicted_round"].to_numpy()[test])
    np.testing.assert_allclose(np.sort(np.array(first["predicted"])[:, 0]), mine, atol=1e-4)
    away = np.array(first["predicted"]) - np.array(first["seen"])
    assert first["rmse"] == pytest.approx(np.sqrt((away**2).mean()), abs=1e-4)
    constant = next(one["constant_rmse"] for one in told["answers"] if one["answer"] == "round")
    assert first["rmse"] < 0.15 < constant
    assert 0.4 < first["within_1_sigma"] <= 1
    # A question is judged where enough votes lead to it, and the round galaxies have few.
    flat = next(one for one in told["answers"] if one["answer"] == "edge_on")
    assert 0 < flat["n"] < told["n"]
    assert figures["headline"]["predicted_rmse"] == first["rmse"]
    assert (place.parent / "plots" / "predictions.png").stat().st_size > 5_000
    page = (published / "releases" / "sky" / "r1" / "report.html").read_text()
    assert "The network learnt raw votes" in page and "Is it seen edge-on?" in page


def test_galaxies_seen_again_are_told_their_columns_as_measured_then(published: Path) -> None:
    """As they were they get their labels, and the network hears of what is measured anew."""
    workspace = Workspace.open(published)
    record = releases.record(workspace, "sky", None)
    refs = {name: Ref(name, digest) for name, digest in record["refs"].items()}
    objects = held_out(
        Context(workspace), Evaluation(), refs["sample"], refs["stamps"], refs["assignments"]
    )
    told = told_of(workspace, refs["embeddings"], refs["stamps"], refs["sample"], objects.rows)
    assert told is not None and told.measured == (True, True)
    np.testing.assert_allclose(told.values[:, 0], objects.measured["axis_ratio"], rtol=1e-6)
    observer = Observer(workspace, refs["stamps"], refs["embeddings"], objects.rows, told)
    fitted = load_clusters(workspace, refs["clusters"])
    again = labelled(fitted, observer, observer.cutouts, observer.preparation)
    assert np.array_equal(again.cluster, objects.cluster)
    worse = degrade(observer.cutouts, [Worse("wide", "", psf=4.0)] * len(objects), 3.0, 0)
    seen = observer.see(worse, observer.preparation)
    anew = told.anew(seen.names, seen.measured)
    flat = told.values[:, 0] < 0.3  # which a wide PSF makes rounder
    assert flat.sum() > 10 and (anew[flat, 0] > told.values[flat, 0] + 0.2).all()
    place = next((published / "store" / "evaluation").glob("*/figures.json"))
    conditions = json.loads(place.read_text())["reobservation"]["conditions"]
    rates = {one["name"]: one["rate"] for one in conditions}
    assert rates["turned"] < 0.2 and all(0 <= rate < 0.7 for rate in rates.values())


def test_published_fractions_are_debiased_by_a_step_of_its_own(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["labels", "debias", "sky", "--workspace", str(published), "--like", "r50"]
    target = tmp_path / "debiased.parquet"
    assert main([*words, "--each", "40", "--output", str(target)]) == 0
    said = capsys.readouterr().out
    table, labels = pq.read_table(target), galpipe.open_labels(str(published), "sky")
    assert table["object_id"].equals(labels["object_id"])
    assert table["predicted_flat"].equals(labels["predicted_flat"])
    bins, near = table["debias_bin"].to_numpy(), table["debias_bin"].to_numpy() == 0
    assert f"debiased {(bins >= 0).sum()} of 300 objects" in said and "flat: 0." in said
    assert near.sum() >= 40 and bins.max() >= 1
    before, after = (table[f"{kind}_flat"].to_numpy() for kind in ("predicted", "debiased"))
    np.testing.assert_array_equal(before[near], after[near])
    assert 0 < np.abs(after - before).max() < 0.6
    np.testing.assert_allclose(after + table["debiased_round"].to_numpy(), 1, atol=1e-6)
    assert b"Hart et al" in table.schema.field("debiased_flat").metadata[b"description"]
    for wrong, told in {
        ("--like", "nothing"): "the labels have no column 'nothing'",
        ("--redshift", "label"): "the column 'label' holds no numbers",
        ("--each", "200"): "too few for two bins of 200",
        ("--output", str(tmp_path / "no" / "x")): "is not a folder",
    }.items():
        assert main([*words, *wrong]) == 2
        assert told in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["debiased.parquet"]
