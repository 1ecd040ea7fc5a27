"""Where an object's pixels lie and how they are read: a file, a RealGalaxy HDU, an HDF5 row."""

from __future__ import annotations

import hashlib
import zlib
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.archives import hdf5, images, realgalaxy
from galpipe.archives.hdf5 import RowReader, StackRow
from galpipe.archives.images import Header, no_wcs
from galpipe.archives.members import read_member
from galpipe.archives.psf import psf_fwhm
from galpipe.archives.realgalaxy import Stamp
from galpipe.archives.spec import Folder
from galpipe.archives.trouble import BadImageError
from galpipe.status import Status


@dataclass(frozen=True)
class ImageFile:
    """An object's own image file."""

    member: str


Source = ImageFile | Stamp | StackRow


@dataclass(frozen=True)
class Cutout:
    """The pixels of an object and what its source says of them; units as in the layout of parts."""

    pixels: NDArray[Any]  # (band, y, x) uint8 or float32
    sha256: str
    pixel_scale: float
    wcs: NDArray[np.float64] = field(default_factory=no_wcs)
    noise: float = float("nan")
    psf: NDArray[np.float32] | None = None  # (y, x)
    psf_fwhm: float = float("nan")  # pixels


def describe(source: Source) -> str:
    """A source in words, for the ledger."""
    match source:
        case ImageFile(member):
            return member
        case Stamp():
            return f"{source.member}#{source.hdu}"
        case StackRow(member, _, row):
            return hdf5.reference(member, row)


def file_version(crc: int, size: int) -> str:
    """The identity of a file's bytes, the same in a zip and in a directory."""
    return f"crc32:{crc:08x}:{size}"


class Reader:
    """Reads sources of one archive; a context that keeps HDF5 files open while it lasts.

    All methods raise BadImageError where one source is of no use.
    """

    def __init__(self, spec: Folder) -> None:
        self.spec = spec
        self._open = ExitStack()
        self._stacks: dict[str, RowReader] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _stack(self, member: str) -> RowReader:
        if member not in self._stacks:
            opened = self._open.enter_context(hdf5.open_stack(self.spec.path, member))
            self._stacks[member] = RowReader(opened)
        return self._stacks[member]

    def version(self, source: Source) -> str:
        """The identity of the bytes behind a source: equal bytes, equal version."""
        match source:
            case ImageFile(member):
                content = read_member(self.spec.path, member)
                return file_version(zlib.crc32(content), len(content))
            case Stamp():
                image = realgalaxy.hdu_bytes(self.spec.path, source.member, source.hdu)
                psf = self._psf_bytes(source)
                facts = f"{source.noise!r}:{source.pixel_scale!r}".encode()
                crc = zlib.crc32(facts, zlib.crc32(psf, zlib.crc32(image)))
                return file_version(crc, len(image) + len(psf))
            case StackRow():
                values = self._stack(source.member).raw(source)
                crc = zlib.crc32(f"{values.dtype.str}{values.shape}".encode())
                return file_version(zlib.crc32(values.tobytes(), crc), values.nbytes)

    def header(self, source: Source) -> tuple[Header, int]:
        """Size and planes of the image, and the longer side of its PSF image (0: none)."""
        psf_side = 0
        match source:
            case ImageFile(member):
                header = images.read_header(read_member(self.spec.path, member), self.spec.hdu)
            case Stamp():
                content = realgalaxy.hdu_bytes(self.spec.path, source.member, source.hdu)
                header = realgalaxy.hdu_header(content)
                psf = self._psf_bytes(source)
                if psf:
                    shape = realgalaxy.hdu_header(psf)
                    psf_side = max(shape.ny, shape.nx)
            case StackRow():
                bands = len(self.spec.bands)
                header = hdf5.read_header(self._stack(source.member).file, source, bands)
        images.check_size(header)
        self._check_bands(header.planes)
        return header, psf_side

    def cutout(self, source: Source) -> Cutout:
        """The pixels of a source."""
        noise = given = width = float("nan")
        psf: NDArray[np.float32] | None = None
        match source:
            case ImageFile(member):
                content = read_member(self.spec.path, member)
                image = images.decode(content, self.spec.hdu)
            case Stamp():
                content = realgalaxy.hdu_bytes(self.spec.path, source.member, source.hdu)
                image = realgalaxy.decode_hdu(content)
                noise, given = source.noise, source.pixel_scale
                psf_content = self._psf_bytes(source)
                if psf_content:
                    psf = realgalaxy.decode_hdu(psf_content).pixels[0]
                    width = psf_fwhm(psf)
            case StackRow():
                values = self._stack(source.member).raw(source)
                content = values.tobytes()
                image = hdf5.decode(values, len(self.spec.bands))
        self._check_bands(len(image.pixels))
        if np.isnan(given):
            given = image.pixel_scale
        return Cutout(
            pixels=image.pixels,
            sha256=hashlib.sha256(content).hexdigest(),
            pixel_scale=self.spec.pixel_scale or given,
            wcs=image.wcs,
            noise=noise,
            psf=psf,
            psf_fwhm=width,
        )

    def _psf_bytes(self, source: Stamp) -> bytes:
        """The HDU of the PSF; empty where there is none, or none that can be read."""
        if source.psf_member is None:
            return b""
        try:
            content = realgalaxy.hdu_bytes(self.spec.path, source.psf_member, source.psf_hdu)
            realgalaxy.decode_hdu(content)
        except BadImageError:
            return b""
        return content

    def _check_bands(self, planes: int) -> None:
        bands = self.spec.bands
        if planes != len(bands):
            raise BadImageError(
                Status.MISSING_BAND,
                f"{planes} plane{'s' * (planes != 1)} where archive.bands names {len(bands)} "
                f"({', '.join(bands)})",
            )
