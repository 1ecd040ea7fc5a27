"""Samples by SQL from SkyServer: asked through astroquery, page by page, and the bytes judged here.

SkyServer adds a TOP 500,000 where a query has none and says nothing of it, answers a rate limit and
some errors with status 200, and a cut connection leaves a shorter but well-formed table: its
answers come without their length.  Where the length does not prove an answer whole, the rows are
counted by a second query.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from galpipe.archives.connections import is_local
from galpipe.archives.download import TRY_AGAIN, USER_AGENT
from galpipe.archives.pace import pace_of
from galpipe.archives.spec import Sdss, Sky
from galpipe.archives.sqltext import counting, limit_of
from galpipe.archives.waiting import backoff, retry_after
from galpipe.errors import InputError
from galpipe.sample.spec import Sample
from galpipe.sample.table import read_table

MOST_ROWS = 500_000  # of one answer, whatever the query says
SQL_SECONDS = 660.0  # the server ends a query after 600
RATE_WAIT = 15.0  # times the patience: after "Maximum 60 queries allowed per minute"
LAST = "{last}"
FIRST_KEY = -1  # below every identifier of SDSS


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
    answer as long as its limit is refused, since nothing tells whether it was cut.  An answer that
    ends a table and came without its length is counted by a second query.

    Raises InputError where the query or the server is no good.
    """
    sql = (sample.sql or "").strip()
    if not sql.lower().startswith("select "):
        raise InputError("sample.sql: SkyServer takes queries that begin with SELECT; mend it.")
    limit = limit_of(sql, MOST_ROWS)
    if LAST not in sql:
        header, rows = _page(spec, sql, lambda count: count < limit)
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
        page_header, rows = _page(spec, sql.replace(LAST, str(last)), lambda count: not count)
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


def _page(spec: Sdss | Sky, sql: str, ends: Callable[[int], bool]) -> tuple[str, list[str]]:
    """The header and the lines of one answer.

    `ends`: whether a table ends with an answer of so many rows, which then must be proved whole.
    """
    for attempt in range(spec.tries):
        try:
            header, lines, proved = _judged(_answer(spec, sql), spec.patience)
            if not proved and ends(len(lines)):
                _compare(spec, sql, sum(1 for _ in csv.reader(lines)))
            return header, lines
        except _TryAgainError as trouble:
            reason = trouble.reason
            if trouble.wait is not None and trouble.wait > spec.longest_wait:
                reason += (
                    f", and asks to wait {trouble.wait:.0f} s, more than archive.longest_wait "
                    f"({spec.longest_wait:g} s)"
                )
                break
            if attempt + 1 < spec.tries:
                time.sleep(backoff(spec.patience, attempt, trouble.wait))
    tries = "1 try" if attempt == 0 else f"{attempt + 1} tries"
    raise InputError(
        f"sample.sql: {spec.skyserver} gave no usable answer in {tries} ({reason}); "
        "run the survey again later, or mend archive.skyserver."
    )


def _compare(spec: Sdss | Sky, sql: str, rows: int) -> None:
    """Count the rows of a query at the server; raises _TryAgainError where there are not `rows`."""
    try:
        _, lines, _ = _judged(_answer(spec, counting(sql)), spec.patience)
        there = int(lines[0]) if lines else -1
    except (InputError, ValueError) as error:
        raise InputError(
            f"sample.sql: the answer came without its length, and its rows cannot be counted "
            f"({error}); select plain columns with FROM, WHERE and ORDER BY."
        ) from None
    if there < 0:
        raise _TryAgainError("the number of rows did not come")
    if there != rows:
        raise _TryAgainError(f"the answer is cut off: {rows} of {there} rows came")


def _answer(spec: Sdss | Sky, sql: str) -> Any:
    """One answer of SkyServer, unread: `status_code`, `headers` and `content` of its bytes."""
    import requests
    from astroquery import sdss

    from galpipe.archives.timed import Timed

    asking = sdss.SDSSClass()
    session = asking._session
    session.trust_env = not is_local(spec.skyserver)
    session.headers["User-Agent"] = USER_AGENT
    for scheme in ("http://", "https://"):
        session.mount(scheme, Timed(spec.timeout, SQL_SECONDS))
    pace = pace_of(spec)
    if pace is not None:
        pace.wait()
    try:
        with sdss.conf.set_temp("skyserver_baseurl", spec.skyserver.rstrip("/")), session:
            # A cached answer would be a bad one kept for a week.
            return asking.query_sql_async(
                sql, timeout=SQL_SECONDS, data_release=spec.catalog_release, cache=False
            )
    except requests.RequestException as error:
        raise _TryAgainError(f"no whole answer: {type(error).__name__}") from None


def _judged(answer: Any, patience: float) -> tuple[str, list[str], bool]:
    """The header and lines of a good answer, and whether its length proves it whole.

    Raises InputError or _TryAgainError of a bad one.
    """
    text = answer.content.decode("utf-8", "replace").removeprefix("\ufeff")
    said = _complaint(text)
    if answer.status_code != 200:
        reason = f"HTTP {answer.status_code}{': ' + said if said else ''}"
        if answer.status_code in TRY_AGAIN or answer.status_code >= 500:
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
    if (
        length is not None
        and length.isdecimal()
        and not encoded
        and len(answer.content) < int(length)
    ):
        raise _TryAgainError("the answer is cut off")
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[0].startswith("#"):
        del lines[0]
    columns = _fields(lines[0]) if lines else 0
    if not lines or lines[-1] != "" or (len(lines) > 2 and _fields(lines[-2]) != columns):
        raise _TryAgainError("the answer is cut off within a line")
    return lines[0], [line for line in lines[1:] if line], length is not None


def _fields(line: str) -> int:
    try:
        return len(next(csv.reader([line]), []))
    except csv.Error:
        raise _TryAgainError("a line that is no CSV") from None


def _complaint(text: str) -> str:
    """What an answer says went wrong, in one line; empty where it is no complaint."""
    stripped = text.lstrip()
    if stripped[:1] in ("{", "["):
        try:
            found = json.loads(stripped)
        except (ValueError, RecursionError):
            return "an unreadable JSON answer"
        found = found[0] if isinstance(found, list) and found else found
        said = found.get("ErrorMessage") if isinstance(found, dict) else None
        return " ".join(str(said or "an answer in JSON where CSV was asked for").split())[:300]
    lines = [line for line in stripped.splitlines()[:4] if not line.startswith("#")]
    if lines and lines[0].strip().strip('"').lower() == "error_message":
        return " ".join(" ".join(lines[1:]).split()).strip('"')[:300]
    return ""
