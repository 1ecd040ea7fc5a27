"""SDSS frames: decoded once, and checked against what was asked for.

A frame is the file `frame-{band}-{run}-{camcol}-{field}.fits.bz2`: the image in nanomaggies, the
calibration of each column, the sky, and the row of the asTrans file (SDSS data model: frame).  The
field is that of the last table: the card FRAME counts the frames of one CCD, and the CCDs of the
other bands, which the sky crosses later, may be further in their count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.hdus import Hdu, hdus_of, image, refuse_endless
from galpipe.archives.linear_wcs import linear_wcs
from galpipe.archives.projection import to_pixels
from galpipe.archives.tablerow import first_row
from galpipe.archives.trouble import BadImageError, corrupt
from galpipe.archives.unpacking import unpacked
from galpipe.status import Status

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
HDUS = ("image", "calibration of the columns", "sky table", "asTrans table")  # in their order
ELSEWHERE = 2000.0  # pixels beyond a frame's corners: its WCS, or the table, means another one


@dataclass(frozen=True, order=True)
class FieldName:
    """One field of the imaging: a frame in each band."""

    rerun: int
    run: int
    camcol: int
    field: int

    def file(self, band: str) -> str:
        """The name of the frame of one band."""
        return f"frame-{band}-{self.run:06d}-{self.camcol}-{self.field:04d}.fits.bz2"

    def mask_file(self, band: str) -> str:
        """The name of the mask of one band."""
        return f"fpM-{self.run:06d}-{band}{self.camcol}-{self.field:04d}.fit.gz"


@dataclass(frozen=True)
class Frame:
    """A decoded frame: `pixels` (y, x) float32 in nanomaggies, `wcs` as in `projection`.

    `calibration` (x,) is nanomaggies per count; `sky` counts on a coarse grid, to be interpolated
    at `sky_x` (x,) and `sky_y` (y,), its own pixels.  `mask`: bits of the pixels, where they are
    wanted (`galpipe.archives.pixelmask`); `unmasked`: why there are none, where they are wanted.
    """

    pixels: Floats
    wcs: Doubles
    calibration: Doubles
    sky: Floats
    sky_x: Doubles
    sky_y: Doubles
    sha256: str  # of the file as served
    mask: NDArray[np.uint16] | None = None
    mask_sha256: str | None = None  # of the mask's file; None without one
    unmasked: str | None = None


def decode_frame(content: bytes, name: FieldName, band: str) -> Frame:
    """A frame of its `.fits.bz2`; raises BadImageError where it is damaged or another one."""
    raw = unpacked(content)
    refuse_endless(raw)
    try:
        frame = _frame(raw, name, band, hashlib.sha256(content).hexdigest())
    except (BadImageError, MemoryError):
        raise
    except KeyError as error:
        raise BadImageError(Status.CORRUPT, f"a header or table lacks {error.args[0]}") from None
    except Exception as error:  # whatever the readers of cards and tables meet in damaged bytes
        raise corrupt(error) from None
    _check_shape(frame)
    return frame


def _frame(raw: bytes, name: FieldName, band: str, sha256: str) -> Frame:
    hdus = hdus_of(raw, len(HDUS))
    _check_header(hdus[0].cards if hdus else {}, name, band)
    if len(hdus) < len(HDUS):
        raise BadImageError(Status.CORRUPT, f"no {HDUS[len(hdus)]}")
    _check_table(raw, hdus[3], name, band)
    row = _row(raw, hdus[2], ("ALLSKY", "XINTERP", "YINTERP"))
    sky = row["ALLSKY"].astype(np.float32)
    return Frame(
        pixels=image(raw, hdus[0], np.float32),
        wcs=linear_wcs(hdus[0].cards),
        calibration=image(raw, hdus[1], np.float64),
        sky=sky.reshape(sky.shape[-2:]),
        sky_x=row["XINTERP"].astype(np.float64),
        sky_y=row["YINTERP"].astype(np.float64),
        sha256=sha256,
    )


def _row(raw: bytes, table: Hdu, names: tuple[str, ...]) -> dict[str, Any]:
    """Some columns of the first row of a table."""
    return first_row(table.cards, raw[table.data : table.data + table.size], names)


def _check_header(header: Mapping[str, Any], name: FieldName, band: str) -> None:
    """Refuse another frame than was asked for, by the header."""
    told = tuple(header.get(key) for key in ("RUN", "CAMCOL", "FILTER"))
    if told != (name.run, name.camcol, band):
        said = "-".join(str(value) for value in told)
        raise BadImageError(Status.CORRUPT, f"the header is of another frame ({said})")


def _check_table(raw: bytes, table: Hdu, name: FieldName, band: str) -> None:
    """Refuse another frame than was asked for, by its row of asTrans."""
    rows = table.cards.get("NAXIS2")
    if table.cards.get("XTENSION") != "BINTABLE":
        raise BadImageError(Status.CORRUPT, f"no {HDUS[3]}")
    if rows != 1:
        raise BadImageError(Status.CORRUPT, f"an asTrans table of {rows} rows")
    row = _row(raw, table, ("RUN", "CAMCOL", "FIELD", "FILTER"))
    same = (*(int(row[key][0]) for key in ("RUN", "CAMCOL", "FIELD")), row["FILTER"].strip())
    if same != (name.run, name.camcol, name.field, band):
        said = "-".join(str(value) for value in same)
        raise BadImageError(Status.CORRUPT, f"the asTrans row is of another frame ({said})")


def _check_shape(frame: Frame) -> None:
    if frame.pixels.ndim != 2 or frame.calibration.shape != frame.pixels.shape[1:]:
        raise BadImageError(Status.CORRUPT, "the frame has not the shape of an SDSS frame")
    low, high = frame.pixels.min(), frame.pixels.max()
    if not (np.isfinite(low) and np.isfinite(high)):  # some pixels are undefined
        if not np.isfinite(frame.pixels).any():
            raise BadImageError(Status.BLANK, "all pixels of the frame are undefined")
        low, high = np.nanmin(frame.pixels), np.nanmax(frame.pixels)
    if not np.isfinite(frame.wcs).all() or not np.any(frame.wcs[2:4]):
        raise BadImageError(Status.CORRUPT, "the frame has no usable WCS")
    if low == high:
        raise BadImageError(Status.BLANK, f"all pixels of the frame are {low:g}")
    if not np.isfinite(frame.sky).all() or not (frame.calibration > 0).all():
        raise BadImageError(Status.CORRUPT, "the frame has no usable sky or calibration")
    if len(frame.sky_x) != frame.pixels.shape[1] or len(frame.sky_y) != frame.pixels.shape[0]:
        raise BadImageError(Status.CORRUPT, "the frame's sky does not fit its pixels")


def check_place(frame: Frame, ra: Doubles, dec: Doubles) -> None:
    """Raise BadImageError (OFF_FRAME) where a frame lies nowhere near any of some positions."""
    ny, nx = frame.pixels.shape
    x, y = to_pixels(frame.wcs, ra, dec)
    off = np.hypot(x - nx / 2, y - ny / 2) - np.hypot(nx, ny) / 2
    if not (off < ELSEWHERE).any():
        raise BadImageError(Status.OFF_FRAME, "the frame lies elsewhere on the sky")
