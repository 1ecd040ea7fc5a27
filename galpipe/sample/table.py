"""Tables of objects into Arrow: CSV, FITS, VOTable or Parquet, with identifiers exact.

Empty and masked cells are null.  NaN stays NaN, because an undefined number given by the source
is not the same as a number not given.  Integers never pass through float.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from galpipe.errors import InputError
from galpipe.sample.fits_shape import why_refused
from galpipe.sample.parquet_table import read_parquet
from galpipe.sample.table_bytes import table_bytes
from galpipe.sample.votable_shape import BadVotableError, check_shape

# A reserved column: the image of each row, as the archive that gave the table names it.  It serves
# where the survey names no `file` column and is not carried into the catalogue.
IMAGE_REFERENCE = "galpipe:image"

CSV, FITS, VOTABLE, PARQUET = "csv", "fits", "votable", "parquet"
SUFFIXES = {
    ".csv": CSV, ".tsv": CSV, ".fits": FITS, ".fit": FITS, ".fts": FITS,
    ".vot": VOTABLE, ".votable": VOTABLE, ".xml": VOTABLE, ".parquet": PARQUET, ".parq": PARQUET,
}  # fmt: skip
NULLS = ["", "NULL", "null", "N/A", "n/a", "NA", "#N/A", "--"]  # in columns of numbers
MOST_COLUMNS = 10_000  # of a CSV table
VARYING = re.compile(r"\d*[PQ]")  # formats of FITS columns whose cells lie in the heap
LONGEST_VECTOR = 64  # a longer vector column of a FITS table stays a list


def table_format(name: str) -> str | None:
    """csv, fits, votable or parquet by a file's suffix (`.gz` may follow), else None."""
    path = PurePosixPath(name.lower())
    return SUFFIXES.get(path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix)


def read_table(source: Path | bytes, name: str = "", id: str | None = None) -> pa.Table:
    """Read a table of objects.

    `source` is a path or the file's bytes, `name` the name to show and to tell the format from
    (the path's own by default).  `id` names the column to keep as exact text where the format is
    text.  Vector columns of FITS and VOTable become `name_0`, `name_1`, ...; columns of complex
    numbers, and those of FITS whose cells vary in length, are left out.

    Raises InputError where the file is absent, of no known format, unreadable, or made to take more
    time or memory than a table can.
    """
    name = name or (str(source) if isinstance(source, Path) else "table")
    kind = table_format(name)
    if kind is None:
        raise InputError(
            f"{name}: not a table that galpipe reads; give CSV, FITS, VOTable or Parquet."
        )
    try:
        content = table_bytes(source, kind == CSV)
        match kind:
            case "csv":
                table = _read_csv(content, id)
            case "fits":
                table = _read_fits(content)
            case "votable":
                table = _read_votable(content)
            case _:
                table = read_parquet(content)
        repeated = [column for column, n in Counter(table.column_names).items() if n > 1]
        if repeated:
            raise InputError(f"two columns are named {repeated[0]!r}; rename one of them.")
        return _plain(table, id if kind == "parquet" else None)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such table; mend the path in the survey.") from None
    except (IsADirectoryError, PermissionError) as error:
        raise InputError(f"{name}: cannot be read as a table ({error.strerror}).") from None
    except BadVotableError as error:
        raise InputError(
            f"{name}: not a readable {kind} table ({error}); write it anew, whole and by itself."
        ) from None
    except MemoryError:
        raise InputError(
            f"{name}: the table does not fit into memory; keep the rows and columns that are used."
        ) from None
    except Exception as error:  # four parsers, each with its own errors, on bytes from outside
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name}: not a readable {kind} table ({reason}).") from None


def from_results(results: Any) -> pa.Table:
    """The results of a query, an astropy table, as a table of objects."""
    return _plain(from_astropy(results))


def _read_csv(content: bytes, id: str | None) -> pa.Table:
    """Comma, semicolon, tab or bar separated; leading `#` lines are comments or the header."""
    try:
        content.decode("utf-8")
        encoding = "utf-8"
    except UnicodeDecodeError:
        encoding = "latin-1"
    content = _without_comments(content.removeprefix(b"\xef\xbb\xbf"), id)
    if not content.strip():
        raise InputError("the table is empty; it needs a line of column names.")
    header = content.split(b"\n", 1)[0].decode(encoding)
    delimiter = max(",;\t|", key=header.count)
    fields = next(csv.reader([header.rstrip("\r")], delimiter=delimiter))
    if len(fields) > MOST_COLUMNS:
        raise InputError(f"the table has {len(fields)} columns; keep those that are used.")
    wanted = (id or "").lower()
    exact = {field: pa.string() for field in fields if field.strip().lower() == wanted}
    table = pacsv.read_csv(
        io.BytesIO(content),
        # One block: Arrow settles a column's type on the first block and fails on the second.
        read_options=pacsv.ReadOptions(
            block_size=min(max(len(content) + 1, 1 << 20), 2**31 - 1), encoding=encoding
        ),
        parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(null_values=NULLS, column_types=exact),
    )
    if content.count(b'"') % 2 and any(map(_has_lines, table.columns)):
        raise InputError("a quotation mark is opened and not closed; close it.")
    return table.rename_columns([column.strip() for column in table.column_names])


