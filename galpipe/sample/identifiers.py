"""Identifiers of objects: exact, present and unique, or refused in one sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from galpipe.errors import InputError

EXACT_FLOAT = 2**53  # beyond, a float64 no longer tells neighbouring integers apart
SHOWN = 3


def read_identifiers(column: pa.ChunkedArray, name: str, id_type: str) -> pa.Array:
    """The identifiers of a table, (rows,), as int64 or string, exactly as the source has them.

    `column` is the column `name` of the table, `id_type` "int64" or "string".  Raises InputError
    where one is missing, repeated, not of the declared type, or was rounded through a float.
    """
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.chunks else pa.nulls(0, values.type)
    _refuse(
        values.is_null().to_numpy(zero_copy_only=False),
        np.arange(1, len(values) + 1),
        f"sample.id: column {name!r} has no identifier in row",
        "give every object one",
    )
    ids = _int64(values, name) if id_type == "int64" else _string(values, name)
    # Repeated: not the first of its kind.
    codes = ids.dictionary_encode().indices.to_numpy()
    first = np.zeros(len(codes), bool)
    first[np.unique(codes, return_index=True)[1]] = True
    _refuse(
        ~first,
        ids.to_pylist() if not first.all() else [],
        f"sample.id: column {name!r} repeats",
        "an identifier must name one object; name another column, or take the repeated rows out",
    )
    return ids


def _int64(values: pa.Array, name: str) -> pa.Array:
    kind = values.type
    if pa.types.is_floating(kind):
        numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
        _refuse(
            ~(np.abs(numbers) < EXACT_FLOAT),
            numbers.tolist(),
            f"sample.id: column {name!r} was rounded through floating point",
            "get the table with exact integers, or as text",
        )
        _refuse(numbers != np.floor(numbers), numbers.tolist(), *_not_integers(name))
        return pa.array(numbers.astype(np.int64))
    if pa.types.is_string(kind):
        return _int64_of_text(values, name)
    if pa.types.is_integer(kind):
        try:
            return values.cast(pa.int64())
        except pa.ArrowInvalid:
            raise InputError(
                f'sample.id: column {name!r} has integers beyond int64; declare id_type = "string".'
            ) from None
    raise InputError(f"sample.id: column {name!r} holds {kind}, which identifies no object.")


def _int64_of_text(values: pa.Array, name: str) -> pa.Array:
    """Integers from their digits; `100288.0` is one too while a float still holds it exactly."""
    text = pc.utf8_trim_whitespace(values)
    whole = pc.match_substring_regex(text, r"^[+-]?[0-9]+$").to_numpy(zero_copy_only=False)
    decimal = pc.match_substring_regex(text, r"^[+-]?[0-9]{1,15}\.0*$").to_numpy(
        zero_copy_only=False
    )
    floats = pc.match_substring_regex(
        text, r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
    ).to_numpy(zero_copy_only=False)
    shown = values.to_pylist() if not whole.all() else []
    _refuse(
        floats & ~whole & ~decimal,
        shown,
        f"sample.id: column {name!r} was rounded through floating point",
        "get the table with exact integers, or as text",
    )
    _refuse(~whole & ~decimal, shown, *_not_integers(name))
    text = pc.replace_substring_regex(text, r"\.0*$", "")
    text = pc.replace_substring_regex(text, r"^\+", "")
    try:
        return text.cast(pa.int64())
    except pa.ArrowInvalid:
        raise InputError(
            f'sample.id: column {name!r} has integers beyond int64; declare id_type = "string".'
        ) from None


def _string(values: pa.Array, name: str) -> pa.Array:
    if pa.types.is_floating(values.type):
        raise InputError(
            f"sample.id: column {name!r} holds floating-point numbers, which identify no object; "
            "name a column of text or integers."
        )
    return values.cast(pa.string())


def _not_integers(name: str) -> tuple[str, str]:
    return (
        f'sample.id: column {name!r} is declared id_type = "int64" and is not an integer in',
        'declare id_type = "string"',
    )


def _refuse(wrong: Any, shown: Any, what: str, mend: str) -> None:
    """Raise with the first wrong values and how many there are; nothing where none is wrong."""
    count = int(np.count_nonzero(wrong))
    if count:
        first = ", ".join(str(shown[i]) for i in np.flatnonzero(wrong)[:SHOWN])
        more = f", ... ({count} in all)" if count > SHOWN else f" ({count} in all)"
        raise InputError(f"{what} {first}{more}; {mend}.")
