"""The frames as observations of the VO: what covers a place (ObsCore), and FITS cutouts of it."""

from __future__ import annotations

import bz2
import functools
import io
import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from galpipe.sky.imgcutout import Cutouts, Plane, Request
from galpipe.sky.votable import Field

AUTHORITY = "ivo://galpipe/sky"
COLLECTION = "SKY"
WAVELENGTHS = {  # metres, where a band's throughput is above half its peak (about)
    "u": (3.25e-7, 3.85e-7), "g": (4.0e-7, 5.4e-7), "r": (5.55e-7, 6.95e-7),
    "i": (7.0e-7, 8.35e-7), "z": (8.4e-7, 1.0e-6),
}  # fmt: skip
DATALINK = "application/x-votable+xml;content=datalink"
KEPT = 12  # decoded frames
OBSCORE = (
    Field("dataproduct_type", "char", utype="obscore:ObsDataset.dataProductType"),
    Field("calib_level", "long", utype="obscore:ObsDataset.calibLevel"),
    Field("obs_collection", "char", utype="obscore:DataID.Collection"),
    Field("obs_id", "char", utype="obscore:DataID.observationID"),
    Field("obs_publisher_did", "char", ucd="meta.ref.ivoid"),
    Field("access_url", "char", ucd="meta.ref.url", utype="obscore:Access.Reference"),
    Field("access_format", "char", ucd="meta.code.mime", utype="obscore:Access.Format"),
    Field("access_estsize", "long", "kbyte"),
    Field("s_ra", "double", "deg", "pos.eq.ra"),
    Field("s_dec", "double", "deg", "pos.eq.dec"),
    Field("s_fov", "double", "deg"),
    Field("s_region", "char", ucd="pos.outline;obs.field"),
    Field("s_pixel_scale", "double", "arcsec"),
    Field("em_min", "double", "m", "em.wl;stat.min"),
    Field("em_max", "double", "m", "em.wl;stat.max"),
    Field("instrument_name", "char", ucd="meta.id;instr"),
)


class NothingThereError(Exception):
    """The region has no pixel of the observation."""


@dataclass(frozen=True)
class Circle:
    """A piece of sky in degrees."""

    ra: float
    dec: float
    radius: float


