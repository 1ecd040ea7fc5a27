"""What the labels are compared with, and how they are published."""

from __future__ import annotations

from galpipe.spec import spec


@spec
class Truth:
    """Columns of the input table that the evaluation compares the clusters with; never trained on."""

    classes: str | None = None  # a column of class names; empty cells are left out
    votes: tuple[str, ...] = ()  # vote fractions, each histogrammed per cluster


@spec
class Evaluation:
    """Figures of the held-out split."""

    truth: Truth = Truth()
    permutations: int = 100
    seed: int = 0


@spec
class Publication:
    """The published table."""

    carry: tuple[str, ...] = ()  # input columns copied into the labels, with the prefix `input_`
