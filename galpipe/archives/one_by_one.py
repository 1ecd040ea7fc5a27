"""Retrieval from archives that are asked for one object after the other: one part, in row order."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from galpipe import spec as specs
from galpipe.archives.ledger import Ledger
from galpipe.archives.provider import PlannedPart, Provider
from galpipe.archives.spec import Archive
from galpipe.stages import Context
from galpipe.stamps.parts import PartLayout
from galpipe.workspace import address


class Wanted(Protocol):
    """An object to fetch; `status` is not 0 where it cannot be, and `reason` says why."""

    @property
    def row(self) -> int: ...
    @property
    def id(self) -> int | str: ...
    @property
    def side(self) -> int: ...
    @property
    def version(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def reason(self) -> str | None: ...


W = TypeVar("W", bound=Wanted)


@dataclass(frozen=True, eq=False)
class ListedPart(PlannedPart, Generic[W]):
    """A part whose objects are asked for one by one."""

    targets: tuple[W, ...]


class OneByOne(Provider[ListedPart[W]], Generic[W]):
    """What all such archives have alike."""

    version = 1

    def __init__(self, spec: Archive, ids: pa.ChunkedArray, targets: Sequence[W]) -> None:
        """`targets`: what to fetch for each row of a catalogue with these ids."""
        self.spec = spec
        self.targets = targets
        self.asked = specs.digest([[one.id, one.version, one.status] for one in targets])
        self.ledger = Ledger(
            ids.to_numpy(),
            pa.array([one.version for one in targets], pa.string()),
            np.array([one.status for one in targets], np.int32),
            {one.row: one.reason for one in targets if one.reason is not None},
            spec.bands,
        )

    @abstractmethod
    def shape(self, side: int, objects: int) -> tuple[PartLayout, list[Any]]:
        """The layout of a part of stamps of at most `side` pixels, and what addresses it."""

    @abstractmethod
    def attributes(self) -> Mapping[str, Any]:
        """What is kept with the arrays of a part."""

    def plan(
        self, context: Context, rows: NDArray[np.int64], after: str | None
    ) -> list[ListedPart[W]]:  # fmt: skip
        """One part, addressed by its objects and by the part that lacks them."""
        targets = tuple(self.targets[row] for row in rows.tolist())
        layout, store = self.shape(max(one.side for one in targets), len(targets))
        contents = [[one.id, one.version] for one in targets]
        parents = {"objects": contents, "store": store, "after": after}
        ref = address("cutout-part", self.version, self.spec, parents)
        return [ListedPart(ref, layout, rows, self.ledger.ids[rows], self.attributes(), targets)]

    def content(self) -> str:
        """A digest of what the pixels of all objects are, wherever they lie."""
        return self.ledger.content(self.spec)
