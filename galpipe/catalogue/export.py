"""Published labels in the formats people open: Parquet, FITS, VOTable, CSV.

int64 ids stay int64 everywhere; lists become fixed-length vectors in FITS and VOTable, and
semicolon-separated text in CSV.  A missing integer is null, a missing float NaN (FITS) or null
(VOTable), missing text empty; cluster -1, unassigned, is a value and stays one.  FITS holds ASCII
only: other characters are written as backslash escapes there, which its header says.
"""

from __future__ import annotations

import contextlib
import errno
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from galpipe.errors import InputError

FORMATS = ("parquet", "fits", "votable", "csv")
NULL_INTEGER = -(2**31)  # of a missing integer in FITS, stated as TNULL
SUFFIX = {"parquet": ".parquet", "fits": ".fits", "votable": ".vot", "csv": ".csv"}


def export(labels: Path, target: Path, format: str) -> Path:
    """Write the labels file in another format; an existing target is replaced only when whole."""
    if format not in FORMATS:
        raise InputError(f"there is no format {format!r}; it takes {', '.join(FORMATS)}.")
    if not target.parent.is_dir():
        raise InputError(f"{target.parent} is not a folder; give an existing one with --output.")
    if target.is_dir():
        raise InputError(f"{target} is a folder; name a file with --output.")
    try:
        table = pq.read_table(labels)
    except (OSError, pa.ArrowInvalid):
        raise InputError(
            f"{labels} cannot be read as labels; run the survey again to publish it anew."
        ) from None
    write = {"parquet": _copy, "csv": _write_csv, "fits": _write_fits, "votable": _write_votable}
    partial = target.with_name(f".{target.name}.part")
    try:
        write[format](table, partial)
        partial.replace(target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise InputError(
            f"{target} cannot be written ({error.strerror}); give another file with --output."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return target


def _copy(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd")


def _write_csv(table: pa.Table, path: Path) -> None:
    columns = []
    for column in table.columns:
        if pa.types.is_list(column.type):
            texts = [
                None if row is None else ";".join(str(np.float32(v)) for v in row)
                for row in column.to_pylist()
            ]
            columns.append(pa.array(texts, pa.string()))
        else:
            columns.append(column)
    pa_csv.write_csv(pa.table(columns, names=table.column_names), path)


def _write_fits(table: pa.Table, path: Path) -> None:
    from astropy.io import fits

    columns, metadata = [], []
    for field in table.schema:
        values, code = _fits_values(table[field.name])
        facts = _facts(field)
        # A column without missing values has no null: -1 then is a value like any other.
        null = NULL_INTEGER if code in ("J", "K") and table[field.name].null_count else None
        columns.append(
            fits.Column(
                name=field.name, format=code, array=values, unit=facts.get("unit"), null=null
            )
        )
        metadata.append(facts)
    hdu = fits.BinTableHDU.from_columns(columns, name="LABELS")
    for number, facts in enumerate(metadata, 1):
        hdu.header[f"TCOMM{number}"] = facts.get("description", "")[:68]
        if "ucd" in facts:
            hdu.header[f"TUCD{number}"] = facts["ucd"]
    hdu.header["RADESYS"] = "ICRS"
    hdu.header["COMMENT"] = "Characters beyond ASCII are written as Python backslash escapes."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path, overwrite=True)


def _fits_values(column: pa.ChunkedArray) -> tuple[Any, str]:
    """A column as numpy with its FITS format code."""
    kind = column.type
    if pa.types.is_list(kind):
        vectors = _vectors(column)
        return vectors, f"{vectors.shape[1]}E"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = np.array(
            [(v or "").encode("ascii", "backslashreplace") for v in column.to_pylist()]
        )
        return texts, f"{max(texts.dtype.itemsize, 1)}A"
    if pa.types.is_boolean(kind):
        return column.fill_null(False).to_numpy(), "L"
    if pa.types.is_integer(kind):
        values = column.fill_null(NULL_INTEGER).to_numpy()
        return (values, "J") if kind.bit_width <= 32 else (values, "K")
    if pa.types.is_float32(kind):
        return column.to_numpy(), "E"
    if pa.types.is_floating(kind):
        return column.to_numpy(), "D"
    texts = np.array(
        [
            str("" if v is None else v).encode("ascii", "backslashreplace")
            for v in column.to_pylist()
        ]
    )
    return texts, f"{max(texts.dtype.itemsize, 1)}A"


def _vectors(column: pa.ChunkedArray) -> Any:
    """A list column as (objects, length) float32; rows without a list are NaN."""
    rows = column.to_pylist()
    length = max((len(row) for row in rows if row is not None), default=1)
    vectors = np.full((len(rows), max(length, 1)), np.nan, np.float32)
    for i, row in enumerate(rows):
        if row is not None:
            vectors[i, : len(row)] = row
    return vectors


def _write_votable(table: pa.Table, path: Path) -> None:
    from astropy.io.votable import from_table, writeto
    from astropy.io.votable.tree import CooSys
    from astropy.table import Column, MaskedColumn, Table

    plain = Table()
    for field in table.schema:
        column = table[field.name]
        if pa.types.is_list(field.type):
            plain[field.name] = Column(_vectors(column))
        elif pa.types.is_integer(field.type):
            missing = column.is_null().to_numpy()
            plain[field.name] = MaskedColumn(
                column.fill_null(-1).to_numpy(), mask=missing, fill_value=-1
            )
        elif pa.types.is_floating(field.type):
            plain[field.name] = Column(column.to_numpy())
        elif pa.types.is_boolean(field.type):
            plain[field.name] = Column(column.fill_null(False).to_numpy())
        else:
            plain[field.name] = Column(
                [str("" if v is None else v) for v in column.to_pylist()], dtype=str
            )
        plain[field.name].unit = _facts(field).get("unit") or None
        plain[field.name].description = _facts(field).get("description")
    tree = from_table(plain)
    tree.resources[0].coordinate_systems.append(CooSys(ID="icrs", system="ICRS"))
    meanings = {field.name: _facts(field) for field in table.schema}
    for field in tree.get_first_table().fields:
        field.ucd = meanings[field.name].get("ucd") or None
        if field.name in ("ra", "dec"):
            field.ref = "icrs"
    writeto(tree, str(path), tabledata_format="binary2")


def _facts(field: pa.Field) -> dict[str, str]:
    return {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
