"""How long to wait before asking again, and whom not to ask before when."""

from __future__ import annotations

import email.utils
import functools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from galpipe.status import Status

LONGEST_WAIT = 120.0  # seconds between two tries, where the server asks for none


class TryAgainError(Exception):
    """One try failed and another may not; `wait` is what the server asked for, in seconds."""

    def __init__(self, status: Status, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.wait = wait


class StoppedError(Exception):
    """The run is being stopped: nothing more is asked."""


class LeftAloneError(Exception):
    """A host asked for a longer wait than the run has patience for; `seconds` of it are left."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


def retry_after(text: str | None) -> float | None:
    """The seconds of a Retry-After header (RFC 9110, section 10.2.3): a number or a date."""
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds else None


def backoff(patience: float, attempt: int, asked: float | None) -> float:
    """Seconds before the next try: full jitter over a doubling range, no less than was asked.

    What was asked is for the caller to refuse where it has not the patience.
    """
    jitter = random.uniform(0, min(patience * 2**attempt, LONGEST_WAIT))  # noqa: S311 (no secret)
    return max(asked or 0.0, jitter)


class Host:
    """What this process knows of a host: how many may ask at once, and not before when."""

    def __init__(self, connections: int) -> None:
        self._free = threading.BoundedSemaphore(connections)
        self._closed_until = 0.0

    @contextmanager
    def gate(self, stopped: threading.Event, longest: float) -> Iterator[None]:
        """Within the block a request may be made.

        Raises StoppedError, and LeftAloneError where the host is closed for more than `longest`
        seconds.
        """
        with self._free:
            while (left := self._closed_until - time.monotonic()) > 0:
                if left > longest:
                    raise LeftAloneError(left)
                if stopped.wait(left):
                    raise StoppedError
            if stopped.is_set():
                raise StoppedError
            yield

    def close(self, seconds: float) -> None:
        """Let nobody ask for so long: the host said so."""
        self._closed_until = max(self._closed_until, time.monotonic() + seconds)


@functools.cache
def host_at(name: str, connections: int) -> Host:
    """The gate of a host, the same for all that ask it from this process."""
    return Host(connections)
