"""Progress for people: bars on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from typing import IO, Any

from galpipe.stages import Progress

EVERY = 5.0  # seconds between two lines in a log


def choose(stream: IO[str] | None = None) -> Progress:
    """Bars where `stream` (standard error by default) is a terminal, lines where it is not."""
    stream = stream or sys.stderr
    return Bars(stream) if stream.isatty() else Lines(stream)


def duration(seconds: float) -> str:
    """A time span in a few characters: `42 s`, `3:07`, `2:05:40`; valid for seconds >= 0."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Lines:
    """A line when a stage begins, every few seconds with rate and time left, and at its end."""

    def __init__(self, stream: IO[str], every: float = EVERY) -> None:
        self._stream, self._every = stream, every
        self._stage: str | None = None

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self._stage, self._total, self._unit = stage, total, unit
        self._there = self._done = done
        self._note = ""
        self._begin = self._last = time.monotonic()
        there = f" ({done} there already)" if done else ""
        self.say(f"{stage}: {total} {unit}{there}")

    def advance(self, count: int = 1, note: str = "") -> None:
        if self._stage is None:
            return
        self._done += count
        self._note = note or self._note
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            self.say(self._state(now))

    def finish(self) -> None:
        if self._stage is not None:
            taken = duration(time.monotonic() - self._begin)
            note = f", {self._note}" if self._note else ""
            self.say(f"{self._stage}: {self._done} {self._unit} in {taken}{note}")
        self._stage = None

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def _state(self, now: float) -> str:
        fresh = self._done - self._there
        rate = fresh / max(now - self._begin, 1e-9)
        left = f", {duration((self._total - self._done) / rate)} left" if rate > 0 else ""
        percent = f" ({100 * self._done / self._total:.0f} %)" if self._total else ""
        note = f", {self._note}" if self._note else ""
        return (
            f"{self._stage}: {self._done}/{self._total} {self._unit}{percent}, "
            f"{rate:.3g} {self._unit}/s{left}{note}"
        )


class Bars:
    """One bar per stage with rate and time left, by rich, below what is said."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console

        self._console = Console(file=stream)
        self._bar: Any = None

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        from rich import progress as rich

        self.finish()
        self._bar = rich.Progress(
            rich.TextColumn("{task.description:<9}"),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TextColumn("{task.fields[unit]}"),
            rich.TextColumn("{task.fields[rate]}"),
            rich.TimeElapsedColumn(),
            rich.TimeRemainingColumn(),
            rich.TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        self._task = self._bar.add_task(
            stage, total=total, completed=done, unit=unit, rate="", note=""
        )
        self._there = self._done = done
        self._unit, self._begin = unit, time.monotonic()
        self._bar.start()

    def advance(self, count: int = 1, note: str = "") -> None:
        if self._bar is None:
            return
        self._done += count
        rate = (self._done - self._there) / max(time.monotonic() - self._begin, 1e-9)
        fields = {"rate": f"{rate:.3g}/s"} | ({"note": note} if note else {})
        self._bar.update(self._task, advance=count, **fields)

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)
