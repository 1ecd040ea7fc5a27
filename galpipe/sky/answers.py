"""How SkyServer writes a table or its refusal: CSV, JSON and HTML."""

from __future__ import annotations

import csv
import html
import io
import itertools
import json
from collections.abc import Iterable, Iterator

from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from galpipe.sky.sql import Row, Table

FORMATS = ("csv", "json", "html")
CHUNK = 1000  # rows sent at a time
TITLE = "Table1"


def answer(table: Table, form: str) -> Response:
    """The answer to a query in one of FORMATS; CSV is streamed and has no Content-Length."""
    if form == "csv":
        return StreamingResponse(_csv(table), media_type="text/csv")
    if form == "json":
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        return Response(
            json.dumps([{"TableName": TITLE, "Rows": rows}]), media_type="application/json"
        )
    return HTMLResponse(_html(table))


def refusal(message: str, form: str) -> Response:
    """Why there is no answer: JSON and status 400, but HTML with status 200, as the real one."""
    if form == "html":
        page = f"<html><body><h1>An error occurred</h1><p>{html.escape(message)}</p></body></html>"
        return HTMLResponse(page)
    return JSONResponse(
        {"ErrorCode": 400, "ErrorType": "BadRequest", "ErrorMessage": message}, status_code=400
    )


def too_many(limit: int) -> Response:
    """The answer past the rate limit, which is CSV with status 200."""
    text = f"ERROR: Maximum {limit} queries allowed per minute. Rejected query."
    return Response(f"#{TITLE}\nerror_message\n{text}\n", media_type="text/csv")


def _csv(table: Table) -> Iterator[str]:
    yield f"#{TITLE}\n" + _lines([table.columns])
    rows = iter(table.rows)
    while batch := list(itertools.islice(rows, CHUNK)):
        yield _lines([_cell(value) for value in row] for row in batch)


def _lines(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _cell(value: object) -> object:
    """Floats as their shortest exact decimal (what csv does), a missing value as `null`."""
    return "null" if value is None else value


def _html(table: Table) -> str:
    def line(tag: str, row: Row | tuple[str, ...]) -> str:
        cells = (f"<{tag}>{html.escape(str(_cell(value)))}</{tag}>" for value in row)
        return f"<tr>{''.join(cells)}</tr>"

    rows = "\n".join(line("td", row) for row in table.rows)
    return f"<html><body><table>{line('th', table.columns)}\n{rows}</table></body></html>"
