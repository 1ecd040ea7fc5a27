"""The cutouts of one field after the other, with what belongs to them, and why there are none."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.archives.ahead import ROW_MARGIN, Fields, name_of, sides_of
from galpipe.archives.cutting import FieldCuts, cut_field, reaches_over
from galpipe.archives.download import Downloader
from galpipe.archives.extinction import factors
from galpipe.archives.fieldwork import FetchWork
from galpipe.archives.filling import Fetched, Told
from galpipe.archives.frames import FieldName, Frame
from galpipe.archives.linear_wcs import pixel_scale
from galpipe.archives.located import Target, Targets, frame_path
from galpipe.archives.projection import local_map, to_pixels
from galpipe.archives.psfield import PsField
from galpipe.archives.resampling import resample
from galpipe.archives.spec import Frames, Sdss, Sky
from galpipe.archives.trouble import BadImageError
from galpipe.stamps.parts import Part
from galpipe.status import Status

Doubles = NDArray[np.float64]
FIELDS_AHEAD = 2  # fields whose frames are in memory beside the one being cut and its neighbours


def from_frames(
    work: FetchWork, targets: Targets, downloader: Downloader, pool: ThreadPoolExecutor
) -> Iterator[Fetched]:
    """Cutouts of the frames; the targets of a field follow each other."""
    changes = np.flatnonzero((np.diff(targets.fields, axis=0) != 0).any(axis=1)) + 1
    groups = [targets.take(rows) for rows in np.split(np.arange(len(targets)), changes)]
    fields = Fields(work, groups, downloader, pool)
    begun = 0
    for number, group in enumerate(groups):
        while begun < min(number + 1 + FIELDS_AHEAD, len(groups)):
            fields.begin(begun)
            begun += 1
        yield from _cut_group(work.spec, group, fields, number)
        fields.drop(number, begun - 1)
    fields.done(Part(work.part))


def _cut_group(spec: Sdss | Sky, group: Targets, fields: Fields, number: int) -> Iterator[Fetched]:
    """The cutouts of one field, or the reason why none of its objects has one."""
    pixels = fields.pixels
    frames, troubles = fields.own(number)
    psf = fields.psf(number)
    if isinstance(psf, BadImageError) and psf.status == Status.FAILED:
        troubles.setdefault(pixels.reference, psf)
    if troubles:
        status, reason = _verdict(spec, troubles)
        bands = _of_bands(spec, frames, troubles)
        yield from [Fetched(status, reason, bands=bands)] * len(group)
        return
    reference = frames[pixels.reference]
    beside, failed = fields.beside(number, reference)
    if failed is not None:  # only the objects that reach over wait for it
        beside = {}
    sides = sides_of(group)
    cuts = cut_field(
        frames, name_of(group), pixels.reference, group.ra, group.dec, sides,
        north_up=pixels.north_up, variance=pixels.variance, mask=pixels.mask, beside=beside,
    )  # fmt: skip
    waits = np.zeros(len(group), bool)
    if failed is not None:
        margin = ROW_MARGIN if len(spec.bands) > 1 else 0
        for row in range(len(group)):
            one = slice(row, row + 1)
            waits[row] = cuts.inside[row] and bool(
                reaches_over(
                    reference, group.ra[one], group.dec[one], sides[one], margin, pixels.north_up
                )
            )
    own = [frame.sha256 for frame in frames.values()]
    for row in range(len(group)):
        if waits[row]:
            assert failed is not None
            bands = tuple((int(Status.FAILED), sha, failed.reason, None) for sha in own)
            reason = f"the neighbouring field: {failed.reason}"
            yield Fetched(Status.FAILED, reason, bands=bands)
            continue
        if not cuts.inside[row]:
            reason = "the position is not on the frame"
            bands = tuple((int(Status.OFF_FRAME), sha, None, None) for sha in own)
            yield Fetched(Status.OFF_FRAME, reason, _together(own), bands=bands)
            continue
        yield _fetched(spec, group[row], cuts, row, frames, beside, psf)


def _fetched(
    spec: Sdss | Sky,
    target: Target,
    cuts: FieldCuts,
    row: int,
    frames: Mapping[str, Frame],
    beside: Mapping[FieldName, Mapping[str, Frame]],
    psf: PsField | BadImageError | None,
) -> Fetched:
    """One object's cutout, with what belongs to it."""
    assert isinstance(spec.pixels, Frames)
    image = cuts.images[row]
    variance = cuts.variance[row] if cuts.variance else None
    noise = float(cuts.noise[row])
    if target.extinction:
        undone = factors(target.extinction)
        image = (image * undone[:, None, None]).astype(np.float32)
        noise *= float(undone[spec.bands.index(spec.pixels.reference)])
        if variance is not None:
            variance = (variance * undone[:, None, None] ** 2).astype(np.float32)
    bands, files = [], [frame.sha256 for frame in frames.values()]
    files += [frame.mask_sha256 for frame in frames.values() if frame.mask_sha256]
    for plane, band in enumerate(spec.bands):
        told = []
        for name in cuts.beside.get((row, plane), []):
            other = beside[name][band]
            told.append(f"{frame_path(spec, name, band)} {other.sha256}")
            files += [one for one in (other.sha256, other.mask_sha256) if one]
        sha256 = frames[band].sha256
        bands.append((int(_ended(image[plane])), sha256, None, " ".join(told) or None))
    extra = Status(0)
    point: NDArray[np.float32] | None = None
    why = "; ".join(frame.unmasked for frame in frames.values() if frame.unmasked) or None
    if isinstance(psf, PsField):
        try:
            point = _psf_at(spec, target, psf, cuts.wcs[row], frames[spec.pixels.reference])
            files.append(psf.sha256)
        except BadImageError as error:
            extra, why = Status.NO_PSF, _both(error.reason, why)
    elif psf is not None:
        extra, why = Status.NO_PSF, _both(f"psField: {psf.reason}", why)
    return Fetched(
        Status.OK | extra, why, _together(files), image, pixel_scale(cuts.wcs[row]), noise,
        cuts.wcs[row], variance, point, tuple(bands), cuts.masks[row] if cuts.masks else None,
    )  # fmt: skip


