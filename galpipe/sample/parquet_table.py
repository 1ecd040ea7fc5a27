"""Parquet as a table, with what it unfolds to bounded.

A column of Parquet may say one value a thousand million times in a few bytes, so the numbers of
values are added up from the file's own account before it is read, and text stays in its
dictionaries until its length is known.
"""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from galpipe.errors import InputError

MOST_VALUES = 2**30  # in all columns
LARGEST = 2**32  # bytes, uncompressed
MOST_COLUMNS = 10_000
TOO_LARGE = "the table unfolds to more than {}; keep the rows and columns that are used."


def read_parquet(content: bytes) -> pa.Table:
    """All columns of a Parquet file; raises InputError where they are too much."""
    facts = pq.ParquetFile(io.BytesIO(content)).metadata
    if facts.num_columns > MOST_COLUMNS:
        raise InputError(f"the table has {facts.num_columns} columns; keep those that are used.")
    values = size = 0
    texts = set()
    for group in range(facts.num_row_groups):
        for place in range(facts.num_columns):
            column = facts.row_group(group).column(place)
            values += max(column.num_values, facts.row_group(group).num_rows)
            size += column.total_uncompressed_size
            if column.physical_type == "BYTE_ARRAY" and "." not in column.path_in_schema:
                texts.add(column.path_in_schema)
    if values > MOST_VALUES:
        raise InputError(TOO_LARGE.format(f"{MOST_VALUES} values"))
    if size > LARGEST:
        raise InputError(TOO_LARGE.format("4 GiB"))
    table = pq.ParquetFile(io.BytesIO(content), read_dictionary=sorted(texts)).read()
    length = sum(_length(column) for column in table.columns)
    if length > LARGEST:
        raise InputError(TOO_LARGE.format("4 GiB of text"))
    return table


def _length(column: pa.ChunkedArray) -> int:
    """Bytes of the text of a column in dictionaries; 0 of others."""
    if not pa.types.is_dictionary(column.type):
        return 0
    found = 0
    for chunk in column.chunks:
        kind = chunk.dictionary.type
        if pa.types.is_string(kind) or pa.types.is_binary(kind):
            lengths = pc.binary_length(chunk.dictionary)
            found += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    return found
