"""Colour images of any place of the sky, cut from the frames: north up, east left.

A cutout is a gnomonic image about its centre.  Both it and a frame are tangent planes, so that the
way from one's pixels to the other's is a homography: one 3 × 3 matrix.  Scaling to RGB is SDSS's
own (Lupton+2004; scales and non-linearity of `sdss_frame_jpeg` in the photoop product).
"""

from __future__ import annotations

import bz2
import io
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BANDS = ("i", "r", "g")  # red, green, blue
SCALES = (5.0, 6.5, 9.0)  # of i, r, g, in units of 1/nanomaggy
NONLINEARITY = 2.25
QUALITY = 95
SIZES = (64, 2048)  # pixels
FINEST = 0.015  # arcsec per pixel
DEFAULT_SIZE, DEFAULT_SCALE = 120, 0.396127
ORDER = 1  # bilinear: a spline of higher order rings about saturated pixels
MARGIN = 2  # pixels about a cut that the interpolation may touch
HEAD = 2**17  # packed bytes read at a time for a frame's header
CARD = 80  # bytes of a header card

Matrix = NDArray[np.float64]
Image = NDArray[np.float32]


class BadCutout(Exception):
    """A parameter is missing or is no number in its range."""


class OutsideFootprint(Exception):
    """No frame covers the centre."""


@dataclass(frozen=True)
class Request:
    """`ra`, `dec` in degrees, `scale` in arcsec per pixel, `width` and `height` in pixels."""

    ra: float
    dec: float
    scale: float
    width: int
    height: int


def cutout_request(fields: Mapping[str, str]) -> Request:
    """Read the parameters of a request; raises BadCutout.

    Width and height are clamped to 64-2048 pixels and the scale to at least 0.015 arcsec per pixel,
    without a word, as ImgCutout does.  Drawing options (`opt`) are not served.
    """

    def number(name: str, default: float | None = None) -> float:
        try:
            value = float(fields[name]) if name in fields or default is None else default
        except KeyError:
            raise BadCutout(f"The parameter {name} must be given.") from None
        except ValueError:
            raise BadCutout(f"The parameter {name} must be a number.") from None
        if not math.isfinite(value):
            raise BadCutout(f"The parameter {name} must be a number.")
        return value

    ra, dec = number("ra"), number("dec")
    if not -90 <= dec <= 90:
        raise BadCutout("The parameter dec must lie between -90 and 90 degrees.")
    width, height = (
        int(min(max(number(name, DEFAULT_SIZE), SIZES[0]), SIZES[1]))
        for name in ("width", "height")
    )
    return Request(ra % 360, dec, max(number("scale", DEFAULT_SCALE), FINEST), width, height)


@dataclass(frozen=True)
class Plane:
    """A tangent plane: pixel (x, y, 1) -> direction `to_sky` @, direction -> pixel `to_pixel` @.

    Pixels count from 0 at the centre of the first; directions are of any length.
    """

    to_sky: Matrix
    to_pixel: Matrix

    @classmethod
    def of(cls, ra: float, dec: float, x: float, y: float, cd: Matrix) -> Plane:
        """The plane that touches at (ra, dec) [deg] = pixel (x, y), with a CD matrix [deg]."""
        a, d = math.radians(ra), math.radians(dec)
        east = (-math.sin(a), math.cos(a), 0.0)
        north = (-math.sin(d) * math.cos(a), -math.sin(d) * math.sin(a), math.cos(d))
        centre = (math.cos(d) * math.cos(a), math.cos(d) * math.sin(a), math.sin(d))
        step = np.radians(cd)
        shift = -step @ np.array([x, y])
        plane = np.array([[*step[0], shift[0]], [*step[1], shift[1]], [0.0, 0.0, 1.0]])
        to_sky = np.array([east, north, centre]).T @ plane
        return cls(to_sky, np.linalg.inv(to_sky))

    @classmethod
    def of_request(cls, request: Request) -> Plane:
        step = request.scale / 3600
        centre = (request.width - 1) / 2, (request.height - 1) / 2
        return cls.of(request.ra, request.dec, *centre, np.array([[-step, 0.0], [0.0, -step]]))

    @classmethod
    def of_header(cls, header: Mapping[str, Any]) -> Plane:
        cd = [[float(header[f"CD{i}_{j}"]) for j in (1, 2)] for i in (1, 2)]
        x, y = (float(header[f"CRPIX{axis}"]) - 1 for axis in (1, 2))
        return cls.of(float(header["CRVAL1"]), float(header["CRVAL2"]), x, y, np.array(cd))


@dataclass(frozen=True)
class Frame:
    """One decoded frame: nanomaggies (rows, columns) and where they lie."""

    image: Image
    plane: Plane


