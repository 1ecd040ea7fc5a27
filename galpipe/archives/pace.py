"""The pace of requests to a host, kept by all processes of a machine together."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from galpipe.archives.spec import Served
from galpipe.archives.waiting import StoppedError
from galpipe.errors import InputError


class Pace:
    """At most so many requests a minute to a host, evenly spaced, over all processes of a machine.

    The moment of the last request is kept in a file, so that a run that is killed and started again
    keeps the pace too.  Raises InputError where no such file can be written.
    """

    def __init__(self, per_minute: float, host: str) -> None:
        self._interval = 60.0 / per_minute
        self._lock = threading.Lock()
        self._file = _pace_folder() / hashlib.sha256(host.encode()).hexdigest()[:24]

    def wait(self, stopped: threading.Event | None = None) -> None:
        """Sleep until the next request may go; raises StoppedError once `stopped` is set."""
        with self._lock, self._file.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # held while asleep: who is killed takes no turn
            file.seek(0)
            now = time.monotonic()
            try:
                due = float(file.read(40)) + self._interval
            except ValueError:  # new, or cut short
                due = now
            left = min(due - now, self._interval)  # the clock begins anew when the machine does
            if left > 0 and (stopped or threading.Event()).wait(left):
                raise StoppedError
            file.truncate(0)
            file.write(repr(time.monotonic()).encode())


def _pace_folder() -> Path:
    """A folder of this user alone, the same for all processes; raises InputError."""
    folder = Path(tempfile.gettempdir()) / f"galpipe-pace-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if found.st_uid != os.getuid() or found.st_mode & 0o022 or folder.is_symlink():
            raise PermissionError(0, "it is not this user's own")
    except OSError as error:
        raise InputError(
            f"{folder} cannot hold the pace of requests ({error.strerror}); remove it, or set "
            "TMPDIR to a folder that can be written."
        ) from None
    return folder


@functools.cache
def pace_at(address: str, per_minute: float | None) -> Pace | None:
    """The pace of the host of an address; None where there is no limit."""
    return None if per_minute is None else Pace(per_minute, urlsplit(address).netloc.lower())


def pace_of(spec: Served) -> Pace | None:
    """The pace of a SkyServer, shared by all that ask it from this machine."""
    return pace_at(spec.skyserver, spec.requests_per_minute)
