"""The shape of a VOTable document, looked at before astropy reads it.

Refused are document types and entities (an XML bomb, or a way to other files), data that lies in
another file (astropy would open `STREAM href="file:..."`, or an address), pages that are no XML,
and tables that unfold: rows that are declared but not there, cells that are large where the
document is small, and binary rows of no bytes, of which there is no end.
"""

from __future__ import annotations

import math
import re
from xml.parsers import expat

LARGEST_ARRAY = 100_000  # elements of one cell
LARGEST_MEMORY = 2**29  # bytes that a table may unfold to, unless the document itself is larger
DEEPEST = 60  # elements within each other
MOST_NUMBERS = 1_000_000  # in a row and all parameters
MOST_FIELDS = 5_000  # columns and parameters of a document
MOST_ELEMENTS = 200_000  # besides rows and cells
ENCODINGS = ("utf-8", "us-ascii", "ascii", "iso-8859-1", "latin-1")
DECLARED = re.compile(rb"^\s*<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._-]+)[\"']")
ROWS = ("TR", "TD")


class BadVotableError(Exception):
    """The bytes are no VOTable that can be trusted; the text says why."""


def shortened(said: object) -> str:
    """A message from outside in one short line, without addresses."""
    text = re.sub(r"\w+://\S*", "(address)", " ".join(str(said).split()))
    return text[:160] or "no message"


def check_shape(content: bytes) -> None:
    """Raise BadVotableError where a whole document is none that astropy should read."""
    start = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start.startswith(b"<"):
        raise BadVotableError("not XML")
    if start[:9].lower().startswith((b"<!doctype", b"<html")):
        raise BadVotableError("a web page")
    declared = DECLARED.match(start)
    if b"\0" in content[:4096] or (declared and declared[1].decode().lower() not in ENCODINGS):
        raise BadVotableError("an encoding other than UTF-8 or Latin-1")
    _Guard(len(content)).read(content)


class _Guard:
    """Reads a document for its shape alone."""

    def __init__(self, size: int) -> None:
        self._most = max(LARGEST_MEMORY, 8 * size)  # `<TD/>` becomes a number and its mask
        self._depth = self._elements = self._fields = self._numbers = 0
        self._row = 0  # bytes of a row of the present table
        self._declared = self._rows = 0
        self._binary = False  # whether its rows have bytes in binary, every cell some
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

    def _doctype(self, *_: object) -> None:
        raise BadVotableError("a document type, which no VOTable needs")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rsplit(":", 1)[-1]
        self._depth += 1
        if self._depth == 1 and name != "VOTABLE":
            raise BadVotableError(f"a document of <{name[:40]}>")
        if self._depth > DEEPEST:
            raise BadVotableError("elements too deep within each other")
        if name not in ROWS:
            self._elements += 1
            if self._elements > MOST_ELEMENTS or len(attributes) > 100:
                raise BadVotableError("more elements or attributes than any table has")
        match name:
            case "STREAM" if "href" in attributes:
                raise BadVotableError("data in another file")
            case "TABLE":
                self._row = self._rows = 0
                self._binary = False
                self._declared = _number(attributes.get("nrows", "0"))
            case "FIELD" | "PARAM":
                self._field(name, attributes)
            case "TR":
                self._rows += 1
            case "BINARY" | "BINARY2" if not self._binary:
                raise BadVotableError("binary cells of no bytes")
        if self._row * max(self._declared, self._rows) > self._most:
            raise BadVotableError("more rows than it can hold")

    def _field(self, name: str, attributes: dict[str, str]) -> None:
        self._fields += 1
        if self._fields > MOST_FIELDS:
            raise BadVotableError(f"more than {MOST_FIELDS} columns")
        shape = attributes.get("arraysize") or "1"
        sizes = [_number(size) for size in shape.rstrip("*").rstrip("x").split("x")]
        if shape == "*":
            sizes = [1]
        elements = math.prod(sizes)
        self._numbers += elements
        if elements > LARGEST_ARRAY or self._numbers > MOST_NUMBERS:
            raise BadVotableError("a cell too large")
        if name == "FIELD":
            # A cell of varying length takes the room of what it holds.
            self._binary = elements > 0 and (self._binary or not self._row)
            self._row += 16 if "*" in shape else 16 * max(elements, 1)

    def _end(self, _name: str) -> None:
        self._depth -= 1


def _number(text: str) -> int:
    """A whole number of a document; 0 where it is none, huge where it is too long for any."""
    if len(text) > 18:
        return 10**18
    try:
        return max(int(text), 0)
    except ValueError:
        return 0
