"""The drizzled images of a FITS file: pixels, exposure times, place on the sky, identity."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from galpipe.archives.hdus import refuse_endless
from galpipe.archives.linear_wcs import linear_wcs
from galpipe.archives.trouble import BadImageError, corrupt
from galpipe.status import Status

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

LARGEST_SIDE = 4096  # pixels of a cutout
LONGEST_HEADER = 200 * 2880  # bytes
MOST_HDUS = 64
SCIENCE = ("SCI", "CUTOUT", "PRIMARY", "")
RATES = ("ELECTRONS/S", "ELECTRONS/SEC", "E-/S", "E/S", "ELECTRON/S")
TOTALS = ("ELECTRONS", "ELECTRON", "E-")


@dataclass(frozen=True)
class Facts:
    """What the headers of an image say of it; NaN and -1 where they are silent."""

    filter: str  # upper case; empty: not told
    camera: str  # as in acs_wfc
    proposal: int
    exposure: float  # seconds in total
    zero_point: float  # AB magnitude of one electron per second
    wcs: Doubles
    per_second: float  # what the values are divided by to be electrons per second


@dataclass(frozen=True)
class Plane:
    """An image (y, x) in electrons per second and its exposure times in seconds, where known.

    Pixels without exposure are NaN.
    """

    facts: Facts
    pixels: Floats
    exposure: Floats | None
    name: str


def facts_of(header: Mapping[str, Any], primary: Mapping[str, Any]) -> Facts:
    """The facts of an image from its own header and its file's; raises BadImageError."""

    def said(key: str) -> Any:
        value = header.get(key)
        return primary.get(key) if value is None or value == "" else value

    filters = [str(said(key) or "").strip().upper() for key in ("FILTER", "FILTER1", "FILTER2")]
    told = [name for name in filters if name and not name.startswith("CLEAR")]
    exposure = _number(said("EXPTIME"))
    unit = str(said("BUNIT") or "ELECTRONS/S").strip().upper()
    per_second = 1.0
    if unit in TOTALS and exposure > 0:
        per_second = exposure
    elif unit not in RATES:
        raise BadImageError(Status.CORRUPT, f"the image is in {unit[:40]}, not in electrons/s")
    photflam, photplam = _number(said("PHOTFLAM")), _number(said("PHOTPLAM"))
    zero_point = math.nan
    if photflam > 0 and photplam > 0:  # ACS Data Handbook, section 5.1.1
        zero_point = -2.5 * math.log10(photflam) - 5 * math.log10(photplam) - 2.408
    proposal = _number(said("PROPOSID"))
    return Facts(
        filter=told[0] if told else "",
        camera=f"{said('INSTRUME') or ''}_{said('DETECTOR') or ''}".lower().replace(" ", ""),
        proposal=int(proposal) if 0 <= proposal < 2**31 else -1,
        exposure=exposure,
        zero_point=zero_point,
        wcs=linear_wcs(header),
        per_second=per_second,
    )


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def planes_of(content: bytes, name: str) -> list[Plane]:
    """Every science image of a FITS file, with the weight that follows it.

    A weight (WHT) is exposure time.  Raises BadImageError where the file is damaged.
    """
    if not content.startswith(b"SIMPLE  ="):
        raise BadImageError(Status.CORRUPT, f"{name[:80]!r} is not a FITS file")
    if not ends(content[:LONGEST_HEADER]):
        raise BadImageError(Status.CORRUPT, "the header has no end")
    refuse_endless(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(io.BytesIO(content), memmap=False) as hdus:
                return _planes(hdus, name)
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # astropy raises whatever its parsers meet in damaged bytes
        raise corrupt(error) from None


def ends(header: bytes) -> bool:
    """Whether a header's END card is among these bytes, which begin with the header."""
    return any(header[at : at + 80].rstrip() == b"END" for at in range(0, len(header), 80))


def _planes(hdus: Any, name: str) -> list[Plane]:
    images = []
    for number, hdu in enumerate(hdus):
        if number >= MOST_HDUS:
            raise BadImageError(Status.CORRUPT, f"more than {MOST_HDUS} HDUs")
        if type(hdu) not in (fits.PrimaryHDU, fits.ImageHDU) or len(hdu.shape) != 2:
            continue  # compressed images may unfold without bound
        if max(hdu.shape) > LARGEST_SIDE or min(hdu.shape) < 1:
            raise BadImageError(Status.CORRUPT, f"an image of {hdu.shape[1]} x {hdu.shape[0]}")
        images.append(hdu)
    primary = hdus[0].header
    found = []
    for number, hdu in enumerate(images):
        if str(hdu.name).upper() not in SCIENCE:
            continue
        facts = facts_of(hdu.header, primary)
        following = images[number + 1] if number + 1 < len(images) else None
        exposure = None
        if following is not None and str(following.name).upper() == "WHT":
            exposure = np.asarray(following.data).astype(np.float32)
        found.append(plane(facts, np.asarray(hdu.data).astype(np.float32), exposure, name))
    return found


def plane(facts: Facts, pixels: Floats, exposure: Floats | None, name: str) -> Plane:
    """A plane in electrons per second, pixels without exposure undefined; raises BadImageError."""
    pixels = np.where(np.isfinite(pixels), pixels, np.nan).astype(np.float32)
    if facts.per_second != 1:
        pixels = pixels / np.float32(facts.per_second)
    if exposure is not None:
        if exposure.shape != pixels.shape:
            raise BadImageError(Status.CORRUPT, "the weight has another shape than the image")
        unseen = ~(np.isfinite(exposure) & (exposure > 0))
        pixels[unseen] = np.nan
        exposure = np.where(unseen, np.float32(0), exposure)
    return Plane(facts, pixels, exposure, name)
