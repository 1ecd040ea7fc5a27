"""The embedded sky over HTTP, at the real SAS paths and behind SkyServer's SQL and ImgCutout.

Paths, limits, formats and refusals are those of SkyServer as its clients meet them; paths other
than those of files match in any letter case, as there.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from galpipe.sky import answers, crossid
from galpipe.sky.imgcutout import (
    BadCutout,
    Cutouts,
    OutsideFootprint,
    cutout_request,
    message_image,
)
from galpipe.sky.mast import Mast
from galpipe.sky.mast_spec import FieldSpec
from galpipe.sky.photo import Photo
from galpipe.sky.sql import Catalogue, Table
from galpipe.sky.tsql import SqlError
from galpipe.sky.vo import Vo

MINUTE = 60.0  # seconds
SEARCH = "/dr{release:int}/en/tools/search/x_results.aspx"
SQL = "/dr{release:int}/skyserverws/searchtools/sqlsearch"
CUTOUT = "/dr{release:int}/skyserverws/imgcutout/getjpeg"
BRIGHTEST = (
    "SELECT TOP 6 ra, dec, petroR90_r FROM Galaxy "
    "WHERE petroR90_r BETWEEN 4 AND 12 AND petroMag_r > 15 ORDER BY petroMag_r, objID"
)
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>galpipe: the embedded sky</title>
<style>body {{ font: 1rem/1.5 sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }}
code {{ font-size: .9em }} img {{ margin-right: .5rem }}</style></head><body>
<h1>The embedded sky</h1>
<p>{galaxies} simulated galaxies of known truth, drawn into SDSS frames and served as SDSS serves
its own. Nothing here is an observation.</p>
<p>{images}</p>
<ul>
<li><a href="{sql}">SQL</a>: tables {tables}</li>
<li><a href="{frame}">a frame</a> (FITS, bzip2)</li>
</ul>
<p>With astroquery:</p>
<pre><code>from astroquery.sdss import SDSS, conf
conf.skyserver_baseurl = "{address}"
conf.sas_baseurl = "{address}/sas"
SDSS.query_sql("SELECT TOP 10 objID, ra, dec FROM Galaxy", data_release=17, cache=False)
</code></pre></body></html>
"""


@dataclass(frozen=True)
class Settings:
    """What the server allows: SkyServer's own limits, but for the time and the rate of queries."""

    rows: int = 500_000
    seconds: float = 60.0  # of one query; SkyServer gives 600
    queries_per_minute: int | None = None  # None: as many as asked for; SkyServer: 60
    frame_bytes: int = 256 * 2**20  # of decoded frames kept for ImgCutout


