"""A server that refuses what a test says, for as long as it says so, and keeps what was asked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote_plus

import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass
class Refusing:
    """An application that answers 503 to the requests that `refuses` names.

    A request is told in one text: path, query, body and Range.
    """

    app: ASGIApp
    refuses: Callable[[str], bool] = lambda asked: False
    asked: list[str] = field(default_factory=list)
    address: str = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        ranged = dict(scope["headers"]).get(b"range", b"").decode()
        query = unquote_plus(scope["query_string"].decode())
        asked = f"{scope['path']}?{query} {body.decode('latin-1')} {ranged}"
        self.asked.append(asked)

        told = False

        async def again() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        if self.refuses(asked):
            await Response("busy", 503)(scope, again, send)
        else:
            await self.app(scope, again, send)


@contextmanager
def refusing(app: ASGIApp) -> Iterator[Refusing]:
    """Serve an application on loopback while the context lasts."""
    one = Refusing(app)
    listener = socket.create_server(("127.0.0.1", 0))
    one.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(one, log_level="error", access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield one
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
