"""Cutouts as a reader sees them: raw pixels, one common stretch and one common angular scale.

Three bands become red, green and blue with the colour kept in bright cores (Lupton et al. 2004);
images that come as 8-bit JPEG or PNG are shown as they are; anything else is grey.
"""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from galpipe.catalogue.report.release import Labels, Release
from galpipe.stamps.gather import part_path, read_index
from galpipe.stamps.parts import Part
from galpipe.workspace import Ref, Workspace

Pixels = NDArray[np.float32]
SIDE = 96  # pixels of a picture on the page
QUALITY = 85
RADII = 1.3  # Petrosian radii of a large galaxy (the 90th percentile) from the centre to the border
WHITE = 90.0  # percentile of the objects' brightest pixels that is shown as white
SOFTENING = 3.5  # standard deviations of the background where the stretch turns logarithmic
ORDER = "ugrizyYJHK"  # bands from blue to red


@dataclass(frozen=True)
class Pictures:
    """How the cutouts of a release are shown, and data addresses of pictures by catalogue row."""

    side: float  # cutout pixels across
    across: str  # the same in words, with the angle where it is known
    stretch: str  # in words
    colour: bool
    sources: dict[int, str]


def draw_pictures(
    workspace: Workspace, cutouts: Ref, release: Release, bands: tuple[str, ...], rows: Labels
) -> Pictures:
    """Pictures of the cutouts of some catalogue rows; rows without pixels get none."""
    raw = _read(workspace, cutouts, rows)
    width = _width(release, raw)
    planes = red_to_blue(bands)
    eight_bit = all(cutout.dtype == np.uint8 for cutout in raw.values())
    windows = {row: window(cutout, width) for row, cutout in raw.items()}
    if eight_bit:
        shown = {row: _as_is(cutout, planes) for row, cutout in windows.items()}
        stretch = "the images as the archive gives them, 8-bit"
    else:
        white, softening = _levels(list(windows.values()))
        # FITS rows run upwards: north is to the top where the image was drawn so.
        shown = {
            row: stretched(cutout[:, ::-1], planes, white, softening)
            for row, cutout in windows.items()
        }
        stretch = "one asinh stretch for all, the same white and the same softening"
    scale = release.pixel_scale[np.isfinite(release.pixel_scale)]
    across = f"{width:.0f} pixels of the archive's images across"
    if not len(scale):
        across += ", whose angular scale is not known"
    elif np.ptp(scale) < 0.01 * scale.mean():
        across = f"{width * float(np.median(scale)):.1f} arcsec across"
    else:
        across += f" ({width * scale.min():.1f} to {width * scale.max():.1f} arcsec)"
    return Pictures(
        width, across, stretch, planes is not None, {row: jpeg(x) for row, x in shown.items()}
    )


def red_to_blue(bands: tuple[str, ...]) -> tuple[int, int, int] | None:
    """Places of the bands shown as red, green and blue; None unless there are three.

    Filters named by a letter or by their wavelength (F814W) are put in order; others are taken as
    they come.
    """
    if len(bands) != 3:
        return None
    order = [_wavelength(band) for band in bands]
    places = list(range(3))
    if all(value is not None for value in order):
        places.sort(key=lambda place: -(order[place] or 0.0))
    return places[0], places[1], places[2]


def _wavelength(band: str) -> float | None:
    if band in ORDER:
        return float(ORDER.index(band))
    found = re.fullmatch(r"F(\d{3,4})[A-Z]+\d?", band)
    if found is None:
        return None
    number = float(found[1])
    # Space telescopes: F814W is 814 nm, F160W (below 200) 1600 nm.
    return number * 10 if number < 200 else number


def window(cutout: Pixels, width: float) -> Pixels:
    """The middle `width` pixels of (band, y, x); what lies beyond the image is NaN (0 in 8 bit)."""
    side = max(round(width), 1)
    bands, ny, nx = cutout.shape
    empty = np.nan if cutout.dtype.kind == "f" else 0
    found = np.full((bands, side, side), empty, cutout.dtype)
    top, left = (ny - side) // 2, (nx - side) // 2
    y, x = slice(max(top, 0), min(top + side, ny)), slice(max(left, 0), min(left + side, nx))
    found[:, y.start - top : y.stop - top, x.start - left : x.stop - left] = cutout[:, y, x]
    return found


