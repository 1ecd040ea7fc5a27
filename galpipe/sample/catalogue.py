"""The stage `sample`: a table of objects becomes the catalogue of a run, checked and in order."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe import spec as specs
from galpipe.errors import InputError
from galpipe.sample.identifiers import read_identifiers
from galpipe.sample.spec import Sample
from galpipe.sample.split import NAMES, assign_split, uniform
from galpipe.sample.table import IMAGE_REFERENCE
from galpipe.stages import Context
from galpipe.status import Status
from galpipe.workspace import Ref, address, write_bytes

VERSION = 1
FILE = "catalogue.parquet"
REDSHIFTS = (-0.01, 20.0)  # what a galaxy can have; sentinels such as -1 or -9999 lie outside


def sample(
    context: Context,
    spec: Sample,
    read: Callable[[], pa.Table],
    fingerprint: str,
    prune: int | None,
) -> Ref:
    """The catalogue of a run: one row per object, in order of object_id.

    `read` gives the table; it is called only where `fingerprint` (a digest of the source) was not
    seen before with this spec.  `prune` keeps that many objects, those of smallest salted hash;
    None keeps all.  The output is addressed by the catalogue's content, so that the order of the
    input, its format or its container change nothing downstream.

    Raises InputError on a missing column, missing, repeated or rounded identifiers, or no rows.
    """
    workspace = context.workspace
    seen = address("sample-source", VERSION, spec, {"source": fingerprint, "prune": prune})
    known = workspace.manifest(seen)
    if known is not None:
        ref = Ref("sample", known["sample"])
        if workspace.manifest(ref) is not None:
            return ref
    table = build_catalogue(spec, read(), prune)
    content = table_digest(table)
    ref = address("sample", VERSION, spec, {"content": content})
    if workspace.manifest(ref) is None:
        place = workspace.begin(ref)
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        write_bytes(place / FILE, sink.getvalue())
        bad = int(pc.sum(pc.not_equal(table["status"], 0)).as_py() or 0)
        splits = {name: int(pc.sum(pc.equal(table["split"], name)).as_py() or 0) for name in NAMES}
        workspace.commit(
            ref, spec, {}, content=content, objects=len(table), bad_positions=bad, splits=splits
        )
    workspace.begin(seen)
    workspace.commit(seen, spec, {}, sample=ref.digest)
    return ref


def build_catalogue(spec: Sample, table: pa.Table, prune: int | None = None) -> pa.Table:
    """The catalogue of a table of objects, checked, split and sorted; see `sample`."""
    if len(table) == 0:
        raise InputError("the sample is empty: its table has no rows; give one with objects.")
    if prune is not None and prune < 1:
        raise InputError(f"--prune {prune} would leave no objects; give 1 or more.")
    spec = _resolve_columns(spec, table.column_names)
    ids = read_identifiers(table[spec.id], spec.id, spec.id_type)
    rows = pc.sort_indices(ids).to_numpy()
    if prune is not None and prune < len(rows):
        hashes = uniform(f"{spec.split.salt}/prune", _keys(ids.take(pa.array(rows))))
        rows = rows[np.sort(np.argsort(hashes, kind="stable")[:prune])]
    ids, table = ids.take(pa.array(rows)), table.take(pa.array(rows))
    ra, dec, bad = _positions(spec, table)
    split = assign_split(spec.split, _keys(ids), ra, dec)
    references = spec.file or (IMAGE_REFERENCE if IMAGE_REFERENCE in table.column_names else None)
    columns: dict[str, Any] = {
        "object_id": ids,
        "ra": _nullable(ra),
        "dec": _nullable(dec),
        "redshift": _nullable(_redshifts(spec, table)),
        "file": _references(table, references),
        "split": pa.array(np.array(NAMES, object)[split], pa.string()),
        "status": pa.array(np.where(bad, int(Status.BAD_POSITION), 0).astype(np.int32)),
    }
    for name in table.column_names:
        if name != IMAGE_REFERENCE:
            column = ids if name == spec.id else table[name].combine_chunks()
            columns[f"input_{name}"] = column
    return pa.table(columns)


def _resolve_columns(spec: Sample, names: Sequence[str]) -> Sample:
    """The spec with every column that it names spelt as in the table.

    A column is found by its name, or by the only one that differs from it in case alone: FITS, SQL
    and the releases of one catalogue do not agree on case.
    """
    spelt: dict[str, Any] = {}
    for key in ("id", "file", "ra", "dec", "redshift"):
        column = getattr(spec, key)
        if column is None:
            continue
        alike = [name for name in names if name.lower() == column.lower()]
        if column not in names and len(alike) != 1:
            lower = {name.lower(): name for name in names}
            near = difflib.get_close_matches(column.lower(), lower, n=1, cutoff=0.5)
            shown = [name for name in names if name != IMAGE_REFERENCE][:12]
            hint = f"did you mean {lower[near[0]]!r}?" if near else f"it has {', '.join(shown)}."
            raise InputError(f"sample.{key}: the table has no column {column!r}; {hint}")
        spelt[key] = column if column in names else alike[0]
    if (spec.ra is None) != (spec.dec is None):
        given, absent = ("dec", "ra") if spec.ra is None else ("ra", "dec")
        raise InputError(f"sample.{given} is given without sample.{absent}; name both or neither.")
    return dataclasses.replace(spec, **spelt)


def _keys(ids: pa.Array) -> NDArray[np.int64] | list[str]:
    keys: NDArray[np.int64] | list[str] = (
        ids.to_numpy() if pa.types.is_int64(ids.type) else ids.to_pylist()
    )
    return keys


def _numbers(table: pa.Table, name: str, key: str) -> NDArray[np.float64]:
    """A column as float64, NaN where it has no number."""
    column = table[name].combine_chunks()
    if pa.types.is_string(column.type):
        values = np.array([_number(text) for text in column.to_pylist()], np.float64)
        if len(values) and column.null_count < len(column) and np.isnan(values).all():
            first = next(text for text in column.to_pylist() if text is not None)
            raise InputError(
                f"sample.{key}: column {name!r} holds text (such as {first!r}) where numbers are "
                f"needed{', in degrees' if key in ('ra', 'dec') else ''}."
            )
        return values
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise InputError(f"sample.{key}: column {name!r} holds {column.type}, not numbers.")
    floats = pc.cast(column, pa.float64(), safe=False)
    return np.array(pc.fill_null(floats, float("nan")).to_numpy(zero_copy_only=False), np.float64)


def _number(text: str | None) -> float:
    try:
        return float(text) if text is not None else float("nan")
    except ValueError:
        return float("nan")


def _positions(
    spec: Sample, table: pa.Table
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """ra and dec in degrees (NaN where undefined or out of range), and which rows are bad.

    A row whose cells are both empty has no position, as a source without coordinates has none;
    it is not bad.
    """
    count = len(table)
    if spec.ra is None or spec.dec is None:
        return np.full(count, np.nan), np.full(count, np.nan), np.zeros(count, bool)
    ra, dec = _numbers(table, spec.ra, "ra"), _numbers(table, spec.dec, "dec")
    good = (ra >= 0) & (ra <= 360) & (dec >= -90) & (dec <= 90)
    ra[~good], dec[~good] = np.nan, np.nan
    empty = _empty(table[spec.ra]) & _empty(table[spec.dec])
    return ra, dec, ~good & ~empty


def _empty(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Cells without anything in them; NaN is something."""
    empty: NDArray[np.bool_] = column.is_null().to_numpy()
    if pa.types.is_string(column.type):
        empty |= pc.equal(pc.utf8_trim_whitespace(column), "").fill_null(True).to_numpy()
    return empty


