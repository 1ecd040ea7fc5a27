"""Clusters of disjoint halves: alike where the galaxies have them, unlike where they have none."""

from __future__ import annotations

import numpy as np
import pytest

from galpipe.catalogue.information import adjusted_rand_index
from galpipe.catalogue.spec import Stability
from galpipe.catalogue.stability import continued, stability
from galpipe.classes.features import Axes, Vectors
from galpipe.classes.fitted import Clusters
from galpipe.classes.mixture import fit_mixture
from galpipe.classes.spec import Clustering

CLUSTERING = Clustering(components=4, regularisation=0.01, restarts=3)


def blobs(count: int, apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points (count, 3) about four centres `apart` standard deviations from the origin; whose."""
    rng = np.random.default_rng(seed)
    whose = rng.integers(0, 4, count)
    centres = apart * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    return centres[whose] + rng.normal(size=(count, 3)), whose


def fitted(train: np.ndarray, own: dict[str, str] | None = None) -> Clusters:
    mixture, _ = fit_mixture(
        train, train, components=4, regularisation=0.01, restarts=3, iterations=300, seed=0
    )
    vectors = Vectors(None, Axes(np.zeros(3), np.eye(3)), 0.25)
    return Clusters(mixture, vectors, 0.0, {} if own is None else {"own": own})


def test_planted_clusters_are_stable_and_shapeless_ones_are_not() -> None:
    spec = Stability(splits=2)
    train, judged = blobs(800, 4.0)[0], blobs(400, 4.0, seed=1)[0]
    found = stability(spec, CLUSTERING, fitted(train), train, judged)
    assert found is not None
    assert (found["n"], found["half"], found["splits"]) == (400, 400, 2)
    for name in ("seeded", "afresh", "published"):
        assert found[name]["lowest"] > 0.98
    train, judged = blobs(800, 0.0)[0], blobs(400, 0.0, seed=1)[0]
    shapeless = stability(spec, CLUSTERING, fitted(train), train, judged)
    assert shapeless is not None
    assert shapeless["afresh"]["mean"] < 0.5
    for name in ("seeded", "afresh", "published"):
        told = shapeless[name]
        assert -0.1 <= told["lowest"] <= told["mean"] <= told["highest"] < 0.9


def test_halves_are_those_of_the_seed() -> None:
    train, judged = blobs(400, 0.7)[0], blobs(200, 0.7, seed=1)[0]
    once = stability(Stability(splits=1), CLUSTERING, fitted(train), train, judged)
    assert once == stability(Stability(splits=1), CLUSTERING, fitted(train), train, judged)
    assert once != stability(Stability(splits=1, seed=1), CLUSTERING, fitted(train), train, judged)


def test_undefined_vectors_are_left_out() -> None:
    train, judged = blobs(400, 4.0)[0], blobs(200, 4.0, seed=1)[0]
    whole = fitted(train)
    holes = np.concatenate([judged, np.full((5, 3), np.nan)])
    spec = Stability(splits=1)
    assert stability(spec, CLUSTERING, whole, train, holes) == stability(
        spec, CLUSTERING, whole, train, judged
    )


@pytest.mark.parametrize("why", ["not asked for", "a network's own labels", "too few"])
def test_there_are_no_figures_where_there_are_no_halves(why: str) -> None:
    train = blobs(400, 4.0)[0]
    spec = None if why == "not asked for" else Stability()
    own = {"array": "responsibility"} if why == "a network's own labels" else None
    given = train[: 2 * 4 * CLUSTERING.smallest - 2] if why == "too few" else train
    assert stability(spec, CLUSTERING, fitted(train, own), given, train) is None


def test_going_on_from_a_mixture_keeps_to_its_clusters() -> None:
    """From the whole's mixture, a half comes to the clusters that the truth has, whatever order."""
    points, whose = blobs(1200, 4.0)
    start = fitted(points).mixture
    assert start is not None
    again = continued(start, points[:400], 0.01, 300)
    labels = again.posterior(points[400:])[0].argmax(axis=1)
    assert adjusted_rand_index(labels, whose[400:]) > 0.98
    assert np.all(np.diff(again.weights) <= 0) and again.weights.sum() == pytest.approx(1)
