"""The schedule of a training, whole and shortened."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from galpipe import spec
from galpipe.models.schedule import epochs, shortened
from galpipe.models.spec import Training

PAPER = Training(warm_up=100, cycles=5, annealing=25, static=25, decay_every=3)


def test_shortened_paper_schedule() -> None:
    short = shortened(dataclasses.replace(PAPER, batch=190, pruned=12), 500)
    phases = [epoch.phase for epoch in epochs(short)]
    assert phases == ["warm-up"] * 3 + ["annealing", "static"] * 4
    assert short.batch == 20
    rates = [epoch.learning_rate for epoch in epochs(short)]
    assert rates[0] == PAPER.learning_rate
    assert rates == sorted(rates, reverse=True)


def test_schedule_is_whole_without_a_bound() -> None:
    assert shortened(PAPER, 500) == PAPER
    assert shortened(dataclasses.replace(PAPER, pruned=350), 500).warm_up == 100


def test_bound_is_no_part_of_the_identity() -> None:
    assert spec.identity(dataclasses.replace(PAPER, pruned=12)) == spec.identity(PAPER)


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
    whole = Training(
        warm_up=warm_up, cycles=cycles, annealing=annealing, static=static, pruned=pruned
    )
    before, after = epochs(whole), epochs(shortened(whole, 100))
    assert len(after) <= max(len(before), 0)
    assert {e.phase for e in after} == {e.phase for e in before}
    assert len(after) <= max(pruned, len({e.phase for e in before}))
