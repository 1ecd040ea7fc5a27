"""MAST over HTTP for the simulated field: invoke, products, downloads, HAPcut, ranged mosaics.

The forms are those of the real services as astroquery meets them: JSON tables with `status`, a
query that first says EXECUTING, zips of FITS, JSON with status 200 where nothing covers a place.
"""

from __future__ import annotations

import io
import json
import math
import threading
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import anyio.to_thread
import numpy as np
from astropy.io import fits
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from galpipe.sky import mast_listing as listing
from galpipe.sky.mast_cache import cached_field
from galpipe.sky.mast_camera import (
    DEC,
    FILTERS,
    PIXEL,
    RA,
    field_wcs,
    name_of,
    pixel_of,
    product,
)
from galpipe.sky.mast_spec import FieldSpec

NOTHING = "Missing HAP files for input target. Cutout not performed."
LARGEST_CUT = 2000  # pixels on a side
MOST_ROWS = 50_000
TYPES = {int: "int", float: "float", str: "string", bool: "boolean"}


class Mast:
    """What answers for one field, which is drawn when it is first asked for."""

    def __init__(self, spec: FieldSpec, executing: bool = False, ranges: bool = True) -> None:
        self.spec = spec
        self.ranges = ranges  # pieces of files are given; else files come only whole
        self.executing = executing  # the first answer to each query says EXECUTING
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._begun: set[str] = set()

    @property
    def folder(self) -> Path:
        """Where the drawn field lies."""
        with self._lock:
            if self._folder is None:
                self._folder = cached_field(self.spec)
            return self._folder

    def routes(self) -> list[BaseRoute]:
        """The paths of the services, in lower case."""
        return [
            Route("/api/v0/invoke", self.invoke, methods=["POST"]),
            Route("/portal/mashup/mashup.asmx/columnsconfig", self.columns, methods=["POST"]),
            Route("/api/v0.1/download/file", self.download, methods=["GET", "HEAD"]),
            Route("/hapcut/api/v0.1/astrocut", self.hapcut, methods=["GET", "POST"]),
            Route("/hst/{name}", self.mosaic, methods=["GET", "HEAD"]),
        ]

    # Tables.

    async def columns(self, request: Request) -> Response:
        """The columns of a service, as the client asks once before its first query."""
        service = (await request.body()).decode().partition("=")[2]
        known = {"Mast.Hsc.Db.v3": self.objects, "Mast.Caom.Cone": self.observations}
        table = known.get(service, self.observations)
        rows = await anyio.to_thread.run_sync(lambda: table({}))
        numeric = {name: type(value) in (int, float) for name, value in rows[0].items()}
        return JSONResponse(
            {name: {"text": name, "type": "numeric" if number else "string"}
             for name, number in numeric.items()}
        )  # fmt: skip

    async def invoke(self, request: Request) -> Response:
        """A query of the portal: the form field `request`, JSON."""
        body = parse_qs((await request.body()).decode("utf-8", "replace")).get("request", [""])[0]
        try:
            query = json.loads(body)
            service, params = str(query["service"]), dict(query["params"])
            size, page = int(query.get("pagesize", MOST_ROWS)), int(query.get("page", 1))
        except (ValueError, KeyError, TypeError):
            return JSONResponse({"status": "ERROR", "msg": "The request is no JSON query."})
        if self.executing and body not in self._begun:
            self._begun.add(body)
            return JSONResponse({"status": "EXECUTING", "msg": "", "data": []})
        ask: Callable[[Mapping[str, Any]], list[dict[str, Any]]] | None = {
            "Mast.Hsc.Db.v3": self.objects,
            "Mast.Caom.Cone": self.observations,
            "Mast.Caom.Filtered": self.observations,
            "Mast.Caom.Filtered.Position": self.observations,
            "Mast.Caom.Products": self.products,
        }.get(service)
        if ask is None:
            return JSONResponse({"status": "ERROR", "msg": f"Service {service} is not known."})
        try:
            rows = await anyio.to_thread.run_sync(lambda: ask(params))
        except (ValueError, KeyError, TypeError) as error:
            return JSONResponse({"status": "ERROR", "msg": f"Bad parameters: {error}."})
        begin = (page - 1) * size
        return JSONResponse(_table(rows, rows[begin : begin + size], page, size))

    def objects(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Rows of the Hubble Source Catalog in a cone, with the truth of the field beside them."""
        rows: list[dict[str, Any]] = json.loads((self.folder / "objects.json").read_text())
        if not params:
            return [{**rows[0], "Distance": 0.0, "_selected_": None}]
        ra, dec, radius = (float(params[key]) for key in ("ra", "dec", "radius"))
        found = []
        for row in rows:
            apart = _degrees(ra, dec, row["MatchRA"], row["MatchDec"])
            if apart <= radius:
                found.append({**row, "Distance": apart * 60, "_selected_": None})
        found.sort(key=lambda row: (row["Distance"], row["MatchID"]))
        return found[: int(params.get("nr", MOST_ROWS))]

    def observations(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One observation per drizzled image, where the place and the filters of the query fit."""
        place = params.get("position")
        ra, dec, radius = (
            (float(word) for word in str(place).split(","))
            if place is not None
            else (float(params.get(key, value)) for key, value in (("ra", 150.1), ("dec", 2.2),
                                                                   ("radius", 1.0)))
        )  # fmt: skip
        reach = radius + self.spec.side * PIXEL / 7200
        if _degrees(ra, dec, RA, DEC) > reach:
            return []
        rows = [listing.observation(visit) for visit in listing.visits(self.folder)]
        return [row for row in rows if listing.fits_query(row, params.get("filters", []))]

    def products(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The files of observations."""
        wanted = {word.strip() for word in str(params["obsid"]).split(",")}
        return [
            row
            for visit in listing.visits(self.folder)
            if str(visit.number) in wanted
            for row in listing.products(visit)
        ]

    # Files.

    async def download(self, request: Request) -> Response:
        """A product by its URI; HEAD and Range are served."""
        uri = request.query_params.get("uri", "")
        return await self._file(uri.removeprefix("mast:HST/product/"))

    async def mosaic(self, request: Request) -> Response:
        """A mosaic as a plain file; HEAD and Range are served."""
        return await self._file(str(request.path_params["name"]))

    async def _file(self, name: str) -> Response:
        folder = await anyio.to_thread.run_sync(lambda: self.folder)
        for visit in listing.visits(folder):
            if name == visit.path.name and self.ranges:
                return FileResponse(visit.path, media_type="application/fits")
            if name == visit.path.name:
                return Response(visit.path.read_bytes(), media_type="application/fits")
            if name in visit.catalogues:
                return Response(listing.catalogue(visit, name), media_type="text/plain")
        return JSONResponse({"msg": "No such product."}, status_code=404)

    # Cutouts.

    async def hapcut(self, request: Request) -> Response:
        """Cutouts of every filter as a zip, or JSON with status 200 where nothing is covered."""
        asked: Mapping[str, Any] = request.query_params
        try:
            if request.method == "POST":
                asked = json.loads(await request.body())
            ra, dec, x, y = (float(asked[key]) for key in ("ra", "dec", "x", "y"))
            pixels = 3600 / PIXEL if asked["units"] == "d" else 1.0
            nx, ny = math.ceil(x * pixels - 1e-6), math.ceil(y * pixels - 1e-6)
        except (ValueError, KeyError, TypeError):
            return JSONResponse({"msg": "Bad parameters.", "results": []}, status_code=400)
        if not 1 <= nx <= LARGEST_CUT or not 1 <= ny <= LARGEST_CUT:
            return JSONResponse({"msg": "Bad size.", "results": []}, status_code=400)
        made = await anyio.to_thread.run_sync(self._zip, ra, dec, nx, ny)
        if made is None:
            return JSONResponse({"msg": NOTHING, "results": []})
        return Response(made, media_type="application/zip")

    def _zip(self, ra: float, dec: float, nx: int, ny: int) -> bytes | None:
        """A zip of one FITS file per filter; None where the place is off the field."""
        wcs = field_wcs(self.spec.side)
        place = pixel_of(self.spec.side, ra, dec)
        if place is None:
            return None
        x, y = place
        left, low = math.ceil(x - nx / 2), math.ceil(y - ny / 2)
        side = self.spec.side
        x0, x1, y0, y1 = max(left, 0), min(left + nx, side), max(low, 0), min(low + ny, side)
        if x0 >= x1 or y0 >= y1:
            return None
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for filter in FILTERS:
                science, weight = np.zeros((2, ny, nx), np.float32)
                with fits.open(self.folder / name_of(filter)) as hdus:
                    for hdu, plane in (("SCI", science), ("WHT", weight)):
                        inner = plane[y0 - low : y1 - low, x0 - left : x1 - left]
                        inner[...] = hdus[hdu].section[y0:y1, x0:x1]
                moved = wcs.copy()
                moved[:2] -= (left, low)
                file = io.BytesIO()
                product(filter, science, weight, moved).writeto(file)
                where = f"ra{ra:.4f}-dec{dec:+.4f}".replace(".", "d").replace("+", "n")
                name = f"hst_cutout_skycell-p0000x00y00-{where}_acs_wfc_{filter.lower()}.fits"
                archive.writestr(zipfile.ZipInfo(name), file.getvalue(), zipfile.ZIP_DEFLATED)
        return made.getvalue()


def _table(
    rows: list[dict[str, Any]], shown: list[dict[str, Any]], page: int, size: int
) -> dict[str, Any]:
    """Rows as the portal writes them."""
    first = rows[0] if rows else {}
    fields = [
        {"name": name, "type": "boolean" if name == "_selected_" else TYPES[type(value)]}
        for name, value in first.items()
    ]
    pages = max(1, -(-len(rows) // size))
    paging = {"page": page, "pageSize": size, "pagesFiltered": pages, "rows": len(shown),
              "rowsFiltered": len(rows), "rowsTotal": len(rows)}  # fmt: skip
    return {"status": "COMPLETE", "msg": "", "data": shown, "fields": fields, "paging": paging}


def _degrees(ra: float, dec: float, other_ra: float, other_dec: float) -> float:
    """The angle between two places."""
    a, b, d = math.radians(dec), math.radians(other_dec), math.radians(ra - other_ra)
    half = math.sin((a - b) / 2) ** 2 + math.cos(a) * math.cos(b) * math.sin(d / 2) ** 2
    return math.degrees(2 * math.asin(math.sqrt(min(half, 1.0))))
