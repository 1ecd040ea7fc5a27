"""Bytes from archives: one downloader with one policy of time limits, retries and politeness."""

from __future__ import annotations

import email.utils
import functools
import random
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import urlsplit

import httpx

from galpipe.archives.spec import Served
from galpipe.archives.trouble import BadImageError
from galpipe.status import Status

T = TypeVar("T")
USER_AGENT = f"galpipe (astronomical survey pipeline) python-httpx/{httpx.__version__}"
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT = 120.0  # seconds between two tries, whatever Retry-After says
LONGEST_ANSWER = 20  # times the limit without a byte: an answer that drips longer is cut off
LARGEST_ANSWER = 256 * 2**20  # bytes
SILENT_AFTER = 3  # failures in a row after which an archive gets one try per file until it answers


class TroubleError(Exception):
    """One try failed and another may not; `wait` is what the server asked for, in seconds."""

    def __init__(self, status: Status, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.wait = wait


class Pace:
    """At most so many requests a minute, evenly spaced, over all threads of a process."""

    def __init__(self, per_minute: float) -> None:
        self._interval = 60.0 / per_minute
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Sleep until the next request may go."""
        with self._lock:
            now = time.monotonic()
            slot = max(now, self._next)
            self._next = slot + self._interval
        time.sleep(slot - now)


_paces: dict[tuple[str, float], Pace] = {}
_paces_lock = threading.Lock()


def pace_of(spec: Served) -> Pace | None:
    """The pace of a SkyServer, shared by all that ask it from this process."""
    if spec.requests_per_minute is None:
        return None
    with _paces_lock:
        key = (spec.skyserver, spec.requests_per_minute)
        return _paces.setdefault(key, Pace(spec.requests_per_minute))


@functools.cache
def _trusted() -> ssl.SSLContext:
    """The certificates that are trusted, read once a process: it takes a third of a second."""
    return httpx.create_ssl_context()


def is_local(address: str) -> bool:
    """Whether an address is of this machine, which no proxy can reach."""
    return urlsplit(address).hostname in ("127.0.0.1", "::1", "localhost")


def retry_after(text: str | None) -> float | None:
    """The seconds of a Retry-After header (RFC 9110, section 10.2.3): a number or a date."""
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def backoff(patience: float, attempt: int, asked: float | None) -> float:
    """Seconds before the next try: full jitter over a doubling range, or what the server asked."""
    if asked is not None:
        return min(asked, LONGEST_WAIT)
    return random.uniform(0, min(patience * 2**attempt, LONGEST_WAIT))  # noqa: S311 (no secret)


class Downloader:
    """Fetches and checks files; a context that keeps connections open; used by many threads."""

    def __init__(self, spec: Served, address: str, pace: Pace | None = None) -> None:
        self.spec = spec
        self._pace = pace
        self._failures = 0
        self._stopped = threading.Event()
        self._client = httpx.Client(
            timeout=httpx.Timeout(spec.timeout, connect=min(spec.timeout, 10.0)),
            limits=httpx.Limits(max_connections=spec.connections),
            headers={"User-Agent": USER_AGENT},
            follow_redirects=True,
            trust_env=not is_local(address),
            verify=_trusted(),
        )

    def __enter__(self) -> Downloader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._client.close()

    def fetch(
        self,
        url: str,
        check: Callable[[bytes], T],
        parameters: Mapping[str, str | int | float] | None = None,
    ) -> T:
        """What `check` makes of the bytes of a file; it raises BadImageError where they are bad.

        Raises BadImageError: NO_COVERAGE where the archive has no such file, CORRUPT where every
        try brought bad bytes, FAILED where the archive did not answer (a later run may get it).
        """
        tries = self.spec.tries if self._failures < SILENT_AFTER else 1
        for attempt in range(tries):
            try:
                found = self._once(url, check, parameters)
                self._failures = 0
                return found
            except TroubleError as trouble:
                if attempt + 1 == tries:
                    self._failures += trouble.status == Status.FAILED
                    raise BadImageError(trouble.status, trouble.reason) from None
                if self._stopped.wait(backoff(self.spec.patience, attempt, trouble.wait)):
                    raise BadImageError(Status.FAILED, "the run was stopped") from None
        raise AssertionError("unreachable")

    def _once(
        self,
        url: str,
        check: Callable[[bytes], T],
        parameters: Mapping[str, str | int | float] | None,
    ) -> T:
        if self._pace is not None:
            self._pace.wait()
        try:
            content = self._answer(url, parameters)
        except httpx.TransportError as error:
            raise TroubleError(Status.FAILED, f"no whole answer ({type(error).__name__})") from None
        except httpx.HTTPError as error:  # too many redirects, undecodable content
            raise TroubleError(
                Status.FAILED, f"no usable answer ({type(error).__name__})"
            ) from None
        if not content:
            raise TroubleError(Status.FAILED, "the answer is empty")
        if content.lstrip()[:1] == b"<":
            raise TroubleError(Status.FAILED, "the archive answered with a web page")
        try:
            return check(content)
        except BadImageError as error:
            raise TroubleError(error.status, error.reason) from None

    def _answer(self, url: str, parameters: Mapping[str, str | int | float] | None) -> bytes:
        begin = time.monotonic()
        pieces: list[bytes] = []
        size = 0
        with self._client.stream("GET", url, params=parameters) as answer:
            if answer.status_code in (404, 410):
                self._failures = 0
                raise BadImageError(
                    Status.NO_COVERAGE, f"not in the archive (HTTP {answer.status_code})"
                )
            if answer.status_code in TRY_AGAIN:
                wait = retry_after(answer.headers.get("Retry-After"))
                raise TroubleError(Status.FAILED, f"HTTP {answer.status_code}", wait)
            if answer.status_code != 200:
                raise BadImageError(Status.FAILED, f"HTTP {answer.status_code}")
            for piece in answer.iter_bytes():
                pieces.append(piece)
                size += len(piece)
                if size > LARGEST_ANSWER:
                    raise TroubleError(Status.CORRUPT, "the answer is larger than any frame")
                if time.monotonic() - begin > LONGEST_ANSWER * self.spec.timeout:
                    raise TroubleError(Status.FAILED, "the answer comes too slowly")
        return b"".join(pieces)
