"""What the tests of Hubble share: a small field, its server, surveys of it, and retrievals."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware

from galpipe.archives.retrieve import retrieve
from galpipe.archives.spec import FixedSize, Hapcut, Hst, Mosaic, Tile
from galpipe.sample.catalogue import sample
from galpipe.sample.spec import Sample
from galpipe.sky.mast import Mast
from galpipe.sky.mast_camera import FILTERS, PIXEL, name_of
from galpipe.sky.mast_spec import FieldSpec
from galpipe.sky.server import _AnyCase
from galpipe.stages import Context, ShardMap, serial_map
from galpipe.stamps.parts import Part
from galpipe.workspace import Ref, Workspace

FIELD = FieldSpec(side=900, seed=4)
SAMPLE = Sample(id="MatchID", id_type="int64", ra="MatchRA", dec="MatchDec")
TILES = tuple(Tile(band=band, image=name_of(band)) for band in FILTERS)


@contextmanager
def serving(mast: Mast) -> Iterator[str]:
    app = Starlette(routes=mast.routes(), middleware=[Middleware(_AnyCase)])
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def hst(address: str, **settings: Any) -> Hst:
    plain: dict[str, Any] = {
        "bands": ("F606W", "F814W"), "pixels": Hapcut(size=FixedSize(half=1.0)), "shard": 4,
        "pixel_scale": PIXEL, "mast": address, "files": f"{address}/hst", "s3": address,
        "requests_per_minute": None, "patience": 0.01, "timeout": 10.0, "tries": 2, "block": 64,
    }  # fmt: skip
    return Hst(**{**plain, **settings})


def mosaic(**settings: Any) -> Mosaic:
    return Mosaic(**{"size": FixedSize(half=1.0), "tiles": TILES, **settings})


def objects(folder: Path) -> pa.Table:
    rows = json.loads((folder / "objects.json").read_text())
    return pa.Table.from_pylist(rows).select(["MatchID", "MatchRA", "MatchDec", "zphot"])


def run(
    root: Path, spec: Hst, table: pa.Table, map: ShardMap = serial_map
) -> tuple[Context, list[dict[str, Any]]]:
    context = Context(Workspace.open(root), map=map)
    name = hashlib.sha256(repr(table.to_pylist()).encode()).hexdigest()
    catalogue = sample(context, SAMPLE, lambda: table, name, None)
    ref = retrieve(context, spec, catalogue, None)
    place = context.workspace.place(ref)
    assert (place / "ledger.parquet").exists()
    return context, pq.read_table(place / "index.parquet").to_pylist()


def stored(context: Context, line: dict[str, Any], name: str) -> np.ndarray[Any, Any]:
    part = Part(context.workspace.place(Ref("cutout-part", line["part"])))
    found: np.ndarray[Any, Any] = part.read(name)[line["row"]]
    return found


@contextmanager
def saying(
    status: int, body: bytes, headers: dict[str, str] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """The address of a server that always says the same, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()
