"""Files on loopback behind made failures, in a thread of this process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from galpipe.sky.failing import Failing
from galpipe.sky.faults import Faults


class Recorded:
    """An application that keeps what was asked of it, and when."""

    def __init__(self, app: Failing) -> None:
        self.app = app
        self.requests: list[tuple[float, str, str]] = []  # time, path and Range
        self.address = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            ranged = dict(scope["headers"]).get(b"range", b"").decode()
            self.requests.append((time.monotonic(), scope["path"], ranged))
        await self.app(scope, receive, send)

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.requests]


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files by their paths on the server."""
    for path, content in files.items():
        place = folder / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return folder


@contextmanager
def serve(folder: Path, faults: Faults, app: ASGIApp | None = None) -> Iterator[Recorded]:
    """Serve `folder`/sas, or an application, with failures while the context lasts."""
    files = folder / "sas"
    inner = app or Starlette(routes=[Mount("/sas", StaticFiles(directory=files))])
    recorded = Recorded(Failing(inner, faults, files))
    listener = socket.create_server(("127.0.0.1", 0))
    recorded.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(
        recorded, log_level="error", access_log=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield recorded
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
