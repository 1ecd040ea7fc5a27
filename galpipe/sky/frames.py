"""SDSS frames: photons to counts, counts to calibrated pixels, pixels to the survey's files."""

from __future__ import annotations

import bz2
import io

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from galpipe.sky.instrument import (
    BANDS,
    CENTRE_X,
    CENTRE_Y,
    COLUMNS,
    DARK_VARIANCE,
    FULL_WELL,
    GAIN,
    NODE,
    PIXEL,
    RERUN,
    ROWS,
    Field,
)

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

SKY_SHAPE = (192, 256)  # of ALLSKY, rows and columns
DIGITS = 10  # binary digits of a frame's floats, as idlutils' floatcompress leaves them
COMPRESSION = 9
NOISE, SKY_MAP = 7, 8  # streams of random numbers
CAMERA_ROW = {"r": 1, "i": 2, "u": 3, "z": 4, "g": 5}  # of the bands in the camera
DATE, START = 40587.0, 2400000.5  # MJD of 1970-01-01; JD of MJD 0


def name_of(field: Field, band: str) -> str:
    """The frame's path under `sas/`, as in the Science Archive Server of release 17."""
    return (
        f"dr17/eboss/photoObj/frames/{RERUN}/{field.run}/{field.camcol}/"
        f"frame-{band}-{field.run:06d}-{field.camcol}-{field.field:04d}.fits.bz2"
    )


def frame(light: Floats, field: Field, band: str, seed: int) -> bytes:
    """The bytes of a frame (bz2) of this light, (ROWS, COLUMNS) nanomaggies per pixel."""
    calibration = calibration_vector(field, band)
    allsky = sky_map(field, band, seed)
    sky = sky_image(allsky)
    counts = expose(light / calibration + sky, field, band, seed)
    pixels = truncated((counts - sky) * calibration)
    return packed(pixels, calibration, allsky, field, band)


def calibration_vector(field: Field, band: str) -> Floats:
    """Nanomaggies per DN of every column, (COLUMNS,): the flat field of drift scanning."""
    column = (np.arange(COLUMNS) - CENTRE_X) / CENTRE_X
    vector: Floats = (field.calibration[band] * (1 - 0.003 * column - 0.001 * column**2)).astype(
        np.float32
    )
    return vector


def sky_map(field: Field, band: str, seed: int) -> Floats:
    """ALLSKY: the sky in DN on a coarse grid, with a gentle gradient along both axes."""
    rng = np.random.default_rng([seed, SKY_MAP, field.index, BANDS.index(band)])
    y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in SKY_SHAPE), indexing="ij")
    slope = rng.normal(0, 0.002, 3)
    relative = 1 + slope[0] * x + slope[1] * y + slope[2] * x * y
    sky: Floats = (field.sky[band] * relative).astype(np.float32)
    return sky


def interpolation() -> tuple[Floats, Floats]:
    """XINTERP and YINTERP: where on ALLSKY the columns and the rows of a frame lie."""
    x = ((np.arange(COLUMNS) + 0.5) / 8 - 0.5).astype(np.float32)
    y = ((np.arange(ROWS) + 0.5) / 8 + 0.5).astype(np.float32)
    return x, y


def sky_image(allsky: Floats) -> Floats:
    """The sky of every pixel in DN, ALLSKY interpolated linearly, (ROWS, COLUMNS)."""
    x, y = interpolation()
    wide = _between(allsky, np.clip(x, 0, SKY_SHAPE[1] - 1), 1)
    return _between(wide, np.clip(y, 0, SKY_SHAPE[0] - 1), 0)


def _between(values: Floats, places: Floats, axis: int) -> Floats:
    first = np.minimum(places.astype(np.int64), values.shape[axis] - 2)
    share = (places - first).astype(np.float32)
    share = share[None, :] if axis else share[:, None]
    found: Floats = (
        np.take(values, first, axis) * (1 - share) + np.take(values, first + 1, axis) * share
    )
    return found


