"""The pixels of one object from a VO archive: found by SIA2, cut by SODA, or made by hips2fits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from galpipe.archives.spec import Hips, Soda, Vo
from galpipe.archives.trouble import BadImageError
from galpipe.archives.vo import pieces
from galpipe.archives.vo.access import Access
from galpipe.archives.vo.located import Place
from galpipe.archives.vo.pieces import Piece, Stamp
from galpipe.archives.vo.votable import Answer, BadVotableError, read
from galpipe.status import Status

MOST_IMAGES = 1000  # that SIA2 may find about one position
MOST_TRIED = 3  # images of a band, the best first, until one has the object
LARGEST_DOCUMENT = 8 * 2**20  # bytes of an answer of SIA2 or DataLink
MARGIN = 4.0  # pixels that a circle reaches further, so that a resampled border is there
DISCOVERED = 1.0 / 3600  # degrees about an object: it must be covered itself
SODA_SYNC = "ivo://ivoa.net/std/soda#sync"
WORST_FIRST = (
    Status.FAILED, Status.CORRUPT, Status.OFF_FRAME, Status.BLANK, Status.NO_COVERAGE
)  # fmt: skip


@dataclass(frozen=True)
class Image:
    """One image that an archive says to cover a place."""

    id: str
    address: str
    media: str
    offset: float  # degrees from its middle to the object


@dataclass(frozen=True)
class BandEnd:
    """How one band of an object ended; `source` names its image, `digest` is of its pixels."""

    status: int
    reason: str | None = None
    source: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Fetched:
    """One object's cutout, or why there is none; `source` names the image of the reference band."""

    status: Status
    reason: str | None = None
    source: str | None = None
    stamp: Stamp | None = None
    bands: dict[str, BandEnd] = field(default_factory=dict)


def fetch(access: Access, place: Place) -> Fetched:
    """The cutout of one object in all bands; never raises for what is wrong with it."""
    spec = access.spec
    try:
        if isinstance(spec.pixels, Soda):
            return _by_soda(access, place)
        return _by_hips(access, place)
    except BadImageError as error:
        return Fetched(error.status, access.hidden(error.reason))


# SIA2 and SODA.


def _by_soda(access: Access, place: Place) -> Fetched:
    spec = access.spec
    assert isinstance(spec.pixels, Soda)
    reference = spec.pixels.reference or spec.bands[0]
    found: dict[str, Piece] = {}
    troubles: dict[str, BadImageError] = {}
    known: dict[str, list[dict[str, Any]]] = {}  # by collection, so that each is asked once
    sources: dict[str, str] = {}
    for number, band in enumerate(spec.bands):
        try:
            collection, wavelength = spec.pixels.asked(number)
            if collection not in known:
                known[collection] = _discover(access, place, collection)
            images = _covering(known[collection], spec.pixels, place, wavelength)
            if images:
                sources[band] = access.hidden(images[0].id)
            image, found[band] = _cut(access, place, images)
            sources[band] = access.hidden(image.id)
            if band == reference:
                pieces.check_scale(found[band], spec.pixels.pixel_scale)
        except BadImageError as error:
            troubles[band] = error
    if troubles:
        status, reason = _verdict(spec, troubles)
        ends = _ends(access, found, troubles, sources, None)
        return Fetched(status, access.hidden(reason), sources.get(reference), None, ends)
    stamp = pieces.registered(place, found, reference)
    ends = _ends(access, found, troubles, sources, stamp)
    return Fetched(Status.OK, None, sources[reference], stamp, ends)


def _ends(
    access: Access,
    found: dict[str, Piece],
    troubles: dict[str, BadImageError],
    sources: dict[str, str],
    stamp: Stamp | None,
) -> dict[str, BandEnd]:
    """How each band ended; one that is not wholly covered in the stamp is EDGE."""
    ends = {}
    for number, band in enumerate(access.spec.bands):
        source = sources.get(band)
        if band in troubles:
            error = troubles[band]
            ends[band] = BandEnd(int(error.status), access.hidden(error.reason), source)
        else:
            whole = stamp is None or bool(np.isfinite(stamp.pixels[number]).all())
            status = Status.OK if whole else Status.OK | Status.EDGE
            ends[band] = BandEnd(int(status), None, source, found[band].digest)
    return ends


def _discover(access: Access, place: Place, collection: str) -> list[dict[str, Any]]:
    """The images about a place, as ObsCore rows."""
    circle = f"CIRCLE {place.ra!r} {place.dec!r} {DISCOVERED!r}"
    asked = {"POS": circle, "MAXREC": str(MOST_IMAGES)}
    if collection:
        asked["COLLECTION"] = collection
    answer = access.fetch(access.spec.sia, _document, asked, markup=True)
    if answer.status == "OVERFLOW":
        raise BadImageError(
            Status.FAILED, f"more than {MOST_IMAGES} images there; name archive.pixels.collections"
        )
    return list(answer.rows())


def _document(content: bytes) -> Answer:
    """A VOTable without an error in it; raises BadImageError."""
    try:
        answer = read(content, LARGEST_DOCUMENT)
    except BadVotableError as error:
        raise BadImageError(Status.FAILED, f"the answer is no VOTable: {error}") from None
    if answer.status not in ("OK", "OVERFLOW"):
        raise BadImageError(Status.FAILED, f"the archive says: {answer.message}")
    return answer


