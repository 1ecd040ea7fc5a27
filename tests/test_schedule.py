"""The schedule of a training, whole and shortened, and the learning rate of every step."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galpipe import spec
from galpipe.models.engine.rates import falls, rate_at
from galpipe.models.engine.spec import Constant, Cosine, Exponential, OneCycle, Plateau
from galpipe.models.spec import Training, VaDE
from galpipe.models.training import shortened
from galpipe.models.vade import schedule
from galpipe.models.vade.schedule import epochs
from galpipe.models.vade.spec import Annealing

PAPER = VaDE(schedule=Annealing(warm_up=100, cycles=5, annealing=25, static=25))
TRAINING = Training(batch=190, pruned=12, rate=Exponential(final=1e-6, every=3))


def test_shortened_paper_schedule() -> None:
    model, training = shortened(PAPER, TRAINING, 500)
    phases = [epoch.phase for epoch in epochs(model.schedule)]
    assert phases == ["warm-up"] * 3 + ["annealing", "static"] * 4
    assert training.batch == 20
    rates = [rate_at(training, 25 * epoch, 25, len(phases)) for epoch in range(len(phases))]
    assert rates[0] == TRAINING.learning_rate
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates)) == len(rates)


def test_schedule_is_whole_without_a_bound() -> None:
    free = dataclasses.replace(TRAINING, pruned=None)
    assert shortened(PAPER, free, 500) == (PAPER, free)
    loose = dataclasses.replace(TRAINING, pruned=350)
    assert shortened(PAPER, loose, 500) == (PAPER, loose)


def test_bound_is_no_part_of_the_identity() -> None:
    other = dataclasses.replace(TRAINING, pruned=3, save_every=0.0)
    assert spec.identity(other) == spec.identity(TRAINING)


@given(
    warm_up=st.integers(0, 60),
    cycles=st.integers(0, 6),
    annealing=st.integers(0, 20),
    static=st.integers(0, 20),
    pruned=st.integers(1, 400),
)
def test_shortened_keeps_every_phase(
    warm_up: int, cycles: int, annealing: int, static: int, pruned: int
) -> None:
    whole = Annealing(warm_up=warm_up, cycles=cycles, annealing=annealing, static=static)
    before, after = epochs(whole), epochs(schedule.shortened(whole, pruned))
    assert len(after) <= max(len(before), 0)
    assert {e.phase for e in after} == {e.phase for e in before}
    assert len(after) <= max(pruned, len({e.phase for e in before}))


@pytest.mark.parametrize(
    "rate", [Cosine(rise=0.2), OneCycle(), Exponential(final=1e-5), Constant()]
)
def test_rates_rise_and_fall_as_told(rate: Any) -> None:
    training = Training(learning_rate=0.01, rate=rate)
    rates = [rate_at(training, step, 10, 10) for step in range(100)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.01, rel=1e-2) and min(rates) >= 0
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    if not isinstance(rate, Constant):
        assert rates[-1] < 0.01 * 0.01
    if isinstance(rate, OneCycle):
        assert rates[0] == pytest.approx(0.04 * 0.01) and 28 <= top <= 31


@pytest.mark.parametrize("steps", [1, 2, 10, 30])
def test_a_short_training_never_goes_faster_than_told(steps: int) -> None:
    training = Training(learning_rate=0.01, rate=Cosine())
    assert max(rate_at(training, step, steps, 1) for step in range(steps)) <= 0.01


def test_a_plateau_lowers_the_rate() -> None:
    assert falls([3.0, 2.0, 2.5, 2.4, 2.1, 2.2, 2.3, 1.0], patience=3) == 1
    training = Training(learning_rate=0.01, rate=Plateau(factor=0.5, patience=2))
    assert rate_at(training, 0, 1, 9, [1.0, 2.0, 2.0, 2.0, 2.0]) == pytest.approx(0.0025)
