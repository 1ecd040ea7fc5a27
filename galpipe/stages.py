"""What every stage receives: where to write, how to map over shards, whom to tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from galpipe.workspace import Workspace

A = TypeVar("A")
B = TypeVar("B")


class ShardMap(Protocol):
    """Apply a pure, picklable function to items, anywhere, in any order; results as they end."""

    def __call__(self, function: Callable[[A], B], items: Iterable[A], /) -> Iterator[B]: ...


def serial_map(function: Callable[[A], B], items: Iterable[A], /) -> Iterator[B]:
    """The map of one process: one item after the other."""
    return map(function, items)


class Progress(Protocol):
    """Where a stage says how far it is."""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """A long piece of work begins: `total` units, of which `done` were there already."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` units more are done; `note` is a short state (a loss, say)."""

    def finish(self) -> None:
        """The piece of work is done."""

    def say(self, text: str) -> None:
        """One line for the reader."""


class Silent:
    """Progress that nobody watches."""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None: ...

    def advance(self, count: int = 1, note: str = "") -> None: ...

    def finish(self) -> None: ...

    def say(self, text: str) -> None: ...


class TrackedRun(Protocol):
    """One run in the tracker: a training or an evaluation."""

    run_id: str | None

    def params(self, values: Mapping[str, Any]) -> None: ...

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...

    def tags(self, values: Mapping[str, str]) -> None: ...

    def dataset(self, name: str, digest: str, context: str, rows: int) -> None: ...

    def file(self, path: Path, folder: str = "") -> None: ...

    def model(self, folder: Path, name: str, alias: str) -> None: ...


class Tracker(Protocol):
    """Keeps runs: MLflow in production (`galpipe.tracking`), nothing in a quick test."""

    def run(self, kind: str, name: str, digest: str) -> AbstractContextManager[TrackedRun]:
        """A run of one kind (training, evaluation); `digest` is that of the output it makes."""


class _UntrackedRun:
    run_id: str | None = None

    def params(self, values: Mapping[str, Any]) -> None: ...

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...

    def tags(self, values: Mapping[str, str]) -> None: ...

    def dataset(self, name: str, digest: str, context: str, rows: int) -> None: ...

    def file(self, path: Path, folder: str = "") -> None: ...

    def model(self, folder: Path, name: str, alias: str) -> None: ...


class Untracked:
    """A tracker that keeps nothing."""

    def run(self, kind: str, name: str, digest: str) -> AbstractContextManager[TrackedRun]:
        return nullcontext(_UntrackedRun())


@dataclass(frozen=True)
class Context:
    """What every stage receives."""

    workspace: Workspace
    map: ShardMap = serial_map
    network_map: ShardMap = serial_map  # for functions that take all cores, or a GPU
    progress: Progress = field(default_factory=Silent)
    tracker: Tracker = field(default_factory=Untracked)
