"""Galactic extinction of each object in each band, from the columns of the sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from galpipe.errors import InputError

Doubles = NDArray[np.float64]
# A / E(B-V) of the SDSS bands for R_V = 3.1, Schlafly & Finkbeiner (2011), table 6.
COEFFICIENT = {"u": 4.239, "g": 3.303, "r": 2.285, "i": 1.698, "z": 1.263}
LARGEST = 20.0  # magnitudes; beyond it (and below 0) a value is none


def extinctions(bands: Sequence[str], table: pa.Table) -> Doubles:
    """Magnitudes, (object, band), of the columns `extinction_{band}`, else of E(B-V) in `ebv`.

    NaN where the table gives none.  Raises InputError where it has no such column.
    """
    found = {name.lower().removeprefix("input_"): name for name in table.column_names}
    out = np.full((len(table), len(bands)), np.nan)
    for place, band in enumerate(bands):
        name = found.get(f"extinction_{band}")
        if name is not None:
            out[:, place] = _numbers(table, name)
        elif "ebv" in found and band in COEFFICIENT:
            out[:, place] = COEFFICIENT[band] * _numbers(table, found["ebv"])
        else:
            raise InputError(
                f"archive.pixels.deredden: the sample has no column 'extinction_{band}' and no "
                "'ebv'; add one to the query or the table, or leave deredden out."
            )
    with np.errstate(invalid="ignore"):
        out[(out < 0) | (out > LARGEST)] = np.nan
    return out


def factors(magnitudes: Sequence[float]) -> Doubles:
    """What fluxes are multiplied by to undo an extinction: 10^(0.4 A), (band,)."""
    undone: Doubles = 10.0 ** (0.4 * np.asarray(magnitudes, np.float64))
    return undone


def _numbers(table: pa.Table, name: str) -> Doubles:
    try:
        column = pc.cast(table[name], pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise InputError(
            f"archive.pixels.deredden: {name.removeprefix('input_')!r} holds no numbers; give "
            "magnitudes."
        ) from None
    return np.array(pc.fill_null(column, float("nan")).to_numpy(zero_copy_only=False))
