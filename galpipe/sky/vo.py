"""The embedded sky behind VO protocols: TAP, SIA2 with DataLink and SODA, and hips2fits."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from galpipe.sky import adql, observations, votable
from galpipe.sky.imgcutout import BANDS, Cutouts, OutsideFootprint, colours
from galpipe.sky.imgcutout import Request as Wanted
from galpipe.sky.observations import Circle, NothingThereError, Observations
from galpipe.sky.sql import Catalogue
from galpipe.sky.tsql import SqlError
from galpipe.sky.votable import Field

LARGEST_RADIUS = 1.0  # degrees, of a circle that is asked for
LARGEST_IMAGE = 2048  # pixels on a side
HIPS = "galpipe/P/sky/"  # and the band, or `color`
VOSI = ("capabilities", "availability")
DATALINK = (
    Field("ID", "char", ucd="meta.id;meta.main"),
    Field("access_url", "char", ucd="meta.ref.url"),
    Field("service_def", "char", ucd="meta.ref"),
    Field("error_message", "char", ucd="meta.code.error"),
    Field("description", "char", ucd="meta.note"),
    Field("semantics", "char", ucd="meta.code"),
    Field("content_type", "char", ucd="meta.code.mime"),
    Field("content_length", "long", "byte", "phys.size;meta.file"),
)


class UsageError(Exception):
    """A parameter that the service does not take."""


class Vo:
    """What answers the requests by VO protocols for one drawn sky."""

    def __init__(self, catalogue: Catalogue, cutouts: Cutouts, rows: int, seconds: float) -> None:
        self._catalogue = catalogue
        self._cutouts = cutouts
        self._observations = Observations(cutouts)
        self._rows = rows
        self._seconds = seconds

    def routes(self) -> list[Route]:
        """Where the services lie."""
        return [
            Route("/tap/sync", self.sync, methods=["GET", "POST"]),
            Route("/tap/capabilities", self.capabilities),
            Route("/tap/availability", self.availability),
            Route("/tap/tables", self.tables),
            Route("/sia2", self.sia2),
            Route("/sia2/query", self.sia2, methods=["GET", "POST"]),
            Route("/sia2/capabilities", self.image_capabilities),
            Route("/sia2/availability", self.availability),
            Route("/datalink", self.datalink),
            Route("/soda", self.soda),
            Route("/hips2fits", self.hips2fits),
        ]

    # TAP.

    async def sync(self, request: Request) -> Response:
        """An ADQL query, answered at once (TAP 1.1, section 2.1)."""
        fields = await _fields(request)
        try:
            if fields.get("request", "doQuery").lower() != "doquery":
                raise UsageError(f"REQUEST={fields['request']} is not served; it takes doQuery.")
            if fields.get("lang", "ADQL").upper().split("-")[0] != "ADQL":
                raise UsageError(f"LANG={fields['lang']} is not served; it takes ADQL.")
            if not fields.get("query", "").strip():
                raise UsageError("QUERY must be given.")
            rows = min(_whole(fields, "maxrec", self._rows), self._rows)
            text = await anyio.to_thread.run_sync(self._answer, fields["query"], rows)
        except (UsageError, SqlError) as error:
            return _refused(str(error))
        return _xml(text)

    def _answer(self, query: str, rows: int) -> str:
        table = self._catalogue.query(adql.translated(query), rows + 1, self._seconds)
        found = list(table.rows)
        described = self._columns().values()
        known = {name.lower(): one for fields in described for name, one in fields.items()}
        kept = found[:rows]
        return votable.results(
            votable.fields_of(table.columns, found, known), kept, overflow=len(found) > rows
        )

    def _columns(self) -> dict[str, dict[str, tuple[str, str, str]]]:
        """Type, unit and UCD of the columns by table and name."""
        kinds = {"varchar": "char", "real": "double", "float": "double"}
        query = "SELECT tableName, name, type, unit, ucd FROM DBColumns ORDER BY tableName, rank"
        tables: dict[str, dict[str, tuple[str, str, str]]] = {}
        for table, name, kind, unit, ucd in self._catalogue.query(query, 10**6, 60.0).rows:
            tables.setdefault(table, {})[name] = (kinds.get(kind, "long"), unit, ucd)
        return tables

    async def capabilities(self, request: Request) -> Response:
        tap = f"{_base(request)}/tap"
        entries = [(f"VOSI#{name}", f"{tap}/{name}") for name in (*VOSI, "tables")]
        return _xml(votable.capabilities(entries, tap, self._rows), "text/xml")

    async def availability(self, _request: Request) -> Response:
        return _xml(votable.availability(), "text/xml")

    async def tables(self, _request: Request) -> Response:
        tables = {
            table: [Field(name, *facts) for name, facts in columns.items()]
            for table, columns in self._columns().items()
        }
        return _xml(votable.tableset(tables), "text/xml")

    # Images.

    async def image_capabilities(self, request: Request) -> Response:
        sia = f"{_base(request)}/sia2"
        entries = [("SIA#query-2.0", f"{sia}/query")]
        entries += [(f"VOSI#{name}", f"{sia}/{name}") for name in VOSI]
        return _xml(votable.capabilities(entries), "text/xml")

    async def sia2(self, request: Request) -> Response:
        """The observations that cover a place (SIA 2.0, section 2.1)."""
        fields = await _fields(request)
        try:
            circle = _circle(fields["pos"], "CIRCLE ") if "pos" in fields else None
            rows = min(_whole(fields, "maxrec", self._rows), self._rows)
            found = await anyio.to_thread.run_sync(self._found, circle, fields)
        except UsageError as error:
            return _refused(str(error))
        base = _base(request)
        listed = [one.row(base) for one in found[:rows]]
        return _xml(votable.results(observations.OBSCORE, listed, overflow=len(found) > rows))

    def _found(
        self, circle: Circle | None, fields: Mapping[str, str]
    ) -> list[observations.Observation]:
        found = (
            list(self._observations.all().values())
            if circle is None
            else self._observations.covering(circle)
        )
        if "collection" in fields and fields["collection"] != observations.COLLECTION:
            return []
        if "id" in fields:
            found = [one for one in found if one.id == fields["id"]]
        if "band" in fields:
            ends = _numbers(fields["band"], "BAND")
            low, high = ends[0], ends[-1]
            spans = observations.WAVELENGTHS
            found = [
                one for one in found if spans[one.band][0] <= high and low <= spans[one.band][1]
            ]
        return found

    async def datalink(self, request: Request) -> Response:
        """How to get at one observation: its cutout service (DataLink 1.0)."""
        id = (await _fields(request)).get("id", "")
        known = await anyio.to_thread.run_sync(self._observations.all)
        if id not in known:
            fault = (id, "", "", "NotFoundFault: no such observation", "", "#this", "", None)
            return _xml(votable.results(DATALINK, [fault]), observations.DATALINK)
        row = (id, "", "soda", "", "cutout of the frame", "#cutout", "application/fits", None)
        descriptor = votable.soda_descriptor(f"{_base(request)}/soda", id)
        return _xml(votable.results(DATALINK, [row], more=descriptor), observations.DATALINK)

    async def soda(self, request: Request) -> Response:
        """A cutout of one observation as FITS; 204 where it has no pixels (SODA 1.0)."""
        fields = await _fields(request)
        try:
            if "circle" in fields:
                circle = _circle(fields["circle"], "")
            else:
                circle = _circle(fields.get("pos", ""), "CIRCLE ")
        except UsageError as error:
            return Response(f"UsageError: {error}", 400, media_type="text/plain")
        known = await anyio.to_thread.run_sync(self._observations.all)
        if fields.get("id") not in known:
            return Response("NotFoundFault: no such ID", 404, media_type="text/plain")
        try:
            content = await anyio.to_thread.run_sync(
                observations.cutout, known[fields["id"]], circle
            )
        except NothingThereError:
            return Response(status_code=204)
        return Response(content, media_type="application/fits")

    async def hips2fits(self, request: Request) -> Response:
        """An image about a place, resampled north up: FITS of one band, or JPEG of three."""
        fields = await _fields(request)
        form = fields.get("format", "fits").lower()
        try:
            wanted = _image(fields)
            name = fields.get("hips", "")
            band = name.removeprefix(HIPS)
            if not name.startswith(HIPS) or band not in (*BANDS, "color"):
                raise UsageError(f"there is no HiPS {name!r}.")
            if form not in ("fits", "jpg") or (form == "fits") == (band == "color"):
                raise UsageError(f"{name} does not come as format={form}.")
        except UsageError as error:
            return Response(f"UsageError: {error}", 400, media_type="text/plain")
        if form == "fits":
            content = await anyio.to_thread.run_sync(
                observations.hips_image, self._cutouts, wanted, band
            )
            return Response(content, media_type="application/fits")
        content = await anyio.to_thread.run_sync(self._jpeg, wanted)
        return Response(content, media_type="image/jpeg")

    def _jpeg(self, wanted: Wanted) -> bytes:
        from PIL import Image

        try:
            light = self._cutouts.light(wanted)
        except OutsideFootprint:
            light = self._cutouts.sampled(wanted)[0]  # a dark image, as HiPS has off its survey
        buffer = io.BytesIO()
        Image.fromarray(colours(light)).save(buffer, "JPEG", quality=95)
        return buffer.getvalue()


def _xml(text: str, media: str = votable.MEDIA) -> Response:
    return Response(text, media_type=media)


def _refused(message: str) -> Response:
    return Response(votable.error(message), 400, media_type=votable.MEDIA)


def _base(request: Request) -> str:
    return str(request.base_url).rstrip("/")


async def _fields(request: Request) -> dict[str, str]:
    """The parameters by their names in small letters, of the address or of a form."""
    given: dict[str, str] = {name.lower(): value for name, value in request.query_params.items()}
    if request.method == "POST":
        from urllib.parse import parse_qsl

        body = (await request.body()).decode("utf-8", "replace")
        given |= {name.lower(): value for name, value in parse_qsl(body, keep_blank_values=True)}
    return given


def _whole(fields: Mapping[str, Any], name: str, default: int) -> int:
    text = str(fields.get(name, default))
    if not text.isdecimal():
        raise UsageError(f"{name.upper()} takes a whole number, not {text[:40]!r}.")
    return int(text[:12])


def _numbers(text: str, name: str) -> list[float]:
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        raise UsageError(f"{name} takes numbers, not {text[:40]!r}.") from None
    if not values or not all(map(math.isfinite, values)):
        raise UsageError(f"{name} takes numbers, not {text[:40]!r}.")
    return values


def _circle(text: str, start: str) -> Circle:
    if not text.upper().startswith(start):
        raise UsageError("POS is served as `CIRCLE ra dec radius` alone.")
    values = _numbers(text[len(start) :], "CIRCLE")
    if len(values) != 3 or not -90 <= values[1] <= 90 or not 0 < values[2] <= LARGEST_RADIUS:
        raise UsageError(f"CIRCLE takes ra, dec and a radius up to {LARGEST_RADIUS:g} degrees.")
    return Circle(*values)


def _image(fields: Mapping[str, str]) -> Wanted:
    if fields.get("projection", "TAN") != "TAN" or fields.get("coordsys", "icrs") != "icrs":
        raise UsageError("only projection=TAN and coordsys=icrs are served.")
    width, height = (_whole(fields, name, 256) for name in ("width", "height"))
    ra, dec, fov = (_numbers(fields.get(name, ""), name)[0] for name in ("ra", "dec", "fov"))
    if not (1 <= width <= LARGEST_IMAGE and 1 <= height <= LARGEST_IMAGE):
        raise UsageError(f"width and height go up to {LARGEST_IMAGE} pixels.")
    if not -90 <= dec <= 90 or not 0 < fov <= LARGEST_RADIUS:
        raise UsageError(f"dec lies within 90 and fov below {LARGEST_RADIUS:g} degrees.")
    return Wanted(ra % 360, dec, fov * 3600 / max(width, height), width, height)
