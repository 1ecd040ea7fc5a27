"""The GalSim RealGalaxy format (Rowe et al. 2015): stamps and PSFs as HDUs, named by a catalogue.

A catalogue is known by its columns IDENT, GAL_FILENAME and GAL_HDU, whatever its name; every one
that is found is taken.  Tables beside it that have IDENT too (fits and selections) are joined.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.io import fits

from galpipe.archives.fits_images import header_of, image_of
from galpipe.archives.hdus import refuse_endless
from galpipe.archives.images import Header, Image
from galpipe.archives.members import member_key, read_head, read_kept
from galpipe.archives.trouble import BadImageError, corrupt
from galpipe.errors import InputError
from galpipe.sample.table import IMAGE_REFERENCE, read_table, table_format
from galpipe.status import Status

NEEDED = ("IDENT", "GAL_FILENAME", "GAL_HDU")
CATALOGUE = "catalogue"  # the column made: which catalogue of the source a row comes from
SAME_PLACE = 1.0 / 3600  # degrees: one galaxy in two catalogues
BLOCK = 2880  # bytes of a FITS record


@dataclass(frozen=True)
class Stamp:
    """One galaxy: its HDU, its PSF's (None: no such file), and what is known of it."""

    member: str
    hdu: int
    psf_member: str | None
    psf_hdu: int
    noise: float  # sigma of the background in the image's units, NaN unknown
    pixel_scale: float  # arcsec per pixel, NaN unknown


@dataclass(frozen=True)
class RealGalaxies:
    """What an archive in this format holds: the table, and each row's stamp by its reference."""

    table: pa.Table
    stamps: Mapping[str, Stamp]


def read_catalogues(root: str, names: Sequence[str]) -> RealGalaxies:
    """Every catalogue among the files `names`, joined by IDENT with the tables beside it.

    Columns that differ only in case are one (`zphot` is ZPHOT).  Where two catalogues hold the same
    galaxy (IDENT, and the same place), the row with a PSF stays, then that of the first catalogue.
    Raises InputError where there is no catalogue.
    """
    tables = {name: found for name in names if (found := _table(root, name)) is not None}
    catalogues = sorted(name for name, t in tables.items() if set(NEEDED) <= set(t.column_names))
    if not catalogues:
        raise InputError(
            f"archive.path: {root} holds no RealGalaxy catalogue (a FITS table with the columns "
            f"{', '.join(NEEDED)}); mend archive.layout or the path."
        )
    rows: dict[Any, tuple[dict[str, Any], Stamp]] = {}
    extra: list[tuple[dict[str, Any], Stamp]] = []
    for catalogue in catalogues:
        beside = [
            table
            for name, table in sorted(tables.items())
            if name not in catalogues
            and _folder(name) == _folder(catalogue)
            and "IDENT" in table.column_names
        ]
        for row in _joined(tables[catalogue], beside):
            row[CATALOGUE] = catalogue
            stamp = _stamp(row, _folder(catalogue), names)
            row[IMAGE_REFERENCE] = f"{stamp.member}#{stamp.hdu}"
            before = rows.get(row["IDENT"])
            if before is None:
                rows[row["IDENT"]] = (row, stamp)
            elif not _same_place(before[0], row):
                extra.append((row, stamp))  # told as a repeated identifier by the sample
            elif before[1].psf_member is None and stamp.psf_member is not None:
                rows[row["IDENT"]] = (row, stamp)
    kept = [*rows.values(), *extra]
    return RealGalaxies(
        _as_table([row for row, _ in kept]), {row[IMAGE_REFERENCE]: stamp for row, stamp in kept}
    )


def _table(root: str, name: str) -> pa.Table | None:
    """A FITS table with identifiers; None for all other files."""
    if table_format(name) != "fits":
        return None
    if not is_table(root, name):
        return None
    try:
        table = read_table(read_kept(root, name), name)
    except InputError:
        return None
    return table if "IDENT" in table.column_names else None


def is_table(root: str, name: str) -> bool:
    """Whether a FITS file is a table: no image in its primary HDU, and a table in the next."""
    try:
        head = read_head(root, name, 20 * BLOCK)
        if head.startswith(b"\x1f\x8b"):
            head = zlib.decompressobj(wbits=31).decompress(head, 20 * BLOCK)
    except (BadImageError, zlib.error):
        return False
    return (
        head.startswith(b"SIMPLE  =") and b"XTENSION= 'BINTABLE'" in head and b"ZIMAGE" not in head
    )


