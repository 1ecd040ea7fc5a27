"""The shape of a FITS file, looked at before astropy reads it.

astropy counts to whatever a header says, keeps headers of any length, and makes room for images
that are said to lie compressed in a few bytes.  Here the headers are walked card by card, each HDU
as long as its own header makes it (FITS Standard 4.0, sections 3.3, 4.4 and 7.3), and what no
survey's file holds is told in words.
"""

from __future__ import annotations

import math
import re
import zlib

CARD, BLOCK = 80, 2880  # bytes
LARGEST_HEADER = 2**20  # bytes of one HDU's header; drizzled images have a tenth of it
LARGEST_HEADERS = 48 * 2**20  # bytes of all headers of a file
MOST_HDUS = 10_000
MOST_AXES = 999  # and columns of a table (FITS Standard 4.0, sections 4.4.1 and 7.3.1)
LARGEST_UNPACKED = 2**30  # bytes of a compressed image, and of all that a file holds in gzip
COUNTED = re.compile(r"(Z?(NAXIS\d*|BITPIX)|PCOUNT|GCOUNT|TFIELDS|ZIMAGE|GROUPS)$")
WHOLE = re.compile(r" *([+-]?\d{1,18}) *(/|$)")
END = re.compile(rb"END(?![A-Z0-9_-])")
GZIP = b"\x1f\x8b\x08"


def why_refused(content: bytes) -> str | None:
    """Why a FITS file is not to be read; None where nothing speaks against it.

    `content` is the whole file, not compressed, or one HDU cut out of it.  A file that merely ends
    too early is not refused: that is told better by whoever misses the data.
    """
    if not content.startswith((b"SIMPLE", b"XTENSION")):
        return "not a FITS file"
    place, headers = 0, 0
    packed = False
    for number in range(MOST_HDUS + 1):
        if place >= len(content):
            break
        if number == MOST_HDUS:
            return f"the file has more than {MOST_HDUS} HDUs"
        end = _header_end(content, place)
        if end is None:  # padding, or a header that is cut off
            if len(content) - place > LARGEST_HEADER:
                return "a header is larger than 1 MiB"
            break
        headers += end - place
        if headers > LARGEST_HEADERS:
            return "the headers are larger than 48 MiB together"
        facts = _facts(content[place:end])
        if isinstance(facts, str):
            return facts
        size = _data_size(facts, len(content))
        if isinstance(size, str):
            return size
        packed |= "ZIMAGE" in facts
        place = end + -(-size // BLOCK) * BLOCK
    return _gzip_bomb(content) if packed else None


def _header_end(content: bytes, start: int) -> int | None:
    """Where the header that begins at `start` ends, at a whole block; None without an END."""
    stop = min(start + LARGEST_HEADER, len(content))
    for place in range(start, stop, CARD):
        if END.match(content, place, place + CARD):
            return start + -(-(place + CARD - start) // BLOCK) * BLOCK
    return None


def _facts(header: bytes) -> dict[str, int] | str:
    """The numbers of a header that say how much follows; or why they cannot be trusted.

    Keywords count in any spelling that astropy takes, and each at most once.
    """
    facts: dict[str, int] = {}
    for place in range(0, len(header), CARD):
        card = header[place : place + CARD].decode("latin-1")
        name, mark, value = card.partition("=")
        name = name.upper().removeprefix("HIERARCH ").strip()
        if not mark or len(name) > 8 or not COUNTED.match(name):
            continue
        if name in ("ZIMAGE", "GROUPS"):
            number = int(value.strip().startswith("T"))
            if not number:
                continue
        else:
            found = WHOLE.match(value)
            if found is None:
                return f"{name} of a header is not a whole number"
            number = int(found[1])
        if facts.setdefault(name, number) != number:
            return f"{name} stands twice in a header"
    for name in ("NAXIS", "ZNAXIS", "TFIELDS"):
        if not 0 <= facts.get(name, 0) <= MOST_AXES:
            return "the header tells of more than 999 axes or columns"
    return facts


def _data_size(facts: dict[str, int], length: int) -> int | str:
    """Bytes of data behind a header of a file of `length` bytes; or why it cannot be so."""
    axes = [facts.get(f"NAXIS{axis}") for axis in range(1, facts.get("NAXIS", 0) + 1)]
    sides = [side for side in axes if side is not None]
    counts = [*sides, facts.get("PCOUNT", 0), facts.get("GCOUNT", 1)]
    if len(sides) < len(axes) or min(counts) < 0:
        return "a header does not say how large its data is"
    if "TFIELDS" in facts and len(sides) == 2 and sides[1] > length:
        return "a table is said to have more rows than the file has bytes"
    if "ZIMAGE" in facts:
        packed = [facts.get(f"ZNAXIS{axis}", 0) for axis in range(1, facts.get("ZNAXIS", 0) + 1)]
        if min(packed, default=0) < 0:
            return "a header does not say how large its data is"
        if math.prod(packed) * abs(facts.get("ZBITPIX", 8)) // 8 > LARGEST_UNPACKED:
            return "a compressed image is larger than 1 GiB once unpacked"
    if "GROUPS" in facts and sides and sides[0] == 0:
        sides = sides[1:]
    elements = math.prod(sides) if sides else 0
    return abs(facts.get("BITPIX", 8)) * counts[-1] * (counts[-2] + elements) // 8 if sides else 0


def _gzip_bomb(content: bytes) -> str | None:
    """Whether the gzip streams of a file's compressed tiles unpack to more than can be."""
    left, place = LARGEST_UNPACKED, content.find(GZIP)
    while place >= 0:
        try:
            stream = zlib.decompressobj(wbits=31)
            piece = memoryview(content)[place:]
            while not stream.eof and len(piece) and left >= 0:
                left -= len(stream.decompress(piece[: 2**20], 2**20))
                taken = min(len(piece), 2**20) - len(stream.unconsumed_tail)
                piece = piece[taken:]
        except zlib.error:
            pass  # these bytes were no gzip stream
        if left < 0:
            return "compressed tiles are larger than 1 GiB once unpacked"
        place = content.find(GZIP, place + 1)
    return None
