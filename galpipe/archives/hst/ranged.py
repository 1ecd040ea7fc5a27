"""Pieces of large FITS files over HTTP: blocks that are kept a while, headers, rows of images."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from galpipe.archives.download import Downloader
from galpipe.archives.hst.planes import LONGEST_HEADER, ends
from galpipe.archives.trouble import BadImageError
from galpipe.status import Status

RECORD = 2880  # bytes of a FITS record
LARGEST_PIECE = 16 * 2**20  # bytes of one request
KEPT = 16 * 2**20  # bytes of blocks of a file that stay in memory
MOST_HDUS = 32
HEADER_PIECE = 16 * RECORD


class Blocks:
    """A file by its address: read in aligned blocks, of which the last used are kept.

    `end`: bytes of the file that may be read.  Used by many threads; a block is asked for once
    while it is kept.
    """

    def __init__(
        self, downloader: Downloader, url: str, block: int, end: int, kept: int = KEPT
    ) -> None:
        self.url = url
        self._downloader = downloader
        self._block, self._end = block, end
        self._most = max(2, kept // block)
        self._known: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self.received = 0  # bytes, in total

    def read(self, spans: list[range]) -> list[bytes]:
        """The bytes of some spans of the file; raises BadImageError.

        Neighbouring blocks come in one request of at most 16 MiB.
        """
        size = self._block
        needed = sorted(
            {n for span in spans for n in range(span.start // size, (span.stop - 1) // size + 1)}
        )
        with self._lock:
            found = {n: self._known[n] for n in needed if n in self._known}
            for run in _runs([n for n in needed if n not in found], LARGEST_PIECE // size):
                asked = range(run.start * size, min(run.stop * size, self._end))
                content = piece(self._downloader, self.url, asked)
                self.received += len(content)
                for n in run:
                    found[n] = content[(n - run.start) * size : (n + 1 - run.start) * size]
            for n in needed:
                self._known[n] = found[n]
                self._known.move_to_end(n)
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        return [_joined(found, span, size) for span in spans]


class Readable(Protocol):
    """A file of which pieces can be read."""

    received: int  # bytes over the network

    def read(self, spans: list[range]) -> list[bytes]:
        """The bytes of some spans of the file; raises BadImageError."""


def _joined(found: dict[int, bytes], span: range, size: int) -> bytes:
    first, last = span.start // size, (span.stop - 1) // size
    if first == last:
        return found[first][span.start - first * size : span.stop - first * size]
    whole = b"".join(found[n] for n in range(first, last + 1))
    return whole[span.start - first * size : span.stop - first * size]


def piece(downloader: Downloader, url: str, span: range, short: bool = False) -> bytes:
    """Bytes of a file; raises BadImageError.  `short`: fewer will do where the file ends."""

    def whole(content: bytes) -> bytes:
        if len(content) > len(span) or (len(content) < len(span) and not short):
            reason = f"{len(content)} bytes where {len(span)} were asked for"
            raise BadImageError(Status.FAILED, reason)
        return content

    asked = {"Range": f"bytes={span.start}-{span.stop - 1}"}
    return downloader.fetch(url, whole, markup=True, headers=asked)


def _runs(numbers: list[int], longest: int) -> list[range]:
    """Consecutive numbers together, at most `longest` of them."""
    runs: list[range] = []
    for n in numbers:
        if runs and n == runs[-1].stop and len(runs[-1]) < max(longest, 1):
            runs[-1] = range(runs[-1].start, n + 1)
        else:
            runs.append(range(n, n + 1))
    return runs


@dataclass(frozen=True)
class ImageAt:
    """Where the pixels of an image lie in a file: big-endian floats of 4 or 8 bytes, row by row."""

    offset: int
    nx: int
    ny: int
    item: int

    @property
    def end(self) -> int:
        """The byte after the last pixel."""
        return self.offset + self.nx * self.ny * self.item

    def spans(self, x: range, y: range) -> list[range]:
        """The bytes of the rows of a piece."""
        begins = (self.offset + (row * self.nx + x.start) * self.item for row in y)
        return [range(begin, begin + len(x) * self.item) for begin in begins]

    def read(self, blocks: Readable, x: range, y: range) -> NDArray[np.float32]:
        """A piece (y, x) of the image as float32; raises BadImageError."""
        rows = blocks.read(self.spans(x, y))
        values = np.frombuffer(b"".join(rows), f">f{self.item}").reshape(len(y), len(x))
        with np.errstate(over="ignore"):
            return values.astype(np.float32)


class _Front:
    """A file's headers, read a few records at a time."""

    def __init__(self, read: Callable[[range], bytes]) -> None:
        self._read = read
        self._begin, self._content = 0, b""

    def record(self, offset: int) -> bytes:
        """The record that begins at a byte; shorter where the file ends."""
        if not self._begin <= offset < self._begin + len(self._content):
            span = range(offset, offset + HEADER_PIECE)
            self._content = self._read(span)
            self._begin = offset
        at = offset - self._begin
        if at + RECORD > len(self._content) == HEADER_PIECE:
            self._begin, self._content = 0, b""
            return self.record(offset)
        return self._content[at : at + RECORD]