def _redshifts(spec: Sample, table: pa.Table) -> NDArray[np.float64]:
    if spec.redshift is None:
        return np.full(len(table), np.nan)
    z = _numbers(table, spec.redshift, "redshift")
    z[~((z >= REDSHIFTS[0]) & (z <= REDSHIFTS[1]))] = np.nan
    return z


def _references(table: pa.Table, name: str | None) -> pa.Array:
    """The image of each row as text; a null where the table gives none."""
    if name is None:
        return pa.nulls(len(table), pa.string())
    column = table[name].combine_chunks()
    if not (pa.types.is_string(column.type) or pa.types.is_integer(column.type)):
        raise InputError(f"sample.file: column {name!r} holds {column.type}, not names of files.")
    return column.cast(pa.string())


def _nullable(values: NDArray[np.float64]) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def table_digest(table: pa.Table) -> str:
    """A digest of a table's content: names, types and values, not how they lie in memory."""
    total = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        array = column.combine_chunks()
        array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
        total.update(specs.canonical([name, str(array.type), len(array)]).encode())
        total.update(np.packbits(array.is_null().to_numpy(zero_copy_only=False)).tobytes())
        if pa.types.is_string(array.type):
            texts = [text.encode() for text in array.drop_null().to_pylist()]
            total.update(np.array([len(text) for text in texts], "<i8").tobytes())
            total.update(b"".join(texts))
        elif pa.types.is_primitive(array.type):
            values = array.drop_null().to_numpy(zero_copy_only=False)
            if values.dtype.kind == "f":
                values = np.where(np.isnan(values), np.nan, values).astype(values.dtype)
            total.update(np.ascontiguousarray(values).tobytes())
        else:  # lists: rare, so plain
            total.update(repr(array.to_pylist()).encode())
    return total.hexdigest()[: specs.DIGEST_CHARACTERS]
