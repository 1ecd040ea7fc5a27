"""Failures of archives, made on purpose; a seed decides which answers fail, and no timing does."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from galpipe.errors import InputError

ANY, FILE, FRAME, SQL, PAGE = "any", "file", "frame", "sql", "sql or file"
KINDS: dict[str, tuple[str, str]] = {  # what fails, and where it may
    "503": (ANY, "HTTP 503, with Retry-After"),
    "504": (ANY, "HTTP 504"),
    "429": (ANY, "HTTP 429, with Retry-After"),
    "404": (ANY, "HTTP 404: the address has changed"),
    "301": (ANY, "a redirect to another address of the same host"),
    "reset": (ANY, "the connection is reset before any answer"),
    "truncated": (ANY, "half of the answer, where Content-Length promises all of it"),
    "unfinished": (ANY, "half of the answer, without a Content-Length"),
    "empty": (ANY, "an empty answer with status 200"),
    "drip": (ANY, "the answer comes byte by byte, and takes an hour"),
    "nohead": (ANY, "HEAD is refused"),
    "norange": (ANY, "Range is ignored: all of the file, with status 200"),
    "html": (PAGE, "a web page with status 200"),
    "limit": (SQL, "the complaint about the rate limit with status 200"),
    "duplicates": (SQL, "the last row of a table twice"),
    "cutrows": (SQL, "a table ends after one of its lines, half-way, without a Content-Length"),
    "lookup": (SQL, "the last row names a field that does not hold the object"),
    "edge": (SQL, "the last row's position is at the edge of its frame"),
    "off": (SQL, "the last row's position is off its frame"),
    "corrupt": (FILE, "64 wrong bytes in the middle"),
    "short": (FRAME, "a whole bzip2 file of half a FITS file"),
    "crval": (FRAME, "CRVAL1 is wrong by 3 degrees"),
    "nocrval": (FRAME, "CRVAL1 and CRVAL2 are 0"),
    "nan": (FRAME, "all pixels are NaN"),
    "zeros": (FRAME, "all pixels are 0"),
    "swapped": (FRAME, "another field's frame"),
    "band": (FRAME, "the field's frame in another band"),
    "missing": (FRAME, "HTTP 404 for one band of a field; the rate is that of fields"),
}
SETTINGS = ("seed", "wait", "delay")
PERSISTENT = "persistent."
MOVED = "moved=1"
MISSED = "gri"  # bands of which a field may lack one
BARE = ("/", "/health")  # never fail
SQL_PATHS = re.compile(r"/x_results\.aspx$|/sqlsearch$", re.IGNORECASE)
FRAME_NAME = re.compile(r"^frame-(\w)-.*\.fits\.bz2$")


@dataclass(frozen=True)
class Faults:
    """Rates (0..1) by kind of failure; `seed` decides which requests they fall on.

    A transient failure is decided by the address and the request's number for that address, a
    persistent one by the address alone.  `wait`: seconds of Retry-After; `delay`: seconds before
    any answer.
    """

    transient: Mapping[str, float]
    persistent: Mapping[str, float]
    seed: int = 0
    wait: float = 1.0
    delay: float = 0.0

    def chosen(self, path: str, query: str, number: int) -> str | None:
        """The failure of the request `number` (from 0) for an address, None where it is healthy."""
        url = f"{path}?{query}"
        found = self._missing(path) or _at(
            self.persistent, uniform(self.seed, "persistent", url), path
        )
        if found is None:
            found = _at(self.transient, uniform(self.seed, "transient", url, number), path)
        return None if found == "301" and MOVED in query else found

    def _missing(self, path: str) -> str | None:
        """Whether this is the one band that its field lacks."""
        found = FRAME_NAME.match(path.rsplit("/", 1)[-1])
        if found is None or "missing" not in self.persistent:
            return None
        band = found[1]
        field = path.replace(f"frame-{band}-", "frame-")
        lacks = MISSED[int(uniform(self.seed, "band", field) * len(MISSED))]
        here = uniform(self.seed, "missing", field) < self.persistent["missing"]
        return "missing" if here and band == lacks else None


def parse(text: str) -> Faults:
    """Failures as `503=0.05,reset=0.02,seed=3,persistent.404=0.01`; raises InputError."""
    rates: tuple[dict[str, float], dict[str, float]] = ({}, {})
    settings: dict[str, float] = {}
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, _, value = (piece.strip() for piece in word.partition("="))
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or number < 0:
            raise InputError(f"--faults: {word!r} has no number; write it as {name or '503'}=0.05.")
        kind = name.removeprefix(PERSISTENT)
        if name in SETTINGS:
            settings[name] = number
        elif kind not in KINDS:
            known = ", ".join([*KINDS, *SETTINGS])
            raise InputError(f"--faults: there is no failure {name!r}; take of {known}.")
        elif kind == "missing" and name == kind:
            raise InputError("--faults: a band is missing for good; write persistent.missing.")
        else:
            rates[name != kind][kind] = number
    for some in rates:
        if sum(rate for kind, rate in some.items() if kind != "missing") > 1 or any(
            rate > 1 for rate in some.values()
        ):
            raise InputError("--faults: the rates come to more than 1; they are shares of all.")
    seed = settings.get("seed", 0.0)
    if seed != int(seed):
        raise InputError("--faults: seed must be a whole number; write seed=3.")
    return Faults(*rates, int(seed), settings.get("wait", 1.0), settings.get("delay", 0.0))


def uniform(*words: object) -> float:
    """A number of 0..1 (below 1) that follows from words."""
    found = hashlib.sha256("\n".join(map(str, words)).encode()).digest()
    return int.from_bytes(found[:8], "big") / 2**64


def _at(rates: Mapping[str, float], place: float, path: str) -> str | None:
    """The kind whose share of 0..1 holds a place; None where it cannot befall such an address."""
    for kind, rate in rates.items():
        if kind == "missing":
            continue
        place -= rate
        if place < 0:
            return kind if _befalls(KINDS[kind][0], path) else None
    return None


def _befalls(where: str, path: str) -> bool:
    sql, file = bool(SQL_PATHS.search(path)), path.startswith("/sas/")
    return {
        ANY: True, FILE: file, SQL: sql, PAGE: sql or file,
        FRAME: file and bool(FRAME_NAME.match(path.rsplit("/", 1)[-1])),
    }[where]  # fmt: skip
