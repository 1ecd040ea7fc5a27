"""Queries for SkyServer as text: their limit, and the query that counts their rows."""

from __future__ import annotations

import re

TOP = re.compile(r"^\s*select\s+(?:distinct\s+)?top\s*\(?\s*(\d+)", re.IGNORECASE)
WORD = re.compile(
    r"'(?:[^']|'')*'|\[[^\]]*\]|\"[^\"]*\"|--[^\n]*|/\*.*?\*/|[()]|[A-Za-z_@#][\w@#$]*", re.DOTALL
)
NOT_PLAIN = ("distinct", "union", "group", "having", "except", "intersect", "into")


def limit_of(sql: str, most: int) -> int:
    """How many rows one answer to a query may have: its TOP, else what the server adds."""
    found = TOP.match(sql)
    return min(int(found[1]), most) if found else most


def counting(sql: str) -> str:
    """A query for the number of rows that a SELECT has.

    Where it is plain (a FROM, and no DISTINCT, GROUP BY, HAVING or set operation) its list of
    columns becomes COUNT(*), without TOP and ORDER BY, so that columns of one name do no harm.
    Otherwise the query as it stands, without an ORDER BY that no TOP needs, is counted.
    """
    depth, begun, previous = 0, 0, ""
    start, end, plain = None, len(sql), True
    for found in WORD.finditer(sql):
        word = found[0].lower()
        depth += (word == "(") - (word == ")")
        if depth:
            continue
        plain &= word not in NOT_PLAIN
        if word == "from" and start is None:
            start = found.start()
        if word == "by" and previous == "order":
            end = begun
        previous, begun = word, found.start()
    if plain and start is not None:
        return f"SELECT COUNT(*) AS n {sql[start:end].rstrip()}"
    inner = sql if TOP.match(sql) else sql[:end]
    return f"SELECT COUNT(*) AS n FROM ({inner.rstrip()}) AS counted"  # noqa: S608 (the user's own query)
