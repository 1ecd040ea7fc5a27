"""Diffusion coordinates: groups of any shape come apart, and no batch changes a bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from galpipe.catalogue.information import adjusted_rand_index
from galpipe.classes.diffusion import fit_diffusion, nearest
from galpipe.classes.features import fit_vectors, plain_vectors, restored_vectors, stored
from galpipe.classes.mixture import fit_mixture
from galpipe.classes.spec import Clustering, Feature, Neighbours
from galpipe.errors import InputError


def moons(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two half circles in each other's arms, (count, 2), and whose arm it is."""
    rng = np.random.default_rng(seed)
    which, angle = rng.integers(0, 2, count), rng.uniform(0, np.pi, count)
    x = np.where(which, 1 - np.cos(angle), np.cos(angle))
    y = np.where(which, 0.4 - np.sin(angle), np.sin(angle))
    return np.stack([x, y], 1) + rng.normal(0, 0.07, (count, 2)), which


def two(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Labels of y by a mixture of two Gaussians fitted to x."""
    mixture, _ = fit_mixture(
        x, x, components=2, regularisation=0.01, restarts=5, iterations=300, seed=0
    )
    return np.asarray(mixture.posterior(y)[0].argmax(axis=1))


def test_arms_come_apart_that_a_mixture_cuts() -> None:
    train, _ = moons(600)
    fresh, whose = moons(400, seed=1)
    fitted = fit_diffusion(train, axes=2, neighbours=15, landmarks=1000)
    assert adjusted_rand_index(two(train, fresh), whose) < 0.7
    labels = two(fitted.apply(train), fitted.apply(fresh))
    assert adjusted_rand_index(labels, whose) > 0.97
    assert np.allclose(fitted.apply(train).std(axis=0), 1)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 99), min_size=1, max_size=40))
def test_company_changes_no_bit(rows: list[int]) -> None:
    points, _ = moons(100)
    fitted = fit_diffusion(points, axes=3, neighbours=8, landmarks=60)
    assert len(fitted.landmarks) == 60
    assert np.array_equal(fitted.apply(points[rows]), fitted.apply(points)[rows])


def test_neighbours_are_the_nearest() -> None:
    rng = np.random.default_rng(0)
    points, others = rng.normal(size=(30, 4)), rng.normal(size=(80, 4))
    near, distance = nearest(points, others, 5)
    every = np.linalg.norm(points[:, None] - others, axis=2)
    assert np.array_equal(near, np.argsort(every, axis=1)[:, :5])
    assert np.allclose(distance, np.sort(every, axis=1)[:, :5])


def test_equal_objects_and_far_ones_have_coordinates() -> None:
    points, _ = moons(200)
    points[50:90] = points[50]  # forty that stand on each other
    fitted = fit_diffusion(points, axes=2, neighbours=10, landmarks=200)
    far = np.array([[1e3, -1e3], points[50]])
    assert np.isfinite(fitted.apply(points)).all() and np.isfinite(fitted.apply(far)).all()


def clustering(**changed: object) -> Clustering:
    wanted = (Feature(column="a", weight=3.0), Feature(column="b"))
    return Clustering(columns=wanted, **{"neighbours": Neighbours(axes=2, nearest=10), **changed})  # type: ignore[arg-type]


def test_the_way_is_kept_and_columns_have_their_weight() -> None:
    points, _ = moons(300)
    train = np.ones(300, bool)
    plain = fit_vectors(clustering(neighbours=None), ("a", "b"), points, None, train)
    spread = plain.apply(points, None)[0].std(axis=0)
    assert spread[0] == pytest.approx(3) and spread[1] == pytest.approx(1)
    fitted = fit_vectors(clustering(), ("a", "b"), points, None, train)
    assert fitted.names == ("diffusion_01", "diffusion_02")
    vectors = fitted.apply(points, None)[0]
    assert vectors.shape == (300, 2)
    names, told = plain_vectors(fitted, points, None)  # what a reader is told is in sigma
    assert names == ("a", "b") and np.allclose(told.std(axis=0), 1)
    again = restored_vectors(*stored(fitted))
    assert np.array_equal(again.apply(points, None)[0], vectors)


def test_too_few_objects_and_a_network_of_its_own_labels_are_refused() -> None:
    points, _ = moons(300)
    few = np.arange(300) < 11
    with pytest.raises(InputError, match=r"11 usable objects .* too few for 10 neighbours"):
        fit_vectors(clustering(), ("a", "b"), points, None, few)
    with pytest.raises(ValidationError, match="neighbours are of clustered vectors"):
        clustering(on="model")