def _has_lines(column: pa.ChunkedArray) -> bool:
    """Whether a cell of text holds more than one line."""
    if not pa.types.is_string(column.type):
        return False
    return bool(pc.any(pc.match_substring(column, "\n")).as_py())


def _without_comments(content: bytes, id: str | None) -> bytes:
    """Drop leading comment lines (`#Table1` of SkyServer); `#objid,ra,dec` is the header itself.

    A `#` line is the header where it names the id column, or, without a name, has as many fields
    as the line below.
    """
    while content.startswith(b"#"):
        line, _, rest = content.partition(b"\n")
        below = rest.split(b"\n", 1)[0]
        fields = {field.strip(b' "\r').lower() for field in re.split(rb"[,;\t|]", line[1:])}
        named = id.lower().encode() in fields if id is not None else False
        alike = len(fields) > 1 and any(
            line.count(mark) == below.count(mark) > 0 for mark in (b",", b";", b"\t", b"|")
        )
        if named or (id is None and alike):
            return line[1:].lstrip() + b"\n" + rest
        content = rest
    return content


def _read_fits(content: bytes) -> pa.Table:
    """The first table HDU of a FITS file, without columns of cells that vary in length."""
    reason = why_refused(content)
    if reason is not None:
        raise InputError(f"{reason}; write the table anew.")
    from astropy.io import fits
    from astropy.table import Table

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(io.BytesIO(content)) as hdus:
            for hdu in hdus:
                if isinstance(hdu, fits.BinTableHDU | fits.TableHDU) and not isinstance(
                    hdu, fits.CompImageHDU
                ):
                    if any(VARYING.match(str(one.format)) for one in hdu.columns):
                        kept = [one for one in hdu.columns if not VARYING.match(str(one.format))]
                        hdu = fits.BinTableHDU.from_columns(kept)
                    return from_astropy(Table.read(hdu, mask_invalid=False))
    raise InputError("no HDU of this FITS file holds a table.")


def _read_votable(content: bytes) -> pa.Table:
    """The first table of a VOTable document."""
    check_shape(content)
    from astropy.io import votable

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        document = votable.parse(io.BytesIO(content), verify="ignore", invalid="mask")
        return from_astropy(document.get_first_table().to_table(use_names_over_ids=True))


def from_astropy(table: Any) -> pa.Table:
    """An astropy table in Arrow: native byte order, stripped text, masked cells null."""
    columns: dict[str, pa.Array] = {}
    for name in table.colnames:
        values = np.ma.asarray(table[name])
        for label, part in _vector_components(str(name), values):
            array = _arrow(part)
            if array is not None:
                columns[label] = array
    return pa.table(columns)


def _vector_components(name: str, values: Any) -> Iterator[tuple[str, Any]]:
    """A column of vectors as columns of numbers: name_0, name_1, ..."""
    if values.ndim == 1:
        yield name, values
        return
    flat = values.reshape(len(values), -1)
    if flat.shape[1] <= LONGEST_VECTOR:
        for place in range(flat.shape[1]):
            yield f"{name}_{place}", flat[:, place]
    else:
        yield name, flat


def _arrow(values: Any) -> pa.Array | None:
    """One masked numpy column in Arrow; None for kinds that no catalogue needs (complex)."""
    data, mask = np.asarray(values.data), np.ma.getmaskarray(values)
    kind = data.dtype.kind
    if data.ndim == 2:
        return pa.array(list(data.astype(data.dtype.newbyteorder("="))))
    if kind in "SUO":
        return pa.array([_text(v, m) for v, m in zip(data.tolist(), mask.tolist(), strict=True)])
    if kind not in "biuf":
        return None
    return pa.array(np.ascontiguousarray(data, data.dtype.newbyteorder("=")), mask=mask)


def _text(value: Any, masked: bool) -> Any:
    """A cell of a text column, without the padding of fixed-width strings."""
    if masked or value is None:
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value.rstrip(" \0") if isinstance(value, str) else str(value)


def _decoded(column: pa.ChunkedArray) -> pa.Array:
    """Bytes as text: UTF-8 where they are, hexadecimal digits otherwise."""

    def read(value: bytes | None) -> str | None:
        if value is None:
            return None
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.hex()

    return pa.array([read(value) for value in column.to_pylist()], pa.string())


def _plain(table: pa.Table, untouched: str | None = None) -> pa.Table:
    """Plain column types: numbers, booleans, strings (empty ones null), lists.

    Text loses the spaces around it, but in the column `untouched`.
    """
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type
        if pa.types.is_dictionary(kind):
            column, kind = column.cast(kind.value_type), kind.value_type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            column, kind = _decoded(column), pa.string()
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            column = column.cast(pa.string())
            if name != untouched:
                column = pc.utf8_trim_whitespace(column)
            column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
        elif pa.types.is_temporal(kind):
            column = column.cast(pa.string())
        elif pa.types.is_decimal(kind) or pa.types.is_float16(kind):
            column = column.cast(pa.float64())
        elif pa.types.is_null(kind):
            column = column.cast(pa.string())
        columns.append(column)
    return pa.table(columns, names=[str(name).strip() for name in table.column_names])
