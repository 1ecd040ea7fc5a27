"""Samples by SQL from SkyServer: asked through astroquery, page by page, and the bytes judged here.

SkyServer adds a TOP 500,000 where a query has none and says nothing of it, answers a rate limit and
some errors with status 200, and a cut connection leaves a shorter but well-formed table.
"""

from __future__ import annotations

import csv
import json
import re
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from galpipe.archives.download import USER_AGENT, backoff, is_local, pace_of, retry_after
from galpipe.archives.spec import Sdss, Sky
from galpipe.errors import InputError
from galpipe.sample.spec import Sample
from galpipe.sample.table import read_table

MOST_ROWS = 500_000  # of one answer, whatever the query says
SQL_SECONDS = 660.0  # the server ends a query after 600
RATE_WAIT = 15.0  # times the patience: after "Maximum 60 queries allowed per minute"
LAST = "{last}"
FIRST_KEY = -1  # below every identifier of SDSS
TOP = re.compile(r"^\s*select\s+(?:distinct\s+)?top\s*\(?\s*(\d+)", re.IGNORECASE)


class _TryAgainError(Exception):
    """An answer that another try may mend; `wait` is in seconds where the server asked for it."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait


def query(spec: Sdss | Sky, sample: Sample) -> pa.Table:
    """The rows of `sample.sql`, all of them, with the identifier as exact text.

    A query with `{last}` is asked again and again with the identifier of the last row, until no row
    is left; each page must come in order of the identifier.  One without is asked once, and an
    answer as long as its limit is refused, since nothing tells whether it was cut.

    Raises InputError where the query or the server is no good.
    """
    sql = (sample.sql or "").strip()
    if not sql.lower().startswith("select "):
        raise InputError("sample.sql: SkyServer takes queries that begin with SELECT; mend it.")
    found = TOP.match(sql)
    limit = min(int(found[1]), MOST_ROWS) if found else MOST_ROWS
    if LAST not in sql:
        header, rows = _page(spec, sql)
        if len(rows) >= limit:
            raise InputError(
                f"sample.sql: the answer has {len(rows)} rows, as many as one answer may have, so "
                f"it may be cut off; page by key: SELECT TOP {limit} ... WHERE {sample.id} > {LAST}"
                f" ... ORDER BY {sample.id}."
            )
        return _table(header, rows, sample.id)
    if sample.id_type != "int64":
        raise InputError(
            f'sample.sql: paging by {LAST} needs an identifier of id_type = "int64"; use one.'
        )
    header, last = "", FIRST_KEY
    everything: list[str] = []
    while True:
        page_header, rows = _page(spec, sql.replace(LAST, str(last)))
        if header and page_header != header:
            raise InputError("sample.sql: the pages have different columns; ask again.")
        header = page_header
        if not rows:
            return _table(header, everything, sample.id)
        last = _last_key(_table(header, rows, sample.id), sample.id, last)
        everything += rows


def _last_key(table: pa.Table, id: str, last: int) -> int:
    """The identifier of a page's last row; they must rise from the page before."""
    try:
        column = next(table[name] for name in table.column_names if name.lower() == id.lower())
        keys = pc.cast(column, pa.int64()).to_numpy()
    except StopIteration:
        raise InputError(
            f"sample.sql: the answer has no column {id!r}; select it, or name another sample.id "
            f"(it has {', '.join(table.column_names[:12])})."
        ) from None
    except pa.ArrowInvalid:
        raise InputError(f"sample.sql: the column {id!r} holds no 64-bit integers.") from None
    if (np.diff(keys) <= 0).any() or keys[0] <= last:
        raise InputError(
            f"sample.sql: a page does not come in order of {id}, each once; end the query with "
            f"ORDER BY {id}, filter by {id} > {LAST}, and select one row per object."
        )
    return int(keys[-1])


def _table(header: str, rows: list[str], id: str) -> pa.Table:
    return read_table("\n".join([header, *rows, ""]).encode(), "sample.sql.csv", id)


