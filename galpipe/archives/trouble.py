"""Why an object has no pixels: never an error of the run."""

from __future__ import annotations

import re

from galpipe.status import Status


class BadImageError(Exception):
    """One image is of no use; `status` holds its bits and `reason` says why in words."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(int(status), reason)
        self.status = status
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadImageError], tuple[Status, str]]:
        return BadImageError, (self.status, self.reason)


class NoPiecesError(BadImageError):
    """A server gives files only whole."""

    def __init__(self) -> None:
        super().__init__(Status.FAILED, "the archive gives no pieces of files (ignores Range)")


def corrupt(error: Exception) -> BadImageError:
    """The error of a decoder as a reason: one line, short, without addresses in memory."""
    text = re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "", " ".join(str(error).split())).strip()
    return BadImageError(Status.CORRUPT, text[:160] or type(error).__name__)
