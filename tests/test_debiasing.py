"""Debiasing: distributions with distance, matched among galaxies that are alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from galpipe.catalogue.debiasing.matching import Asked, debiased

# smooth or features; of those with features, arms or none
QUESTIONS = (Asked(slice(0, 2), ()), Asked(slice(2, 4), (1,)))


def planted(count: int, seed: int = 0) -> tuple[np.ndarray, ...]:  # type: ignore[type-arg]
    """True and seen fractions (N, 4), redshifts and luminosities.

    Luminous galaxies have more features; features and arms fade with distance.
    """
    random = np.random.default_rng(seed)
    redshift, luminosity = random.uniform(0.02, 0.25, count), random.uniform(0, 1, count)
    features = random.beta(1.5 + 3 * luminosity, 1.5)
    arms = random.beta(2, 1.5 + luminosity)
    fading = 1 + 6 * np.maximum(redshift - 0.06, 0)  # nearer ones are seen as they are
    both = [
        np.stack([1 - features**power, features**power, arms**power, 1 - arms**power], 1)
        for power in (np.ones(count), fading)
    ]
    return both[0], both[1], redshift, luminosity


def test_planted_fading_is_undone_and_near_galaxies_stay() -> None:
    true, seen, redshift, luminosity = planted(24_000)
    found = debiased(seen, redshift, luminosity[:, None], QUESTIONS, 100)
    assert (found.bin >= 0).all() and len(set(found.cell.tolist())) == 32
    np.testing.assert_array_equal(found.fractions[found.bin == 0], seen[found.bin == 0])
    far = redshift > 0.2
    for column in (1, 2):
        before = np.sqrt(((seen - true)[far, column] ** 2).mean())
        after = np.sqrt(((found.fractions - true)[far, column] ** 2).mean())
        assert after < 0.06 and after < before / 3
        assert found.fractions[far, column].mean() == pytest.approx(
            true[far, column].mean(), abs=0.02
        )


def test_without_like_galaxies_the_luminous_would_seem_to_change() -> None:
    """A sample that is luminous only far away: distance alone takes luminosity for its bias."""
    true, _, redshift, luminosity = planted(24_000)
    kept = luminosity > (redshift - 0.02) / 0.23 - 0.3
    true, redshift, luminosity = true[kept], redshift[kept], luminosity[kept]
    alike = debiased(true, redshift, luminosity[:, None], QUESTIONS, 100)
    blind = debiased(true, redshift, np.zeros((len(true), 1)), QUESTIONS, 100)
    far = redshift > 0.2
    wrong = [abs((one.fractions - true)[far, 1].mean()) for one in (alike, blind)]
    assert wrong[0] < 0.025 < wrong[1]


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_fractions_of_a_question_add_up_and_the_unknown_stay(seed: int, missing: float) -> None:
    _, seen, redshift, luminosity = planted(300, seed)
    random = np.random.default_rng(seed)
    redshift = np.where(random.random(300) < missing, np.nan, redshift)
    seen[random.random(300) < 0.05] = np.nan
    seen[::7, :2] = (1.0, 0.0)  # many alike
    order = random.permutation(300)
    found = debiased(seen, redshift, luminosity[:, None], QUESTIONS, 20)
    again = debiased(seen[order], redshift[order], luminosity[order, None], QUESTIONS, 20)
    np.testing.assert_array_equal(again.fractions, found.fractions[order])
    stay = found.bin < 0
    np.testing.assert_array_equal(found.fractions[stay], seen[stay])
    assert (stay == (found.cell < 0)).all()
    assert stay[~np.isfinite(redshift) | ~np.isfinite(seen[:, 0])].all()
    moved = found.fractions[~stay]
    assert ((moved >= 0) & (moved <= 1)).all()
    np.testing.assert_allclose(moved[:, :2].sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(moved[:, 2:].sum(1), 1, atol=1e-12)


def test_too_few_for_two_bins_stay_as_they_are() -> None:
    _, seen, redshift, luminosity = planted(39)
    found = debiased(seen, redshift, luminosity[:, None], QUESTIONS, 20)
    assert (found.bin == -1).all() and np.array_equal(found.fractions, seen)
