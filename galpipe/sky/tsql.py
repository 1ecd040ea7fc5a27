"""The SQL that SDSS users write (a subset of Transact-SQL), turned into SQLite's.

What is understood: `SELECT [DISTINCT] [TOP n]` with joins, sub-queries and set operators, `dbo.`
prefixes, `[names]`, comments, and the table-valued functions of `TABLE_FUNCTIONS`.  What would mean
something else in SQLite is refused rather than answered wrongly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*|/\*.*?\*/)
    |(?P<string>[nN]?'(?:[^']|'')*')
    |(?P<quoted>\[[^\]]+\]|"[^"]+")
    |(?P<number>0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<word>\#?[A-Za-z_]\w*)
    |(?P<mark><=|>=|<>|!=|[-+*/%&|~(),.=<>;])""",
    re.VERBOSE | re.DOTALL,
)
SET_OPERATORS = ("union", "except", "intersect")
FOREIGN = ("limit", "offset", "into", "apply", "glob", "regexp", "pivot")  # refused, not guessed
NOT_A_COLUMN = ("null", "case", "end", "distinct", "all")
NEARBY = """(SELECT objID, run, camcol, field, rerun, type, mode,
 fDistanceArcMinEq({0}, {1}, ra, dec) AS distance FROM {table}
 WHERE abs(dec - ({1})) <= ({2}) / 60.0 AND fDistanceArcMinEq({0}, {1}, ra, dec) <= ({2})
 ORDER BY distance{first})"""
TABLE_FUNCTIONS: dict[
    str, tuple[int, str]
] = {  # name -> how many arguments, and what it stands for
    "fgetnearbyobjeq": (3, NEARBY.replace("{table}", "PhotoPrimary").replace("{first}", "")),
    "fgetnearbyobjalleq": (3, NEARBY.replace("{table}", "PhotoObjAll").replace("{first}", "")),
    "fgetnearestobjeq": (
        3,
        NEARBY.replace("{table}", "PhotoPrimary").replace("{first}", " LIMIT 1"),
    ),
    "fdoccolumns": (
        1,
        "(SELECT [enum], name, type, length, unit, ucd, description FROM DBColumns"
        " WHERE tableName = {0} ORDER BY rank)",
    ),
}


class SqlError(Exception):
    """A query that the server refuses; the text is the message of the answer."""


@dataclass(frozen=True)
class Token:
    """One word, number, string, quoted name or mark; `sql` is how SQLite reads it."""

    kind: str
    sql: str

    def says(self, *words: str) -> bool:
        return self.kind in ("word", "mark") and self.sql.lower() in words


Group = list["Token | Group"]  # what stands between two parentheses


def translate(text: str, rows: int) -> str:
    """The query in SQLite's SQL, limited to `rows` rows whether it says TOP or not.

    An absent TOP is put in without a word, as SkyServer does.  Raises SqlError.
    """
    nodes = _grouped(iter(list(_tokens(text))), closing=False)
    while nodes and isinstance(nodes[-1], Token) and nodes[-1].says(";"):
        nodes.pop()
    if not _is_query(nodes):
        raise SqlError("The query must start with 'select '.")
    return _written(_query(nodes, rows))


def _tokens(text: str) -> Iterator[Token]:
    place, before = 0, Token("mark", "")
    while place < len(text):
        match = TOKEN.match(text, place)
        if match is None:
            raise SqlError(f"Incorrect syntax near '{text[place]}'.")
        place = match.end()
        kind, found = str(match.lastgroup), match[0]
        if kind == "space":
            continue
        if kind == "quoted":
            found = f"[{found[1:-1]}]"  # SQLite takes an unknown "name" for a string
        elif kind == "string":
            found = found.lstrip("nN")
        elif kind == "word" and found.startswith("#"):
            kind, found = "quoted", f"[{found}]"
        token = Token(kind, found)
        _refuse(before, token)
        yield token
        before = token


def _refuse(before: Token, token: Token) -> None:
    """Refuse what SQLite would read otherwise than SQL Server, or not at all."""
    if token.kind == "word" and token.says(*FOREIGN) and not before.says("."):
        raise SqlError(f"Incorrect syntax near '{token.sql}'.")
    if {before.kind, token.kind} == {"string", "mark"} and "+" in (before.sql, token.sql):
        raise SqlError("Strings cannot be joined with '+' here; ask for the columns one by one.")


def _grouped(tokens: Iterator[Token], closing: bool) -> Group:
    """Nest the tokens by their parentheses."""
    nodes: Group = []
    for token in tokens:
        if token.says("("):
            nodes.append(_grouped(tokens, closing=True))
        elif token.says(")"):
            if not closing:
                raise SqlError("Incorrect syntax near ')'.")
            return nodes
        else:
            nodes.append(token)
    if closing:
        raise SqlError("Incorrect syntax: a '(' is not closed.")
    return nodes


def _is(node: Token | Group, *words: str) -> bool:
    return isinstance(node, Token) and node.says(*words)


def _is_query(nodes: Group) -> bool:
    return bool(nodes) and _is(nodes[0], "select")


