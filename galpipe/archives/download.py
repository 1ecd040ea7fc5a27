"""Bytes from archives: one downloader with one policy of time limits, retries and politeness.

All that this process asks of a host goes through one gate (so many requests at once, none before
the moment the host asked for), and all that this machine asks of it keeps one pace.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from galpipe.archives.connections import Transport, answer_by
from galpipe.archives.pace import Pace, pace_at
from galpipe.archives.resuming import Begun, check_piece, length_of
from galpipe.archives.spec import Remote, Served
from galpipe.archives.trouble import BadImageError
from galpipe.archives.waiting import (
    LeftAloneError,
    StoppedError,
    TryAgainError,
    backoff,
    host_at,
    retry_after,
)
from galpipe.status import Status

T = TypeVar("T")
USER_AGENT = f"galpipe (astronomical survey pipeline) python-httpx/{httpx.__version__}"
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 5
LONGEST_ANSWER = 20  # times the limit without a byte: whatever takes longer is cut off
SLOWEST = 1024  # bytes per second; slower answers are cut off once the limit without a byte is over
LARGEST_ANSWER = 256 * 2**20  # bytes
SILENT_AFTER = 6  # failures in a row after which an archive gets one try per file until it answers
PORTS = {"http": 80, "https": 443}
STOPPED = "the run was stopped"


def elsewhere(url: httpx.URL, following: httpx.URL) -> str | None:
    """Why a redirect is not followed; None where it stays with the host and as safe as before."""
    if following.scheme not in PORTS:
        return f"it sends to a {following.scheme or 'nameless'}: address"
    if following.host != url.host:
        return f"it sends to another host, {following.host}"
    if following.scheme != url.scheme and following.scheme != "https":
        return "it sends from https to http"
    usual = [one.port in (None, PORTS[one.scheme]) for one in (url, following)]
    if not all(usual) and (following.port, following.scheme) != (url.port, url.scheme):
        return f"it sends to another port, {following.port}"
    return None


class Downloader:
    """Fetches and checks files; a context that keeps connections open; used by many threads."""

    def __init__(self, spec: Remote, address: str, pace: Pace | None = None) -> None:
        self.spec = spec
        if pace is None and isinstance(spec, Served) and address == spec.sas:
            pace = pace_at(address, spec.files_per_minute)
        self._pace = pace
        self._failures = 0
        self._stopped = threading.Event()
        self._host = host_at(urlsplit(address).netloc.lower(), spec.connections)
        self._client = httpx.Client(
            transport=Transport(address, spec.connections),
            timeout=httpx.Timeout(spec.timeout, connect=min(spec.timeout, 10.0)),
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
            follow_redirects=False,
            trust_env=False,  # the transport has asked the environment
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
        *,
        markup: bool = False,
        **asked: Any,
    ) -> T:
        """What `check` makes of the bytes of a file; it raises BadImageError where they are bad.

        `markup`: an answer that begins with `<` is no web page but what was asked for; `asked`: as
        httpx takes it (`method`, "GET" if left out, `data`, `json`, `headers`).  The bytes are
        those the server sent, not decoded.

        Raises BadImageError: NO_COVERAGE where the archive has no such file, CORRUPT where every
        try brought bad bytes, FAILED where the archive did not answer (a later run may get it).
        """
        tries = self.spec.tries if self._failures < SILENT_AFTER else 1
        begun = Begun()
        for attempt in range(tries):
            try:
                content = self._once(url, {**asked, "params": parameters}, begun, markup)
                try:
                    found = check(content)
                except BadImageError as error:
                    raise TryAgainError(error.status, error.reason) from None
                self._failures = 0
                return found
            except TryAgainError as trouble:
                if trouble.wait is not None and trouble.wait > self.spec.longest_wait:
                    raise self._left_alone(f"{trouble.reason}, and", trouble.wait) from None
                if attempt + 1 == tries:
                    failed = trouble.status == Status.FAILED
                    self._failures = self._failures + 1 if failed else 0
                    raise BadImageError(trouble.status, trouble.reason) from None
                if self._stopped.wait(backoff(self.spec.patience, attempt, trouble.wait)):
                    raise BadImageError(Status.FAILED, STOPPED) from None
            except LeftAloneError as alone:
                raise self._left_alone("the archive", alone.seconds) from None
            except StoppedError:
                raise BadImageError(Status.FAILED, STOPPED) from None
        raise AssertionError("unreachable")

    def _left_alone(self, who: str, seconds: float) -> BadImageError:
        told = (
            f"asks to wait {seconds:.0f} s, more than longest_wait ({self.spec.longest_wait:g} s)"
        )
        return BadImageError(Status.FAILED, f"{who} {told}")

    def _once(self, url: str, asked: Mapping[str, Any], begun: Begun, markup: bool) -> bytes:
        try:
            content = self._answer(url, asked, begun)
        except httpx.TransportError as error:
            raise TryAgainError(
                Status.FAILED, f"no whole answer ({type(error).__name__})"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise TryAgainError(
                Status.FAILED, f"no usable answer ({type(error).__name__})"
            ) from None
        if not content:
            raise TryAgainError(Status.FAILED, "the answer is empty")
        if not markup and content[:64].lstrip()[:1] == b"<":
            raise TryAgainError(Status.FAILED, "the archive answered with a web page")
        return content

    def _answer(self, url: str, asked: Mapping[str, Any], begun: Begun) -> bytes:
        """The body of an answer with status 200, over redirects that stay with the host."""
        method = asked.get("method", "GET")
        rest = {name: value for name, value in asked.items() if name != "method"}
        rest["headers"] = {**(asked.get("headers") or {}), **begun.headers()}
        request = self._client.build_request(method, url, **rest)
        for _ in range(MOST_REDIRECTS + 1):
            with self._host.gate(self._stopped, self.spec.longest_wait):
                if self._pace is not None:
                    self._pace.wait(self._stopped)
                begin = time.monotonic()
                answer_by(begin + LONGEST_ANSWER * self.spec.timeout)
                answer = self._client.send(request, stream=True)
                try:
                    if answer.status_code not in REDIRECTS:
                        return self._body(answer, begin, begun)
                    following = request.url.join(answer.headers.get("Location", ""))
                finally:
                    answer.close()
            refused = elsewhere(request.url, following)
            if refused is not None:
                raise BadImageError(Status.FAILED, f"the archive is not followed: {refused}")
            if method != "GET":
                raise BadImageError(Status.FAILED, f"HTTP {answer.status_code} where {method} was")
            request = self._client.build_request("GET", following, headers=rest["headers"])
        raise TryAgainError(Status.FAILED, "the archive redirects without end")

    def _body(self, answer: httpx.Response, begin: float, begun: Begun) -> bytes:
        """The bytes of one answer that is no redirect, with what was begun before."""
        status = answer.status_code
        if status in (204, 404, 410):  # 204: a cutout service that has nothing there
            self._failures = 0
            raise BadImageError(Status.NO_COVERAGE, f"not in the archive (HTTP {status})")
        if status in TRY_AGAIN:
            wait = retry_after(answer.headers.get("Retry-After"))
            if wait is not None:
                self._host.close(wait)
            raise TryAgainError(Status.FAILED, f"HTTP {status}", wait)
        if begun.content and status != 200 and not (status == 206 and begun.proved(answer)):
            begun.forget()
            raise TryAgainError(Status.FAILED, "what was sent is not the rest of the file")
        piece = None if begun.content else answer.request.headers.get("Range")
        if piece is not None:
            check_piece(answer, piece)
        elif status != 200 and not begun.content:
            raise BadImageError(Status.FAILED, f"HTTP {status}")
        if status == 200:
            begun.forget()
        if int(length_of(answer) or 0) + len(begun.content) > LARGEST_ANSWER:
            raise BadImageError(Status.CORRUPT, "the answer is larger than any frame")
        content = bytearray(begun.content)
        try:
            self._read(answer, begin, content)
        except httpx.TransportError:
            begun.keep(bytes(content), answer)
            raise
        begun.forget()
        return bytes(content)

    def _read(self, answer: httpx.Response, begin: float, content: bytearray) -> None:
        limit, opened, had = self.spec.timeout, time.monotonic(), len(content)
        for piece in answer.iter_raw():
            content += piece
            if len(content) > LARGEST_ANSWER:
                raise TryAgainError(Status.CORRUPT, "the answer is larger than any frame")
            now = time.monotonic()
            slow = now - opened > limit and len(content) - had < SLOWEST * (now - opened)
            if slow or now - begin > LONGEST_ANSWER * limit:
                raise TryAgainError(Status.FAILED, "the answer comes too slowly")
            if self._stopped.is_set():
                raise StoppedError
