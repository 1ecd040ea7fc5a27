"""A server that fails as it is told: an application in front of the one that answers."""

from __future__ import annotations

import asyncio
import email.utils
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from galpipe.sky.damage import CHANGES, ROWS, fewer_rows
from galpipe.sky.faults import BARE, MOVED, Faults, uniform
from galpipe.sky.instrument import BANDS

DRIP = 0.2  # seconds between two bytes
WEB_PAGE = b"<!DOCTYPE html><html><body><h1>Down for maintenance</h1></body></html>\n"
TOO_MANY = (
    b"#Table1\nerror_message\n"
    b"ERROR: Maximum 60 queries allowed per minute. Rejected query: SELECT\n"
)


class Failing:
    """An ASGI application that fails as told, and else answers as the one behind it.

    `files`: the folder served as /sas, for frames in place of others; `happened` counts the
    failures by kind, `asked` the requests by address.  It must be uvicorn's outermost application,
    whose connections it cuts.
    """

    def __init__(self, app: ASGIApp, faults: Faults, files: Path) -> None:
        self.app = app
        self.faults = faults
        self.files = files
        self.happened: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in BARE:
            await self.app(scope, receive, send)
            return
        path, query = scope["path"], scope["query_string"].decode("latin-1")
        if not path.startswith("/sas/"):
            path = path.lower()
        if self.faults.delay:
            await asyncio.sleep(self.faults.delay)
        with self._lock:
            number = self.asked[f"{path}?{query}"]
            self.asked[f"{path}?{query}"] += 1
        kind = self.faults.chosen(path, query, number)
        headers = dict(scope["headers"])
        if (kind == "nohead" and scope["method"] != "HEAD") or (
            kind == "norange" and b"range" not in headers
        ):
            kind = None
        if kind is None:
            await self.app(scope, receive, send)
            return
        self.happened[kind] += 1
        if kind in _WITHOUT_BODY:
            await _WITHOUT_BODY[kind](self, scope, receive, send)
            return
        status, found, body = await _captured(self.app, scope, receive)
        if status not in (200, 206) or scope["method"] == "HEAD":
            await _answer(send, status, found, body)
        elif kind == "drip":
            await _drip(receive, send, status, found, body)
        elif kind in ("truncated", "unfinished"):
            await _halved(receive, send, status, found, body, kind == "truncated")
        elif kind == "cutrows":
            await _answer(send, status, _without_length(found), fewer_rows(body))
        else:
            changed = await anyio.to_thread.run_sync(self._changed, kind, path, body)
            await _answer(send, status, _with_length(found, changed), changed)

    def _changed(self, kind: str, path: str, body: bytes) -> bytes:
        if kind == "swapped":
            return self._neighbour(path) or b""
        if kind == "band":
            return self._other_band(path)
        if kind in ROWS:
            return ROWS[kind](body, self.files)
        return CHANGES[kind](body)

    def _neighbour(self, path: str) -> bytes | None:
        """The frame of another field in the same band."""
        here = path.rsplit("/", 1)[-1]
        names = sorted(self.files.rglob(f"{here[:8]}*.fits.bz2"))
        places = [place for place, name in enumerate(names) if name.name == here]
        if not places or len(names) < 2:
            return None
        return names[(places[0] + 1) % len(names)].read_bytes()

    def _other_band(self, path: str) -> bytes:
        """The frame of the same field in another band."""
        here = path.rsplit("/", 1)[-1]
        others = [band for band in BANDS if band != here[6]]
        return next(self.files.rglob(f"frame-{others[0]}-{here[8:]}")).read_bytes()

    async def _refuse(self, scope: Scope, _receive: Receive, send: Send, status: int) -> None:
        headers = [(b"content-type", b"text/plain")]
        if status in (429, 503):
            wait = self.faults.wait
            text = f"{wait:g}"
            if wait >= 2 and uniform(self.faults.seed, scope["path"]) < 0.5:
                text = email.utils.formatdate(time.time() + wait, usegmt=True)
            headers.append((b"retry-after", text.encode()))
        body = b"" if scope["method"] == "HEAD" else f"made to fail: {status}\n".encode()
        await _answer(send, status, _with_length(headers, body), body)

    async def _redirect(self, scope: Scope, _receive: Receive, send: Send) -> None:
        query = "&".join(filter(None, [scope["query_string"].decode("latin-1"), MOVED]))
        place = scope.get("raw_path", scope["path"].encode()) + b"?" + query.encode("latin-1")
        await _answer(send, 301, [(b"location", place), (b"content-length", b"0")], b"")

    async def _page(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await _answer(
            send, 200, _with_length([(b"content-type", b"text/html")], WEB_PAGE), WEB_PAGE
        )

    async def _limit(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await _answer(send, 200, _with_length([(b"content-type", b"text/csv")], TOO_MANY), TOO_MANY)

    async def _reset(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await _hang_up(receive, send, at_once=True)

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
        await self.app({**scope, "headers": headers}, receive, send)


Step = Callable[[Failing, Scope, Receive, Send], Any]


def _refusing(status: int) -> Step:
    return lambda failing, scope, receive, send: failing._refuse(scope, receive, send, status)


_WITHOUT_BODY: dict[str, Step] = {
    **{str(status): _refusing(status) for status in (404, 429, 503, 504)},
    "missing": _refusing(404), "nohead": _refusing(405), "301": Failing._redirect,
    "html": Failing._page, "limit": Failing._limit, "reset": Failing._reset,
    "norange": Failing._whole,
}  # fmt: skip

Headers = list[tuple[bytes, bytes]]


async def _captured(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[int, Headers, bytes]:
    """The whole answer of an application."""
    status, headers, pieces = 500, [], []

    async def keep(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], list(message.get("headers", []))
        else:
            pieces.append(message.get("body", b""))

    await app({**scope, "extensions": {}}, receive, keep)  # no sending by path: bytes are wanted
    return status, headers, b"".join(pieces)


def _with_length(headers: Headers, body: bytes) -> Headers:
    return [*_without_length(headers), (b"content-length", str(len(body)).encode())]


def _without_length(headers: Headers) -> Headers:
    return [(name, value) for name, value in headers if name.lower() != b"content-length"]


async def _answer(send: Send, status: int, headers: Headers, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _halved(
    receive: Receive, send: Send, status: int, headers: Headers, body: bytes, promised: bool
) -> None:
    half = body[: len(body) // 2]
    if not promised:
        await _answer(send, status, _without_length(headers), half)
        return
    whole = _with_length(headers, body)
    await send({"type": "http.response.start", "status": status, "headers": whole})
    await send({"type": "http.response.body", "body": half, "more_body": True})
    await _hang_up(receive, send, at_once=False)


async def _drip(receive: Receive, send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Byte by byte, until the client has gone."""
    whole = _with_length(headers, body)
    await send({"type": "http.response.start", "status": status, "headers": whole})
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        for place in range(len(body)):
            piece = body[place : place + 1]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            if (await asyncio.wait([gone], timeout=DRIP))[0]:
                return
        await send({"type": "http.response.body", "body": b""})
    finally:
        gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _hang_up(receive: Receive, send: Send, at_once: bool) -> None:
    """Close the connection: after what was said, or `at_once` by a reset."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise RuntimeError("connections can be cut only as uvicorn's outermost application")
    if at_once:
        held = transport.get_extra_info("socket")
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
    await _disconnected(receive)
