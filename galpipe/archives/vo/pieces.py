"""Cutouts as services send them: decoded, placed on the sky, and brought onto common pixels."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from galpipe.archives import raster_images
from galpipe.archives.fits_images import IMAGES, image_of
from galpipe.archives.hdus import refuse_endless
from galpipe.archives.images import no_wcs
from galpipe.archives.linear_wcs import pixel_scale
from galpipe.archives.projection import local_map
from galpipe.archives.resampling import resample
from galpipe.archives.trouble import BadImageError, corrupt
from galpipe.archives.vo.located import Place
from galpipe.archives.vo.votable import quiet
from galpipe.stamps.cut import cut
from galpipe.status import Status

Doubles = NDArray[np.float64]
SCALE_WITHIN = 0.02  # of the pixel scale that the survey file says
COUNTS = re.compile(r"WCSAXES[A-Z]?|(A|B|AP|BP)_ORDER")
MOST_TERMS = 9  # axes, and the order of a distortion (Shupe et al. 2005)
STEP = 0.5  # pixels; the WCS of a piece is taken over this way about the object


@dataclass(frozen=True)
class Piece:
    """One band about one object: `pixels` (y, x) float32, `x`, `y` the object's 0-based pixel.

    `wcs`: (8,) as in `projection`, tangent at the object; `digest` is of pixels and place, since a
    service may write the time of the cutout into its header.
    """

    pixels: NDArray[np.float32]
    x: float
    y: float
    wcs: Doubles
    digest: str


def decode(content: bytes, ra: float, dec: float) -> Piece:
    """The first image of a FITS file, about a position in degrees; raises BadImageError.

    NO_COVERAGE where it has no defined pixel, OFF_FRAME where the position is not on it.
    """
    if not content.startswith(b"SIMPLE  ="):
        raise BadImageError(Status.CORRUPT, "not a FITS file")
    refuse_endless(content)
    try:
        with quiet(), fits.open(io.BytesIO(content), memmap=False, lazy_load_hdus=True) as hdus:
            image, terms, (x, y) = _placed(hdus, ra, dec)
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # astropy and wcslib raise whatever they meet in damaged bytes
        raise corrupt(error) from None
    if not np.isfinite(image).any():
        raise BadImageError(Status.NO_COVERAGE, "the image has no defined pixel")
    ny, nx = image.shape
    if not (-0.5 <= x <= nx - 0.5 and -0.5 <= y <= ny - 0.5):
        raise BadImageError(Status.OFF_FRAME, "the position is not on the image")
    total = hashlib.sha256(repr(image.shape).encode())
    total.update(image.tobytes())
    total.update(terms.tobytes())
    return Piece(image, x, y, terms, total.hexdigest())


def _placed(
    hdus: Any, ra: float, dec: float
) -> tuple[NDArray[np.float32], Doubles, tuple[float, float]]:
    """The pixels of the first image, its WCS about the object, and the object's pixel."""
    found = next((hdu for hdu in hdus if isinstance(hdu, IMAGES) and len(hdu.shape) >= 2), None)
    if found is None:
        raise BadImageError(Status.CORRUPT, "no HDU of the file holds an image")
    image = image_of(found)
    if len(image.pixels) != 1:
        raise BadImageError(Status.CORRUPT, f"{len(image.pixels)} planes where one band was asked")
    if not np.isfinite(image.wcs).all():
        raise BadImageError(Status.CORRUPT, "the image has no WCS in right ascension, declination")
    if not abs(np.linalg.det(image.wcs[4:].reshape(2, 2))) > 0:
        raise BadImageError(Status.CORRUPT, "the image has no usable WCS")
    if str(found.header.get("RADESYS", "ICRS")).strip().upper() not in ("", "ICRS", "FK5"):
        raise BadImageError(Status.CORRUPT, f"positions in {found.header['RADESYS']}, not ICRS")
    wcs = _celestial(found.header)
    x, y = (float(v) for v in wcs.all_world2pix(ra, dec, 0, quiet=True))
    if not (np.isfinite(x) and np.isfinite(y)):
        raise BadImageError(Status.OFF_FRAME, "the position is not on the image")
    steps = np.array([STEP, -STEP, 0.0, 0.0])
    right, up = wcs.all_pix2world(x + steps, y + steps[[2, 3, 0, 1]], 0)
    east = ((right - ra + 180) % 360 - 180) * np.cos(np.deg2rad(dec))
    matrix = np.array([v[[0, 2]] - v[[1, 3]] for v in (east, up)]) / (2 * STEP)
    terms = np.array([x + 1, y + 1, ra, dec, *matrix.ravel()])
    if not (np.isfinite(terms).all() and abs(np.linalg.det(matrix)) > 0):
        raise BadImageError(Status.CORRUPT, "the image has no usable WCS")
    return np.ascontiguousarray(image.pixels[0]), terms, (x, y)


