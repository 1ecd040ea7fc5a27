"""The camera: bands, gains, dark variances, sky levels, and how a frame lies on the sky.

Gains (electron/DN) and dark variances (DN^2) per camera column are those of the SDSS frame data
model (https://data.sdss.org/datamodel, frame); the frames themselves do not hold them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

Doubles = NDArray[np.float64]

BANDS = ("g", "r", "i")
ROWS, COLUMNS = 1489, 2048
STEP = 1361  # rows from one field of a run to the next
PIXEL = 0.396  # arcsec
CENTRE_X, CENTRE_Y = 1024.0, 744.0  # the reference pixel, counted from 0
RERUN = 301
NODE = 95.0  # degrees: right ascension of the ascending node of every survey stripe

GAIN = {  # electron per DN, camera columns 1 to 6
    "g": (3.32, 3.855, 3.845, 3.995, 4.05, 4.035),
    "r": (4.71, 4.6, 4.72, 4.76, 4.725, 4.895),
    "i": (5.165, 6.565, 4.86, 4.885, 4.64, 4.76),
}
DARK_VARIANCE = {  # DN^2, camera columns 1 to 6
    "g": (15.6025, 1.44, 1.3225, 1.96, 1.1025, 1.8225),
    "r": (1.8225, 1.0, 1.3225, 1.3225, 0.81, 0.9025),
    "i": (7.84, 5.76, 4.6225, 6.25, 7.84, 5.0625),
}
CALIBRATION = {"g": 0.0039, "r": 0.0049, "i": 0.0066}  # nanomaggies per DN, typical
SKY = {"g": 21.9, "r": 20.95, "i": 20.2}  # mag/arcsec^2, dark sky at Apache Point
FULL_WELL = 55_000.0  # DN at which a pixel saturates
SEEING = {"g": 1.40, "r": 1.28, "i": 1.22}  # arcsec FWHM, medians of the DR7 imaging
EXTINCTION = {"g": 3.303, "r": 2.285, "i": 1.698}  # A / E(B-V), Schlafly & Finkbeiner (2011)
ROW_OFFSET = {"g": 2.6, "r": 0.0, "i": -1.7}  # pixels between the bands' frames of a field
COLUMN_OFFSET = {"g": -3.2, "r": 0.0, "i": 2.1}


def object_id(run: int, camcol: int, field: int, number: int) -> int:
    """The SDSS objID (sky version 2, rerun 301) of an object: a positive 64-bit integer."""
    return (2 << 59) | (RERUN << 48) | (run << 32) | (camcol << 29) | (field << 16) | number


@dataclass(frozen=True)
class Wcs:
    """A tangential projection with SDSS's reference pixel; pixels are counted from 0.

    ra, dec: degrees, at the reference pixel; matrix: (2, 2) degrees per pixel, the CD cards.
    """

    ra: float
    dec: float
    matrix: tuple[tuple[float, float], tuple[float, float]]

    @cached_property
    def _inverse(self) -> Doubles:
        (a, b), (c, d) = self.matrix
        return np.array([[d, -b], [-c, a]]) / (a * d - b * c)

    def pixels(self, ra: ArrayLike, dec: ArrayLike) -> tuple[Doubles, Doubles]:
        """Column and row (x, y) of places on the sky, in degrees."""
        across = np.radians(np.asarray(ra, float) - self.ra)
        up, down = np.radians(np.asarray(dec, float)), np.radians(self.dec)
        depth = np.sin(up) * np.sin(down) + np.cos(up) * np.cos(down) * np.cos(across)
        xi = np.degrees(np.cos(up) * np.sin(across) / depth)
        eta = np.degrees(
            (np.sin(up) * np.cos(down) - np.cos(up) * np.sin(down) * np.cos(across)) / depth
        )
        inverse = self._inverse
        return (
            CENTRE_X + inverse[0, 0] * xi + inverse[0, 1] * eta,
            CENTRE_Y + inverse[1, 0] * xi + inverse[1, 1] * eta,
        )

    def sky(self, x: ArrayLike, y: ArrayLike) -> tuple[Doubles, Doubles]:
        """Right ascension and declination, in degrees, of pixels (x column, y row)."""
        dx, dy = np.asarray(x, float) - CENTRE_X, np.asarray(y, float) - CENTRE_Y
        (a, b), (c, d) = self.matrix
        xi, eta = np.radians(a * dx + b * dy), np.radians(c * dx + d * dy)
        down = np.radians(self.dec)
        depth = np.cos(down) - eta * np.sin(down)
        ra = self.ra + np.degrees(np.arctan2(xi, depth))
        dec = np.arctan2(np.sin(down) + eta * np.cos(down), np.hypot(xi, depth))
        return ra % 360, np.degrees(dec)

    def angle(self, position_angle: float) -> float:
        """The angle from +x towards +y, in radians, of a direction given in degrees E of N."""
        east, north = np.sin(np.radians(position_angle)), np.cos(np.radians(position_angle))
        inverse = self._inverse
        return float(
            np.arctan2(
                inverse[1, 0] * east + inverse[1, 1] * north,
                inverse[0, 0] * east + inverse[0, 1] * north,
            )
        )


def great_circle(mu: float, nu: float, inclination: float) -> tuple[float, float]:
    """Right ascension and declination of stripe coordinates, all in degrees.

    Stoughton et al. (2002), section 3.2.2: (mu, nu) are great-circle coordinates about a stripe
    of this inclination whose node is at `NODE`.
    """
    along, off, tilt = np.radians(mu - NODE), np.radians(nu), np.radians(inclination)
    x = np.cos(along) * np.cos(off)
    y = np.sin(along) * np.cos(off) * np.cos(tilt) - np.sin(off) * np.sin(tilt)
    z = np.sin(along) * np.cos(off) * np.sin(tilt) + np.sin(off) * np.cos(tilt)
    return float(np.degrees(np.arctan2(y, x)) + NODE) % 360, float(np.degrees(np.arcsin(z)))


@dataclass(frozen=True)
class Field:
    """One field of a run: which it is, where it lies, and the conditions in each band."""

    index: int
    run: int
    camcol: int
    field: int
    stripe: int
    inclination: float  # degrees, of the stripe
    mu: float  # degrees, of the r band's reference pixel
    nu: float
    reddening: float  # E(B-V)
    airmass: float
    mjd: float
    seeing: dict[str, float]  # arcsec FWHM
    sky: dict[str, float]  # DN
    calibration: dict[str, float]  # nanomaggies per DN, at the middle column
    wcs: dict[str, Wcs]


def survey_field(seed: int, index: int) -> Field:
    """The field of this number: six camera columns wide, four fields of a run, then the next run.

    The fields of a run are two steps apart, so that no two frames share pixels.
    """
    rng = np.random.default_rng([seed, 1, index])
    strip, camcol = index // 24, index % 6 + 1
    field = 100 + 2 * (index // 6 % 4)
    tilt = 7.5 + 15.0 * (strip % 4)
    mu = 150.0 + 8.0 * (strip // 4) + STEP * PIXEL / 3600 * (field - 100)
    nu = 0.42 * (camcol - 3.5)
    common = rng.normal(0, 0.07)
    seeing = {b: SEEING[b] * float(np.exp(common + rng.normal(0, 0.02))) for b in BANDS}
    calibration = {b: CALIBRATION[b] * float(rng.uniform(0.96, 1.04)) for b in BANDS}
    sky = {
        b: 10 ** (-0.4 * (SKY[b] - 22.5 + rng.normal(0, 0.05))) * PIXEL**2 / calibration[b]
        for b in BANDS
    }
    return Field(
        index=index,
        run=9001 + strip,
        camcol=camcol,
        field=field,
        stripe=round((tilt + 32.5) / 2.5) + 10,
        inclination=tilt,
        mu=mu,
        nu=nu,
        reddening=float(rng.gamma(3, 0.011)),
        airmass=float(rng.uniform(1.02, 1.2)),
        mjd=53000.0 + 11 * strip + 0.0004 * (field - 100),
        seeing=seeing,
        sky=sky,
        calibration=calibration,
        wcs={b: _wcs(mu, nu, tilt, b, rng) for b in BANDS},
    )


def _wcs(mu: float, nu: float, tilt: float, band: str, rng: np.random.Generator) -> Wcs:
    """The projection of one band: offset by a few pixels, turned and scaled by very little."""
    degrees = PIXEL / 3600
    along = mu + degrees * (ROW_OFFSET[band] + rng.uniform(-0.4, 0.4) * (band != "r"))
    across = nu + degrees * (COLUMN_OFFSET[band] + rng.uniform(-0.4, 0.4) * (band != "r"))
    ra, dec = great_circle(along, across, tilt)
    ahead = great_circle(along + degrees, across, tilt)
    turn = np.arctan2((ahead[0] - ra) * np.cos(np.radians(dec)), ahead[1] - dec)
    turn += rng.normal(0, 1e-4)
    scale = degrees * (1 + rng.normal(0, 2e-5))
    east, north = float(np.sin(turn)) * scale, float(np.cos(turn)) * scale
    return Wcs(ra, dec, ((-north, east), (east, north)))