def _joined(table: pa.Table, beside: Sequence[pa.Table]) -> list[dict[str, Any]]:
    """Rows of a catalogue with the columns of the tables beside it, by IDENT."""
    others = [{row["IDENT"]: row for row in other.to_pylist()} for other in beside]
    joined = []
    for row in table.to_pylist():
        for other in others:
            for name, value in other.get(row["IDENT"], {}).items():
                row.setdefault(name, value)
        joined.append(row)
    return joined


def _stamp(row: Mapping[str, Any], folder: str, names: Sequence[str]) -> Stamp:
    """Where the pixels of a row lie."""
    psf = _find(str(row.get("PSF_FILENAME") or ""), folder, names)
    variance = row.get("NOISE_VARIANCE")
    scale = row.get("PIXEL_SCALE")
    name = str(row["GAL_FILENAME"] or "")
    return Stamp(
        _find(name, folder, names) or f"{folder}{name}",
        int(row["GAL_HDU"] if row["GAL_HDU"] is not None else -1),
        psf if row.get("PSF_HDU") is not None else None,
        int(row.get("PSF_HDU") or 0),
        float(np.sqrt(variance)) if variance is not None and variance > 0 else float("nan"),
        float(scale) if scale is not None and scale > 0 else float("nan"),
    )


def _find(name: str, folder: str, names: Sequence[str]) -> str | None:
    """A file named by a catalogue: beside it, or the only one of this name anywhere."""
    if not name:
        return None
    beside = f"{folder}{name}"
    if beside in _set_of(tuple(names)):
        return beside
    anywhere = [n for n in names if n.rsplit("/", 1)[-1] == name.rsplit("/", 1)[-1]]
    return anywhere[0] if len(anywhere) == 1 else None


@lru_cache(maxsize=2)
def _set_of(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(names)


def _folder(name: str) -> str:
    return name.rpartition("/")[0] + "/" if "/" in name else ""


def _same_place(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    places = [(row.get("RA"), row.get("DEC")) for row in (one, other)]
    (ra, dec), (ra2, dec2) = places
    if ra is None or dec is None or ra2 is None or dec2 is None:
        return False
    east = (ra - ra2) * float(np.cos(np.deg2rad(dec)))
    return bool(np.hypot(east, dec - dec2) < SAME_PLACE)


def _as_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows of several catalogues as one table; columns that differ only in case are one."""
    spellings: dict[str, set[str]] = {}
    for row in rows:
        for name in row:
            spellings.setdefault(name.lower(), set()).add(name)
    columns = {}
    for lower, names in spellings.items():
        name = "ZPHOT" if lower == "zphot" else min(names)
        values = [
            next((row[n] for n in sorted(names) if row.get(n) is not None), None) for row in rows
        ]
        if any(isinstance(v, float) for v in values):
            values = [float(v) if isinstance(v, int) else v for v in values]
        columns[name] = pa.array(values)
    return pa.table(columns)


def hdu_bytes(root: str, member: str, number: int) -> bytes:
    """The bytes (header and data) of one HDU; raises BadImageError where it is not there."""
    content = read_kept(root, member)
    try:
        spans = _spans(root, member, member_key(root, member))
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # astropy raises whatever its parsers meet in damaged bytes
        raise corrupt(error) from None
    if not 0 <= number < len(spans):
        raise BadImageError(
            Status.CORRUPT, f"the file has {len(spans)} HDUs, none of number {number}"
        )
    start, stop = spans[number]
    return content[start:stop]


@lru_cache(maxsize=8)
def _spans(root: str, member: str, key: tuple[int, int, int]) -> tuple[tuple[int, int], ...]:
    """First and last byte of every HDU of a file, in order."""
    content = read_kept(root, member)
    refuse_endless(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(io.BytesIO(content), memmap=False) as hdus:
            infos = [hdu.fileinfo() for hdu in hdus]
    return tuple((info["hdrLoc"], info["datLoc"] + info["datSpan"]) for info in infos)


def decode_hdu(content: bytes) -> Image:
    """The image of one HDU cut out of its file; raises BadImageError."""
    refuse_endless(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind = fits.PrimaryHDU if content.startswith(b"SIMPLE") else fits.ImageHDU
            return image_of(kind.fromstring(content))
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # as above
        raise corrupt(error) from None


def hdu_header(content: bytes) -> Header:
    """Size of the image of one HDU cut out of its file; raises BadImageError."""
    refuse_endless(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind = fits.PrimaryHDU if content.startswith(b"SIMPLE") else fits.ImageHDU
            return header_of(kind.fromstring(content))
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # as above
        raise corrupt(error) from None
