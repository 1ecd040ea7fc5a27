"""Files that an archive gives only whole: fetched once a part, kept beside it, read in pieces."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from pathlib import Path

from galpipe.archives.download import Downloader
from galpipe.archives.trouble import BadImageError
from galpipe.status import Status

FOLDER = "files"


def kept(folder: Path, downloader: Downloader, url: str) -> Path:
    """The file of an address, below a part's folder, fetched first where it is not there.

    Two that want it fetch it once.  Raises BadImageError.
    """
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    path = place / hashlib.sha256(url.encode()).hexdigest()[:32]
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not path.exists():
            content = downloader.fetch(url, lambda content: content)
            partial = path.with_suffix(".part")
            partial.write_bytes(content)
            partial.replace(path)
    finally:
        os.close(descriptor)
    return path


def clear(folder: Path) -> None:
    """Forget the files of a part."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


class Kept:
    """A file on disk, read as `galpipe.archives.hst.ranged.Blocks` reads one by its address."""

    received = 0  # bytes over the network since it was kept

    def __init__(self, path: Path) -> None:
        self._path = path

    def piece(self, span: range) -> bytes:
        """The bytes of a span; fewer where the file ends."""
        with self._path.open("rb") as file:
            return os.pread(file.fileno(), len(span), span.start)

    def read(self, spans: list[range]) -> list[bytes]:
        """The bytes of some spans of the file; raises BadImageError where it is shorter."""
        with self._path.open("rb") as file:
            found = [os.pread(file.fileno(), len(span), span.start) for span in spans]
        if any(len(piece) < len(span) for piece, span in zip(found, spans, strict=True)):
            raise BadImageError(Status.CORRUPT, "the file is shorter than its headers say")
        return found