def _query(nodes: Group, rows: int | None) -> Group:
    """A SELECT with its TOP turned into LIMIT; `rows` is None for a sub-query."""
    parts = _split(nodes, SET_OPERATORS)
    limits = [_take_top(part) for part in parts]
    limit = limits[0]
    if len(parts) > 1 and any(one is not None for one in limits):
        raise SqlError("TOP cannot stand in a part of a UNION; put it in a query around it.")
    if rows is not None:
        _name_columns(parts[0])
        limit = rows if limit is None else min(limit, rows)
    joined: Group = [node for part in parts for node in part]
    result = _expressions(joined)
    if limit is not None:
        result += [Token("word", "LIMIT"), Token("number", str(limit))]
    return result


def _split(nodes: Group, words: Sequence[str]) -> list[Group]:
    """The nodes cut before each of the words, which begin the next part."""
    parts: list[Group] = [[]]
    for node in nodes:
        if _is(node, *words):
            parts.append([])
        parts[-1].append(node)
    return parts


def _take_top(part: Group) -> int | None:
    """Remove `TOP n` from one SELECT, in place; returns n, or None where there is none."""
    start = next((k for k, node in enumerate(part) if _is(node, "select")), None)
    if start is None:
        return None
    start += 1
    while start < len(part) and _is(part[start], "all", "distinct"):
        start += 1
    if start >= len(part) or not _is(part[start], "top"):
        return None
    given = part[start + 1] if start + 1 < len(part) else []
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    if not isinstance(given, Token) or not given.sql.isdecimal():
        raise SqlError("Incorrect syntax near 'TOP': it takes a whole number.")
    del part[start : start + 2]
    if start < len(part) and _is(part[start], "percent", "with"):
        raise SqlError(f"Incorrect syntax near '{_written([part[start]])}': TOP takes a number.")
    return int(given.sql)


def _name_columns(part: Group) -> None:
    """Give the columns the names SQL Server gives them: as written, or Column1, Column2, ..."""
    start = 1
    while start < len(part) and _is(part[start], "distinct", "all"):
        start += 1
    end = next((k for k, node in enumerate(part) if _is(node, "from")), len(part))
    named: Group = []
    unnamed = 0
    for item in _arguments(part[start:end]):
        if named:
            named.append(Token("mark", ","))
        named += item
        last = item[-1] if item else None
        if _is_aliased(item) or _is(last or [], "*"):
            continue
        if not _is_column(item):
            unnamed += 1
            last = Token("quoted", f"[Column{unnamed}]")
        assert isinstance(last, Token)
        name = last.sql if last.kind == "quoted" else f"[{last.sql}]"
        named += [Token("word", "AS"), Token("quoted", name)]
    part[start:end] = named


def _is_name(node: Token | Group) -> bool:
    return isinstance(node, Token) and node.kind in ("word", "quoted")


def _is_column(item: Group) -> bool:
    """True for `column`, `table.column` and `dbo.table.column`."""
    names, dots = item[0::2], item[1::2]
    if not names or len(names) != len(dots) + 1:
        return False
    named = all(_is_name(name) and not _is(name, *NOT_A_COLUMN) for name in names)
    return named and all(_is(dot, ".") for dot in dots)


def _is_aliased(item: Group) -> bool:
    """True for `value AS name` and `value name`."""
    if len(item) < 2:
        return False
    before, last = item[-2], item[-1]
    if _is(before, "as"):
        return True
    ended = isinstance(before, list) or before.kind != "mark"
    return ended and _is_name(last) and not _is(last, "end", "null")


def _arguments(nodes: Group) -> list[Group]:
    """The nodes between the commas."""
    parts: list[Group] = [[]]
    for node in nodes:
        if _is(node, ","):
            parts.append([])
        else:
            parts[-1].append(node)
    return parts


def _expressions(nodes: Group) -> Group:
    """Sub-queries translated, `dbo.` left out and table-valued functions filled in."""
    result: Group = []
    place = 0
    while place < len(nodes):
        node, rest = nodes[place], nodes[place + 1 :]
        place += 1
        if isinstance(node, list):
            result.append(_query(node, None) if _is_query(node) else _expressions(node))
        elif node.sql.lower() in ("dbo", "[dbo]") and rest and _is(rest[0], "."):
            place += 1
        elif node.sql.lower() in TABLE_FUNCTIONS and rest and isinstance(rest[0], list):
            result.append(_table_function(node, _expressions(rest[0])))
            place += 1
        else:
            result.append(node)
    return result


def _table_function(name: Token, arguments: Group) -> Token:
    number, sql = TABLE_FUNCTIONS[name.sql.lower()]
    given = [_written(argument) for argument in _arguments(arguments)]
    if len(given) != number:
        raise SqlError(f"{name.sql} takes {number} arguments, {len(given)} were given.")
    return Token("sql", sql.format(*given))


def _written(nodes: Group) -> str:
    return " ".join(
        node.sql if isinstance(node, Token) else f"({_written(node)})" for node in nodes
    )
