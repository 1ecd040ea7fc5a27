"""ADQL as TAP services take it, turned into the SQL that the catalogue answers.

What ADQL 2.1 has beyond SQL is understood where it means a cone: `CONTAINS(POINT, CIRCLE) = 1` and
`DISTANCE(POINT, POINT)`; other geometry is refused by the catalogue as an unknown function.
"""

from __future__ import annotations

import re

FRAME = r"(?:'[^']*'\s*,\s*)?"  # the coordinate system, which ADQL 2.1 deprecates
NUMBER = r"([^(),']+)"  # a column, a number or a sum of them
POINT = rf"POINT\s*\(\s*{FRAME}{NUMBER},{NUMBER}\)"
CIRCLE = rf"CIRCLE\s*\(\s*{FRAME}(?:{NUMBER},{NUMBER}|{POINT}\s*),{NUMBER}\)"
CONE = rf"CONTAINS\s*\(\s*{POINT}\s*,\s*{CIRCLE}\s*\)"
GEOMETRY = re.compile(
    r"(?P<plain>'(?:[^']|'')*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/)"
    rf"|(?P<after>\b{CONE}\s*=\s*1\b)"
    rf"|(?P<before>\b1\s*=\s*{CONE})"
    rf"|(?P<distance>\bDISTANCE\s*\(\s*{POINT}\s*,\s*{POINT}\s*\))",
    re.IGNORECASE | re.DOTALL,
)


def translated(text: str) -> str:
    """The query with cones and distances as functions of the catalogue; strings stay as they are.

    The separation is in degrees in ADQL and in arcminutes in the catalogue's function.
    """
    return GEOMETRY.sub(_written, text)


def _written(match: re.Match[str]) -> str:
    if match["plain"] is not None:
        return match[0]
    names = ("plain", "after", "before", "distance")
    found = [
        text.strip()
        for number, text in enumerate(match.groups(), start=1)
        if text is not None and number not in {GEOMETRY.groupindex[name] for name in names}
    ]
    ra, dec, ra0, dec0, *radius = (f"({text})" for text in found)
    separation = f"fDistanceArcMinEq({ra0}, {dec0}, {ra}, {dec})"
    if match["distance"] is not None:
        return f"({separation} / 60.0)"
    # The first term lets the index on the declination choose the rows.
    reach = radius[0]
    return (
        f"({dec} BETWEEN {dec0} - {reach} AND {dec0} + {reach} AND {separation} <= {reach} * 60.0)"
    )