def _celestial(header: Any) -> WCS:
    """The celestial WCS of a header, distortions kept; raises BadImageError.

    astropy and wcslib make room for as many axes and terms as a header names.
    """
    for key, value in header.items():
        if COUNTS.fullmatch(key) and not (isinstance(value, int) and 0 <= value <= MOST_TERMS):
            raise BadImageError(Status.CORRUPT, f"{key} of the WCS is not from 0 to {MOST_TERMS}")
    try:
        return WCS(header).celestial
    except MemoryError:  # which wcslib also says of terms that do not go together
        raise BadImageError(Status.CORRUPT, "the image has no usable WCS") from None


def check_scale(piece: Piece, wanted: float) -> None:
    """Refuse pixels of another scale than the survey file says; raises BadImageError."""
    found = pixel_scale(piece.wcs)
    if abs(found / wanted - 1) > SCALE_WITHIN:
        raise BadImageError(
            Status.CORRUPT,
            f"pixels of {found:.4g} arcsec where archive.pixels.pixel_scale says {wanted:g}",
        )


@dataclass(frozen=True)
class Stamp:
    """An object's cutout: `pixels` (band, y, x), scale in arcsec per pixel, `wcs` (8,)."""

    pixels: NDArray[Any]
    pixel_scale: float
    wcs: Doubles
    digest: str


def registered(place: Place, pieces: Mapping[str, Piece], reference: str) -> Stamp:
    """The bands of an object on the pixels of the reference band, in the order of `pieces`.

    The reference is cut at whole pixels, the object in the middle one; the other bands are brought
    onto them with cubic splines, linear over the cutout, flux conserved.  NaN off an image.
    """
    base = pieces[reference]
    x, y = np.array([base.x]), np.array([base.y])
    cuts = cut(base.pixels, np.rint(x), np.rint(y), place.side, base.wcs)
    planes = []
    for band, piece in pieces.items():
        if band == reference:
            planes.append(cuts.image[0, 0])
            continue
        reach = np.array([max(place.side / 2, 1.0)])
        middle, matrix = local_map(base.wcs, piece.wcs, np.rint(x), np.rint(y), reach)
        planes.append(resample(piece.pixels, middle[0], matrix[0], place.side))
    return Stamp(np.stack(planes), pixel_scale(cuts.wcs[0]), cuts.wcs[0], _together(pieces))


def aligned(place: Place, pieces: Mapping[str, Piece]) -> Stamp:
    """The bands of an object that a service made on the same pixels; raises BadImageError."""
    first = next(iter(pieces.values()))
    for band, piece in pieces.items():
        if piece.pixels.shape != (place.side, place.side):
            shape = " x ".join(str(n) for n in piece.pixels.shape[::-1])
            raise BadImageError(
                Status.CORRUPT, f"{band}: {shape} pixels where {place.side} a side were asked for"
            )
        if not np.allclose(piece.wcs, first.wcs, rtol=0, atol=1e-6):
            raise BadImageError(Status.CORRUPT, f"{band}: its pixels are not those of the others")
    pixels = np.stack([piece.pixels for piece in pieces.values()])
    return Stamp(pixels, pixel_scale(first.wcs), first.wcs, _together(pieces))


def decode_colour(content: bytes, place: Place, scale: float) -> Stamp:
    """A colour JPEG about an object, (3, side, side) uint8; raises BadImageError."""
    if not content.startswith(b"\xff\xd8"):
        raise BadImageError(Status.CORRUPT, "not a JPEG image")
    pixels = raster_images.decode(content)
    if pixels.shape != (3, place.side, place.side) or pixels.dtype != np.uint8:
        raise BadImageError(
            Status.CORRUPT,
            f"an image of {pixels.shape} where 3 x {place.side} x {place.side} was asked for",
        )
    return Stamp(pixels, scale, no_wcs(), hashlib.sha256(content).hexdigest())


def _together(pieces: Mapping[str, Piece]) -> str:
    digests = "".join(piece.digest for piece in pieces.values())
    return hashlib.sha256(bytes.fromhex(digests)).hexdigest()