def headers_of(
    read: Callable[[range], bytes], names: tuple[str, ...]
) -> tuple[Any, dict[str, tuple[Any, ImageAt]]]:
    """The primary header and, by name, headers and places of the wanted HDUs of a file.

    `read` gives bytes of the file, fewer where it ends.  An image in the primary HDU goes by the
    name SCI.  Raises BadImageError.
    """
    front = _Front(read)
    offset, primary = 0, None
    found: dict[str, tuple[Any, ImageAt]] = {}
    for _ in range(MOST_HDUS):
        try:
            header, begin = _header(front, offset)
        except BadImageError as error:
            if primary is not None and error.status == Status.CORRUPT:
                break  # past the end of the file
            raise
        primary = header if primary is None else primary
        name = str(header.get("EXTNAME", "SCI" if offset == 0 else "")).strip().upper()
        length = _length(header)
        if name in names and name not in found and length and header.get("NAXIS") == 2:
            found[name] = header, _image(header, begin)
        if len(found) == len(names):
            break
        offset = begin + -(-length // RECORD) * RECORD
    return primary, found


def _header(front: _Front, offset: int) -> tuple[Any, int]:
    """A header that begins at a byte, and where its data begin."""
    text = b""
    while not ends(text):
        if len(text) >= LONGEST_HEADER:
            raise BadImageError(Status.CORRUPT, "a header without end")
        record = front.record(offset + len(text))
        if not text and not record.startswith((b"SIMPLE  =", b"XTENSION")):
            raise BadImageError(Status.CORRUPT, "not a FITS file")
        if len(record) < RECORD:
            raise BadImageError(Status.CORRUPT, "the file ends within a header")
        text += record
    try:
        return fits.Header.fromstring(text.decode("ascii")), offset + len(text)
    except (ValueError, OSError) as error:
        raise BadImageError(Status.CORRUPT, f"an unreadable header ({error})"[:160]) from None


def _length(header: Any) -> int:
    """Bytes of the data of an HDU (FITS standard 4.0, section 4.4.1)."""
    try:
        axes = [int(header[f"NAXIS{n}"]) for n in range(1, int(header["NAXIS"]) + 1)]
        item = abs(int(header["BITPIX"])) // 8
        count = int(header.get("GCOUNT", 1)) * (int(header.get("PCOUNT", 0)) + int(np.prod(axes)))
    except (KeyError, ValueError, TypeError, OverflowError):
        raise BadImageError(Status.CORRUPT, "a header without the size of its data") from None
    length = item * count if axes else 0
    if min(axes, default=1) < 0 or not 0 <= length < 2**40:
        raise BadImageError(Status.CORRUPT, "a header with an impossible size of data")
    return length


def _image(header: Any, begin: int) -> ImageAt:
    if header["BITPIX"] not in (-32, -64) or "BSCALE" in header or "BZERO" in header:
        raise BadImageError(Status.CORRUPT, "the image of a mosaic must hold plain floats")
    return ImageAt(begin, int(header["NAXIS1"]), int(header["NAXIS2"]), -header["BITPIX"] // 8)
