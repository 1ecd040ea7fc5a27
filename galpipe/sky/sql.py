"""The catalogue of a drawn sky behind SQL: its Parquet tables in an in-memory SQLite database.

Each query has a connection of its own that can only read.  Arithmetic that has no result (a square
root of -1, a division by zero) is NULL here, where SQL Server gives up.
"""

from __future__ import annotations

import itertools
import math
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galpipe.sky.tsql import SqlError, translate

Row = tuple[Any, ...]

VIEWS = {
    "PhotoObj": "SELECT * FROM PhotoObjAll WHERE mode IN (1, 2)",
    "PhotoPrimary": "SELECT * FROM PhotoObjAll WHERE mode = 1",
    "Galaxy": "SELECT * FROM PhotoObjAll WHERE mode = 1 AND type = 3",
    "Star": "SELECT * FROM PhotoObjAll WHERE mode = 1 AND type = 6",
    "SpecObj": "SELECT * FROM SpecObjAll",
}
INDEXED = ("objid", "bestobjid", "specobjid", "dr8objid", "dr7objid", "field", "dec")
TYPES = {  # Arrow type -> type and length in SQL Server's words, affinity in SQLite
    "int64": ("bigint", 8, "INTEGER"), "uint64": ("bigint", 8, "INTEGER"),
    "int32": ("int", 4, "INTEGER"), "int16": ("smallint", 2, "INTEGER"),
    "uint8": ("tinyint", 1, "INTEGER"), "int8": ("tinyint", 1, "INTEGER"),
    "bool": ("bit", 1, "INTEGER"), "float": ("real", 4, "REAL"), "double": ("float", 8, "REAL"),
    "string": ("varchar", 64, "TEXT COLLATE NOCASE"),
}  # fmt: skip
PHOTO_TYPES = (
    "UNKNOWN", "COSMIC_RAY", "DEFECT", "GALAXY", "GHOST",
    "KNOWNOBJ", "STAR", "TRAIL", "SKY", "NOTATYPE",
)  # fmt: skip
READING = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION)
MESSAGES = (  # what SQLite says, and what SQL Server says
    ("no such column: ", "Invalid column name '{}'."),
    ("no such table: ", "Invalid object name '{}'."),
    ("no such function: ", "'{}' is not a recognized built-in function name."),
    ("ambiguous column name: ", "Ambiguous column name '{}'."),
)
BATCH = 1000  # rows
LONGEST = 1_000_000  # bytes of one value
STEPS = 20_000  # SQLite instructions between two looks at the clock


@dataclass(frozen=True)
class Table:
    """The answer to a query: the names of its columns and its rows, read as they are asked for."""

    columns: tuple[str, ...]
    rows: Iterator[Row]


@dataclass(frozen=True)
class Upload:
    """Positions to match: `names` of the columns, `values` as text, `ra` and `dec` in degrees."""

    names: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    ra: tuple[float, ...]
    dec: tuple[float, ...]


