"""Failures of archives, made on purpose; a seed decides which answers fail, and no timing does."""

from __future__ import annotations

import asyncio
import bz2
import email.utils
import hashlib
import math
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from galpipe.errors import InputError

ANY, FILE, FRAME, SQL, PAGE = "any", "file", "frame", "sql", "sql or file"
KINDS: dict[str, tuple[str, str]] = {  # what fails, and where it may
    "503": (ANY, "HTTP 503, with Retry-After"),
    "504": (ANY, "HTTP 504"),
    "429": (ANY, "HTTP 429, with Retry-After"),
    "404": (ANY, "HTTP 404: the address has changed"),
    "301": (ANY, "a redirect to another address of the same host"),
    "reset": (ANY, "the connection is reset before any answer"),
    "truncated": (ANY, "half of the answer, where Content-Length promises all of it"),
    "unfinished": (ANY, "half of the answer, without a Content-Length"),
    "empty": (ANY, "an empty answer with status 200"),
    "drip": (ANY, "the answer comes byte by byte, and takes an hour"),
    "nohead": (ANY, "HEAD is refused"),
    "norange": (ANY, "Range is ignored: all of the file, with status 200"),
    "html": (PAGE, "a web page with status 200"),
    "limit": (SQL, "the complaint about the rate limit with status 200"),
    "duplicates": (SQL, "the last row of a table twice"),
    "corrupt": (FILE, "64 wrong bytes in the middle"),
    "short": (FRAME, "a whole bzip2 file of half a FITS file"),
    "crval": (FRAME, "CRVAL1 is wrong by 3 degrees"),
    "nocrval": (FRAME, "CRVAL1 and CRVAL2 are 0"),
    "nan": (FRAME, "all pixels are NaN"),
    "zeros": (FRAME, "all pixels are 0"),
    "swapped": (FRAME, "another field's frame"),
    "missing": (FRAME, "HTTP 404 for one band of a field; the rate is that of fields"),
}
SETTINGS = ("seed", "wait", "delay")
PERSISTENT = "persistent."
BLOCK, CARD = 2880, 80  # bytes of FITS
DRIP = 0.2  # seconds between two bytes
MOVED = "moved=1"
MISSED = "gri"  # bands of which a field may lack one
BARE = ("/", "/health")  # never fail
SQL_PATHS = re.compile(r"/x_results\.aspx$|/sqlsearch$", re.IGNORECASE)
FRAME_NAME = re.compile(r"^frame-(\w)-.*\.fits\.bz2$")
WEB_PAGE = b"<!DOCTYPE html><html><body><h1>Down for maintenance</h1></body></html>\n"
TOO_MANY = (
    b"#Table1\nerror_message\n"
    b"ERROR: Maximum 60 queries allowed per minute. Rejected query: SELECT\n"
)


@dataclass(frozen=True)
class Faults:
    """Rates (0..1) by kind of failure; `seed` decides which requests they fall on.

    A transient failure is decided by the address and the request's number for that address, a
    persistent one by the address alone.  `wait`: seconds of Retry-After; `delay`: seconds before
    any answer.
    """

    transient: Mapping[str, float]
    persistent: Mapping[str, float]
    seed: int = 0
    wait: float = 1.0
    delay: float = 0.0

    def chosen(self, path: str, query: str, number: int) -> str | None:
        """The failure of the request `number` (from 0) for an address, None where it is healthy."""
        url = f"{path}?{query}"
        found = self._missing(path) or _at(
            self.persistent, _uniform(self.seed, "persistent", url), path
        )
        if found is None:
            found = _at(self.transient, _uniform(self.seed, "transient", url, number), path)
        return None if found == "301" and MOVED in query else found

    def _missing(self, path: str) -> str | None:
        """Whether this is the one band that its field lacks."""
        found = FRAME_NAME.match(path.rsplit("/", 1)[-1])
        if found is None or "missing" not in self.persistent:
            return None
        band = found[1]
        field = path.replace(f"frame-{band}-", "frame-")
        lacks = MISSED[int(_uniform(self.seed, "band", field) * len(MISSED))]
        here = _uniform(self.seed, "missing", field) < self.persistent["missing"]
        return "missing" if here and band == lacks else None


def parse(text: str) -> Faults:
    """Failures as `503=0.05,reset=0.02,seed=3,persistent.404=0.01`; raises InputError."""
    rates: tuple[dict[str, float], dict[str, float]] = ({}, {})
    settings: dict[str, float] = {}
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, _, value = (piece.strip() for piece in word.partition("="))
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or number < 0:
            raise InputError(f"--faults: {word!r} has no number; write it as {name or '503'}=0.05.")
        kind = name.removeprefix(PERSISTENT)
        if name in SETTINGS:
            settings[name] = number
        elif kind not in KINDS:
            known = ", ".join([*KINDS, *SETTINGS])
            raise InputError(f"--faults: there is no failure {name!r}; take of {known}.")
        elif kind == "missing" and name == kind:
            raise InputError("--faults: a band is missing for good; write persistent.missing.")
        else:
            rates[name != kind][kind] = number
    for some in rates:
        if sum(rate for kind, rate in some.items() if kind != "missing") > 1 or any(
            rate > 1 for rate in some.values()
        ):
            raise InputError("--faults: the rates come to more than 1; they are shares of all.")
    seed = settings.get("seed", 0.0)
    if seed != int(seed):
        raise InputError("--faults: seed must be a whole number; write seed=3.")
    return Faults(*rates, int(seed), settings.get("wait", 1.0), settings.get("delay", 0.0))