def expose(counts: Floats, field: Field, band: str, seed: int) -> Floats:
    """Whole counts (DN) recorded where `counts` are expected: photons, dark variance, full well.

    err^2 = dn / gain + dark variance.  Photons are drawn as normal numbers of their own variance:
    every pixel has hundreds of electrons, of the sky alone.
    """
    rng = np.random.default_rng([seed, NOISE, field.index, BANDS.index(band)])
    gain = GAIN[band][field.camcol - 1]
    variance = np.clip(counts, 0, FULL_WELL) / np.float32(gain)
    variance += np.float32(DARK_VARIANCE[band][field.camcol - 1])
    noise = rng.standard_normal(counts.shape, dtype=np.float32)
    noise *= np.sqrt(variance)
    noise += np.minimum(counts, np.float32(FULL_WELL))
    return np.rint(noise, out=noise)


def truncated(pixels: Floats) -> Floats:
    """Floats rounded to `DIGITS` binary digits, which is what lets a frame be packed small."""
    drop = 23 - DIGITS
    bits = np.ascontiguousarray(pixels, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(1 << (drop - 1))) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)
    return rounded.view(np.float32)


def packed(pixels: Floats, calibration: Floats, allsky: Floats, field: Field, band: str) -> bytes:
    """The FITS file of four HDUs, packed by bz2."""
    primary = fits.PrimaryHDU(pixels, header=_header(field, band, calibration))
    hdus = fits.HDUList(
        [primary, fits.ImageHDU(calibration), _sky_table(allsky), _astrometry(field, band)]
    )
    file = io.BytesIO()
    hdus.writeto(file, output_verify="exception")
    return bz2.compress(file.getvalue(), COMPRESSION)


