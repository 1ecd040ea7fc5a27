"""The point-spread functions of SDSS fields: eigenimages whose shares vary over the frame.

A psField file has a table per band, HDU 1 to 5 in the order ugriz, with a row per eigenimage
(Lupton et al. 2001; SDSS data model: psField).  The PSF at a place is the sum of the eigenimages
`RROWS`, each times a polynomial `C` in row and column.

Checked against SDSS's own reader of these files (read_PSF of readAtlasImages v5_4_11) and against
what other public readers found in files of Data Release 17: a row of 144 bytes with `nrow_b`,
`ncol_b`, `c` (25 floats, the power of the row first and that of the column last, so that astropy's
(5, 5) needs no transposing), `lambda`, `RNROW` and `RNCOL` (51), `RTYPE`, `RROWS` in the heap
(1PE), `RROW0`, `RCOL0`, `counts`; orders of the polynomial per eigenimage, coefficients beyond them
undefined; rows and columns with pixels' centres at one half, times 0.001; ten HDUs, FILTERS
'u g r i z' in the first.  The files hold floats as they are: the soft bias of 1000 and the scaling
to 16 bits belong to the images that read_PSF writes, not to its input.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.frames import FieldName
from galpipe.archives.hdus import refuse_endless
from galpipe.archives.trouble import BadImageError, corrupt
from galpipe.status import Status

Doubles = NDArray[np.float64]
BANDS = "ugriz"  # HDU 1 to 5
SIDE = 51  # pixels on a side of an eigenimage
SCALE = 0.001  # of rows and columns in the polynomials
MOST_TERMS = 5  # powers of a polynomial, and more than any eigenimage needs
MOST_IMAGES = 16


@dataclass(frozen=True)
class Eigenimages:
    """`images` (k, SIDE, SIDE), `shares` (k, row power, column power) of one band.

    Shares beyond an eigenimage's own orders are 0.
    """

    images: Doubles
    shares: Doubles

    def at(self, x: float, y: float) -> NDArray[np.float32]:
        """The PSF, (SIDE, SIDE) with sum 1, at a 0-based pixel of the frame."""
        # Centres of pixels are at one half there.
        rows = ((y + 0.5) * SCALE) ** np.arange(self.shares.shape[1])
        columns = ((x + 0.5) * SCALE) ** np.arange(self.shares.shape[2])
        image = np.tensordot(self.shares @ columns @ rows, self.images, 1)
        total = image.sum()
        if not total > 0:
            raise BadImageError(Status.CORRUPT, "the PSF has no light at the object")
        whole: NDArray[np.float32] = (image / total).astype(np.float32)
        return whole


@dataclass(frozen=True)
class PsField:
    """The point-spread functions of one field."""

    bands: Mapping[str, Eigenimages]
    sha256: str


def decode_psfield(content: bytes, name: FieldName, bands: Sequence[str]) -> PsField:
    """The PSFs of some bands from a psField file; raises BadImageError where it is damaged.

    Cards RUN, CAMCOL and FIELD, where the file has them, must be those of the field.
    """
    from astropy.io import fits  # a third of a second, which frames do not need

    if not content.startswith(b"SIMPLE"):
        raise BadImageError(Status.CORRUPT, "not a FITS file")
    refuse_endless(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(io.BytesIO(content), memmap=False) as hdus:
                _check_header(hdus[0].header, name)
                found = {band: _eigenimages(hdus[1 + BANDS.index(band)].data) for band in bands}
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # astropy raises whatever its parsers meet in damaged bytes
        raise corrupt(error) from None
    return PsField(found, hashlib.sha256(content).hexdigest())


def _check_header(header: Any, name: FieldName) -> None:
    for key, value in (("RUN", name.run), ("CAMCOL", name.camcol), ("FIELD", name.field)):
        if key in header and int(header[key]) != value:
            said = f"{key} {header[key]}"
            raise BadImageError(Status.CORRUPT, f"the psField is of another field ({said})")


def _eigenimages(table: Any) -> Eigenimages:
    count = len(table)
    if not 1 <= count <= MOST_IMAGES:
        raise BadImageError(Status.CORRUPT, f"a psField with {count} eigenimages")
    rows, columns = (np.asarray(table[name], np.int64) for name in ("nrow_b", "ncol_b"))
    if (np.minimum(rows, columns) < 1).any() or (np.maximum(rows, columns) > MOST_TERMS).any():
        raise BadImageError(Status.CORRUPT, f"a PSF of {rows.max()} x {columns.max()} terms")
    if (table["rnrow"] != SIDE).any() or (table["rncol"] != SIDE).any():
        raise BadImageError(Status.CORRUPT, f"eigenimages that are not {SIDE} pixels square")
    images = np.stack([np.asarray(row, np.float64).reshape(SIDE, SIDE) for row in table["rrows"]])
    shares = np.asarray(table["c"], np.float64).reshape(count, MOST_TERMS, MOST_TERMS)
    powers = np.arange(MOST_TERMS)
    used = (powers < rows[:, None])[:, :, None] & (powers < columns[:, None])[:, None, :]
    shares = np.where(used, shares, 0.0)
    if not (np.isfinite(images).all() and np.isfinite(shares).all()):
        raise BadImageError(Status.CORRUPT, "the PSF has undefined pixels")
    return Eigenimages(images, shares)
