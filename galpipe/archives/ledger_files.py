"""The files of the ledger: their columns, the words for how a band ended, and how they are written.

`index.parquet`: object_id, version, part, row, status, source, sha256, reason.  `ledger.parquet`:
object_id, band and the columns of `SCHEMA`; the bands of an object follow each other in the order
of the survey.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe.status import Status
from galpipe.workspace import sync_folder

INDEX = "index.parquet"
LEDGER = "ledger.parquet"
ROWS_AT_ONCE = 50_000  # objects that are written or compared together, so that memory is bounded
# How an object ends in a band, by the bits of its status: the first that fits.
OUTCOMES = (
    (Status.FAILED, "failed"),
    (Status.CORRUPT, "corrupt"),
    (Status.OFF_FRAME, "off_frame"),
    (Status.BLANK, "blank"),
    (Status.MISSING_BAND, "missing_band"),
    (Status.NO_COVERAGE | Status.MISSING_FILE | Status.BAD_POSITION, "no_coverage"),
    (Status.EDGE, "edge"),
    (Status.OK, "ok"),
)
SCHEMA = pa.schema(
    {
        "outcome": pa.string(),  # ok, edge, no_coverage, missing_band, off_frame, ...
        "status": pa.int32(),
        "reason": pa.string(),
        "url": pa.string(),  # below the archive's address
        "sha256": pa.string(),  # of the file as served
        "beside": pa.string(),  # neighbouring files that completed it, each with its sha256
    }
)


def outcome(status: int) -> str:
    """How an object or one of its bands ended, in a word; `pending` where nothing was tried."""
    return next((word for bits, word in OUTCOMES if status & bits), "pending")


def counted(status: NDArray[Any]) -> dict[str, int]:
    """How many of some statuses ended how, most frequent first."""
    tally: Counter[str] = Counter()
    for one, number in zip(*np.unique(status, return_counts=True), strict=True):
        tally[outcome(int(one))] += int(number)
    return dict(sorted(tally.items(), key=lambda item: (-item[1], item[0])))


def write_tables(folder: Path, index: Iterable[pa.Table], ledger: Iterable[pa.Table]) -> None:
    """Write index and ledger from their pieces, whole; the output's manifest comes after them."""
    for name, pieces in ((LEDGER, ledger), (INDEX, index)):
        waiting = iter(pieces)
        first = next(waiting)
        with (folder / name).open("wb") as file:
            with pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
                writer.write_table(first)
                for piece in waiting:
                    writer.write_table(piece)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(folder)


def band_table(
    ids: pa.Array,
    bands: Sequence[str],
    status: NDArray[np.int32],
    reasons: Sequence[str | None],
    urls: Sequence[str | None],
    sha256: Sequence[str | None],
    beside: Sequence[str | None],
) -> pa.Table:
    """A piece of the ledger of bands from its columns, one item per object and band."""
    words = {int(one): outcome(int(one)) for one in np.unique(status)}
    columns = [[words[one] for one in status.tolist()], status, reasons, urls, sha256, beside]
    return pa.table(
        {
            "object_id": ids,
            "band": pa.array(bands, pa.string()),
            **{
                field.name: pa.array(values, field.type)
                for field, values in zip(SCHEMA, columns, strict=True)
            },
        }
    )


def id_array(ids: NDArray[Any]) -> pa.Array:
    """Object ids as a column: int64 or text."""
    return pa.array(ids) if ids.dtype.kind == "i" else pa.array(ids.tolist(), pa.string())


def raw_bytes(sha256: Sequence[str | None]) -> NDArray[np.uint8]:
    """(n, 32) bytes of digests; zeros where there is none."""
    joined = b"".join(bytes.fromhex(one) if one else bytes(32) for one in sha256)
    return np.frombuffer(joined, np.uint8).reshape(-1, 32)


def hexadecimal(raw: NDArray[np.uint8]) -> list[str | None]:
    """32 bytes each as text; None where they are all zero."""
    text = np.ascontiguousarray(raw).tobytes().hex()
    nothing = "0" * 64
    return [
        None if one == nothing else one
        for one in (text[first : first + 64] for first in range(0, len(text), 64))
    ]
