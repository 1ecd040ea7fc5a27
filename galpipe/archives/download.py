"""Bytes from archives: one downloader with one policy of time limits, retries and politeness.

All that this process asks of a host goes through one gate (so many requests at once, none before
the moment the host asked for), and all that this machine asks of it keeps one pace.
"""

from __future__ import annotations

import email.utils
import fcntl
import functools
import hashlib
import os
import random
import re
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpcore
import httpx

from galpipe.archives.spec import Remote, Served
from galpipe.archives.trouble import BadImageError
from galpipe.errors import InputError
from galpipe.status import Status

T = TypeVar("T")
USER_AGENT = f"galpipe (astronomical survey pipeline) python-httpx/{httpx.__version__}"
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 5
LONGEST_WAIT = 120.0  # seconds between two tries; an archive that asks for more is left alone
LONGEST_ANSWER = 20  # times the limit without a byte: whatever takes longer is cut off
SLOWEST = 1024  # bytes per second; slower answers are cut off once the limit without a byte is over
LARGEST_ANSWER = 256 * 2**20  # bytes
RESUMED_FROM = 2**16  # bytes; less is fetched again
SILENT_AFTER = 6  # failures in a row after which an archive gets one try per file until it answers
PORTS = {"http": 80, "https": 443}
CONTENT_RANGE = re.compile(r"^bytes (\d+)-(\d+)/(\d+)$")


