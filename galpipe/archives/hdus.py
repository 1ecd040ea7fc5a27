"""The HDUs of a FITS file in memory: where they lie, their cards, images and columns of tables.

For files of a known layout, read by the thousand: astropy takes several times as long to find the
same, and a third of a second to be imported.  Cards and sizes are those of the FITS Standard 4.0,
sections 4.2 and 4.4.1; a file is judged by `refuse_endless` before.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.trouble import BadImageError
from galpipe.sample.fits_shape import why_refused
from galpipe.status import Status

CARD, BLOCK = 80, 2880  # bytes
END = re.compile(rb"END(?![A-Z0-9_-])")
VALUE = re.compile(
    r"([A-Z0-9_-]+) *= *(?:'(?P<text>(?:[^']|'')*)'|(?P<truth>[TF])|"
    r"(?P<whole>[+-]?\d+)|(?P<real>[+-]?(?:\d+\.?\d*|\.\d+)(?:[ED][+-]?\d+)?)) *(?:/|$)"
)
FLOATS = {-32: ">f4", -64: ">f8"}
FORM = re.compile(r"(\d*)(PB|[ABIJK])")  # of a column, as far as it is read here
KINDS = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "PB": ">i4"}
PAIR = 2  # numbers of what points into the heap: how many bytes, and where they begin


@dataclass(frozen=True)
class Hdu:
    """One HDU: its header's cards by keyword, and where header and data begin in the file."""

    cards: dict[str, Any]
    header: int
    data: int
    size: int  # bytes of the data, less padding


def refuse_endless(content: bytes) -> None:
    """Raise BadImageError (CORRUPT) of a FITS file whose headers promise what none can hold.

    As `galpipe.sample.fits_shape` judges: `content` is the whole file, not compressed.
    """
    reason = why_refused(content)
    if reason is not None:
        raise BadImageError(Status.CORRUPT, reason)


def hdus_of(content: bytes, most: int) -> list[Hdu]:
    """The first HDUs of a file, `most` at most; those whose headers are whole.

    Raises KeyError or TypeError where a header does not say how much data follows it.
    """
    found: list[Hdu] = []
    place = 0
    while place < len(content) and len(found) < most:
        end = place
        while end < len(content) and not END.match(content, end, end + CARD):
            end += CARD
        if end + CARD > len(content):
            break
        data = place + -(-(end + CARD - place) // BLOCK) * BLOCK
        cards = _cards(content[place:end])
        found.append(Hdu(cards, place, data, _size(cards)))
        place = data + -(-found[-1].size // BLOCK) * BLOCK
    return found


def _cards(header: bytes) -> dict[str, Any]:
    """The values of a header's cards; of a keyword that stands twice, the first."""
    found: dict[str, Any] = {}
    text = header.decode("latin-1")
    for place in range(0, len(text), CARD):
        match = VALUE.match(text, place, place + CARD)
        if match is None:  # a comment, a card without a value, or of another kind
            continue
        if match["text"] is not None:
            value: Any = match["text"].replace("''", "'").rstrip()
        elif match["truth"] is not None:
            value = match["truth"] == "T"
        elif match["whole"] is not None:
            value = int(match["whole"])
        else:
            value = float(match["real"].replace("D", "E"))
        found.setdefault(match[1], value)
    return found


def _size(cards: dict[str, Any]) -> int:
    """Bytes of data: |BITPIX| GCOUNT (PCOUNT + NAXIS1 NAXIS2 ...) / 8."""
    if cards["NAXIS"] == 0:
        return 0
    elements = math.prod(cards[f"NAXIS{axis}"] for axis in range(1, cards["NAXIS"] + 1))
    counted = cards.get("GCOUNT", 1) * (cards.get("PCOUNT", 0) + elements)
    return int(abs(cards["BITPIX"]) * counted // 8)


def image(content: bytes, hdu: Hdu, dtype: type[np.floating[Any]]) -> NDArray[Any]:
    """The image of an HDU in one copy, of this type and native; axes as numpy counts them.

    Raises ValueError where it holds none, or one that is not of floating point as it stands.
    """
    cards = hdu.cards
    if cards["BITPIX"] not in FLOATS or cards.get("XTENSION", "IMAGE") != "IMAGE":
        raise ValueError("an HDU that should hold an image of floating point does not")
    if cards.get("BSCALE", 1) != 1 or cards.get("BZERO", 0) != 0:
        raise ValueError("an image of floating point is scaled")
    shape = [cards[f"NAXIS{axis}"] for axis in range(cards["NAXIS"], 0, -1)]
    stored = np.frombuffer(content, FLOATS[cards["BITPIX"]], math.prod(shape), hdu.data)
    return stored.reshape(shape).astype(dtype)


def table(content: bytes, hdu: Hdu) -> NDArray[Any]:
    """The rows of a binary table, by the columns' names; a pointer to the heap is two numbers.

    Raises ValueError where it is none, or has columns that are scaled or of a kind not read here.
    """
    cards = hdu.cards
    if cards.get("XTENSION") != "BINTABLE":
        raise ValueError("an HDU that should hold a table does not")
    fields: list[Any] = []
    for number in range(1, cards["TFIELDS"] + 1):
        form = FORM.match(str(cards[f"TFORM{number}"]))
        if form is None or {f"TSCAL{number}", f"TZERO{number}"} & cards.keys():
            raise ValueError(f"column {number} of a table is scaled or of another kind")
        name, kind = str(cards[f"TTYPE{number}"]), form[2]
        count = PAIR if kind == "PB" else int(form[1] or 1)
        fields.append((name, f"S{count}") if kind == "A" else (name, KINDS[kind], (count,)))
    rows = np.dtype(fields)
    if rows.itemsize != cards["NAXIS1"]:
        raise ValueError("the columns of a table do not fill its rows")
    return np.frombuffer(content, rows, cards["NAXIS2"], hdu.data)


def heap(content: bytes, hdu: Hdu) -> memoryview:
    """What the pointers of a table point into."""
    cards = hdu.cards
    begin = hdu.data + cards.get("THEAP", cards["NAXIS1"] * cards["NAXIS2"])
    return memoryview(content)[begin : hdu.data + hdu.size]