def _header(field: Field, band: str, calibration: Floats) -> fits.Header:
    wcs = field.wcs[band]
    (a, b), (c, d) = wcs.matrix
    tai = field.mjd * 86400.0
    day = np.datetime64("1970-01-01") + int(field.mjd - DATE)
    nmgy = float(calibration[COLUMNS // 2])
    header = fits.Header()
    for card in (
        ("TAI", tai, "Number of seconds since Nov 17 1858"),
        ("RA", round(field.wcs["r"].ra, 6), "Right ascension of telescope boresight (deg)"),
        ("DEC", round(field.wcs["r"].dec, 6), "Declination of telescope boresight (deg)"),
        ("DATE-OBS", str(day), "TAI date"),
        ("ORIGIN", "galpipe", "simulated; the layout is that of SDSS"),
        ("TELESCOP", "2.5m", ""),
        ("TIMESYS", "TAI", ""),
        ("RUN", field.run, "Run number"),
        ("FRAME", field.field, "Frame sequence number within the run"),
        ("CCDLOC", CAMERA_ROW[band] * 10 + field.camcol, "Survey location of CCD"),
        ("STRIPE", field.stripe, "Stripe index number (23 <--> eta=0)"),
        ("STRIP", "N", "Strip in the stripe being tracked."),
        ("FLAVOR", "science", "Flavor of this run"),
        ("SYS_SCN", "mean", "System of the scan great circle (e.g., mean)"),
        ("EQNX_SCN", 2000.0, "Equinox of the scan great circle. (years)"),
        ("NODE", NODE, "RA of the great circle's ascending node (deg)"),
        ("INCL", field.inclination, "Great circle's inclination wrt cel. eq. (deg)"),
        ("OBJECT", f"{field.stripe} N", ""),
        ("EXPTIME", "53.907456", "Exposure time (seconds)"),
        ("SYSTEM", "FK5", "System of the TCC coordinates (e.g., mean)"),
        ("CCDMODE", "DRIFT", "'STARING' or 'DRIFT'"),
        ("C_OBS", 26322, "CCD row clock rate (usec/row)"),
        ("COLBIN", 1, "Binning factor perpendicular to the columns"),
        ("ROWBIN", 1, "Binning factor perpendicular to the rows"),
        ("CAMROW", CAMERA_ROW[band], "Row in the imaging camera"),
        ("BADLINES", 0, "Number of bad lines in frame"),
        ("EQUINOX", 2000.0, ""),
        ("SOFTBIAS", 1000, 'software "bias" added to all DN'),
        ("BUNIT", "nanomaggy", "1 nanomaggy = 3.631e-6 Jy"),
        ("FILTER", band, "filter used"),
        ("CAMCOL", field.camcol, "column in the imaging camera"),
        ("RADESYS", "ICRS", "International Celestial Ref. System"),
        ("CTYPE1", "RA---TAN", "Coordinate type"),
        ("CTYPE2", "DEC--TAN", "Coordinate type"),
        ("CUNIT1", "deg", "Units"),
        ("CUNIT2", "deg", "Units"),
        ("CRPIX1", CENTRE_X + 1, "X of reference pixel"),
        ("CRPIX2", CENTRE_Y + 1, "Y of reference pixel"),
        ("CRVAL1", wcs.ra, "RA of reference pixel (deg)"),
        ("CRVAL2", wcs.dec, "Dec of reference pixel (deg)"),
        ("CD1_1", a, "RA deg per column pixel"),
        ("CD1_2", b, "RA deg per row pixel"),
        ("CD2_1", c, "Dec deg per column pixel"),
        ("CD2_2", d, "Dec deg per row pixel"),
        ("NMGY", round(nmgy, 9), "Calibration factor [nMgy per count]"),
        ("NMGYIVAR", round(0.04 / nmgy, 6), "Calibration factor inverse variance"),
        ("RERUN", str(RERUN), "rerun"),
    ):
        header.append(card)
    header.add_history("Simulated by galpipe: no photon of this image is real.")
    return header


def _sky_table(allsky: Floats) -> fits.BinTableHDU:
    x, y = interpolation()
    size = allsky.size
    dimensions = f"({SKY_SHAPE[1]},{SKY_SHAPE[0]})"
    return fits.BinTableHDU.from_columns(
        [
            fits.Column("ALLSKY", f"{size}E", dim=dimensions, array=allsky[None]),
            fits.Column("XINTERP", f"{COLUMNS}E", array=x[None]),
            fits.Column("YINTERP", f"{ROWS}E", array=y[None]),
        ]
    )


def _astrometry(field: Field, band: str) -> fits.BinTableHDU:
    """The asTrans row: mu = A + B row + C col, nu = D + E row + F col, without distortions.

    Rows and columns there have their pixels' centres at one half.
    """
    step = PIXEL / 3600
    linear = {
        "A": field.mu - step * (CENTRE_Y + 0.5),
        "B": step,
        "C": 0.0,
        "D": field.nu - step * (CENTRE_X + 0.5),
        "E": 0.0,
        "F": step,
    }
    zero = [f"D{axis}{power}" for axis in ("ROW", "COL") for power in range(4)]
    zero += ["CSROW", "CSCOL", "CCROW", "CCCOL"]
    columns = [
        fits.Column("RUN", "J", array=[field.run]),
        fits.Column("RERUN", "3A", array=[str(RERUN)]),
        fits.Column("CAMCOL", "J", array=[field.camcol]),
        fits.Column("FILTER", "1A", array=[band]),
        fits.Column("NODE", "D", array=[NODE]),
        fits.Column("INCL", "D", array=[field.inclination]),
        fits.Column("NAXIS", "2J", array=[[COLUMNS, ROWS]]),
        fits.Column("FIELD", "J", array=[field.field]),
        *(fits.Column(name, "D", array=[value]) for name, value in linear.items()),
        *(fits.Column(name, "D", array=[0.0]) for name in zero),
        fits.Column("RICUT", "D", array=[100.0]),
        fits.Column("MJD", "D", array=[field.mjd]),
        fits.Column("AIRMASS", "D", array=[field.airmass]),
        fits.Column("MUERR", "E", array=[0.05]),
        fits.Column("NUERR", "E", array=[0.05]),
    ]
    return fits.BinTableHDU.from_columns(columns)
