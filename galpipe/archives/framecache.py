"""Frames that more than one task of a part may want, kept on disk as served until all have cut.

The folder `frames/` lies beside the part's data, holds at most so many bytes (the oldest go first),
and is emptied when the part is whole.  A frame that is dropped early is fetched again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from galpipe.archives.trouble import BadImageError

T = TypeVar("T")
FOLDER = "frames"


class FrameCache:
    """The cache of one part, used by all its tasks, in whatever processes."""

    def __init__(self, part: Path | str, most: int) -> None:
        """`most`: bytes it may hold; 0 keeps nothing."""
        self.folder = Path(part) / FOLDER
        self.most = most

    def get(
        self, name: str, check: Callable[[bytes], T], fetch: Callable[[], tuple[T, bytes]]
    ) -> T:
        """What `check` makes of a file: of the kept one, else of the one that `fetch` brings.

        Only one task at a time fetches a file; the others wait and find it kept.  Raises what
        `fetch` raises, and keeps nothing then.
        """
        if self.most <= 0:
            return fetch()[0]
        self.folder.mkdir(exist_ok=True)
        path = self.folder / name
        with self._locked(f"{name}.lock"):
            with contextlib.suppress(FileNotFoundError, BadImageError):
                return check(path.read_bytes())
            found, content = fetch()
            self._keep(path, content)
            return found

    def _keep(self, path: Path, content: bytes) -> None:
        """Keep a file, whole or not at all, and make room for it."""
        if len(content) > self.most:
            return
        partial = path.with_name(f".{path.name}.part")
        partial.write_bytes(content)
        with self._locked("room.lock"):
            files = sorted(
                (status.st_mtime_ns, entry.path, status.st_size)
                for entry in os.scandir(self.folder)
                if not entry.name.endswith((".lock", ".part")) and (status := entry.stat())
            )
            held = sum(size for *_, size in files)
            for _, old, size in files:
                if held + len(content) <= self.most:
                    break
                Path(old).unlink(missing_ok=True)
                held -= size
            partial.replace(path)

    def drop(self, name: str) -> None:
        """Forget a file that nobody wants any more."""
        for one in (self.folder / name, self.folder / f"{name}.lock"):
            one.unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold a lock that ends with its process."""
        path = self.folder / name
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _inode(path) == os.fstat(descriptor).st_ino:  # else it was dropped meanwhile
                    yield
                    return
            finally:
                os.close(descriptor)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