class Catalogue:
    """The tables under a folder (`*.parquet`), to be queried from any thread."""

    _numbers = itertools.count()

    def __init__(self, folder: Path) -> None:
        name = f"file:sky-{next(self._numbers)}?mode=memory&cache=shared"
        self._address = name
        self._closed = False
        self._anchor = sqlite3.connect(name, uri=True, check_same_thread=False)
        self.tables: dict[str, int] = {}  # name -> rows
        self._anchor.execute(
            "CREATE TABLE DBColumns (tableName TEXT COLLATE NOCASE, rank INTEGER, [enum] TEXT, "
            "name TEXT, type TEXT, length INTEGER, unit TEXT, ucd TEXT, description TEXT)"
        )
        for file in sorted(folder.glob("*.parquet")):
            self.tables[file.stem] = _load(self._anchor, file)
        for view, query in VIEWS.items():
            self._anchor.execute(f"CREATE VIEW {view} AS {query}")
        self._readable = {*self.tables, *VIEWS, "DBColumns"}
        self._anchor.commit()

    def close(self) -> None:
        """Break off the queries under way and let go of the tables."""
        self._closed = True
        self._anchor.close()

    def query(self, text: str, rows: int, seconds: float) -> Table:
        """Answer one SELECT with at most `rows` rows; raises SqlError, also past `seconds`."""
        return self._answer(self._connection(), text, rows, seconds)

    def matched(
        self, text: str, upload: Upload, radius: float, scope: str, rows: int, seconds: float
    ) -> Table:
        """Answer a SELECT that joins `#upload` and `#x`, the objects found near each position.

        `radius` is in arcminutes; `scope` is nearPrim, nearObj, allPrim or allObj: the nearest or
        all objects, of the primary or of all detections.  Raises SqlError.
        """
        connection = self._connection()
        try:
            _match(connection, upload, radius, scope)
        except BaseException:
            connection.close()
            raise
        return self._answer(connection, text, rows, seconds)

    def _connection(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._address, uri=True, check_same_thread=False)
        for name, arguments, function in FUNCTIONS:
            connection.create_function(name, arguments, function, deterministic=True)
        connection.create_aggregate("stdev", 1, _Deviation)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
        return connection

    def _answer(
        self, connection: sqlite3.Connection, text: str, rows: int, seconds: float
    ) -> Table:
        limit = time.monotonic() + seconds
        connection.set_authorizer(self._authorize)
        connection.set_progress_handler(lambda: self._closed or time.monotonic() > limit, STEPS)
        try:
            cursor = connection.execute(translate(text, rows))
            first = cursor.fetchmany(BATCH)
        except (sqlite3.Error, sqlite3.Warning) as error:
            connection.close()
            raise SqlError(_message(error, seconds)) from None
        except BaseException:
            connection.close()
            raise
        columns = _distinct([column[0] for column in cursor.description])
        return Table(columns, _rows(connection, cursor, first))

    def _authorize(self, action: int, first: str | None, *_rest: str | None) -> int:
        own = first is None or first in self._readable or first.startswith("#") or not first
        if action in READING and (action != sqlite3.SQLITE_READ or own):
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY


def _rows(
    connection: sqlite3.Connection, cursor: sqlite3.Cursor, first: list[Row]
) -> Iterator[Row]:
    try:
        batch = first
        while batch:
            yield from batch
            batch = cursor.fetchmany(BATCH)
    finally:
        connection.close()


def _message(error: Exception, seconds: float) -> str:
    """SQLite's trouble in SQL Server's words."""
    text = str(error)
    for start, message in MESSAGES:
        if text.startswith(start):
            return message.format(text.removeprefix(start))
    if text == "not authorized" or text.endswith("is prohibited"):
        return "The SELECT permission was denied."
    if text == "interrupted":
        return f"The query ran past the limit of {seconds:g} s."
    if text.startswith("near ") and text.endswith(": syntax error"):
        return f"Incorrect syntax near '{text[6:-15]}'."
    return f"SQL error: {text}."


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Every name once: a second `ra` becomes ra1, a third ra2."""
    taken: set[str] = set()
    result = []
    for name in names:
        candidates = itertools.chain([name], (f"{name}{k}" for k in itertools.count(1)))
        result.append(next(one for one in candidates if one.lower() not in taken))
        taken.add(result[-1].lower())
    return tuple(result)


def _load(connection: sqlite3.Connection, file: Path) -> int:
    """Copy one Parquet file into a table of its name; returns the number of rows."""
    import pyarrow.parquet as pq

    table, name = pq.read_table(file), file.stem
    kinds = [TYPES[str(field.type).replace("large_", "")] for field in table.schema]
    columns = ", ".join(
        f"[{field.name}] {kind[2]}" for field, kind in zip(table.schema, kinds, strict=True)
    )
    connection.execute(f"CREATE TABLE [{name}] ({columns})")
    marks = ", ".join("?" * table.num_columns)
    connection.executemany(
        f"INSERT INTO [{name}] VALUES ({marks})",  # noqa: S608 our own table's name
        zip(*(_values(column) for column in table.columns), strict=True),
    )
    for field in table.schema:
        if field.name.lower() in INDEXED:
            connection.execute(f"CREATE INDEX [{name} {field.name}] ON [{name}] ([{field.name}])")
    connection.executemany(
        "INSERT INTO DBColumns VALUES (?, ?, '', ?, ?, ?, ?, ?, ?)",
        (
            (name, rank, field.name, kind[0], kind[1], *_described(field.metadata))
            for rank, (field, kind) in enumerate(zip(table.schema, kinds, strict=True))
        ),
    )
    return int(table.num_rows)


def _values(column: Any) -> list[Any]:
    """The values of an Arrow column; single precision as its shortest decimal, as SQL Server."""
    if str(column.type) != "float":
        return list(column.to_pylist())
    return [None if v is None else float(str(v)) for v in column.to_numpy()]


def _described(metadata: dict[bytes, bytes] | None) -> tuple[str, str, str]:
    found = metadata or {}
    unit, ucd, text = (found.get(key, b"").decode() for key in (b"unit", b"ucd", b"description"))
    return unit, ucd, text


def _match(connection: sqlite3.Connection, upload: Upload, radius: float, scope: str) -> None:
    """Make the temporary tables #upload (up_id and the columns, as up_name) and #x."""
    nearest, primary = scope.lower().startswith("near"), scope.lower().endswith("prim")
    columns = ", ".join(f"[up_{name}] TEXT" for name in upload.names)
    connection.execute(f"CREATE TEMP TABLE [#upload] (up_id INTEGER, {columns})")
    connection.execute("CREATE TEMP TABLE [#x] (up_id INTEGER, objID INTEGER)")
    marks = ", ".join("?" * (len(upload.names) + 1))
    connection.executemany(
        f"INSERT INTO [#upload] VALUES ({marks})",  # noqa: S608
        ((number, *values) for number, values in enumerate(upload.values, start=1)),
    )
    table = "PhotoPrimary" if primary else "PhotoObjAll"
    found = (
        f"SELECT objID, fDistanceArcMinEq(?, ?, ra, dec) AS d FROM {table} "  # noqa: S608
        "WHERE dec BETWEEN ? AND ? AND d <= ? ORDER BY d, objID"
    )
    for number, (ra, dec) in enumerate(zip(upload.ra, upload.dec, strict=True), start=1):
        box = (dec - radius / 60, dec + radius / 60)
        rows = connection.execute(found, (ra, dec, *box, radius)).fetchall()
        connection.executemany(
            "INSERT INTO [#x] VALUES (?, ?)",
            ((number, row[0]) for row in (rows[:1] if nearest else rows)),
        )
    connection.commit()


