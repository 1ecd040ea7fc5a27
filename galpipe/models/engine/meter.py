"""How long a training waits for its stamps, and how fast they come."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Meter:
    """Time spent waiting for batches, out of the time since the meter was made."""

    begin: float = field(default_factory=time.perf_counter)
    waited: float = 0.0  # seconds
    volume: int = 0  # bytes that came

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; the time until each came is counted."""
        source = iter(items)
        while True:
            asked = time.perf_counter()
            try:
                item = next(source)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - asked
            yield item

    def figures(self) -> dict[str, float]:
        """Share of the time spent waiting, and MB/s of stamps over the whole time."""
        seconds = max(time.perf_counter() - self.begin, 1e-9)
        return {
            "waiting_share": self.waited / seconds,
            "megabytes_per_second": self.volume / 1e6 / seconds,
            "epoch_seconds": seconds,
        }


def in_words(figures: Mapping[str, float]) -> str:
    """The figures of a meter, as a progress bar shows them."""
    waited = 100 * figures["waiting_share"]
    return f"{waited:.0f} % waiting for stamps ({figures['megabytes_per_second']:.3g} MB/s)"