def _covering(
    rows: list[dict[str, Any]], pixels: Soda, place: Place, wavelength: float
) -> list[Image]:
    """The images of one band, the one whose middle is nearest first."""
    images: dict[str, Image] = {}
    for row in rows:
        level, low, high = (_number(row.get(key)) for key in ("calib_level", "em_min", "em_max"))
        if str(row.get("dataproduct_type") or "image") != "image" or level < pixels.calibration:
            continue
        if wavelength and not low <= wavelength <= high:
            continue
        id = " ".join(str(row.get("obs_publisher_did") or "").split())[:300]
        address = str(row.get("access_url") or "")
        if not address:
            continue
        middle = _number(row.get("s_ra")), _number(row.get("s_dec"))
        offset = _separation(place, *middle)
        media = str(row.get("access_format") or "").lower().replace(" ", "")
        images.setdefault(id or address, Image(id, address, media, offset))
    return sorted(images.values(), key=lambda image: (image.offset, image.id, image.address))


def _number(value: Any) -> float:
    """A number of a row; NaN, which compares with nothing, where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _separation(place: Place, ra: float, dec: float) -> float:
    """Degrees between an object and the middle of an image; far where it is not told."""
    if not (math.isfinite(ra) and math.isfinite(dec)):
        return 180.0
    a, b = math.radians(place.dec), math.radians(dec)
    h = math.sin((b - a) / 2) ** 2
    h += math.cos(a) * math.cos(b) * math.sin(math.radians(ra - place.ra) / 2) ** 2
    return round(math.degrees(2 * math.asin(math.sqrt(min(1.0, h)))), 9)


def _cut(access: Access, place: Place, images: list[Image]) -> tuple[Image, Piece]:
    """The first image that has the object; raises the first one's BadImageError."""
    first: BadImageError | None = None
    for image in images[:MOST_TRIED]:
        try:
            return image, _piece(access, place, image)
        except BadImageError as error:
            if error.status == Status.FAILED:
                raise
            first = first or error
    raise first or BadImageError(Status.NO_COVERAGE, "the archive has no image there")


def _piece(access: Access, place: Place, image: Image) -> Piece:
    check = partial(pieces.decode, ra=place.ra, dec=place.dec)
    if "content=datalink" not in image.media and not access.spec.soda:
        return access.fetch(image.address, check, {})  # no service: the whole image
    address, id = access.spec.soda, image.id
    if not address:
        address, id = _service(access, image)
    radius = (math.sqrt(2) * place.half + MARGIN * access.spec.pixels.pixel_scale) / 3600
    circle = f"{place.ra!r} {place.dec!r} {math.sqrt(2) * radius!r}"
    return access.fetch(address, check, {"ID": id, "CIRCLE": circle})


def _service(access: Access, image: Image) -> tuple[str, str]:
    """Address of the cutout service of an image, and the ID it takes, from its DataLink."""
    answer = access.fetch(image.address, _document, {}, markup=True)
    for link in answer.links:
        if link.standard.lower().startswith(SODA_SYNC):
            return link.address, link.parameters.get("ID") or image.id
    said = next((row["error_message"] for row in answer.rows() if row.get("error_message")), None)
    if said:
        raise BadImageError(Status.NO_COVERAGE, f"the archive says: {str(said)[:160]}")
    raise BadImageError(Status.CORRUPT, "the image's DataLink names no cutout service")


def _verdict(spec: Vo, troubles: dict[str, BadImageError]) -> tuple[Status, str]:
    """What the troubles of an object's bands come to: what may pass on a retry goes first."""
    status = next(
        one for one in WORST_FIRST if any(error.status == one for error in troubles.values())
    )
    bands = [band for band, error in troubles.items() if error.status == status]
    reason = f"{', '.join(bands)}: {troubles[bands[0]].reason}"
    if status == Status.NO_COVERAGE and len(bands) < len(spec.bands):
        status = Status.MISSING_BAND
    return status, reason


# hips2fits.


def _by_hips(access: Access, place: Place) -> Fetched:
    spec = access.spec
    pixels = spec.pixels
    assert isinstance(pixels, Hips)
    source = f"{spec.service} {' '.join(pixels.maps)}"
    asked = {
        "width": str(place.side), "height": str(place.side), "projection": "TAN",
        "coordsys": "icrs", "ra": repr(place.ra), "dec": repr(place.dec),
        "fov": repr(place.side * pixels.pixel_scale / 3600),
    }  # fmt: skip
    if pixels.format == "jpeg":
        check = partial(pieces.decode_colour, place=place, scale=pixels.pixel_scale)
        asked |= {"format": "jpg", "hips": pixels.maps[0]}
        stamp = access.fetch(spec.hips2fits, check, asked)
        end = BandEnd(int(Status.OK), None, source, stamp.digest)
        return Fetched(Status.OK, None, source, stamp, dict.fromkeys(spec.bands, end))
    found: dict[str, Piece] = {}
    troubles: dict[str, BadImageError] = {}
    decode = partial(pieces.decode, ra=place.ra, dec=place.dec)
    for band, name in zip(spec.bands, pixels.maps, strict=True):
        try:
            found[band] = access.fetch(
                spec.hips2fits, decode, asked | {"format": "fits", "hips": name}
            )
            pieces.check_scale(found[band], pixels.pixel_scale)
        except BadImageError as error:
            troubles[band] = error
    sources = dict(zip(spec.bands, (f"{spec.service} {name}" for name in pixels.maps), strict=True))
    if troubles:
        status, reason = _verdict(spec, troubles)
        ends = _ends(access, found, troubles, sources, None)
        return Fetched(status, access.hidden(reason), source, None, ends)
    stamp = pieces.aligned(place, found)
    return Fetched(Status.OK, None, source, stamp, _ends(access, found, troubles, sources, stamp))
