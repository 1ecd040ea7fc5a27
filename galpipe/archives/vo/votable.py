"""VOTables from outside: refused where they are not what they should be, then read by astropy.

Refused before astropy sees them: document types and entities, links to other files (astropy would
follow `STREAM href="file:..."`), sizes that are declared but not there, and pages that are no XML.
"""

from __future__ import annotations

import io
import math
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.parsers import expat

LARGEST_ARRAY = 100_000  # elements of one cell
LARGEST_MEMORY = 2**29  # bytes that a table may declare
DEEPEST = 60  # elements within each other
ENCODINGS = ("utf-8", "us-ascii", "ascii", "iso-8859-1", "latin-1")
DECLARED = re.compile(rb"^\s*<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._-]+)[\"']")
_one_at_a_time = threading.RLock()  # Python's warning filters are one for all threads


class BadVotableError(Exception):
    """The bytes are no VOTable that can be trusted; the text says why."""


@dataclass(frozen=True)
class Link:
    """A service that a document describes: its standard, address and the parameters it names."""

    standard: str
    address: str
    parameters: dict[str, str]


@dataclass(frozen=True)
class Answer:
    """What a service answered: `status` OK, OVERFLOW or ERROR, with the message of the latter.

    `table` is an astropy table of the results, None where there is none.
    """

    status: str
    message: str
    table: Any
    links: tuple[Link, ...]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows by column names in small letters; None where a cell is masked or empty."""
        if self.table is None:
            return
        names = [str(name) for name in self.table.colnames]
        for row in self.table:
            yield {name.lower(): _plain(row[name]) for name in names}


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings of headers older than the standards, whatever other threads do."""
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read(content: bytes, most_bytes: int) -> Answer:
    """The answer in a VOTable document of at most `most_bytes`; raises BadVotableError."""
    if len(content) > most_bytes:
        raise BadVotableError(f"larger than {most_bytes} bytes")
    _refuse(content)
    from astropy.io import votable

    try:
        with quiet():
            document = votable.parse(io.BytesIO(content), verify="ignore", invalid="mask")
            return _answer(document)
    except MemoryError:
        raise
    except Exception as error:  # astropy raises whatever its parser meets
        raise BadVotableError(shortened(error)) from None


def shortened(said: object) -> str:
    """A message from outside in one short line, without addresses."""
    text = re.sub(r"\w+://\S*", "(address)", " ".join(str(said).split()))
    return text[:160] or "no message"


def _refuse(content: bytes) -> None:
    start = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start.startswith(b"<"):
        raise BadVotableError("not XML")
    if start[:9].lower().startswith((b"<!doctype", b"<html")):
        raise BadVotableError("a web page")
    declared = DECLARED.match(start)
    if b"\0" in content[:4096] or (declared and declared[1].decode().lower() not in ENCODINGS):
        raise BadVotableError("an encoding other than UTF-8 or Latin-1")
    _Guard().read(content)


class _Guard:
    """Reads a document for its shape alone."""

    def __init__(self) -> None:
        self._depth = 0
        self._row = 0  # bytes of a row of the present table
        self._rows = 0
        parser = self._parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = self._doctype
        parser.EntityDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end

    def read(self, content: bytes) -> None:
        try:
            self._parser.Parse(content, True)
        except expat.ExpatError as error:
            raise BadVotableError(f"no whole XML ({shortened(error)})") from None

    def _doctype(self, *_: Any) -> None:
        raise BadVotableError("a document type, which no VOTable needs")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rsplit(":", 1)[-1]
        self._depth += 1
        if self._depth == 1 and name != "VOTABLE":
            raise BadVotableError(f"a document of <{name[:40]}>")
        if self._depth > DEEPEST:
            raise BadVotableError("elements too deep within each other")
        if name == "STREAM" and "href" in attributes:
            raise BadVotableError("data in another file")
        if name == "TABLE":
            self._row, self._rows = 0, _number(attributes.get("nrows", "0"))
        if name in ("FIELD", "PARAM"):
            sizes = [_number(text) for text in re.findall(r"\d+", attributes.get("arraysize", ""))]
            elements = math.prod(sizes)
            if elements > LARGEST_ARRAY:
                raise BadVotableError("a cell too large")
            self._row += 16 * max(elements, 1)
        if self._row * self._rows > LARGEST_MEMORY:
            raise BadVotableError("more rows than it can hold")

    def _end(self, _name: str) -> None:
        self._depth -= 1


def _number(text: str) -> int:
    """A whole number of a document; one too long for any is huge."""
    text = text.strip()
    return int(text[:18]) if text.isdecimal() else 0


def _answer(document: Any) -> Answer:
    resources = list(document.iter_resources()) if hasattr(document, "iter_resources") else []
    resources = resources or list(_resources(document.resources))
    results = next((one for one in resources if (one.type or "").lower() == "results"), None)
    if results is None and resources and (resources[0].type or "").lower() != "meta":
        results = resources[0]
    tables = list(results.tables) if results is not None else []
    infos = [*document.infos, *(results.infos if results is not None else [])]
    infos += [info for table in tables for info in table.infos]
    status, message = "OK", ""
    for info in infos:  # the last one counts: an overflow is told after the rows
        if str(info.name).upper() == "QUERY_STATUS":
            status, message = str(info.value).upper(), shortened(info.content or "no reason")
    table = tables[0].to_table(use_names_over_ids=True) if tables and status != "ERROR" else None
    links = tuple(link for one in resources for link in _links(one))
    return Answer(status, message, table, links)


def _resources(found: Any) -> Iterator[Any]:
    for resource in found:
        yield resource
        yield from _resources(resource.resources)


def _links(resource: Any) -> Iterator[Link]:
    if "adhoc:service" not in (resource.utype or ""):
        return
    facts = {str(param.name): _plain(param.value) for param in resource.params}
    if not facts.get("accessURL"):
        return
    parameters = {}
    for group in resource.groups:
        if group.name == "inputParams":
            for param in group.entries:
                if hasattr(param, "value"):
                    value = _plain(param.value)
                    parameters[str(param.name).upper()] = "" if value is None else str(value)
    yield Link(str(facts.get("standardID") or ""), str(facts["accessURL"]), parameters)


def _plain(value: Any) -> Any:
    """A cell as a Python value; None where it is masked."""
    import numpy as np

    if value is None or value is np.ma.masked:
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str | int | float):
        return value
    return str(value)