# The functions of SQL Server and of SkyServer that SQLite lacks or has another meaning for.


def distance(ra1: float, dec1: float, ra2: float, dec2: float) -> float:
    """The angle between two positions (degrees), in arcminutes (haversine)."""
    ra1, dec1, ra2, dec2 = (math.radians(v) for v in (ra1, dec1, ra2, dec2))
    h = math.sin((dec2 - dec1) / 2) ** 2
    h += math.cos(dec1) * math.cos(dec2) * math.sin((ra2 - ra1) / 2) ** 2
    return math.degrees(2 * math.asin(min(1.0, math.sqrt(h)))) * 60


def _text(value: Any, length: int = 10, decimals: int = 0) -> str | None:
    """STR(): right-aligned in `length` characters, stars where it does not fit."""
    if value is None:
        return None
    text = f"{float(value):{length}.{decimals}f}"
    return text if len(text) <= length else "*" * length


def _rounded(value: Any, digits: int = 0) -> Any:
    """ROUND() half away from zero; whole numbers stay whole."""
    if value is None or isinstance(value, int):
        return value if value is None or digits >= 0 else _rounded(float(value), digits)
    factor = 10.0**digits
    return math.copysign(math.floor(abs(value) * factor + 0.5) / factor, value)


def _log(value: Any, base: float = math.e) -> float | None:
    return math.log(value, base) if value is not None and value > 0 else None


def _photo_type(number: Any) -> str | None:
    known = isinstance(number, int) and 0 <= number < len(PHOTO_TYPES)
    return PHOTO_TYPES[number] if known else None


class _Deviation:
    """STDEV(): of a sample."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def step(self, value: Any) -> None:
        if value is not None:
            self.values.append(value)

    def finalize(self) -> Any:
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def _or_null(function: Callable[..., Any]) -> Callable[..., Any]:
    """NULL where one of the arguments is."""
    return lambda *values: None if None in values else function(*values)


FUNCTIONS: tuple[tuple[str, int, Callable[..., Any]], ...] = (
    ("str", -1, _text),
    ("round", -1, _rounded),
    ("log", -1, _log),
    ("square", 1, _or_null(lambda value: float(value) ** 2)),
    ("atn2", 2, _or_null(math.atan2)),
    ("isnull", 2, lambda value, other: other if value is None else value),
    ("len", 1, _or_null(lambda text: len(str(text).rstrip(" ")))),
    ("fPhotoTypeN", 1, _photo_type),
    ("fDistanceArcMinEq", 4, _or_null(distance)),
)
