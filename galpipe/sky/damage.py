"""What becomes of the body of an answer: damaged files, and tables that say what is not so."""

from __future__ import annotations

import bz2
import csv
import io
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from galpipe.sky.instrument import CENTRE_Y, Wcs

BLOCK, CARD = 2880, 80  # bytes of FITS
EDGE, OFF = 2.0, -300.0  # columns of a frame: at its edge, and off it
TABLE = b"#Table1"


def _corrupt(body: bytes) -> bytes:
    middle = len(body) // 2
    wrong = bytes(byte ^ 0xA5 for byte in body[middle : middle + 64])
    return body[:middle] + wrong + body[middle + 64 :]


def _short(body: bytes) -> bytes:
    raw = bz2.decompress(body)
    return bz2.compress(raw[: len(raw) // 2 // BLOCK * BLOCK], 1)


def _card(header: bytes, key: str) -> tuple[int, float]:
    """Where a card of a header begins, and its number."""
    for place in range(0, len(header), CARD):
        card = header[place : place + CARD]
        if card.startswith(f"{key:8s}=".encode()):
            return place, float(card[10:].split(b"/")[0])
    raise ValueError(f"a frame without {key}")


def _recarded(body: bytes, changes: Mapping[str, Callable[[float], float]]) -> bytes:
    raw = bytearray(bz2.decompress(body))
    for key, change in changes.items():
        place, number = _card(bytes(raw[: _header_bytes(raw)]), key)
        raw[place : place + CARD] = f"{key:8s}= {change(number):20.12g}".ljust(CARD).encode()
    return bz2.compress(bytes(raw), 1)


def _header_bytes(raw: bytes | bytearray) -> int:
    for end in range(BLOCK, len(raw), BLOCK):
        if b"END".ljust(CARD) in (raw[p : p + CARD] for p in range(end - BLOCK, end, CARD)):
            return end
    raise ValueError("a frame without END")


def _filled(body: bytes, value: float) -> bytes:
    """The pixels of the first HDU (float32) all alike."""
    raw = bytearray(bz2.decompress(body))
    begin = _header_bytes(raw)
    sides = (_card(bytes(raw[:begin]), f"NAXIS{axis}")[1] for axis in (1, 2))
    count = int(math.prod(sides))
    raw[begin : begin + 4 * count] = struct.pack(">f", value) * count
    return bz2.compress(bytes(raw), 1)


def _twice(body: bytes) -> bytes:
    """The last row of a CSV again; other formats as they are."""
    lines = body.splitlines(keepends=True)
    table = body.startswith(b"#Table1") and len(lines) > 2
    return body + lines[-1] if table else body


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "corrupt": _corrupt,
    "short": _short,
    "crval": lambda body: _recarded(body, {"CRVAL1": lambda ra: (ra + 3) % 360}),
    "nocrval": lambda body: _recarded(body, {"CRVAL1": lambda _: 0.0, "CRVAL2": lambda _: 0.0}),
    "nan": lambda body: _filled(body, math.nan),
    "zeros": lambda body: _filled(body, 0.0),
    "duplicates": _twice,
}


def fewer_rows(body: bytes) -> bytes:
    """The first half of the lines of an answer."""
    lines = body.splitlines(keepends=True)
    return b"".join(lines[: max(len(lines) // 2, min(2, len(lines)))])


def _last_row(body: bytes, change: Callable[[dict[str, str]], Mapping[str, object]]) -> bytes:
    """A table with other values in its last row; other formats, and other tables, as they are."""
    lines = body.decode().splitlines(keepends=True)
    if not body.startswith(TABLE) or len(lines) < 3:
        return body
    names, values = csv.reader([lines[1], lines[-1]])
    row = {name.lower(): value for name, value in zip(names, values, strict=True)}
    try:
        row |= {name: str(value) for name, value in change(row).items()}
    except (KeyError, StopIteration):  # a table without these columns, or of another sky
        return body
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow(row.values())
    return "".join([*lines[:-1], file.getvalue()]).encode()


def _wrong_field(body: bytes, _files: Path) -> bytes:
    return _last_row(body, lambda row: {"field": int(row["field"]) + 2})


def _moved(body: bytes, files: Path, column: float) -> bytes:
    """The position of the last row at a column of the frame of its field."""

    def place(row: dict[str, str]) -> Mapping[str, object]:
        run, camcol, field = (int(row[name]) for name in ("run", "camcol", "field"))
        name = f"frame-r-{run:06d}-{camcol}-{field:04d}.fits.bz2"
        raw = bz2.decompress(next(files.rglob(name)).read_bytes())
        header = raw[: _header_bytes(raw)]
        a, b, c, d = (_card(header, f"CD{pair}")[1] for pair in ("1_1", "1_2", "2_1", "2_2"))
        ra, dec = (_card(header, f"CRVAL{axis}")[1] for axis in (1, 2))
        there = Wcs(ra, dec, ((a, b), (c, d))).sky(column, CENTRE_Y)
        return {"ra": float(there[0]), "dec": float(there[1])}

    return _last_row(body, place)


ROWS: dict[str, Callable[[bytes, Path], bytes]] = {
    "lookup": _wrong_field,
    "edge": lambda body, files: _moved(body, files, EDGE),
    "off": lambda body, files: _moved(body, files, OFF),
}
