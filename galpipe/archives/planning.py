"""Which part and row each new cutout goes to: one part per kind of pixels and bucket of size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from galpipe.archives.images import LARGEST_SIDE, Header
from galpipe.archives.realgalaxy import Stamp
from galpipe.archives.sources import Source
from galpipe.archives.spec import Archive, Folder
from galpipe.stamps.parts import ArrayLayout, PartLayout
from galpipe.workspace import Ref, address

VERSION = 1
BUCKETS: tuple[int, ...] = tuple(
    side
    for power in range(4, 13)
    for side in (2**power, 3 * 2 ** (power - 1))
    if side <= LARGEST_SIDE
)
SHARD_BYTES = 64 * 2**20  # of pixels in memory per shard, whatever the spec's number of objects
CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class NewCutout:
    """An object whose pixels are to be read, by its row in the catalogue."""

    catalogue_row: int
    id: int | str
    version: str
    source: Source
    header: Header
    psf_side: int  # 0: no PSF
    ra: float
    dec: float


@dataclass(frozen=True)
class PlannedPart:
    """A part to be made: its address, its shape, its objects in row order."""

    ref: Ref
    layout: PartLayout
    psf_side: int
    objects: tuple[NewCutout, ...]


def bucket(side: int) -> int:
    """The smallest square store that an image of this side fits in: 16, 24, 32, 48, 64, 96, ..."""
    return min(size for size in BUCKETS if size >= side)


def plan_parts(spec: Folder, new: Sequence[NewCutout]) -> list[PlannedPart]:
    """Parts for the new cutouts, in order of pixel type, size and PSF; rows in catalogue order.

    A part is addressed by the archive's spec and its objects (id, version, position), so that it
    stays the same when the catalogue grows or the source is copied, packed or unpacked.
    """
    groups: dict[tuple[str, int, int], list[NewCutout]] = defaultdict(list)
    for cutout in new:
        side = bucket(max(cutout.header.ny, cutout.header.nx))
        psf = bucket(cutout.psf_side) if cutout.psf_side else 0
        groups[cutout.header.dtype, side, psf].append(cutout)
    parts = []
    for (dtype, side, psf), members in sorted(groups.items()):
        members.sort(key=_place)
        contents = [[c.id, c.version, _position(c.ra), _position(c.dec)] for c in members]
        ref = address(
            "cutout-part", VERSION, spec, {"objects": contents, "store": [dtype, side, psf]}
        )
        layout = part_layout(spec, len(members), dtype, side, psf)
        parts.append(PlannedPart(ref, layout, psf, tuple(members)))
    return parts


def _place(cutout: NewCutout) -> tuple[str, int, int]:
    """Rows in catalogue order; stamps that share a file in its order, to read it once."""
    source = cutout.source
    if isinstance(source, Stamp):
        return source.member, source.hdu, cutout.catalogue_row
    return "", 0, cutout.catalogue_row


def _position(degrees: float) -> float | None:
    return None if np.isnan(degrees) else degrees


def part_layout(
    spec: Archive,
    objects: int,
    dtype: str,
    side: int,
    psf: int,
    *,
    psf_bands: bool = False,
    variance: bool = False,
    extinction: bool = False,
) -> PartLayout:
    """The arrays of a part of cutouts: `side` pixels square, `psf` pixels square (0: none).

    `psf_bands`: a PSF in every band; `variance` and `extinction`: with these arrays.
    """
    bands = len(spec.bands)
    weight = bands * side * side * np.dtype(dtype).itemsize * (1 + variance)
    chunk = max(1, min(64, spec.shard, CHUNK_BYTES // weight))
    shard = max(chunk, min(spec.shard, SHARD_BYTES // weight) // chunk * chunk)
    nan = float("nan")
    image = ArrayLayout(
        "image", dtype, (bands, side, side), ("band", "y", "x"),
        fill=nan if dtype == "float32" else 0, compress=True,
        attributes=(("bands", list(spec.bands)),),
    )  # fmt: skip
    arrays = [
        image,
        ArrayLayout("ny", "int32", attributes=(("unit", "pixel"),)),
        ArrayLayout("nx", "int32", attributes=(("unit", "pixel"),)),
        ArrayLayout("status", "int32"),
        ArrayLayout("ra", "float64", fill=nan, attributes=(("unit", "deg"),)),
        ArrayLayout("dec", "float64", fill=nan, attributes=(("unit", "deg"),)),
        ArrayLayout("pixel_scale", "float32", fill=nan, attributes=(("unit", "arcsec/pixel"),)),
        ArrayLayout("coverage", "float32"),
        ArrayLayout("noise", "float32", fill=nan, attributes=(("unit", "image units"),)),
        ArrayLayout("psf_fwhm", "float32", fill=nan, attributes=(("unit", "pixel"),)),
        ArrayLayout("wcs", "float64", (8,), ("wcs_term",), fill=nan),
    ]
    if psf and psf_bands:
        shape, dims = (bands, psf, psf), ("band", "psf_y", "psf_x")
        arrays.append(ArrayLayout("psf", "float32", shape, dims, compress=True))
    elif psf:
        arrays.append(ArrayLayout("psf", "float32", (psf, psf), ("psf_y", "psf_x"), compress=True))
    if variance:
        arrays.append(
            ArrayLayout(
                "variance", "float32", (bands, side, side), ("band", "y", "x"), fill=nan,
                compress=True, attributes=(("unit", "square of the image's"),),
            )
        )  # fmt: skip
    if extinction:
        arrays.append(
            ArrayLayout(
                "extinction", "float32", (bands,), ("band",), fill=nan,
                attributes=(("unit", "mag, taken off the image"),),
            )
        )  # fmt: skip
    return PartLayout(objects=objects, shard=shard, chunk=chunk, arrays=tuple(arrays))