@dataclass(frozen=True)
class Field:
    """Where one field lies, after its r frame; `paths` in the order of BANDS."""

    paths: tuple[Path, ...]
    plane: Plane
    width: int
    height: int

    def offset(self, request: Request) -> tuple[float, float]:
        """A position in the pixels of the r frame; infinite where it lies behind the plane."""
        return _project(self.plane.to_pixel, _direction(request))

    def near(self, request: Request, reach: float) -> bool:
        """True where a circle of `reach` pixels about a position may touch the field."""
        x, y = self.offset(request)
        return -reach <= x <= self.width + reach and -reach <= y <= self.height + reach


class Frames:
    """Decoded frames, kept up to a number of bytes; the one unused the longest goes first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._frames: OrderedDict[Path, Future[Frame]] = OrderedDict()
        self._readers = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="frames")

    def get(self, paths: tuple[Path, ...]) -> list[Frame]:
        """The frames, each decoded once however many ask at a time."""
        return [one.result() for one in [self._future(path) for path in paths]]

    def _future(self, path: Path) -> Future[Frame]:
        with self._lock:
            found = self._frames.get(path)
            wanted = found or self._readers.submit(_read_frame, path)
            self._frames[path] = wanted
            self._frames.move_to_end(path)
        if found is None:  # outside the lock: one that is done already is trimmed here and now
            wanted.add_done_callback(lambda future: self._trim(path, future))
        return wanted

    def _trim(self, path: Path, future: Future[Frame]) -> None:
        with self._lock:
            if future.exception() is not None:
                self._frames.pop(path, None)
            done = [(key, one) for key, one in self._frames.items() if one.done()]
            held = sum(one.result().image.nbytes for _, one in done if one.exception() is None)
            for key, one in done:
                if held <= self._limit:
                    break
                held -= one.result().image.nbytes
                del self._frames[key]


class Cutouts:
    """Cutouts of the frames under a folder."""

    def __init__(self, folder: Path, frame_bytes: int) -> None:
        self._folder = folder
        self._frames = Frames(frame_bytes)
        self._lock = threading.Lock()
        self._known: tuple[Field, ...] | None = None

    def fields(self) -> tuple[Field, ...]:
        """The footprint, from the headers of the r frames; read at the first request."""
        with self._lock:
            if self._known is None:
                paths = sorted(self._folder.rglob("frame-r-*.fits.bz2"))
                with ThreadPoolExecutor(os.cpu_count() or 1) as readers:
                    self._known = tuple(readers.map(_read_field, paths))
            return self._known

    def jpeg(self, request: Request) -> bytes:
        """The cutout as JPEG; the same request gives the same bytes.  Raises OutsideFootprint."""
        from PIL import Image as Pillow

        buffer = io.BytesIO()
        Pillow.fromarray(colours(self.light(request))).save(buffer, "JPEG", quality=QUALITY)
        return buffer.getvalue()

    def light(self, request: Request) -> Image:
        """Nanomaggies per frame pixel (3, height, width) in i, r, g; 0 where no frame lies.

        Raises OutsideFootprint where no frame covers the centre.
        """
        light, _, inside = self.sampled(request)
        if not inside:
            raise OutsideFootprint("Requested (ra, dec) is outside the footprint.")
        return light

    def sampled(self, request: Request) -> tuple[Image, NDArray[np.bool_], bool]:
        """As `light`, with where no frame lies (height, width) and whether one has the centre.

        Where fields overlap, a pixel comes from the field whose centre is nearest to the cutout.
        """
        diagonal = math.hypot(request.width, request.height) * request.scale / 3600 / 2
        wanted = Plane.of_request(request)
        light = np.zeros((len(BANDS), request.height, request.width), np.float32)
        missing = np.ones((request.height, request.width), bool)
        inside = False
        for field in self._near(request, diagonal):
            x, y = field.offset(request)
            inside |= -0.5 <= x <= field.width - 0.5 and -0.5 <= y <= field.height - 0.5
            frames = self._frames.get(field.paths)
            filled = missing.copy()
            layers = []
            for frame in frames:
                layer, covered = _sampled(frame, wanted, request)
                layers.append(layer)
                filled &= covered
            light[:, filled] = np.stack(layers)[:, filled]
            missing &= ~filled
            if not missing.any():
                break
        return light, missing, inside

    def _near(self, request: Request, diagonal: float) -> list[Field]:
        """Fields that the cutout may touch, the nearest first."""

        def distance(field: Field) -> tuple[float, Path]:
            x, y = field.offset(request)
            return math.hypot(x - field.width / 2, y - field.height / 2), field.paths[0]

        near = []
        for field in self.fields():
            step = math.sqrt(abs(float(np.linalg.det(field.plane.to_sky))))  # radians per pixel
            if field.near(request, math.radians(diagonal) / step + MARGIN):
                near.append(field)
        return sorted(near, key=distance)


def colours(light: Image) -> NDArray[np.uint8]:
    """RGB (height, width, 3) of i, r, g nanomaggies (3, height, width).

    The intensity I, the sum of the scaled bands, becomes asinh(a I) / a with a = 2.25 at the same
    colour (Lupton+2004, eq. 2); a colour past white is scaled down until it fits.
    """
    scaled = light * np.array(SCALES, np.float32)[:, None, None]
    softened = NONLINEARITY * scaled.sum(axis=0)
    softened[softened == 0] = 1e-6
    scaled *= np.arcsinh(softened) / softened
    scaled /= np.maximum(scaled.max(axis=0), 1)
    levels = np.clip(np.rint(scaled * 255), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(levels, 0, -1))


def message_image(text: str, request: Request) -> bytes:
    """A black JPEG of the size asked for, with a sentence on it."""
    import textwrap

    from PIL import Image as Pillow
    from PIL import ImageDraw

    image = Pillow.new("RGB", (request.width, request.height))
    lines = "\n".join(textwrap.wrap(text, max(8, request.width // 7)))
    ImageDraw.Draw(image).text((4, 4), lines, fill=(200, 200, 200))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _direction(request: Request) -> Matrix:
    a, d = math.radians(request.ra), math.radians(request.dec)
    return np.array([math.cos(d) * math.cos(a), math.cos(d) * math.sin(a), math.sin(d)])


def _project(to_pixel: Matrix, direction: Matrix) -> tuple[float, float]:
    x, y, depth = to_pixel @ direction
    return (float(x / depth), float(y / depth)) if depth > 0 else (math.inf, math.inf)


def _sampled(frame: Frame, wanted: Plane, request: Request) -> tuple[Image, NDArray[np.bool_]]:
    """A frame on the pixels of a cutout, and where it covers them; both (height, width).

    Steps of two frame pixels and more are taken from the mean over squares of 2, 4, 8, ... pixels.
    """
    from scipy.ndimage import map_coordinates

    way = frame.plane.to_pixel @ wanted.to_sky
    y, x = np.mgrid[: request.height, : request.width]
    depth = way[2, 0] * x + way[2, 1] * y + way[2, 2]
    ahead = depth > 0
    depth = np.where(ahead, depth, 1.0)
    columns = (way[0, 0] * x + way[0, 1] * y + way[0, 2]) / depth
    rows = (way[1, 0] * x + way[1, 1] * y + way[1, 2]) / depth
    height, width = frame.image.shape
    covered = ahead & (columns >= -0.5) & (columns <= width - 0.5)
    covered &= (rows >= -0.5) & (rows <= height - 0.5)
    layer = np.zeros(covered.shape, np.float32)
    if not covered.any():
        return layer, covered
    pixel = math.sqrt(abs(np.linalg.det(frame.plane.to_sky)))
    ratio = math.radians(request.scale / 3600) / pixel
    square = 2 ** max(0, math.floor(math.log2(ratio)))
    columns, rows = columns[covered], rows[covered]
    top, left = (max(0, int(v.min()) - MARGIN * square) // square * square for v in (rows, columns))
    bottom, right = (int(v.max()) + MARGIN * square for v in (rows, columns))
    cut = _squares(frame.image[top : bottom + 1, left : right + 1], square)
    places = [(rows - top + 0.5) / square - 0.5, (columns - left + 0.5) / square - 0.5]
    layer[covered] = map_coordinates(cut, places, np.float32, order=ORDER, mode="nearest")
    return layer, covered


def _squares(image: Image, side: int) -> Image:
    """The mean over squares of `side` pixels; the last ones repeat the image's edge."""
    if side == 1:
        return image
    height, width = image.shape
    filled = np.pad(image, ((0, -height % side), (0, -width % side)), mode="edge")
    shape = (filled.shape[0] // side, side, filled.shape[1] // side, side)
    mean: Image = filled.reshape(shape).mean(axis=(1, 3), dtype=np.float32)
    return mean


def _read_frame(path: Path) -> Frame:
    from astropy.io import fits

    with fits.open(io.BytesIO(bz2.decompress(path.read_bytes())), memmap=False) as hdus:
        image = np.ascontiguousarray(hdus[0].data, np.float32)
        return Frame(image, Plane.of_header(hdus[0].header))


def _read_field(path: Path) -> Field:
    """A field from the header of its r frame, for which little of the file is unpacked."""
    from astropy.io import fits

    text, unpack = b"", bz2.BZ2Decompressor()
    with path.open("rb") as file:
        while not (end := _header_end(text)) and (packed := file.read(HEAD)):
            text += unpack.decompress(packed)
    header = fits.Header.fromstring(text[:end])
    paths = tuple(path.with_name(path.name.replace("frame-r-", f"frame-{b}-", 1)) for b in BANDS)
    return Field(paths, Plane.of_header(header), int(header["NAXIS1"]), int(header["NAXIS2"]))


def _header_end(text: bytes) -> int:
    """Where the header at the start of a FITS file ends; 0 while its END card is not there."""
    for start in range(0, len(text), CARD):
        if text[start : start + CARD].rstrip() == b"END":
            return start + CARD
    return 0