def _both(one: str, other: str | None) -> str:
    return one if other is None else f"{one}; {other}"


def _psf_at(
    spec: Sdss | Sky, target: Target, psf: PsField, wcs: Doubles, reference: Frame
) -> NDArray[np.float32]:
    """The point-spread function of each band at an object, (band, y, x), as its cutout shows it."""
    assert isinstance(spec.pixels, Frames)
    x, y = (
        float(one[0])
        for one in to_pixels(reference.wcs, np.array([target.ra]), np.array([target.dec]))
    )
    found = np.stack([psf.bands[band].at(x, y) for band in spec.bands])
    if not spec.pixels.north_up:
        return found
    middle = np.full(1, (target.side - 1) / 2)
    _, matrix = local_map(wcs[:, None], reference.wcs, middle, middle, np.full(1, 10.0))
    centre = np.full(2, (found.shape[-1] - 1) / 2)
    turned = [resample(plane, centre, matrix[0], found.shape[-1]) for plane in found]
    return np.nan_to_num(np.stack(turned))


def _ended(plane: NDArray[Any]) -> Status:
    """How an object ended in one band, by its pixels there."""
    low, high = plane.min(), plane.max()
    if np.isfinite(low) and np.isfinite(high):  # a single undefined pixel would be seen here
        return Status.BLANK if low == high else Status.OK
    defined = np.isfinite(plane)
    if not defined.any():
        return Status.OFF_FRAME
    if np.nanmin(plane) == np.nanmax(plane):
        return Status.BLANK
    return Status.OK if defined.all() else Status.OK | Status.EDGE


def _of_bands(
    spec: Sdss | Sky, frames: Mapping[str, Frame], troubles: Mapping[str, BadImageError]
) -> tuple[Told, ...]:
    """How the bands of a field ended whose objects cannot be cut: a whole frame is OK."""
    told: list[Told] = []
    for band in spec.bands:
        if band in troubles:
            error = troubles[band]
            absent = error.status == Status.NO_COVERAGE and len(troubles) < len(spec.bands)
            status = Status.MISSING_BAND if absent else error.status
            told.append((int(status), None, error.reason, None))
        else:
            told.append((int(Status.OK), frames[band].sha256, None, None))
    return tuple(told)


def _together(digests: Sequence[str]) -> str:
    """One checksum of the files that pixels come from, in their order."""
    return hashlib.sha256(bytes.fromhex("".join(digests))).hexdigest()


def _verdict(spec: Sdss | Sky, troubles: dict[str, BadImageError]) -> tuple[Status, str]:
    """What the troubles of a field's bands come to: what may pass on a retry goes first."""
    for status in (
        Status.FAILED, Status.CORRUPT, Status.BLANK, Status.OFF_FRAME, Status.NO_COVERAGE
    ):  # fmt: skip
        bands = [band for band, error in troubles.items() if error.status == status]
        if bands:
            break
    reason = f"{', '.join(bands)}: {troubles[bands[0]].reason}"
    if status == Status.NO_COVERAGE and len(bands) < len(spec.bands):
        status = Status.MISSING_BAND
    return status, reason
