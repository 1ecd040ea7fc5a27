"""The status of an object: named bits, defined once, with the same meaning from cutout to label."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable


class Status(enum.IntFlag):
    """OK says that the object has a usable stamp; the bits beside it say what is to be known."""

    OK = 1  # a usable stamp exists
    NO_COVERAGE = 2  # the archive has no pixels there
    MISSING_BAND = 4  # a band is absent, or the image has another number of bands
    EDGE = 8  # the stamp is not wholly covered; see `coverage`
    CORRUPT = 16  # unreadable or truncated
    OFF_FRAME = 32  # the object is not on the image
    BLANK = 64  # all pixels alike or undefined
    FAILED = 128  # the archive did not answer; a retry may help
    MISSING_FILE = 256  # the table names an image that is not there
    BAD_POSITION = 512  # coordinates undefined or out of range in the table
    NO_SOURCE = 1024  # no object was detected at the centre of the stamp
    TRUNCATED = 2048  # the detected object reaches the border of the image
    NO_PSF = 4096  # no point-spread function comes with the image


def names(status: int) -> str:
    """The bits in words, as in `OK|EDGE`; `PENDING` where nothing was tried."""
    return "|".join(flag.name or "" for flag in Status if status & flag) or "PENDING"


def count(statuses: Iterable[int]) -> dict[str, int]:
    """How many objects have each combination of bits, by name, most frequent first."""
    tally = Counter(int(status) for status in statuses)
    return {names(status): n for status, n in sorted(tally.items(), key=lambda i: (-i[1], i[0]))}