def _page(spec: Sdss | Sky, sql: str) -> tuple[str, list[str]]:
    """The header and the lines of one answer."""
    for attempt in range(spec.tries):
        try:
            return _judged(_answer(spec, sql), spec.patience)
        except _TryAgainError as trouble:
            reason = trouble.reason
            if attempt + 1 < spec.tries:
                time.sleep(backoff(spec.patience, attempt, trouble.wait))
    raise InputError(
        f"sample.sql: {spec.skyserver} gave no usable answer in {spec.tries} tries ({reason}); "
        "run the survey again later, or mend archive.skyserver."
    )


def _answer(spec: Sdss | Sky, sql: str) -> Any:
    """One answer of SkyServer, unread: `status_code`, `headers` and `content` of its bytes."""
    import requests
    from astroquery import sdss

    asking = sdss.SDSSClass()
    asking._session.trust_env = not is_local(spec.skyserver)
    asking._session.headers["User-Agent"] = USER_AGENT
    pace = pace_of(spec)
    if pace is not None:
        pace.wait()
    try:
        with sdss.conf.set_temp("skyserver_baseurl", spec.skyserver.rstrip("/")), asking._session:
            # A cached answer would be a bad one kept for a week.
            return asking.query_sql_async(
                sql, timeout=SQL_SECONDS, data_release=spec.catalog_release, cache=False
            )
    except requests.RequestException as error:
        raise _TryAgainError(f"no whole answer: {type(error).__name__}") from None


def _judged(answer: Any, patience: float) -> tuple[str, list[str]]:
    """The header and lines of a good answer; raises InputError or _TryAgainError of a bad one."""
    text = answer.content.decode("utf-8", "replace").removeprefix("\ufeff")
    said = _complaint(text)
    if answer.status_code != 200:
        reason = f"HTTP {answer.status_code}{': ' + said if said else ''}"
        if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
            raise _TryAgainError(reason, retry_after(answer.headers.get("Retry-After")))
        raise InputError(f"sample.sql: SkyServer refused the query ({reason}); mend the query.")
    if not text.strip():
        raise _TryAgainError("the answer is empty")
    if text.lstrip().startswith("<"):
        raise _TryAgainError("it answered with a web page")
    if "Maximum" in said and "per minute" in said:
        raise _TryAgainError(said, RATE_WAIT * patience)
    if said:
        raise InputError(f"sample.sql: SkyServer refused the query ({said}); mend the query.")
    length = answer.headers.get("Content-Length")
    encoded = answer.headers.get("Content-Encoding", "identity") != "identity"
    if length is not None and not encoded and len(answer.content) < int(length):
        raise _TryAgainError("the answer is cut off")
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[0].startswith("#"):
        del lines[0]
    columns = _fields(lines[0]) if lines else 0
    if not lines or lines[-1] != "" or (len(lines) > 2 and _fields(lines[-2]) != columns):
        raise _TryAgainError("the answer is cut off within a line")
    return lines[0], [line for line in lines[1:] if line]


def _fields(line: str) -> int:
    return len(next(csv.reader([line]), []))


def _complaint(text: str) -> str:
    """What an answer says went wrong, in one line; empty where it is no complaint."""
    stripped = text.lstrip()
    if stripped[:1] in ("{", "["):
        try:
            found = json.loads(stripped)
        except ValueError:
            return "an unreadable JSON answer"
        found = found[0] if isinstance(found, list) and found else found
        said = found.get("ErrorMessage") if isinstance(found, dict) else None
        return " ".join(str(said or "an answer in JSON where CSV was asked for").split())[:300]
    lines = [line for line in stripped.splitlines()[:4] if not line.startswith("#")]
    if lines and lines[0].strip().strip('"').lower() == "error_message":
        return " ".join(" ".join(lines[1:]).split()).strip('"')[:300]
    return ""