@dataclass(frozen=True)
class Observation:
    """One frame in one band."""

    id: str
    band: str
    path: Path
    plane: Plane  # of the field's r frame; the bands differ by some pixels
    width: int
    height: int

    def corners(self) -> list[tuple[float, float]]:
        """Right ascension and declination of the four corners."""
        edges = ((-0.5, -0.5), (self.width - 0.5, -0.5),
                 (self.width - 0.5, self.height - 0.5), (-0.5, self.height - 0.5))  # fmt: skip
        return [self.place(x, y) for x, y in edges]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The position of a pixel, in degrees."""
        a, b, c = self.plane.to_sky @ np.array([x, y, 1.0])
        return math.degrees(math.atan2(b, a)) % 360, math.degrees(math.atan2(c, math.hypot(a, b)))

    def row(self, base: str) -> tuple[Any, ...]:
        """The observation in ObsCore."""
        ra, dec = self.place((self.width - 1) / 2, (self.height - 1) / 2)
        step = math.degrees(math.sqrt(abs(float(np.linalg.det(self.plane.to_sky)))))
        region = " ".join(f"{value:.6f}" for corner in self.corners() for value in corner)
        low, high = WAVELENGTHS[self.band]
        return (
            "image", 2, COLLECTION, self.path.name.split(".")[0].replace(f"-{self.band}-", "-"),
            self.id, f"{base}/datalink?ID={self.id.replace('?', '%3F')}", DATALINK,
            self.path.stat().st_size // 1024, ra, dec, step * math.hypot(self.width, self.height),
            f"POLYGON {region}", step * 3600, low, high, "simulated",
        )  # fmt: skip


class Observations:
    """All observations of a drawn sky, from the headers of its frames."""

    def __init__(self, cutouts: Cutouts) -> None:
        self._cutouts = cutouts
        self._lock = threading.Lock()
        self._known: dict[str, Observation] | None = None

    def all(self) -> dict[str, Observation]:
        """The observations by identifier, in its order."""
        with self._lock:
            if self._known is None:
                found = []
                for field in self._cutouts.fields():
                    base = next(path for path in field.paths if path.name.startswith("frame-r-"))
                    for band in WAVELENGTHS:
                        path = base.with_name(base.name.replace("frame-r-", f"frame-{band}-", 1))
                        if path.exists():
                            name = f"{AUTHORITY}?{path.name.split('.')[0]}"
                            found.append(
                                Observation(
                                    name, band, path, field.plane, field.width, field.height
                                )
                            )
                self._known = {one.id: one for one in sorted(found, key=lambda one: one.id)}
            return self._known

    def covering(self, circle: Circle) -> list[Observation]:
        """The observations that the circle touches (a pixel more at the border, to be sure)."""
        wanted = Request(circle.ra % 360, circle.dec, 1.0, 1, 1)
        direction = Plane.of_request(wanted).to_sky @ np.array([0.0, 0.0, 1.0])
        near = []
        for one in self.all().values():
            x, y, depth = one.plane.to_pixel @ direction
            if depth <= 0:
                continue
            step = math.sqrt(abs(float(np.linalg.det(one.plane.to_sky))))
            reach = math.radians(circle.radius) / step
            x, y = x / depth, y / depth
            if -reach <= x <= one.width + reach and -reach <= y <= one.height + reach:
                near.append(one)
        return near


def cutout(observation: Observation, circle: Circle) -> bytes:
    """The part of a frame about a circle as FITS, pixels untouched; raises NothingThereError."""
    pixels, header = _decoded(observation.path)
    plane = Plane.of_header(header)
    wanted = Plane.of_request(Request(circle.ra % 360, circle.dec, 1.0, 1, 1))
    x, y, depth = plane.to_pixel @ (wanted.to_sky @ np.array([0.0, 0.0, 1.0]))
    if depth <= 0:
        raise NothingThereError
    reach = math.radians(circle.radius) / math.sqrt(abs(float(np.linalg.det(plane.to_sky))))
    height, width = pixels.shape
    left, low = (max(0, math.floor(v / depth - reach)) for v in (x, y))
    right = min(width, math.ceil(x / depth + reach) + 1)
    top = min(height, math.ceil(y / depth + reach) + 1)
    if left >= right or low >= top:
        raise NothingThereError
    kept = header.copy()  # cards are shared between headers that are made of each other
    for keyword in ("SIMPLE", "BITPIX", "NAXIS*", "EXTEND", "BSCALE", "BZERO", "BLANK"):
        kept.remove(keyword, ignore_missing=True, remove_all=True)
    kept["CRPIX1"] = header["CRPIX1"] - left
    kept["CRPIX2"] = header["CRPIX2"] - low
    kept["FILTER"] = observation.band
    kept["BUNIT"] = "nanomaggy"
    return _written(pixels[low:top, left:right], kept)


def hips_image(cutouts: Cutouts, request: Request, band: str) -> bytes:
    """A band resampled north up and east left as FITS: nanomaggies per frame pixel, NaN off it."""
    from astropy.io import fits

    from galpipe.sky.imgcutout import BANDS

    light, missing, _ = cutouts.sampled(request)
    pixels = light[BANDS.index(band)]
    pixels[missing] = np.nan
    step = request.scale / 3600
    header = fits.Header(
        {
            "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg",
            "CRPIX1": (request.width + 1) / 2, "CRPIX2": (request.height + 1) / 2,
            "CRVAL1": request.ra, "CRVAL2": request.dec,
            "CD1_1": -step, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": step,
        }
    )  # fmt: skip
    return _written(pixels[::-1], header)


def _written(pixels: Any, header: Any) -> bytes:
    from astropy.io import fits

    buffer = io.BytesIO()
    image = np.ascontiguousarray(pixels, np.float32)
    fits.PrimaryHDU(image, header).writeto(buffer, output_verify="silentfix")
    return buffer.getvalue()


@functools.lru_cache(maxsize=KEPT)
def _decoded(path: Path) -> tuple[Any, Any]:
    from astropy.io import fits

    with fits.open(io.BytesIO(bz2.decompress(path.read_bytes())), memmap=False) as hdus:
        return np.ascontiguousarray(hdus[0].data, np.float32), hdus[0].header.copy()
