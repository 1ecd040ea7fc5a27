"""What the labels are compared with, and how they are published."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from galpipe.catalogue.credit import DATA
from galpipe.spec import run_time, spec


@spec
class Truth:
    """Columns of the input table that the clusters are compared with; never trained on."""

    classes: str | None = None  # a column of class names; empty cells are left out
    votes: tuple[str, ...] = ()  # vote fractions, each histogrammed per cluster
    vote_counts: str | None = None  # a column of how many votes an object has; None: all count
    fewest_votes: int = Field(default=20, ge=0)  # objects with fewer are left out of `votes`


@spec
class Evaluation:
    """Figures of the held-out split."""

    truth: Truth = Truth()
    permutations: int = Field(default=100, ge=2)  # of the labels, for the chance level
    fewest: int = Field(default=50, ge=1)  # held-out objects; with fewer all objects are judged
    largest: int = Field(default=20_000, ge=100)  # objects judged at most, evenly along the ids
    silhouettes: int = Field(default=2000, ge=10)  # objects whose silhouette is computed
    gallery: int = Field(default=12, ge=1, le=45)  # stamps shown of each cluster
    seed: int = Field(default=0, ge=0)  # of permutations and random members


def _known_source(key: str) -> str:
    if key not in DATA:
        raise ValueError(f"name a known source: {', '.join(sorted(DATA))}")
    return key


Source = Annotated[str, AfterValidator(_known_source)]


@spec
class Publication:
    """The published table, and whom the report beside it credits."""

    carry: tuple[str, ...] = ()  # input columns copied into the labels, with the prefix `input_`
    # Sources of the data, by name, in place of those of the archive; shown, never in a label.
    credit: tuple[Source, ...] | None = run_time(None)
