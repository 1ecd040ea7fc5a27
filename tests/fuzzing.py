"""Mutated inputs for parsers, and a watch on what a parser does besides parsing."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galpipe.archives import skyserver
from galpipe.archives.trouble import BadImageError
from galpipe.archives.vo import votable
from galpipe.errors import InputError

LONGEST = 10.0  # seconds for one input
# What a parser may raise of bytes from outside, and nothing else.
NAMED = (BadImageError, InputError, skyserver._TryAgainError, votable.BadVotableError)
SECRET = "/etc/passwd"  # which no parser has a reason to open
WORDS = (
    b"0", b"-1", b"1e999", b"nan", b"99999999999999999999", b"2147483647", b"<", b'"', b"\0",
    b"../", b"\xff\xfe", b",", b"\n", b"{", b"]", b"'", SECRET.encode(), b"&a;", b"T", b"F",
    b" " * 30, b"\r", b"\x1f\x8b\x08", b"BZh9", b"PK\x03\x04",
    b"END" + b" " * 77, b"NAXIS1  =           4000000000", b"BITPIX  =                    7",
    b"TFORM1  = '999999999E'        ", b"PCOUNT  =      99999999999999",
    b"NAXIS   =             99999999", b"naxis   =             99999999",
    b"TFIELDS =             99999999", b"NAXIS2  =            999999999",
    b"NAXIS1  =                    0", b"TFORM1  = '0A      '", b"TFORM1  = '1PA(9)  '",
    b"ZIMAGE  =                    T", b"A_ORDER =                 9999",
    b' href="file://' + SECRET.encode() + b'"', b' href="http://127.0.0.1:1/"', b'arraysize="0"',
    b'arraysize="99999x*"', b'datatype="bit"', b'datatype="unicodeChar"', b' nrows="+999999999999"',
    b'<!DOCTYPE a [<!ENTITY a SYSTEM "file://' + SECRET.encode() + b'">]>', b"<STREAM/>", b"<TR/>",
)  # fmt: skip


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The bytes with some of them changed, cut, doubled, or with words that parsers trip over."""
    found = bytearray(content)
    near = chance.choice([len(found), 3000, 300])  # headers are where parsers trip
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        place = chance.randrange(min(near, len(found)) or 1)
        end = place + chance.choice([1, 2, 8, 80, 2880])
        match chance.randrange(8):
            case 0:
                found[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                del found[place:end]
            case 2:
                found[place:place] = found[place:end]
            case 3:
                word = chance.choice(WORDS)
                found[place : place + len(word)] = word
            case 4:
                card = place // 80 * 80  # in the place of a card's value
                found[card + 10 : card + 30] = chance.choice(WORDS).rjust(20)[:20]
            case 5:
                card = place // 80 * 80  # in the place of a card
                found[card : card + 80] = chance.choice(WORDS).ljust(80)[:80]
            case 6:
                del found[chance.randrange(len(found) + 1) :]
            case _:
                word = chance.choice(WORDS)
                found[place:place] = word
        if not found:
            return b""
    return bytes(found)


@dataclass
class Fuzzed:
    """How many inputs were refused and how many read, and the longest time of one in seconds."""

    refused: int = 0
    read: int = 0
    longest: float = 0.0


def fuzz(
    name: str, content: bytes, parser: Callable[[bytes], object], number: int, seed: int
) -> Fuzzed:
    """Parse mutated inputs; whatever is no answer and no named refusal is raised."""
    chance, found = random.Random(f"{name} {seed}"), Fuzzed()
    parser(content)  # and what only the first call does: imports, caches
    for turn in range(number):
        changed = mutated(content, chance)
        begin = time.monotonic()
        try:
            # The run does not stop for a warning either.
            with warnings.catch_warnings(), limited(LONGEST), watched():
                warnings.simplefilter("ignore")
                parser(changed)
            found.read += 1
        except NAMED:
            found.refused += 1
        except BaseException as error:
            raise AssertionError(f"{name}: input {turn} of seed {seed}") from error
        found.longest = max(found.longest, time.monotonic() - begin)
    return found


class TooLongError(BaseException):
    """The time is over; no parser catches it."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TooLongError in this thread, the main one, where the block takes longer."""

    def over(*_: Any) -> None:
        raise TooLongError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Watch:
    """Notes what this process opens for writing, runs or connects to while it is on."""

    FORBIDDEN = frozenset({
        "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.chmod",
        "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect",
        "socket.getaddrinfo", "urllib.Request", "pickle.find_class", "ftplib.connect",
    })  # fmt: skip

    def __init__(self) -> None:
        self.allowed: Path | None = None
        self.thread: int | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.thread != threading.get_ident():
            return
        if event == "open":
            path, _, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            if str(path) == SECRET or (writes and not self._inside(path)):
                self.seen.append(f"open {path!r}")
        elif event in self.FORBIDDEN and not (
            event.startswith("os.") and arguments and self._inside(arguments[0])
        ):
            self.seen.append(f"{event} {arguments!r}"[:200])

    def _inside(self, path: Any) -> bool:
        if self.allowed is None or not isinstance(path, str | bytes | os.PathLike):
            return False
        place = os.path.abspath(os.fsdecode(path))
        return place == str(self.allowed) or place.startswith(f"{self.allowed}{os.sep}")


_watch = _Watch()


@contextmanager
def watched(allowed: Path | None = None) -> Iterator[None]:
    """Fail where the block writes anywhere but in `allowed`, runs something or calls somebody."""
    _watch.seen, _watch.allowed, _watch.thread = [], allowed, threading.get_ident()
    try:
        yield
    finally:
        _watch.thread = None
    assert not _watch.seen, _watch.seen
