"""The positions that a cross-identification request uploads."""

from __future__ import annotations

import email.parser
import email.policy
import math
import re

from galpipe.sky.sql import Upload
from galpipe.sky.tsql import SqlError

LARGEST_RADIUS = 3.0  # arcmin, SkyServer's own limit
MOST_POSITIONS = 10_000
SCOPES = ("nearprim", "nearobj", "allprim", "allobj")


def parts(body: bytes, content_type: str) -> dict[str, str]:
    """The named parts of a multipart/form-data body as text, by lower-case name."""
    parser = email.parser.BytesParser(policy=email.policy.HTTP)
    message = parser.parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    found = {}
    for part in message.iter_parts() if message.is_multipart() else ():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            found[name.lower()] = content.decode("utf-8", "replace")
    return found


def radius(fields: dict[str, str]) -> float:
    """The search radius in arcminutes; raises SqlError."""
    try:
        value = float(fields.get("radius", ""))
    except ValueError:
        raise SqlError("radius must be a number of arcminutes.") from None
    if not 0 < value <= LARGEST_RADIUS:
        raise SqlError(f"radius must lie between 0 and {LARGEST_RADIUS:g} arcmin.")
    return value


def scope(fields: dict[str, str]) -> str:
    """Which objects are looked for; raises SqlError."""
    found = fields.get("photoscope", "nearPrim")
    if found.lower() not in SCOPES:
        raise SqlError(f"photoScope is one of nearPrim, nearObj, allPrim, allObj, not {found!r}.")
    return found


def upload(fields: dict[str, str]) -> Upload:
    """The uploaded positions: a line of names, then one line each; raises SqlError.

    `firstcol` columns come before right ascension and declination (degrees).
    """
    if fields.get("photouptype", "ra-dec") != "ra-dec":
        raise SqlError("Only photoUpType=ra-dec is understood.")
    lines = [line.strip() for line in fields.get("upload", "").splitlines() if line.strip()]
    first = fields.get("firstcol", "0")
    if not lines or not first.isdecimal():
        raise SqlError("A list of positions must be uploaded, with a first line of names.")
    table = [tuple(re.split(r"[\s,]+", line)) for line in lines]
    names, values, skipped = table[0], table[1:], int(first)
    if len(values) > MOST_POSITIONS:
        raise SqlError(f"At most {MOST_POSITIONS} positions can be uploaded.")
    if not all(re.fullmatch(r"\w+", name) for name in names):
        raise SqlError("The first uploaded line must hold the names of the columns.")
    ra, dec = [], []
    for number, row in enumerate(values, start=2):
        try:
            place = float(row[skipped]), float(row[skipped + 1])
        except (IndexError, ValueError):
            raise SqlError(f"Line {number} of the upload holds no ra and dec.") from None
        if len(row) != len(names) or not all(map(math.isfinite, place)):
            raise SqlError(f"Line {number} of the upload does not fit the line of names.")
        ra.append(place[0])
        dec.append(place[1])
    return Upload(names, tuple(values), tuple(ra), tuple(dec))
