"""bzip2 without bombs: as much as a frame can be, and no more."""

from __future__ import annotations

import bz2

from galpipe.archives.trouble import BadImageError, corrupt
from galpipe.status import Status

LARGEST = 64 * 2**20  # bytes; an unpacked SDSS frame has 13 million


def unpacked(content: bytes, most: int = LARGEST) -> bytes:
    """The bytes of a bzip2 file of one or more streams, whole.

    Raises BadImageError (CORRUPT) where it is no bzip2 file, damaged, cut off, or larger than
    `most` bytes once unpacked.
    """
    if not content.startswith(b"BZh"):
        raise BadImageError(Status.CORRUPT, "not a bzip2 file")
    pieces: list[bytes] = []
    left = most
    while content.startswith(b"BZh"):  # what follows the last stream is padding
        stream = bz2.BZ2Decompressor()
        try:
            pieces.append(stream.decompress(content, left + 1))
        except (OSError, ValueError, EOFError) as error:
            raise corrupt(error) from None
        left -= len(pieces[-1])
        if left < 0:
            raise BadImageError(Status.CORRUPT, f"more than {most} bytes once unpacked")
        if not stream.eof:
            raise BadImageError(Status.CORRUPT, "the bzip2 file is cut off")
        content = stream.unused_data
    return b"".join(pieces)
