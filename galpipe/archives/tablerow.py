"""The one row of a FITS binary table, column by column, from its bytes.

astropy makes an object of every column, which for the 68 columns of an asTrans row took a third of
the decoding of a frame.  The layout is that of the FITS Standard 4.0, section 7.3: the columns of
TFORMn follow each other without gaps, big-endian, and their sum is NAXIS1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORM = re.compile(r" *(\d*)([LXBIJKAEDCMPQ])")
BYTES = {"L": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16,
         "P": 8, "Q": 16}  # fmt: skip
TYPES = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}


def first_row(cards: dict[str, Any], data: bytes, names: Sequence[str]) -> dict[str, Any]:
    """Some columns of the first row of `data`, the bytes of a table: a str, or an array each.

    `cards`: those of the table's header, by keyword (`galpipe.archives.hdus`).
    Arrays are native, of the shape of TDIMn where there is one, else flat.  Raises ValueError or
    KeyError where the table is not what it says, or lacks a column, or scales one.
    """
    places: dict[str, tuple[int, int, str, int]] = {}
    offset = 0
    for number in range(1, int(cards["TFIELDS"]) + 1):
        form = FORM.match(cards[f"TFORM{number}"])
        if form is None:
            raise ValueError(f"a column of the form {cards[f'TFORM{number}']!r}")
        count, kind = int(form[1] or 1), form[2]
        places.setdefault(cards.get(f"TTYPE{number}", ""), (offset, count, kind, number))
        offset += -(-count // 8) if kind == "X" else count * BYTES[kind]
    if offset != int(cards["NAXIS1"]):
        raise ValueError(f"columns of {offset} bytes in rows of {cards['NAXIS1']}")
    return {name: _value(cards, data, *places[name]) for name in names}


def _value(
    cards: dict[str, Any], data: bytes, offset: int, count: int, kind: str, number: int
) -> str | NDArray[Any]:
    if f"TSCAL{number}" in cards or f"TZERO{number}" in cards:
        raise ValueError(f"column {number} of the table is scaled")
    if kind == "A":
        return data[offset : offset + count].decode("ascii").rstrip("\0 ")
    values = np.frombuffer(data, TYPES[kind], count, offset)
    native = values.astype(values.dtype.newbyteorder("="))
    shape = [int(one) for one in re.findall(r"\d+", cards.get(f"TDIM{number}", ""))]
    return native.reshape(shape[::-1]) if shape else native
