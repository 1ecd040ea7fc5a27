"""The cutout of an object from the tiles of a mosaic, or from products, that hold it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from galpipe.archives.hst.fetched import Fetched, finished
from galpipe.archives.hst.field_psf import FieldPsfs, on_stamp
from galpipe.archives.hst.mosaics import Files, OpenTile
from galpipe.archives.hst.pieces import holding, pieces
from galpipe.archives.hst.planes import Plane
from galpipe.archives.hst.request import Target
from galpipe.archives.hst.stars import FEWEST, SIDE
from galpipe.archives.psf import psf_fwhm
from galpipe.archives.spec import Hubble
from galpipe.status import Status


def from_tiles(
    spec: Hubble, tiles: Sequence[OpenTile], files: Files, psfs: FieldPsfs | None, target: Target
) -> Fetched:
    """An object's cutout, and with `psfs` the point-spread functions of its tiles.

    Raises BadImageError where a piece cannot be read.
    """
    held = holding(spec, tiles, target.ra, target.dec)
    if not held:
        return Fetched(Status.NO_COVERAGE, "no tile of the mosaic holds the position")
    missing = [band for band in spec.bands if band not in held]
    if missing:
        return Fetched(Status.MISSING_BAND, f"no tile of {', '.join(missing)} holds the position")
    first: dict[str, OpenTile] = {}

    def noted(band: str) -> Iterator[Plane]:
        place = target.ra, target.dec, target.side
        for tile, plane in pieces(spec, files, tiles, held[band], *place):
            first.setdefault(band, tile)
            yield plane

    fetched = finished(spec, {band: noted(band) for band in spec.bands}, target)
    if psfs is None or fetched.stamp is None:
        return fetched
    return _with_psf(spec, fetched, first, psfs)


def _with_psf(
    spec: Hubble, fetched: Fetched, first: dict[str, OpenTile], psfs: FieldPsfs
) -> Fetched:
    """A cutout with the point-spread function of each band's first tile."""
    assert fetched.stamp is not None
    wcs, side = fetched.stamp.wcs, fetched.stamp.pixels.shape[1]
    whole = np.zeros((len(spec.bands), SIDE, SIDE), np.float32)
    without, width = [], float("nan")
    for row, band in enumerate(spec.bands):
        found = psfs.of(first[band])
        if found is None:
            without.append(band)
            continue
        whole[row] = on_stamp(found, first[band].facts.wcs, wcs, side)
        if band == spec.reference:
            width = psf_fwhm(whole[row])
    status, reason = fetched.status, fetched.reason
    if without:
        status |= Status.NO_PSF
        reason = f"fewer than {FEWEST} stars tell the PSF of {', '.join(without)}"
    return dataclasses.replace(
        fetched, status=status, reason=reason, psf=whole, psf_fwhm=width
    )  # fmt: skip
