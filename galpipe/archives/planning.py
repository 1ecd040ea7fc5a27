"""The arrays of a part of cutouts, and the sizes of the squares that images are kept in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from galpipe.archives.images import LARGEST_SIDE
from galpipe.archives.spec import Archive
from galpipe.stamps.parts import ArrayLayout, PartLayout

BUCKETS: tuple[int, ...] = tuple(
    side
    for power in range(4, 13)
    for side in (2**power, 3 * 2 ** (power - 1))
    if side <= LARGEST_SIDE
)
SHARD_BYTES = 64 * 2**20  # of pixels in memory per shard, whatever the spec's number of objects
CHUNK_BYTES = 2**20


def bucket(side: int) -> int:
    """The smallest square store that an image of this side fits in: 16, 24, 32, 48, 64, 96, ..."""
    return min(size for size in BUCKETS if size >= side)


def part_layout(
    spec: Archive,
    objects: int,
    dtype: str,
    side: int,
    psf: int,
    *,
    psf_bands: bool = False,
    variance: bool = False,
    mask: Mapping[str, int] | None = None,
    extinction: bool = False,
) -> PartLayout:
    """The arrays of a part of cutouts: `side` pixels square, `psf` pixels square (0: none).

    `psf_bands`: a PSF in every band; `variance` and `extinction`: with these arrays; `mask`: with
    an array of these bits by name (None: without).
    """
    bands = len(spec.bands)
    weight = bands * side * side * np.dtype(dtype).itemsize * (1 + variance)
    weight += 2 * bands * side * side * (mask is not None)
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
    if mask is not None:
        arrays.append(
            ArrayLayout(
                "mask", "uint16", (bands, side, side), ("band", "y", "x"),
                fill=mask.get("UNKNOWN", 0), compress=True, attributes=(("bits", dict(mask)),),
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
