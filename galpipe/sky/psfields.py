"""psField files of the sky: the point-spread functions that its frames were drawn with.

They are made when they are asked for, in the layout of the SDSS data model (psField).
"""

from __future__ import annotations

import io
import re
from functools import lru_cache

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from galpipe.sky.instrument import PIXEL, RERUN, Field, survey_field

NAME = re.compile(r"psField-(\d{6})-([1-6])-(\d{4})\.fit")
SIDE = 51  # pixels on a side of an eigenimage
TERMS = 5  # powers of row and of column that a table has room for
IMAGES = 3
LEFT_OUT = ("WINGS", "STARS", "ENUM")  # tables 7 to 9, which nobody here reads
ORDER = 3  # powers that the polynomials have
FLOATS = 128  # dervish's number for regions of 32-bit floats


def field_named(seed: int, count: int, run: int, camcol: int, name: str) -> Field | None:
    """The field of a psField's name in a sky of `count` fields; None where there is none."""
    found = NAME.fullmatch(name)
    if found is None or (int(found[1]), int(found[2])) != (run, camcol):
        return None
    return field_at(seed, count, run, camcol, int(found[3]))


def field_at(seed: int, count: int, run: int, camcol: int, number: int) -> Field | None:
    """A field of a sky of `count` fields; None where there is none."""
    index = (run - 9001) * 24 + (number - 100) // 2 * 6 + camcol - 1
    if not 0 <= index < count:
        return None
    field = survey_field(seed, index)
    return field if (field.run, field.camcol, field.field) == (run, camcol, number) else None


@lru_cache(maxsize=64)
def psfield(seed: int, index: int) -> bytes:
    """The bytes of a field's psField; u has the functions of g, and z those of i."""
    field = survey_field(seed, index)
    hdus = fits.HDUList([fits.PrimaryHDU(header=_header(field))])
    for band in "ugriz":
        hdus.append(_table(_image(field, {"u": "g", "z": "i"}.get(band, band))))
    hdus.append(_summary(field))
    for name in LEFT_OUT:
        hdus.append(fits.BinTableHDU.from_columns([fits.Column("field", "J", array=[])], name=name))
    file = io.BytesIO()
    hdus.writeto(file, output_verify="exception")
    return file.getvalue()


def _header(field: Field) -> fits.Header:
    header = fits.Header()
    header["RUN"], header["CAMCOL"], header["FIELD"] = field.run, field.camcol, field.field
    header["FILTERS"] = "u g r i z"
    header["RERUN"] = str(RERUN)
    header["ORIGIN"] = ("galpipe", "simulated; the layout is that of SDSS")
    return header


def _image(field: Field, band: str) -> NDArray[np.float32]:
    from galpipe.sky.scene import point_spread  # galsim is heavy, and seldom needed

    drawn = point_spread(field, band).drawImage(nx=SIDE, ny=SIDE, scale=PIXEL, dtype=np.float32)
    image: NDArray[np.float32] = drawn.array
    return image


def _table(image: NDArray[np.float32]) -> fits.BinTableHDU:
    """Eigenimages of a PSF that is the same all over the frame: the others have no share.

    Rows of 144 bytes, the eigenimages in the heap.  Coefficients beyond a polynomial's orders mean
    nothing, and are undefined here.
    """
    slopes = np.gradient(image)
    images = np.stack([image, *slopes]).reshape(IMAGES, -1).astype(np.float32)
    shares = np.full((IMAGES, TERMS, TERMS), np.nan, np.float32)
    shares[:, :ORDER, :ORDER] = 0.0
    shares[0, 0, 0] = 1.0

    def same(name: str, value: int) -> fits.Column:
        return fits.Column(name, "J", array=np.full(IMAGES, value))

    heap = np.empty(IMAGES, dtype=object)
    heap[:] = list(images)
    return fits.BinTableHDU.from_columns(
        [
            same("nrow_b", ORDER),
            same("ncol_b", ORDER),
            fits.Column("c", f"{TERMS**2}E", dim=f"({TERMS},{TERMS})", array=shares),
            fits.Column("lambda", "E", array=np.array([1.0, 0.0, 0.0])),
            same("RNROW", SIDE),
            same("RNCOL", SIDE),
            same("RTYPE", FLOATS),
            fits.Column("RROWS", "1PE()", array=heap),
            same("RROW0", 0),
            same("RCOL0", 0),
            fits.Column("counts", "E", array=images.sum(axis=1)),
        ]
    )


def _summary(field: Field) -> fits.BinTableHDU:
    """HDU 6: what is the same for the whole field; psf_width in arcsec of u, g, r, i, z."""
    near = {"u": "g", "z": "i"}
    widths = [field.seeing[near.get(band, band)] for band in "ugriz"]
    return fits.BinTableHDU.from_columns(
        [
            fits.Column("field", "J", array=[field.field]),
            fits.Column("psf_nstar", "5J", array=[[20] * 5]),
            fits.Column("psf_width", "5E", array=[widths]),
            fits.Column("pixScale", "E", array=[PIXEL]),
        ]
    )
