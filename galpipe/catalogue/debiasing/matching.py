"""Vote fractions as they would be, had every galaxy been seen from near by.

Volunteers, and networks that learn from them, see fewer features in a galaxy that is farther away,
and so fainter and smaller on the sky.  Among galaxies that are alike in what distance does not
change (luminosity, size in kpc), the fractions at every redshift are given the distribution that
they have at the lowest (Willett et al. 2013, section 3.3; Hart et al. 2016, section 3).

Shapes: N objects, L columns in which galaxies are alike, R answers of all questions in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

LEADING = 0.5  # of the volunteers come to a question where its distribution is taken
FEWEST = 20  # fractions that make a distribution


@dataclass(frozen=True)
class Asked:
    """A question: the places of its answers among all, and of those that lead to it (or none)."""

    answers: slice
    after: tuple[int, ...]


@dataclass(frozen=True)
class Debiased:
    """What came of it."""

    fractions: Floats  # (N, R); those of an object that is in no cell are as they were
    cell: Rows  # (N), which galaxies it was taken to be like; -1: none
    bin: Rows  # (N), of redshift in its cell, 0 the nearest, whose fractions stay; -1: none


def debiased(
    fractions_NR: Floats, redshift_N: Floats, like_NL: Floats, questions: Sequence[Asked], each: int
) -> Debiased:
    """Match the distributions at all redshifts to those at the lowest, answer by answer.

    Cells of like galaxies are halves of halves by the median of the columns in turn, as long as
    each half holds four bins of `each` objects; a cell's bins of redshift hold as many objects
    each.  The distribution of a conditional question is that of the galaxies that LEADING of the
    volunteers, or more, come to it for.  The fractions of a question's answers add up to 1 again.
    Objects with an unknown redshift, column or fraction stay as they are, and so do all where there
    are fewer than two bins.
    """
    known = np.isfinite(redshift_N) & np.isfinite(like_NL).all(1) & np.isfinite(fractions_NR).all(1)
    found = fractions_NR.copy()
    cell, place = np.full(len(known), -1), np.full(len(known), -1)
    for number, rows in enumerate(_cells(np.flatnonzero(known), like_NL, 4 * each, 0)):
        if len(rows) < 2 * each:
            continue
        nearest_first = rows[np.argsort(redshift_N[rows], kind="stable")]
        bins = np.array_split(nearest_first, len(rows) // each)
        cell[rows] = number
        for k, members in enumerate(bins):
            place[members] = k
            if k:
                found[members] = _matched(fractions_NR, found, bins[0], members, questions)
    return Debiased(found, cell, place)


def _cells(rows: Rows, like_NL: Floats, fewest: int, axis: int) -> list[Rows]:
    if len(rows) < 2 * fewest:
        return [rows]
    order = rows[np.argsort(like_NL[rows, axis], kind="stable")]
    following = (axis + 1) % like_NL.shape[1]
    halves = np.array_split(order, 2)
    return [cell for half in halves for cell in _cells(half, like_NL, fewest, following)]


def _matched(
    seen_NR: Floats, found_NR: Floats, near: Rows, far: Rows, questions: Sequence[Asked]
) -> Floats:
    """The far objects' fractions with the near ones' distributions, (far, R)."""
    made = seen_NR[far].copy()
    for question in questions:
        own, reference = seen_NR[far, question.answers], found_NR[near, question.answers]
        # Who comes to a far galaxy's question follows from what is debiased already.
        leads = _coming(made, questions, question) >= LEADING
        leads_near = _coming(found_NR[near], questions, question) >= LEADING
        if min(leads.sum(), leads_near.sum()) < FEWEST:
            continue
        moved = np.stack(
            [
                _moved(own[:, k], own[leads, k], reference[leads_near, k])
                for k in range(own.shape[1])
            ],
            axis=1,
        )
        total = moved.sum(1, keepdims=True)
        made[:, question.answers] = np.where(total > 0, moved / np.where(total > 0, total, 1), own)
    return made


def _coming(fractions_NR: Floats, questions: Sequence[Asked], question: Asked) -> Floats:
    """The share of all volunteers that come to a question, (N)."""
    if not question.after:
        return np.ones(len(fractions_NR))
    total = np.zeros(len(fractions_NR))
    for place in question.after:
        before = next(q for q in questions if q.answers.start <= place < q.answers.stop)
        total += fractions_NR[:, place] * _coming(fractions_NR, questions, before)
    return total


def _moved(values: Floats, own: Floats, reference: Floats) -> Floats:
    """Values at the place in `reference` that they have in `own`, by quantiles in between."""
    own, reference = np.sort(own), np.sort(reference)
    levels = [(np.arange(len(one)) + 0.5) / len(one) for one in (own, reference)]
    # Equal values have one place, the middle of theirs.
    steps, first, count = np.unique(own, return_index=True, return_counts=True)
    middles = levels[0][first] + 0.5 * (count - 1) / len(own)
    return np.interp(np.interp(values, steps, middles), levels[1], reference)
