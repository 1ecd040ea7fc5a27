"""Tables in ECSV (Enhanced Character Separated Values, APE 6) from a network: plain columns alone.

The header is YAML, which is looked at before astropy sees the table: a column that holds objects,
or is put together from others (`__serialized_columns__`), is refused, and so is any YAML tag.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import yaml  # type: ignore[import-untyped]
from astropy.table import MaskedColumn, Table

from galpipe.archives.trouble import BadImageError, corrupt
from galpipe.status import Status

FIRST = b"# %ECSV "
LARGEST_HEADER = 2**20  # bytes
MOST_ROWS = 1_000_000
MOST_COLUMNS = 1000
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
FLOATS = ("float32", "float64")
OTHERS = ("string", "bool")


def read_ecsv(content: bytes) -> pa.Table:
    """The rows of an ECSV file: integers as int64, floats as float64, all else as text.

    Masked and undefined values are null.  Raises BadImageError (CORRUPT) where the file is damaged
    or holds more than plain columns.
    """
    if not content.startswith(FIRST):
        raise BadImageError(Status.CORRUPT, "not an ECSV table")
    kinds = _kinds(_header(content))
    if content.count(b"\n") > MOST_ROWS:
        raise BadImageError(Status.CORRUPT, f"a table of more than {MOST_ROWS} rows")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = Table.read(content.decode("utf-8").split("\n"), format="ascii.ecsv")
    except MemoryError:
        raise
    except Exception as error:  # astropy raises whatever its parsers meet in damaged text
        raise corrupt(error) from None
    if found.colnames != list(kinds):
        raise BadImageError(Status.CORRUPT, "the columns are not those of the header")
    return pa.table({name: _column(found[name], kind) for name, kind in kinds.items()})


def _header(content: bytes) -> Any:
    """What the YAML of a table's comments says."""
    lines, size = [], 0
    for line in io.BytesIO(content):
        size += len(line)
        if size > LARGEST_HEADER:
            raise BadImageError(Status.CORRUPT, "a header without end")
        if not line.startswith(b"#"):
            break
        lines.append(line[2:])
    try:
        text = b"".join(lines[1:]).decode("utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ValueError("an alias, which may unfold without bound")
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise corrupt(error) from None


def _kinds(header: Any) -> dict[str, str]:
    """The type of every column by its name; refuses types that are no plain values."""
    try:
        columns = [(str(one["name"]), str(one["datatype"])) for one in header["datatype"]]
        whole = all("subtype" not in one for one in header["datatype"])
        names = [name for name, _ in columns]
        meta = str(header.get("meta"))
    except (KeyError, TypeError, AttributeError, RecursionError):
        raise BadImageError(Status.CORRUPT, "an ECSV header without columns") from None
    if len(set(names)) < len(names) or not 1 <= len(names) <= MOST_COLUMNS:
        raise BadImageError(Status.CORRUPT, "an ECSV header with odd columns")
    bad = next((n for n, kind in columns if kind not in (*INTEGERS, *FLOATS, *OTHERS)), None)
    if bad is not None or not whole or "__serialized_columns__" in meta:
        raise BadImageError(
            Status.CORRUPT, f"the table holds more than plain columns ({bad or 'composed ones'})"
        )
    return dict(columns)


def _column(column: Any, kind: str) -> pa.Array:
    mask = np.asarray(column.mask) if isinstance(column, MaskedColumn) else np.zeros(len(column))
    mask = mask.astype(bool)
    if kind in INTEGERS:
        return pa.array(np.asarray(column).astype(np.int64), pa.int64(), mask=mask)
    if kind in FLOATS:
        values = np.asarray(column).astype(np.float64)
        return pa.array(values, pa.float64(), mask=mask | ~np.isfinite(values))
    return pa.array([str(v) for v in np.asarray(column)], pa.string(), mask=mask)