def _uniform(*words: object) -> float:
    """A number of 0..1 (below 1) that follows from words."""
    found = hashlib.sha256("\n".join(map(str, words)).encode()).digest()
    return int.from_bytes(found[:8], "big") / 2**64


def _at(rates: Mapping[str, float], place: float, path: str) -> str | None:
    """The kind whose share of 0..1 holds a place; None where it cannot befall such an address."""
    for kind, rate in rates.items():
        if kind == "missing":
            continue
        place -= rate
        if place < 0:
            return kind if _befalls(KINDS[kind][0], path) else None
    return None


def _befalls(where: str, path: str) -> bool:
    sql, file = bool(SQL_PATHS.search(path)), path.startswith("/sas/")
    return {
        ANY: True, FILE: file, SQL: sql, PAGE: sql or file,
        FRAME: file and bool(FRAME_NAME.match(path.rsplit("/", 1)[-1])),
    }[where]  # fmt: skip


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
        else:
            changed = await anyio.to_thread.run_sync(self._changed, kind, path, body)
            await _answer(send, status, _with_length(found, changed), changed)

    def _changed(self, kind: str, path: str, body: bytes) -> bytes:
        if kind == "swapped":
            return self._neighbour(path) or b""
        return CHANGES[kind](body)

    def _neighbour(self, path: str) -> bytes | None:
        """The frame of another field in the same band."""
        here = path.rsplit("/", 1)[-1]
        names = sorted(self.files.rglob(f"{here[:8]}*.fits.bz2"))
        places = [place for place, name in enumerate(names) if name.name == here]
        if not places or len(names) < 2:
            return None
        return names[(places[0] + 1) % len(names)].read_bytes()

    async def _refuse(self, scope: Scope, _receive: Receive, send: Send, status: int) -> None:
        headers = [(b"content-type", b"text/plain")]
        if status in (429, 503):
            wait = self.faults.wait
            text = f"{wait:g}"
            if wait >= 2 and _uniform(self.faults.seed, scope["path"]) < 0.5:
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


# What becomes of a body.


def _corrupt(body: bytes) -> bytes:
    middle = len(body) // 2
    wrong = bytes(byte ^ 0xA5 for byte in body[middle : middle + 64])
    return body[:middle] + wrong + body[middle + 64 :]


def _short(body: bytes) -> bytes:
    raw = bz2.decompress(body)
    return bz2.compress(raw[: len(raw) // 2 // BLOCK * BLOCK], 1)


def _card(header: bytes, key: str) -> tuple[int, float]:
    """Where a card of a header begins, and its number."""
    for place in range(0, len(header), CARD):
        card = header[place : place + CARD]
        if card.startswith(f"{key:8s}=".encode()):
            return place, float(card[10:].split(b"/")[0])
    raise ValueError(f"a frame without {key}")


def _recarded(body: bytes, changes: Mapping[str, Callable[[float], float]]) -> bytes:
    raw = bytearray(bz2.decompress(body))
    for key, change in changes.items():
        place, number = _card(bytes(raw[: _header_bytes(raw)]), key)
        raw[place : place + CARD] = f"{key:8s}= {change(number):20.12g}".ljust(CARD).encode()
    return bz2.compress(bytes(raw), 1)


def _header_bytes(raw: bytes | bytearray) -> int:
    for end in range(BLOCK, len(raw), BLOCK):
        if b"END".ljust(CARD) in (raw[p : p + CARD] for p in range(end - BLOCK, end, CARD)):
            return end
    raise ValueError("a frame without END")


def _filled(body: bytes, value: float) -> bytes:
    """The pixels of the first HDU (float32) all alike."""
    raw = bytearray(bz2.decompress(body))
    begin = _header_bytes(raw)
    sides = (_card(bytes(raw[:begin]), f"NAXIS{axis}")[1] for axis in (1, 2))
    count = int(math.prod(sides))
    raw[begin : begin + 4 * count] = struct.pack(">f", value) * count
    return bz2.compress(bytes(raw), 1)


def _twice(body: bytes) -> bytes:
    """The last row of a CSV again; other formats as they are."""
    lines = body.splitlines(keepends=True)
    table = body.startswith(b"#Table1") and len(lines) > 2
    return body + lines[-1] if table else body


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "corrupt": _corrupt,
    "short": _short,
    "crval": lambda body: _recarded(body, {"CRVAL1": lambda ra: (ra + 3) % 360}),
    "nocrval": lambda body: _recarded(body, {"CRVAL1": lambda _: 0.0, "CRVAL2": lambda _: 0.0}),
    "nan": lambda body: _filled(body, math.nan),
    "zeros": lambda body: _filled(body, 0.0),
    "duplicates": _twice,
}