class TroubleError(Exception):
    """One try failed and another may not; `wait` is what the server asked for, in seconds."""

    def __init__(self, status: Status, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.wait = wait


class StoppedError(Exception):
    """The run is being stopped: nothing more is asked."""


class Pace:
    """At most so many requests a minute to a host, evenly spaced, over all processes of a machine.

    The moment of the last request is kept in a file, so that a run that is killed and started again
    keeps the pace too.  Raises InputError where no such file can be written.
    """

    def __init__(self, per_minute: float, host: str) -> None:
        self._interval = 60.0 / per_minute
        self._lock = threading.Lock()
        self._file = _pace_folder() / hashlib.sha256(host.encode()).hexdigest()[:24]

    def wait(self, stopped: threading.Event | None = None) -> None:
        """Sleep until the next request may go; raises StoppedError once `stopped` is set."""
        with self._lock, self._file.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # held while asleep: who is killed takes no turn
            file.seek(0)
            now = time.monotonic()
            try:
                due = float(file.read(40)) + self._interval
            except ValueError:  # new, or cut short
                due = now
            left = min(due - now, self._interval)  # the clock begins anew when the machine does
            if left > 0 and (stopped or threading.Event()).wait(left):
                raise StoppedError
            file.truncate(0)
            file.write(repr(time.monotonic()).encode())


def _pace_folder() -> Path:
    """A folder of this user alone, the same for all processes; raises InputError."""
    folder = Path(tempfile.gettempdir()) / f"galpipe-pace-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if found.st_uid != os.getuid() or found.st_mode & 0o022 or folder.is_symlink():
            raise PermissionError(0, "it is not this user's own")
    except OSError as error:
        raise InputError(
            f"{folder} cannot hold the pace of requests ({error.strerror}); remove it, or set "
            "TMPDIR to a folder that can be written."
        ) from None
    return folder


@functools.cache
def pace_at(address: str, per_minute: float | None) -> Pace | None:
    """The pace of the host of an address; None where there is no limit."""
    return None if per_minute is None else Pace(per_minute, urlsplit(address).netloc.lower())


def pace_of(spec: Served) -> Pace | None:
    """The pace of a SkyServer, shared by all that ask it from this machine."""
    return pace_at(spec.skyserver, spec.requests_per_minute)


class _Host:
    """What this process knows of a host: how many may ask at once, and not before when."""

    def __init__(self, connections: int) -> None:
        self._free = threading.BoundedSemaphore(connections)
        self._closed_until = 0.0

    @contextmanager
    def gate(self, stopped: threading.Event) -> Iterator[None]:
        """Within the block a request may be made; raises StoppedError."""
        with self._free:
            while (left := self._closed_until - time.monotonic()) > 0:
                if stopped.wait(left):
                    raise StoppedError
            if stopped.is_set():
                raise StoppedError
            yield

    def close(self, seconds: float) -> None:
        """Let nobody ask for so long: the host said so."""
        self._closed_until = max(self._closed_until, time.monotonic() + seconds)


@functools.cache
def _host(address: str, connections: int) -> _Host:
    return _Host(connections)


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
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds else None


def backoff(patience: float, attempt: int, asked: float | None) -> float:
    """Seconds before the next try: full jitter over a doubling range, no less than was asked."""
    jitter = random.uniform(0, min(patience * 2**attempt, LONGEST_WAIT))  # noqa: S311 (no secret)
    return min(max(asked or 0.0, jitter), LONGEST_WAIT)


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


_until = threading.local()  # `moment`: when the answer that this thread reads must be whole


class _Stream(httpcore.NetworkStream):
    """A connection on which nothing is waited for beyond the moment set, headers included."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = getattr(_until, "moment", float("inf")) - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the answer comes too slowly")
        return self._stream.read(max_bytes, left if timeout is None else min(timeout, left))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Network(httpcore.NetworkBackend):
    """Makes connections of that kind."""

    def __init__(self, inner: httpcore.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.connect_tcp(host, port, timeout, local_address, socket_options))


def _bound(client: httpx.Client) -> httpx.Client:
    """The client, with a limit on the time of whole answers; httpx has one per read."""
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.HTTPTransport):
            transport._pool._network_backend = _Network(transport._pool._network_backend)
    return client


class _Begun:
    """What a broken answer brought, and by what the rest is known to belong to it."""

    def __init__(self) -> None:
        self.content = b""
        self.tag = ""  # a strong ETag; without one nothing is resumed
        self.total = -1

    def forget(self) -> None:
        """Begin anew."""
        self.content, self.tag, self.total = b"", "", -1

    def keep(self, content: bytes, answer: httpx.Response) -> None:
        """Keep what came before an answer broke off."""
        if answer.status_code == 200:
            self.tag = answer.headers.get("ETag", "")
            self.total = int(_length(answer) or -1)
        if self.tag.startswith('"') and self.total > len(content) >= RESUMED_FROM:
            self.content = content
        else:
            self.forget()

    def headers(self) -> dict[str, str]:
        """What asks for the rest alone."""
        if not self.content:
            return {}
        return {"Range": f"bytes={len(self.content)}-", "If-Range": self.tag}

    def proved(self, answer: httpx.Response) -> bool:
        """Whether a 206 is the rest of what was begun."""
        found = CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
        if not self.content or found is None or answer.headers.get("ETag") != self.tag:
            return False
        first, last, total = (int(number) for number in found.groups())
        return first == len(self.content) and last + 1 == total == self.total


class Downloader:
    """Fetches and checks files; a context that keeps connections open; used by many threads."""

    def __init__(self, spec: Remote, address: str, pace: Pace | None = None) -> None:
        self.spec = spec
        if pace is None and isinstance(spec, Served) and address == spec.sas:
            pace = pace_at(address, spec.files_per_minute)
        self._pace = pace
        self._failures = 0
        self._stopped = threading.Event()
        self._host = _host(urlsplit(address).netloc.lower(), spec.connections)
        self._client = _bound(
            httpx.Client(
                timeout=httpx.Timeout(spec.timeout, connect=min(spec.timeout, 10.0)),
                limits=httpx.Limits(max_connections=spec.connections),
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                follow_redirects=False,
                trust_env=not is_local(address),
                verify=_trusted(),
            )
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
        begun = _Begun()
        for attempt in range(tries):
            try:
                content = self._once(url, {**asked, "params": parameters}, begun, markup)
                try:
                    found = check(content)
                except BadImageError as error:
                    raise TroubleError(error.status, error.reason) from None
                self._failures = 0
                return found
            except TroubleError as trouble:
                if trouble.wait is not None and trouble.wait > LONGEST_WAIT:
                    reason = f"{trouble.reason}, and asks to wait {trouble.wait:.0f} s"
                    raise BadImageError(Status.FAILED, reason) from None
                if attempt + 1 == tries:
                    failed = trouble.status == Status.FAILED
                    self._failures = self._failures + 1 if failed else 0
                    raise BadImageError(trouble.status, trouble.reason) from None
                if self._stopped.wait(backoff(self.spec.patience, attempt, trouble.wait)):
                    raise BadImageError(Status.FAILED, "the run was stopped") from None
            except StoppedError:
                raise BadImageError(Status.FAILED, "the run was stopped") from None
        raise AssertionError("unreachable")

    def _once(self, url: str, asked: Mapping[str, Any], begun: _Begun, markup: bool) -> bytes:
        try:
            content = self._answer(url, asked, begun)
        except httpx.TransportError as error:
            raise TroubleError(Status.FAILED, f"no whole answer ({type(error).__name__})") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise TroubleError(
                Status.FAILED, f"no usable answer ({type(error).__name__})"
            ) from None
        if not content:
            raise TroubleError(Status.FAILED, "the answer is empty")
        if not markup and content[:64].lstrip()[:1] == b"<":
            raise TroubleError(Status.FAILED, "the archive answered with a web page")
        return content

    def _answer(self, url: str, asked: Mapping[str, Any], begun: _Begun) -> bytes:
        """The body of an answer with status 200, over redirects that stay with the host."""
        method = asked.get("method", "GET")
        rest = {name: value for name, value in asked.items() if name != "method"}
        rest["headers"] = {**(asked.get("headers") or {}), **begun.headers()}
        request = self._client.build_request(method, url, **rest)
        for _ in range(MOST_REDIRECTS + 1):
            with self._host.gate(self._stopped):
                if self._pace is not None:
                    self._pace.wait(self._stopped)
                begin = time.monotonic()
                _until.moment = begin + LONGEST_ANSWER * self.spec.timeout
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
        raise TroubleError(Status.FAILED, "the archive redirects without end")

    def _body(self, answer: httpx.Response, begin: float, begun: _Begun) -> bytes:
        """The bytes of one answer that is no redirect, with what was begun before."""
        status = answer.status_code
        if status in (204, 404, 410):  # 204: a cutout service that has nothing there
            self._failures = 0
            raise BadImageError(Status.NO_COVERAGE, f"not in the archive (HTTP {status})")
        if status in TRY_AGAIN:
            wait = retry_after(answer.headers.get("Retry-After"))
            if wait is not None:
                self._host.close(min(wait, LONGEST_WAIT))
            raise TroubleError(Status.FAILED, f"HTTP {status}", wait)
        if begun.content and status != 200 and not (status == 206 and begun.proved(answer)):
            begun.forget()
            raise TroubleError(Status.FAILED, "what was sent is not the rest of the file")
        piece = None if begun.content else answer.request.headers.get("Range")
        if piece is not None:
            _check_piece(answer, piece)
        elif status != 200 and not begun.content:
            raise BadImageError(Status.FAILED, f"HTTP {status}")
        if status == 200:
            begun.forget()
        if int(_length(answer) or 0) + len(begun.content) > LARGEST_ANSWER:
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
                raise TroubleError(Status.CORRUPT, "the answer is larger than any frame")
            now = time.monotonic()
            slow = now - opened > limit and len(content) - had < SLOWEST * (now - opened)
            if slow or now - begin > LONGEST_ANSWER * limit:
                raise TroubleError(Status.FAILED, "the answer comes too slowly")
            if self._stopped.is_set():
                raise StoppedError


def _check_piece(answer: httpx.Response, asked: str) -> None:
    """Refuse what is not just the piece of a file that was asked for (RFC 9110, section 14)."""
    if answer.status_code == 416:
        raise BadImageError(Status.CORRUPT, "the file ends before the piece that was asked for")
    if answer.status_code == 200:
        raise BadImageError(Status.FAILED, "the archive gives no pieces of files (ignores Range)")
    if answer.status_code != 206:
        raise BadImageError(Status.FAILED, f"HTTP {answer.status_code}")
    found = CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
    first, _, last = asked.removeprefix("bytes=").partition("-")
    ended = found is not None and int(found[2]) + 1 == int(found[3]) <= int(last)
    if found is None or found[1] != first or not (found[2] == last or ended):
        raise TroubleError(Status.FAILED, "another piece of the file than was asked for")


def _length(answer: httpx.Response) -> str | None:
    text = answer.headers.get("Content-Length", "")
    return text if text.isdecimal() and len(text) < 20 else None
