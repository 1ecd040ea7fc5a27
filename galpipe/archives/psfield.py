"""The point-spread functions of SDSS fields: eigenimages whose shares vary over the frame.

A psField file has a table per band, HDU 1 to 5 in the order ugriz, with a row per eigenimage
(Lupton et al. 2001; SDSS data model: psField).  The PSF at a place is the sum of the eigenimages
`RROWS`, each times a polynomial `C` in row and column.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from galpipe.archives.fits_images import refuse_endless
from galpipe.archives.frames import FieldName
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
    """`images` (k, SIDE, SIDE), `shares` (k, row power, column power) of one band."""

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
    rows, columns = int(table["nrow_b"][0]), int(table["ncol_b"][0])
    if not (1 <= rows <= MOST_TERMS and 1 <= columns <= MOST_TERMS):
        raise BadImageError(Status.CORRUPT, f"a PSF of {rows} x {columns} terms")
    if (int(table["rnrow"][0]), int(table["rncol"][0])) != (SIDE, SIDE):
        raise BadImageError(Status.CORRUPT, f"eigenimages that are not {SIDE} pixels square")
    images = np.stack([np.asarray(row, np.float64).reshape(SIDE, SIDE) for row in table["rrows"]])
    shares = np.asarray(table["c"], np.float64).reshape(count, MOST_TERMS, MOST_TERMS)
    shares = shares[:, :rows, :columns]
    if not (np.isfinite(images).all() and np.isfinite(shares).all()):
        raise BadImageError(Status.CORRUPT, "the PSF has undefined pixels")
    return Eigenimages(images, shares)
