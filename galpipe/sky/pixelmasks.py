"""fpM files of the sky: what a photometric pipeline would say of each pixel of its frames.

They are made when they are asked for, from the frames as they are served, in the layout that
`galpipe.archives.pixelmask` describes: saturated pixels and the light that bled from them, what
lies about them unchecked, objects by their light, and cosmic rays.  Those were taken off the
frames, as SDSS takes them off: only the mask tells where they hit.
"""

from __future__ import annotations

import bz2
import gzip
import io
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy import ndimage

from galpipe.sky.frames import calibration_vector, name_of, sky_image
from galpipe.sky.instrument import BANDS, COLUMNS, FULL_WELL, ROWS, Field, survey_field

Bits = NDArray[np.bool_]
NAME = re.compile(r"fpM-(\d{6})-([gri])([1-6])-(\d{4})\.fit\.gz")
PLANES = (
    "INTERP", "SATUR", "NOTCHECKED", "OBJECT", "BRIGHTOBJECT",
    "BINOBJECT", "CATOBJECT", "SUBTRACTED", "GHOST", "CR",
)  # fmt: skip
SATURATED = 0.98 * FULL_WELL  # DN; the noise of a full well is a fifth of the rest
ABOUT = 12  # pixels about saturated ones that are not looked at; the frame's border does not end it
RAYS, RAYS_STREAM = 24, 9  # cosmic rays in a frame, on average; their stream of random numbers
THRESHOLD, BRIGHT = 5.0, 200.0  # in the scatter of the sky
SMALLEST = 5  # pixels of an object
ENDIAN = ">i2"


def planes(frame: bytes, field: Field, band: str, seed: int) -> dict[str, Bits]:
    """The masks of a frame (`.fits.bz2`) by plane, (ROWS, COLUMNS) each; others are empty.

    NOTCHECKED reaches `ABOUT` pixels beyond the frame on every side.
    """
    with fits.open(io.BytesIO(bz2.decompress(frame))) as hdus:
        light = np.asarray(hdus[0].data, np.float32)
        sky = sky_image(np.asarray(hdus[2].data["ALLSKY"][0], np.float32))
    counts = light / calibration_vector(field, band)
    saturated = counts + sky >= SATURATED
    wide = np.pad(saturated, ABOUT)
    about = ndimage.distance_transform_edt(~wide) <= ABOUT if wide.any() else wide
    rays = cosmic_rays(field, band, seed)
    scatter = 1.4826 * float(np.median(np.abs(light - np.median(light))))
    found, count = ndimage.label(light > THRESHOLD * scatter)
    sizes = np.bincount(found.ravel(), minlength=count + 1)
    peaks = ndimage.maximum(light, found, np.arange(count + 1))
    real = sizes >= SMALLEST
    real[0] = False
    bright = real & (np.asarray(peaks) > BRIGHT * scatter)
    return {
        "INTERP": saturated | rays, "SATUR": saturated, "NOTCHECKED": about,
        "OBJECT": real[found], "BRIGHTOBJECT": bright[found], "CR": rays,
    }  # fmt: skip


def cosmic_rays(field: Field, band: str, seed: int) -> Bits:
    """Where cosmic rays hit a frame: short straight tracks, one pixel wide."""
    rng = np.random.default_rng([seed, RAYS_STREAM, field.index, BANDS.index(band)])
    hit = np.zeros((ROWS, COLUMNS), np.bool_)
    for _ in range(int(rng.poisson(RAYS))):
        x, y, angle = rng.uniform(0, COLUMNS), rng.uniform(0, ROWS), rng.uniform(0, np.pi)
        along = np.arange(0, 1 + rng.exponential(5.0), 0.5)
        columns = np.floor(x + along * np.cos(angle)).astype(np.int64)
        rows = np.floor(y + along * np.sin(angle)).astype(np.int64)
        there = (rows >= 0) & (rows < ROWS) & (columns >= 0) & (columns < COLUMNS)
        hit[rows[there], columns[there]] = True
    return hit


