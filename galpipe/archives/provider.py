"""What a kind of archive does for a retrieval: it locates, plans, fetches and tells what it costs.

One class per kind, each in its own file; `galpipe.archives.retrieve` does all the rest alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.ledger import Ledger, Told
from galpipe.archives.spec import Archive
from galpipe.stages import Context
from galpipe.stamps.parts import Part, PartLayout
from galpipe.workspace import Ref


@dataclass(frozen=True, eq=False)
class PlannedPart:
    """A part to be made: its address, its shape, and its objects in row order.

    `rows`: of the catalogue, (object,); `attributes` are kept with its arrays.
    """

    ref: Ref
    layout: PartLayout
    rows: NDArray[np.int64]
    ids: NDArray[Any]
    attributes: Mapping[str, Any]


P = TypeVar("P", bound=PlannedPart)


@dataclass(frozen=True)
class Unfinished(Generic[P]):
    """A part of which some shards are not there yet."""

    planned: P
    part: Part
    missing: Sequence[int]

    @property
    def objects(self) -> int:
        """How many objects the missing shards have."""
        spans = (self.part.rows(shard) for shard in self.missing)
        return sum(span.stop - span.start for span in spans)


@dataclass(frozen=True)
class Work:
    """What makes the missing shards: a picklable function of each item, giving objects done.

    `bill`: one line of what it will cost, told before it starts; None where nothing is asked of
    anybody.
    """

    function: Callable[[Any], int]
    items: Iterable[Any]
    bill: str | None = None


class Provider(ABC, Generic[P]):
    """An archive that was asked for the objects of a catalogue."""

    spec: Archive
    version: int  # of what this kind makes, part of its addresses
    mend: str  # what to mend where no object has a usable image
    asked: str  # a digest of what is wanted, known before anything is fetched
    ledger: Ledger  # one row per row of the catalogue; status 0 where the pixels are to be fetched

    @abstractmethod
    def plan(self, context: Context, rows: NDArray[np.int64], after: str | None) -> Sequence[P]:
        """The parts for some rows of the catalogue, whose status is 0 or FAILED.

        `after` is the digest of the part whose failed rows they are; None for those never tried.
        A row that cannot be fetched after all is told to the ledger and is in no part.
        """

    @abstractmethod
    def work(
        self, context: Context, unfinished: Sequence[Unfinished[P]]
    ) -> AbstractContextManager[Work]:
        """What makes the missing shards of some parts; the archive answers while it lasts."""

    def tidy(self, path: Path) -> None:
        """Drop what was kept beside a part while it was made."""

    def told(self, facts: Mapping[str, Any], at: int, row: int) -> Sequence[Told] | None:
        """How the bands of an object ended, by the facts of its shard; None: all as the object.

        `at`: which row of the shard it is; `row`: of the catalogue.
        """
        bands: Sequence[Sequence[Any]] | None = facts["bands"][at] if facts.get("bands") else None
        return [Told(*band) for band in bands] if bands else None

    @abstractmethod
    def content(self) -> str:
        """A digest of what the pixels of all objects are, wherever they lie."""