def stretched(
    cutout: Pixels, planes: tuple[int, int, int] | None, white: Pixels, softening: float
) -> NDArray[np.uint8]:
    """(band, y, x) in image units as (y, x, 3) of 8 bits, by one asinh of the mean of the bands.

    `white` (band,) are the intensities shown as white.  The same factor multiplies all bands of a
    pixel, and what would be brighter than white is scaled back, so that colours are kept
    (Lupton et al. 2004, PASP 116, 133).
    """
    scaled = np.nan_to_num(cutout / white[:, None, None])
    mean = scaled.mean(axis=0)
    bright = np.arcsinh(mean / softening) / np.arcsinh(1 / softening)
    if planes is None:
        values = np.repeat(bright[:, :, None], 3, axis=2)
    else:
        factor = np.divide(bright, mean, out=np.zeros_like(mean), where=np.abs(mean) > 1e-12)
        values = np.moveaxis(scaled[list(planes)] * factor, 0, -1)
    values = np.maximum(values + 0.04, 0)  # the sky is not quite black: its noise can be seen
    values = values / np.maximum(values.max(axis=2, keepdims=True), 1)
    return np.asarray(np.rint(values * 255), np.uint8)


def jpeg(image: NDArray[np.uint8]) -> str:
    """(y, x, 3) as the data address of a JPEG."""
    picture = Image.fromarray(image)
    if picture.width != SIDE:
        picture = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=QUALITY, optimize=True)
    return data_address(sink.getvalue(), "image/jpeg")


def data_address(content: bytes, kind: str) -> str:
    """A `data:` address that holds the content itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _read(workspace: Workspace, cutouts: Ref, rows: Labels) -> dict[int, Pixels]:
    """The raw pixels (band, y, x) of some catalogue rows that have them."""
    index = read_index(workspace, cutouts)
    digests, places = index["part"].to_pylist(), index["row"].to_pylist()
    wanted: dict[str, list[int]] = {}
    for row in rows.tolist():
        if digests[row] is not None:
            wanted.setdefault(digests[row], []).append(row)
    found: dict[int, Pixels] = {}
    for digest, mine in sorted(wanted.items()):
        part = Part(part_path(workspace, "cutouts", digest))
        image, ny, nx = part.array("image"), part.read("ny"), part.read("nx")
        chunks: dict[int, list[int]] = {}
        for row in mine:
            chunks.setdefault(int(places[row]) // part.chunk, []).append(row)
        for chunk, inside in sorted(chunks.items()):  # a chunk is read once
            start = chunk * part.chunk
            block = np.asarray(image[start : min(start + part.chunk, len(part))])
            for row in inside:
                place = int(places[row])
                pixels = block[place - start, :, : int(ny[place]), : int(nx[place])]
                found[row] = pixels.copy()
    return found


def _width(release: Release, raw: dict[int, Pixels]) -> float:
    """Cutout pixels across, the same for all: room for a large galaxy, no more than there is."""
    sides = [max(cutout.shape[1:]) for cutout in raw.values()]
    largest = float(np.percentile(sides, 90)) if sides else float(SIDE)
    radius = release.radius[release.usable & np.isfinite(release.radius)]
    wanted = 2 * RADII * float(np.percentile(radius, 90)) if len(radius) else largest
    return float(np.clip(round(wanted), min(16, largest), largest))


def _as_is(cutout: Pixels, planes: tuple[int, int, int] | None) -> NDArray[np.uint8]:
    if planes is None:
        grey = np.rint(cutout.mean(axis=0)).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    # An 8-bit colour image has its planes as its bands: red first, whatever they are called.
    return np.moveaxis(cutout, 0, -1).astype(np.uint8)


def _levels(cutouts: list[Pixels]) -> tuple[Pixels, float]:
    """The intensity of each band that is white, and the softening as a fraction of it."""
    with np.errstate(all="ignore"):
        peaks = np.array([np.nanpercentile(c.reshape(len(c), -1), 99.5, axis=1) for c in cutouts])
        scatter = [1.4826 * np.nanmedian(np.abs(c - np.nanmedian(c))) for c in cutouts]
    white = np.nanpercentile(peaks, WHITE, axis=0).astype(np.float32)
    white = np.where(np.isfinite(white) & (white > 0), white, np.float32(1))
    noise = float(np.nanmedian(scatter)) / float(white.mean())
    return white, float(np.clip(SOFTENING * noise, 1e-3, 1.0)) if np.isfinite(noise) else 0.1
