"""The rule that gives labels in place of a mixture: learnt of objects seen worse as well."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from galpipe import releases
from galpipe import spec as specs
from galpipe.catalogue.reobservation import labelled
from galpipe.classes import rule as rules
from galpipe.classes.anew.observing import Observer, degrade
from galpipe.classes.fitted import load_clusters
from galpipe.classes.mixture import Mixture
from galpipe.classes.rule import Rule
from galpipe.classes.spec import Clustering, Steady
from galpipe.classes.steady import _agreed, _learnt, worse
from galpipe.errors import InputError
from galpipe.workspace import Ref, Workspace
from tests import sky as drawn
from tests.running import run_chain
from tests.test_stop import MODEL

STEADY = (
    "steady = { objects = 60, times = 2, epochs = 200, hidden = 16, networks = 2, rounds = 1 }\n"
)


def test_conditions_are_drawn_of_the_id_alone_and_within_their_limits() -> None:
    spec = Steady(noise=3.0, light=0.25, psf=1.5)
    found = [worse(spec, number, one) for number in range(3) for one in range(200)]
    assert worse(spec, 1, 7) == found[207] and worse(replace(spec, seed=1), 1, 7) != found[207]
    for values, low, high in (
        ([one.noise for one in found], 1.0, 3.0),
        ([one.light for one in found], 0.25, 1.0),
        ([one.psf for one in found], 1.0, 1.5),
    ):
        assert low <= min(values) and max(values) <= high
        untouched = sum(value == 1.0 for value in values) / len(values)
        assert untouched == pytest.approx(0.5, abs=0.08)
        assert max(values) - min(values) > 0.9 * (high - low)


def test_a_rule_forgives_what_drifts_where_a_mixture_does_not() -> None:
    """Two groups apart in both numbers, of which the second falls when an object is seen worse."""
    random = np.random.default_rng(0)
    kind = np.arange(2000) % 2
    x = random.normal(size=(2000, 2)) * [0.6, 0.3] + 2 * kind[:, None] - 1
    drifted = x - [0.0, 1.5] * random.random((2000, 1))
    mixture = Mixture(
        np.full(2, 0.5), np.array([[-1.0, -1], [1, 1]]), np.tile(np.eye(2), (2, 1, 1))
    )
    wanted = mixture.posterior(x)[0]
    learnt, judged = slice(0, 1000), slice(1000, 2000)
    layers = _learnt(
        np.concatenate([x[learnt], drifted[learnt]]), np.tile(wanted[learnt], (2, 1)),
        Steady(hidden=16, epochs=10), 0,
    )  # fmt: skip
    rule = Rule(None, (layers,))  # type: ignore[arg-type]
    before, after = rule.posterior(x[judged]), rule.posterior(drifted[judged])
    flipped = (before.argmax(1) != after.argmax(1)).mean()
    theirs = mixture.posterior(drifted[judged])[0].argmax(1) != wanted[judged].argmax(1)
    assert (before.argmax(1) == wanted[judged].argmax(1)).mean() > 0.95
    assert flipped < 0.6 * theirs.mean()


def test_views_of_an_object_agree_on_their_mean_and_more_surely() -> None:
    given = np.array([[0.9, 0.1], [0.5, 0.5], [0.3, 0.7]])
    agreed = _agreed(given, np.array([0, 1, 0]), 2)
    assert np.allclose(agreed, [[0.6**2 / 0.52, 0.4**2 / 0.52], [0.5, 0.5]])


def test_no_batch_changes_a_bit_of_a_membership() -> None:
    random = np.random.default_rng(1)
    sizes = (5, 16, 16, 3)
    layers = tuple(
        (random.normal(size=(a, b)), random.normal(size=b)) for a, b in itertools.pairwise(sizes)
    )
    rule = Rule(None, (layers, layers))  # type: ignore[arg-type]
    x = random.normal(size=(rules.BLOCK + 37, 5))
    whole = rule.posterior(x)
    assert np.array_equal(whole[rules.BLOCK - 5 :], rule.posterior(x[rules.BLOCK - 5 :]))
    assert np.array_equal(whole[3:4], rule.posterior(x[3:4]))
    assert np.allclose(whole.sum(1), 1)
    hidden = np.maximum(x @ layers[0][0] + layers[0][1], 0)
    hidden = np.maximum(hidden @ layers[1][0] + layers[1][1], 0)
    scores = np.exp(hidden @ layers[2][0] + layers[2][1])
    assert np.allclose(whole, scores / scores.sum(1, keepdims=True))


def test_a_network_s_own_labels_are_not_made_steady() -> None:
    with pytest.raises(InputError, match="steady is of clusters"):
        specs.load(Clustering, {"on": "model", "steady": {}}, "survey.toml")


@pytest.mark.parametrize("on", ["both", "columns"])
def test_a_release_is_labelled_by_its_rule(tmp_path: Path, on: str) -> None:
    drawn.draw(tmp_path / "sky", objects=150)
    toml = drawn.survey_file(tmp_path / "sky.toml", tmp_path / "sky", MODEL)
    text = toml.read_text().replace(
        "[cluster]\n", f'[cluster]\non = "{on}"\nsmallest = 10\n{STEADY}'
    )
    toml.write_text(text)
    for name in ("first", "second"):
        run_chain(toml, tmp_path / name)
    tables = [
        tmp_path / name / "releases" / "sky" / "r1" / "labels.parquet"
        for name in ("first", "second")
    ]
    assert tables[0].read_bytes() == tables[1].read_bytes()
    workspace = Workspace.open(tmp_path / "first")
    refs = {
        name: Ref(name, digest)
        for name, digest in releases.record(workspace, "sky", None)["refs"].items()
    }
    fitted = load_clusters(workspace, refs["clusters"])
    assert fitted.rule is not None and fitted.mixture is not None
    table = pq.read_table(tables[0])
    rows = np.flatnonzero(np.array([label is not None for label in table["label"].to_pylist()]))
    observer = Observer(workspace, refs["stamps"], refs["embeddings"], rows)
    again = labelled(fitted, observer, observer.cutouts, observer.preparation)
    assert [fitted.names[k] for k in again.cluster] == table["label"].take(rows).to_pylist()
    probability = table["probability"].take(rows).to_numpy()
    assert np.allclose(again.probability, probability, atol=1e-6)
    # The rule's memberships are others than the mixture's, and its labels mostly the latter's.
    facts = json.loads((workspace.place(refs["clusters"]) / "clusters.json").read_text())
    told = facts["steady"]
    assert told["objects"] == 60 and 100 <= told["seen_worse"] <= 120
    assert 0.7 < told["as_mixture"] <= 1.0
    assert any("learnt those of the mixture" in note for note in facts["notes"])
    seen = observer.see(observer.cutouts, observer.preparation)
    plain = replace(fitted, rule=None).memberships(seen.columns, seen.arrays.get("vector"))
    ours = fitted.memberships(seen.columns, seen.arrays.get("vector"))
    assert not np.allclose(plain.posterior, ours.posterior, atol=1e-6, rtol=0)
    assert np.array_equal(plain.log_density, ours.log_density)
    # Each object is degraded by itself: alone it is the same.
    spec = Steady()
    conditions = [worse(spec, 0, one) for one in observer.cutouts.ids]
    whole = degrade(observer.cutouts, conditions, 3.0, 0)
    single = Observer(workspace, refs["stamps"], refs["embeddings"], rows[5:6])
    alone = degrade(single.cutouts, conditions[5:6], 3.0, 0)
    assert np.array_equal(whole.images[5], alone.images[0])
