"""What SDSS's photometric pipeline says of each pixel of a frame: the fpM files, as bits.

A file `fpM-{run}-{band}{camcol}-{field}.fit.gz` has an empty first HDU with MASKROWS and MASKCOLS,
ten tables, one for each kind of mask in the order of `PLANES`, and a table of their names
(`defName` S_MASKTYPE, `attributeName`, `Value`).  A row of one of the ten is an OBJMASK: `refcntr`,
`nspan`, `row0`, `col0`, `rmin`, `rmax`, `cmin`, `cmax` and `npix`, and in the heap `s`, its spans
of three big-endian 16-bit integers: row, first column, last column, inclusive, counted from 0 and
from (`row0`, `col0`).  Spans may reach beyond the frame.  This layout is the one that SDSS's own
reader of these files (read_mask of readAtlasImages v5_4_11) takes, and the one that other public
readers found in files of Data Release 17: 44 bytes a row, `s` at byte 36, offsets 0.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.frames import FieldName
from galpipe.archives.hdus import Hdu, hdus_of, heap, refuse_endless, table
from galpipe.archives.trouble import BadImageError, corrupt
from galpipe.status import Status

Bits = NDArray[np.uint16]
PLANES = (  # bit 0 to 9: what a set bit says of the pixel
    "INTERP",  # its value was interpolated
    "SATUR",  # it is saturated
    "NOTCHECKED",  # it was not looked at for objects
    "OBJECT",  # it is part of an object
    "BRIGHTOBJECT",  # it is part of a bright object
    "BINOBJECT",  # it is part of an object found on the binned frame
    "CATOBJECT",  # it is part of an object of a catalogue
    "SUBTRACTED",  # a bright star's wings were taken off
    "GHOST",  # it is part of a ghost of the optics
    "CR",  # a cosmic ray hit it
)
UNKNOWN = 1 << 15  # nothing is known of it: it is off the frames, or its frame has no mask
LARGEST = 32 * 2**20  # bytes of an unpacked file; they have about 300,000
SPAN = 6  # bytes


def bit_names() -> dict[str, int]:
    """The bits of a mask by name."""
    return {**{name: 1 << bit for bit, name in enumerate(PLANES)}, "UNKNOWN": UNKNOWN}


def bits_cut(mask: Bits, corner: NDArray[np.int64], side: int) -> Bits:
    """The bits of `side` x `side` pixels from (x, y) `corner` on; UNKNOWN off the frame."""
    out = np.full((side, side), UNKNOWN, np.uint16)
    low, high = np.maximum(corner, 0), np.minimum(corner + side, mask.shape[::-1])
    if (high > low).all():
        (x0, y0), (x1, y1) = low - corner, high - corner
        out[y0:y1, x0:x1] = mask[low[1] : high[1], low[0] : high[0]]
    return out


def decode_mask(
    content: bytes, name: FieldName, band: str, shape: tuple[int, int]
) -> tuple[Bits, str]:
    """The bits of the pixels of a frame of this shape (y, x), and the checksum of the file.

    Raises BadImageError (CORRUPT) where the file is damaged, or the mask of another frame.
    """
    raw = _unzipped(content)
    refuse_endless(raw)
    bits = np.zeros(shape, np.uint16)
    try:
        hdus = hdus_of(raw, len(PLANES) + 2)
        _check_header(raw, hdus, name, band, shape)
        for plane in range(len(PLANES)):
            _set(bits, raw, hdus[plane + 1], np.uint16(1 << plane))
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # whatever the bytes of a damaged header lead to
        raise corrupt(error) from None
    return bits, hashlib.sha256(content).hexdigest()


def _unzipped(content: bytes) -> bytes:
    """The bytes of a gzip file of one member, whole (its CRC is checked)."""
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        raw = stream.decompress(content, LARGEST + 1)
    except zlib.error as error:
        raise corrupt(error) from None
    if len(raw) > LARGEST:
        raise BadImageError(Status.CORRUPT, f"more than {LARGEST} bytes once unpacked")
    if not stream.eof:
        raise BadImageError(Status.CORRUPT, "the gzip file is cut off")
    return raw


def _check_header(
    raw: bytes, hdus: Sequence[Hdu], name: FieldName, band: str, shape: tuple[int, int]
) -> None:
    header = hdus[0].cards
    for key, value in (
        ("RUN", name.run), ("CAMCOL", name.camcol), ("FIELD", name.field), ("FILTER", band)
    ):  # fmt: skip
        if key in header and header[key] != value:
            raise BadImageError(
                Status.CORRUPT, f"the mask is of another frame ({key} {header[key]})"
            )
    if (header.get("MASKROWS"), header.get("MASKCOLS")) != shape:
        raise BadImageError(Status.CORRUPT, "the mask has not the size of its frame")
    told = [
        (row["attributeName"].decode("latin-1").strip(), int(row["Value"][0]))
        for row in table(raw, hdus[len(PLANES) + 1])
        if row["defName"].strip() == b"S_MASKTYPE"
    ]
    if told[: len(PLANES)] != [(f"S_MASK_{plane}", bit) for bit, plane in enumerate(PLANES)]:
        raise BadImageError(Status.CORRUPT, "the mask names other planes than SDSS's ten")


def _set(bits: Bits, raw: bytes, hdu: Hdu, bit: np.uint16) -> None:
    """Set a bit where the objects of a table have spans; what lies off the frame is left out."""
    objects, ends = table(raw, hdu), heap(raw, hdu)
    if not len(objects):
        return
    length, begin = objects["s"].astype(np.int64).T
    counts = objects["nspan"][:, 0].astype(np.int64)
    if (length != SPAN * counts).any() or (begin < 0).any() or (begin + length > len(ends)).any():
        raise BadImageError(Status.CORRUPT, "a mask with another number of spans than it says")
    joined = b"".join(ends[one : one + n] for one, n in zip(begin, length, strict=True))
    y, first, last = np.frombuffer(joined, ">i2").reshape(-1, 3).astype(np.int64).T
    if (last < first).any():
        raise BadImageError(Status.CORRUPT, "a mask with a span that ends before it begins")
    ny, nx = bits.shape
    y = y + np.repeat(objects["row0"][:, 0], counts)
    aside = np.repeat(objects["col0"][:, 0].astype(np.int64), counts)
    left, right = np.maximum(first + aside, 0), np.minimum(last + aside, nx - 1)
    there = (y >= 0) & (y < ny) & (left <= right)
    y, left, wide = y[there], left[there], (right - left + 1)[there]
    if wide.sum() <= bits.size:  # the pixels one by one
        before = np.repeat(y * nx + left - np.cumsum(wide) + wide, wide)
        bits.ravel()[before + np.arange(len(before))] |= bit
    else:  # more spans than fit beside one another: where they begin and end
        steps = np.zeros((ny, nx + 1), np.int32)
        np.add.at(steps, (y, left), 1)
        np.add.at(steps, (y, left + wide), -1)
        bits[np.cumsum(steps, axis=1)[:, :nx] > 0] |= bit
