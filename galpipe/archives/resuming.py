"""Going on with an answer that broke off, and pieces of files (RFC 9110, section 14)."""

from __future__ import annotations

import re

import httpx

from galpipe.archives.trouble import BadImageError, NoPiecesError
from galpipe.archives.waiting import TryAgainError
from galpipe.status import Status

RESUMED_FROM = 2**16  # bytes; less is fetched again
CONTENT_RANGE = re.compile(r"^bytes (\d+)-(\d+)/(\d+)$")


class Begun:
    """What a broken answer brought, and by what the rest is known to belong to it."""

    def __init__(self) -> None:
        self.content = b""
        self.tag = ""  # a strong ETag; without one nothing is resumed
        self.total = -1

    def forget(self) -> None:
        """Begin anew."""
        self.content, self.tag, self.total = b"", "", -1

    def keep(self, content: bytes, answer: httpx.Response) -> None:
        """Keep what came before an answer broke off."""
        if answer.status_code == 200:
            self.tag = answer.headers.get("ETag", "")
            self.total = int(length_of(answer) or -1)
        if self.tag.startswith('"') and self.total > len(content) >= RESUMED_FROM:
            self.content = content
        else:
            self.forget()

    def headers(self) -> dict[str, str]:
        """What asks for the rest alone."""
        if not self.content:
            return {}
        return {"Range": f"bytes={len(self.content)}-", "If-Range": self.tag}

    def proved(self, answer: httpx.Response) -> bool:
        """Whether a 206 is the rest of what was begun."""
        found = CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
        if not self.content or found is None or answer.headers.get("ETag") != self.tag:
            return False
        first, last, total = (int(number) for number in found.groups())
        return first == len(self.content) and last + 1 == total == self.total


def check_piece(answer: httpx.Response, asked: str) -> None:
    """Refuse what is not just the piece of a file that was asked for (RFC 9110, section 14)."""
    if answer.status_code == 416:
        raise BadImageError(Status.CORRUPT, "the file ends before the piece that was asked for")
    if answer.status_code == 200:
        raise NoPiecesError
    if answer.status_code != 206:
        raise BadImageError(Status.FAILED, f"HTTP {answer.status_code}")
    found = CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
    first, _, last = asked.removeprefix("bytes=").partition("-")
    ended = found is not None and int(found[2]) + 1 == int(found[3]) <= int(last)
    if found is None or found[1] != first or not (found[2] == last or ended):
        raise TryAgainError(Status.FAILED, "another piece of the file than was asked for")


def length_of(answer: httpx.Response) -> str | None:
    text = answer.headers.get("Content-Length", "")
    return text if text.isdecimal() and len(text) < 20 else None