def objmasks(mask: Bits, margin: int = 0) -> list[NDArray[np.int64]]:
    """The connected regions of a mask as spans (row, first column, last column) in their order.

    `margin`: pixels by which the mask reaches beyond the frame on every side.
    """
    found, count = ndimage.label(mask, np.ones((3, 3)))
    objects: list[NDArray[np.int64]] = []
    for number, where in enumerate(ndimage.find_objects(found, count), start=1):
        own = np.pad((found[where] == number).astype(np.int8), ((0, 0), (1, 1)))
        step = np.diff(own, axis=1)
        rows, first = np.nonzero(step == 1)
        last = np.nonzero(step == -1)[1] - 1
        corner = np.array([where[0].start, where[1].start, where[1].start]) - margin
        objects.append(np.stack([rows, first, last], axis=1) + corner)
    return objects


def packed(masks: dict[str, Bits], field: Field, band: str) -> bytes:
    """The fpM file of these masks."""
    header = fits.Header()
    header["RUN"], header["CAMCOL"], header["FIELD"] = field.run, field.camcol, field.field
    header["FILTER"] = band
    header["MASKROWS"], header["MASKCOLS"] = ROWS, COLUMNS
    header["NPLANE"], header["NFILTER"] = len(PLANES), 5
    header["ORIGIN"] = ("galpipe", "simulated; the layout is that of SDSS")
    hdus = [fits.PrimaryHDU(header=header)]
    for plane in PLANES:
        mask = masks.get(plane, np.zeros((ROWS, COLUMNS), np.bool_))
        hdus.append(_table(objmasks(mask, (mask.shape[0] - ROWS) // 2)))
    hdus.append(_names())
    file = io.BytesIO()
    fits.HDUList(hdus).writeto(file, output_verify="exception")
    return gzip.compress(file.getvalue(), 6, mtime=0)


def _table(objects: Sequence[NDArray[np.int64]]) -> fits.BinTableHDU:
    """Rows of 44 bytes, the spans in the heap."""

    def column(name: str, values: Sequence[int]) -> fits.Column:
        return fits.Column(name, "J", array=np.array(values, np.int32))

    heap = np.empty(len(objects), dtype=object)
    for row, spans in enumerate(objects):
        heap[row] = np.frombuffer(spans.astype(ENDIAN).tobytes(), np.uint8)
    zeros = [0] * len(objects)
    return fits.BinTableHDU.from_columns(
        [
            column("refcntr", [1] * len(objects)),
            column("nspan", [len(one) for one in objects]),
            column("row0", zeros),
            column("col0", zeros),
            column("rmin", [int(one[:, 0].min()) for one in objects]),
            column("rmax", [int(one[:, 0].max()) for one in objects]),
            column("cmin", [int(one[:, 1].min()) for one in objects]),
            column("cmax", [int(one[:, 2].max()) for one in objects]),
            column("npix", [int((one[:, 2] - one[:, 1] + 1).sum()) for one in objects]),
            fits.Column("s", "1PB()", array=heap),
        ]
    )


def _names() -> fits.BinTableHDU:
    names = [*(f"S_MASK_{plane}" for plane in PLANES), "S_NMASK_TYPES"]
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("defName", "31A", array=["S_MASKTYPE"] * len(names)),
            fits.Column("attributeName", "31A", array=names),
            fits.Column("Value", "J", array=np.arange(len(names))),
        ]
    )
    table.header["TYPENAME"] = "S_MASKTYPE"
    return table


@lru_cache(maxsize=64)
def pixelmask(folder: Path, seed: int, index: int, band: str) -> bytes:
    """The bytes of the fpM file of a frame of the sky drawn in a folder."""
    field = survey_field(seed, index)
    frame = (folder / "sas" / name_of(field, band)).read_bytes()
    return packed(planes(frame, field, band, seed), field, band)