class Sky:
    """What answers the requests for one drawn sky."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.settings = settings
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        self.catalogue = Catalogue(folder / "tables")
        self.cutouts = Cutouts(folder / "sas", settings.frame_bytes)
        self.vo = Vo(self.catalogue, self.cutouts, settings.rows, settings.seconds)
        self._cutting = anyio.CapacityLimiter(os.cpu_count() or 1)
        self._asked: deque[float] = deque()

    async def search(self, request: Request) -> Response:
        """SQL as web pages ask it, and cross-identification of uploaded positions."""
        if request.method != "POST":
            return await self._select(request.query_params, "html")
        body, kind = await request.body(), request.headers.get("content-type", "")
        fields = crossid.parts(body, kind)
        if fields.get("searchtool", "").lower() != "crossid" and "upload" not in fields:
            return await self._select(fields, "html")

        def matched() -> Table:
            return self.catalogue.matched(
                fields.get("uquery", ""), crossid.upload(fields), crossid.radius(fields),
                crossid.scope(fields), self.settings.rows, self.settings.seconds,
            )  # fmt: skip

        return await self._answered(matched, fields.get("format", "html"))

    async def sql(self, request: Request) -> Response:
        """SQL as programs ask it."""
        return await self._select(request.query_params, "json")

    async def _select(self, fields: Mapping[str, str], form: str) -> Response:
        names = {name.lower(): value for name, value in fields.items()}

        def selected() -> Table:
            return self.catalogue.query(
                names.get("cmd", ""), self.settings.rows, self.settings.seconds
            )

        return await self._answered(selected, names.get("format", form))

    async def _answered(self, ask: Callable[[], Table], form: str) -> Response:
        form = form.lower()
        limit = self.settings.queries_per_minute
        if limit is not None and not self._admitted(limit):
            return answers.too_many(limit)
        if form not in answers.FORMATS:
            known = ", ".join(answers.FORMATS)
            return answers.refusal(f"format={form} is not served here; it takes {known}.", "json")
        try:
            return await anyio.to_thread.run_sync(lambda: answers.answer(ask(), form))
        except SqlError as error:
            return answers.refusal(str(error), form)

    def _admitted(self, limit: int) -> bool:
        now = time.monotonic()
        while self._asked and self._asked[0] <= now - MINUTE:
            self._asked.popleft()
        if len(self._asked) >= limit:
            return False
        self._asked.append(now)
        return True

    async def cutout(self, request: Request) -> Response:
        """A JPEG of a place on the sky; trouble comes as a JPEG too, but for bad parameters."""
        fields = {name.lower(): value for name, value in request.query_params.items()}
        try:
            wanted = cutout_request(fields)
        except BadCutout as error:
            return answers.refusal(str(error), "json")
        try:
            image = await anyio.to_thread.run_sync(self.cutouts.jpeg, wanted, limiter=self._cutting)
        except OutsideFootprint as error:
            return _image(message_image(str(error), wanted), 404)
        except (OSError, ValueError, EOFError) as error:
            return _image(message_image(f"Internal error: {error}", wanted), 500)
        return _image(image, 200)

    async def health(self, _request: Request) -> Response:
        facts = {name: self.manifest[name] for name in ("galaxies", "frames")}
        return JSONResponse({"status": "ok", **facts})

    async def page(self, request: Request) -> Response:
        """What this is, with links to try."""
        brightest = self.catalogue.query(BRIGHTEST, self.settings.rows, self.settings.seconds)
        images = "".join(
            f'<img alt="" width="120" height="120" src="/dr17/SkyServerWS/ImgCutout/getjpeg'
            f'?ra={ra}&dec={dec}&scale={0.02 * r90 * 424 / 120:.4f}&width=120&height=120">'
            for ra, dec, r90 in brightest.rows
        )
        frames = sorted((self.folder / "sas").rglob("frame-r-*.fits.bz2"))
        return HTMLResponse(
            PAGE.format(
                galaxies=self.manifest["galaxies"], images=images,
                sql="/dr17/SkyServerWS/SearchTools/SqlSearch?format=html&amp;"
                "cmd=SELECT+TOP+20+*+FROM+Galaxy",
                frame=f"/{frames[0].relative_to(self.folder)}" if frames else "/",
                tables=", ".join(f"{name} ({n})" for name, n in self.catalogue.tables.items()),
                address=str(request.base_url).rstrip("/"),
            )
        )  # fmt: skip


def _image(content: bytes, status: int) -> Response:
    return Response(content, status_code=status, media_type="image/jpeg")


class _AnyCase:
    """Paths match in any letter case, but those of files."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith("/sas/"):
            scope = {**scope, "path": scope["path"].lower()}
        await self.app(scope, receive, send)


def application(
    folder: Path, settings: Settings | None = None, field: FieldSpec | None = None
) -> Starlette:
    """The ASGI application that serves the sky drawn in a folder, and the Hubble `field`."""
    sky = Sky(folder, settings or Settings())

    @contextlib.asynccontextmanager
    async def closing(_app: Starlette) -> AsyncIterator[None]:
        yield
        sky.catalogue.close()

    return Starlette(
        routes=[
            Route("/", sky.page),
            Route("/health", sky.health),
            Route(SEARCH, sky.search, methods=["GET", "POST"]),
            Route(SQL, sky.sql),
            Route(CUTOUT, sky.cutout),
            *sky.vo.routes(),
            *Mast(field or FieldSpec()).routes(),
            Photo(folder).route(),
            Mount("/sas", StaticFiles(directory=folder / "sas")),
        ],
        middleware=[Middleware(_AnyCase)],
        lifespan=closing,
    )
