"""Samples by ADQL: asked through pyvo, page by page, and the bytes judged here.

A TAP service that cuts an answer says so after the rows (`QUERY_STATUS` OVERFLOW), where a client
that does not look takes part of a table for the whole.
"""

from __future__ import annotations

import io
import re
import time
from typing import Any
from urllib.parse import urljoin, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from galpipe.archives.connections import is_local
from galpipe.archives.download import LARGEST_ANSWER, LONGEST_ANSWER, TRY_AGAIN, USER_AGENT
from galpipe.archives.pace import pace_at
from galpipe.archives.spec import Vo
from galpipe.archives.vo.access import HIDDEN, token_of
from galpipe.archives.vo.votable import BadVotableError, read, shortened
from galpipe.archives.waiting import backoff, retry_after
from galpipe.errors import InputError
from galpipe.sample.spec import Sample
from galpipe.sample.table import from_results

MOST_ROWS = 1_000_000  # of one answer, which is what is asked for; a service may give less
QUERY_SECONDS = 660.0  # without a byte: synchronous queries are often given ten minutes
LAST = "{last}"
FIRST_KEY = -1  # below every identifier
SELECT = re.compile(r"^\s*(--[^\n]*\n\s*)*(select|with)\s", re.IGNORECASE)


class _TryAgainError(Exception):
    """An answer that another try may mend; `wait` is in seconds where the server asked for it."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait


def query(spec: Vo, sample: Sample) -> pa.Table:
    """The rows of `sample.adql`, all of them, the identifier exact.

    A query with `{last}` is asked again and again with the identifier of the last row, until no row
    is left; each page must come in order of the identifier, and may be cut by the service.  One
    without is asked once, and refused where the service cut it.

    Raises InputError where the query or the service is no good.
    """
    adql = (sample.adql or "").strip()
    if not spec.tap:
        raise InputError("sample.adql: archive.tap gives no TAP service to ask; name its address.")
    if not SELECT.match(adql):
        raise InputError("sample.adql: an ADQL query begins with SELECT; mend it.")
    if LAST not in adql:
        table, cut = _page(spec, adql)
        if cut:
            raise InputError(
                f"sample.adql: the service cut its answer at {len(table)} rows; page by key: "
                f"SELECT TOP 10000 ... WHERE {sample.id} > {LAST} ... ORDER BY {sample.id}."
            )
        return table
    if sample.id_type != "int64":
        raise InputError(
            f'sample.adql: paging by {LAST} needs an identifier of id_type = "int64"; use one.'
        )
    pages: list[pa.Table] = []
    last = FIRST_KEY
    while True:
        table, _ = _page(spec, adql.replace(LAST, str(last)))
        if pages and table.column_names != pages[0].column_names:
            raise InputError("sample.adql: the pages have different columns; ask again.")
        if not len(table):
            return _joined(pages) if pages else table
        last = _last_key(table, sample.id, last)
        pages.append(table)


def _joined(pages: list[pa.Table]) -> pa.Table:
    """The pages as one table; a column that one page has no value of takes the others' type."""
    try:
        return pa.concat_tables(pages, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        raise InputError("sample.adql: the pages have columns of different types.") from None


def _last_key(table: pa.Table, id: str, last: int) -> int:
    """The identifier of a page's last row; they must rise from the page before."""
    try:
        column = next(table[name] for name in table.column_names if name.lower() == id.lower())
        keys = pc.cast(column, pa.int64()).to_numpy()
    except StopIteration:
        raise InputError(
            f"sample.adql: the answer has no column {id!r}; select it, or name another sample.id "
            f"(it has {', '.join(table.column_names[:12])})."
        ) from None
    except pa.ArrowInvalid:
        raise InputError(f"sample.adql: the column {id!r} holds no 64-bit integers.") from None
    if keys.dtype.kind != "i" or (np.diff(keys) <= 0).any() or keys[0] <= last:
        raise InputError(
            f"sample.adql: a page does not come in order of {id}, each once; end the query with "
            f"ORDER BY {id}, filter by {id} > {LAST}, and select one row per object."
        )
    return int(keys[-1])


def _page(spec: Vo, adql: str) -> tuple[pa.Table, bool]:
    """The rows of one answer, and whether the service cut it."""
    token = token_of(spec)
    reason = ""
    for attempt in range(spec.tries):
        try:
            return _judged(*_answer(spec, adql, token))
        except InputError as error:
            raise InputError(_without(token, str(error))) from None
        except _TryAgainError as trouble:
            reason = trouble.reason
            if trouble.wait is not None and trouble.wait > spec.longest_wait:
                reason += f", and asks to wait {trouble.wait:.0f} s"
                break
            if attempt + 1 < spec.tries:
                time.sleep(backoff(spec.patience, attempt, trouble.wait))
    raise InputError(
        f"sample.adql: {spec.tap} gave no usable answer in {attempt + 1} tries "
        f"({_without(token, reason)}); run the survey again later, or mend archive.tap."
    )


def _without(token: str | None, text: str) -> str:
    return text if token is None else text.replace(token, HIDDEN)


def _answer(spec: Vo, adql: str, token: str | None) -> tuple[int, Any, bytes]:
    """Status, headers and body of one answer of the TAP service."""
    import pyvo
    import requests

    pace = pace_at(spec.tap, spec.requests_per_minute)
    if pace is not None:
        pace.wait()
    begin = time.monotonic()
    try:
        with _session(spec, token) as session:
            asked = pyvo.dal.TAPQuery(spec.tap.rstrip("/"), adql, maxrec=MOST_ROWS, session=session)
            answer = asked.submit()
            body = io.BytesIO()
            for piece in answer.iter_content(2**16):
                body.write(piece)
                if body.tell() > LARGEST_ANSWER:
                    raise InputError(
                        f"sample.adql: the answer is larger than {LARGEST_ANSWER} bytes; page by "
                        f"key with TOP and {LAST}."
                    )
                if time.monotonic() - begin > LONGEST_ANSWER * spec.timeout + QUERY_SECONDS:
                    raise _TryAgainError("the answer comes too slowly")
            return answer.status_code, answer.headers, body.getvalue()
    except requests.RequestException as error:
        raise _TryAgainError(f"no whole answer: {type(error).__name__}") from None


def _session(spec: Vo, token: str | None) -> Any:
    """A session with limits of time that stays with its host, and shows the token to it alone."""
    import requests

    host = urlsplit(spec.tap).hostname

    class Session(requests.Session):
        def request(self, *asked: Any, **settings: Any) -> Any:
            settings["timeout"] = (min(spec.timeout, 10.0), max(spec.timeout, 1.0) + QUERY_SECONDS)
            return super().request(*asked, **settings)

        def get_redirect_target(self, answer: Any) -> str | None:
            target: str | None = super().get_redirect_target(answer)
            if target is not None:
                parts = urlsplit(urljoin(answer.url, target))
                if parts.hostname != host or parts.scheme not in ("http", "https"):
                    raise InputError(
                        "sample.adql: archive.tap redirects to another host, which is not "
                        "followed; name the address it moved to."
                    )
                if parts.scheme == "http" and spec.tap.startswith("https:"):
                    raise InputError(
                        "sample.adql: archive.tap redirects to an unencrypted address, which is "
                        "not followed."
                    )
            return target

    def authorized(request: Any) -> Any:  # given even without a token: it keeps .netrc out
        if token is not None:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    session = Session()
    session.trust_env = not is_local(spec.tap)
    session.headers["User-Agent"] = USER_AGENT
    session.auth = authorized
    return session


def _judged(status: int, headers: Any, content: bytes) -> tuple[pa.Table, bool]:
    """The rows of a good answer and whether it was cut; raises of a bad one."""
    if status in TRY_AGAIN:
        raise _TryAgainError(f"HTTP {status}", retry_after(headers.get("Retry-After")))
    length = headers.get("Content-Length", "")
    encoded = headers.get("Content-Encoding", "identity") != "identity"
    if length.isdecimal() and not encoded and len(content) < int(length):
        raise _TryAgainError("the answer is cut off")
    if not content.strip():
        raise _TryAgainError("the answer is empty")
    try:
        answer = read(content, LARGEST_ANSWER)
    except BadVotableError as error:
        if status != 200:
            raise _refused(f"HTTP {status}") from None
        raise _TryAgainError(f"the answer is no VOTable: {error}") from None
    if status != 200 or answer.status not in ("OK", "OVERFLOW"):
        raise _refused(answer.message or f"HTTP {status}")
    if answer.table is None:
        raise _TryAgainError("the answer has no table")
    return from_results(answer.table), answer.status == "OVERFLOW"


def _refused(reason: str) -> InputError:
    return InputError(
        f"sample.adql: the service refused the query ({shortened(reason)}); mend the query."
    )
