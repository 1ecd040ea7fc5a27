"""The bytes of a table that somebody gives: read and unpacked within bounds, text told from noise.

A table is read whole.  What would take time or memory out of proportion is refused before any
parser sees it: a file or an unpacking without bound, a line without end, text that is not text.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from galpipe.errors import InputError

LARGEST = 2**31 - 1  # bytes of a table, once unpacked: what Arrow reads as one block
DENSEST = 200  # bytes that one byte of gzip may unpack to; text of a catalogue reaches some 20
ALWAYS = 2**26  # bytes that any gzip file may unpack to
LONGEST_LINE = 2**20  # bytes
WIDE = {
    b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}  # fmt: skip
PIECE = 2**20  # bytes


def table_bytes(source: Path | bytes, text: bool) -> bytes:
    """The bytes of a table, out of gzip where they lie in it; `text` tells that they must be text.

    Raises InputError where they are too many or, for text, not to be read as lines.
    """
    if isinstance(source, Path):
        if not source.is_file() and source.exists() and not source.is_dir():
            raise InputError("a device or a pipe is no table; give a file.")
        with source.open("rb") as file:
            if source.stat().st_size > LARGEST:
                raise InputError("the table is larger than 2 GiB; keep the columns that are used.")
            start = file.read(2 * LONGEST_LINE)
            if text and start[:2] != b"\x1f\x8b":
                check_text(start)  # before a file that is one line is read to its end
            content = start + file.read()
    else:
        content = source
    if content[:2] == b"\x1f\x8b":
        content = _unpacked(content)
    if text:
        check_text(content)
    return content


def _unpacked(content: bytes) -> bytes:
    """The bytes of a gzip file of one or more members."""
    most = min(max(ALWAYS, DENSEST * len(content)), LARGEST)
    found = bytearray()
    rest = memoryview(content)
    while bytes(rest[:2]) == b"\x1f\x8b":  # what follows the last member is padding
        stream = zlib.decompressobj(wbits=31)
        piece = b""
        while not stream.eof:
            piece, rest = (piece, rest) if piece else (bytes(rest[:PIECE]), rest[PIECE:])
            if not piece:
                raise InputError("the gzip file is cut off; fetch it again.")
            found += stream.decompress(piece, most + 1 - len(found))
            if len(found) > most:
                raise InputError(f"the gzip file unpacks to more than {most} bytes; unpack it.")
            piece = stream.unconsumed_tail
        rest = memoryview(stream.unused_data + bytes(rest)) if stream.unused_data else rest
    return bytes(found)


def check_text(content: bytes) -> None:
    """Raise InputError where bytes are no text in lines: UTF-16, NUL bytes, a line without end."""
    for mark, encoding in WIDE.items():
        if content.startswith(mark):
            raise InputError(f"the text is {encoding}; save the table as UTF-8.")
    nul = content.find(b"\0")
    if nul >= 0:
        if content[:200].count(b"\0") > len(content[:200]) // 4:
            raise InputError("the text is UTF-16, or no text; save the table as UTF-8.")
        line = content.count(b"\n", 0, nul) + 1
        raise InputError(f"line {line} holds a NUL byte, which no text has; save the table anew.")
    place = 0
    while len(content) - place > LONGEST_LINE:
        end = content.rfind(b"\n", place, place + LONGEST_LINE)
        if end < 0:
            line = content.count(b"\n", 0, place) + 1
            raise InputError(
                f"line {line} is longer than 1 MiB; end each row with a line feed, as CSV does."
            )
        place = end + 1
