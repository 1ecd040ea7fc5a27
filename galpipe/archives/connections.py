"""Connections on which no answer takes longer than it may, headers included.

httpx limits the time of one read; an answer that comes byte by byte passes every such limit.  This
transport is made of the public parts of httpcore, which httpx itself stands on: a pool of
connections over a network of our own, whose reads end at the moment that was set.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx

from galpipe.errors import InputError

_until = threading.local()  # `moment`: when the answer that this thread reads must be whole


def answer_by(moment: float) -> None:
    """Let what this thread asks next be answered by a moment of `time.monotonic`."""
    _until.moment = moment


@functools.cache
def trusted() -> ssl.SSLContext:
    """The certificates that are trusted, read once a process: it takes a third of a second."""
    return httpx.create_ssl_context()


def is_local(address: str) -> bool:
    """Whether an address is of this machine, which no proxy can reach."""
    return urlsplit(address).hostname in ("127.0.0.1", "::1", "localhost")


class _Stream(httpcore.NetworkStream):
    """A connection on which nothing is waited for beyond the moment set."""

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

    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.connect_tcp(host, port, timeout, local_address, socket_options))


class Transport(httpx.BaseTransport):
    """Asks one host, by the proxy of the environment where there is one for it."""

    def __init__(self, address: str, connections: int) -> None:
        """`connections`: open at once.  Raises InputError where the proxy cannot be used."""
        proxy = proxy_of(address)
        self._pool = httpcore.ConnectionPool(
            ssl_context=trusted(),
            proxy=None if proxy is None else httpcore.Proxy(proxy),
            max_connections=connections,
            network_backend=_Network(),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)
        asked = httpcore.Request(
            method=request.method,
            url=httpcore.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _as_httpx():
            answer = self._pool.handle_request(asked)
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=_Body(answer),
            extensions=answer.extensions,
        )

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    """The bytes of an answer as they come."""

    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx():
            yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


@contextlib.contextmanager
def _as_httpx() -> Iterator[None]:
    """Raise the errors of httpcore as those of httpx, which have the same names."""
    try:
        yield
    except (
        httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError,
        httpcore.ProxyError, httpcore.UnsupportedProtocol,
    ) as error:  # fmt: skip
        raise getattr(httpx, type(error).__name__)(str(error)) from error


def proxy_of(address: str) -> str | None:
    """The proxy that the environment names for an address (HTTPS_PROXY, NO_PROXY and the like)."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    if is_local(address) or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2] or host):
        return None
    found = urllib.request.getproxies()
    proxy = found.get(parts.scheme) or found.get("all")
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if urlsplit(proxy).scheme not in ("http", "https"):
        raise InputError(
            f"the environment names a proxy of the kind {urlsplit(proxy).scheme}: for {host}; name "
            "one that speaks HTTP in HTTPS_PROXY, or let NO_PROXY hold the host."
        )
    return proxy
