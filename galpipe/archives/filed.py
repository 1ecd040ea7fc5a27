"""Retrieval of images in a folder, a zip or an HDF5 file: parts by kind of pixels and size.

An image counts as the same while the bytes behind it are the same (`version`), wherever they lie
and whatever their file is called.  One that is gone keeps the pixels an earlier release has.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe import spec as specs
from galpipe.archives.folder import Found, open_folder
from galpipe.archives.headers import look_at_headers, look_at_versions
from galpipe.archives.images import Header
from galpipe.archives.ledger import Ledger
from galpipe.archives.planning import bucket, part_layout
from galpipe.archives.provider import PlannedPart, Provider, Unfinished, Work
from galpipe.archives.realgalaxy import Stamp
from galpipe.archives.sources import Source, describe
from galpipe.archives.spec import Folder
from galpipe.archives.writing import ShardWork, write_shard
from galpipe.stages import Context
from galpipe.status import Status
from galpipe.workspace import address

VERSION = 1


@dataclass(frozen=True)
class NewCutout:
    """An object whose pixels are to be read, by its row in the catalogue."""

    row: int
    version: str
    source: Source
    header: Header
    psf_side: int  # 0: no PSF


@dataclass(frozen=True, eq=False)
class FiledPart(PlannedPart):
    """A part of images of one kind; `psf_side`: pixels on a side of its PSF images, 0: none."""

    psf_side: int
    sources: tuple[Source, ...]


class Filed(Provider[FiledPart]):
    """Images that need nobody to be asked."""

    version = VERSION
    mend = "mend sample.file, archive.bands or archive.path"

    def __init__(self, context: Context, spec: Folder, catalogue: pq.ParquetFile) -> None:
        """Raises InputError where the folder cannot be read."""
        table = catalogue.read(columns=["object_id", "ra", "dec", "file"])
        ids: list[int | str] = table["object_id"].to_pylist()
        found = look_at_versions(
            context, spec, open_folder(spec).locate(ids, table["file"].to_pylist())
        )
        self.spec: Folder = spec
        self._ids, self._found = ids, found
        self._ra, self._dec = (
            table[name].to_numpy(zero_copy_only=False) for name in ("ra", "dec")
        )  # fmt: skip
        # What the pixels are, wherever they lie: fits and figures rest on this, never on the parts.
        self.asked = specs.digest(
            [specs.identity(spec), ids, [one.version or one.reason for one in found]]
        )
        self.ledger = Ledger(
            table["object_id"].to_numpy(),
            pa.array([one.version for one in found], pa.string()),
            np.array([one.status for one in found], np.int32),
            {row: one.reason for row, one in enumerate(found) if one.reason},
            spec.bands,
            source=lambda row: _described(found[row]),
            url=lambda row, band: self.ledger.source(row),
            absent=np.array([_is_absent(one) for one in found]),
        )

    def plan(
        self, context: Context, rows: NDArray[np.int64], after: str | None
    ) -> list[FiledPart]:  # fmt: skip
        """Parts in order of pixel type, size and PSF; rows in catalogue order.

        A part is addressed by the archive's spec and its objects (id, version, position), so that
        it stays the same when the catalogue grows or the source is copied, packed or unpacked.
        """
        groups: dict[tuple[str, int, int], list[NewCutout]] = defaultdict(list)
        for one in self._new(context, rows.tolist()):
            side = bucket(max(one.header.ny, one.header.nx))
            psf = bucket(one.psf_side) if one.psf_side else 0
            groups[one.header.dtype, side, psf].append(one)
        return [
            self._part(*kind, sorted(members, key=_place))
            for kind, members in sorted(groups.items())
        ]

    def _new(self, context: Context, rows: Sequence[int]) -> Iterator[NewCutout]:
        """The objects to read; those with a bad header get their status at once."""
        looked = look_at_headers(context, self.spec, [self._found[row] for row in rows])
        for row, look in zip(rows, looked, strict=True):
            one = self._found[row]
            if look.header is None:
                self.ledger.settle(row, look.status, look.reason)
            elif one.source is not None and one.version is not None:
                yield NewCutout(row, one.version, one.source, look.header, look.psf_side)

    def _part(self, dtype: str, side: int, psf: int, members: Sequence[NewCutout]) -> FiledPart:
        rows, ra, dec = np.array([one.row for one in members]), self._ra, self._dec
        contents = [
            [self._ids[one.row], one.version, *map(_degrees, (ra[one.row], dec[one.row]))]
            for one in members
        ]
        store = [dtype, side, psf]
        ref = address("cutout-part", VERSION, self.spec, {"objects": contents, "store": store})
        layout = part_layout(self.spec, len(members), dtype, side, psf)
        attributes = {
            "bands": list(self.spec.bands),
            "unit": "as in the source",
            "rows": "y as in the file: down in JPEG and PNG, up in FITS",
            "rights": self.spec.rights,
        }
        sources = tuple(one.source for one in members)
        return FiledPart(ref, layout, rows, self.ledger.ids[rows], attributes, psf, sources)

    @contextlib.contextmanager
    def work(
        self, context: Context, unfinished: Sequence[Unfinished[FiledPart]]
    ) -> Iterator[Work]:  # fmt: skip
        """The shards that are not there; nothing is asked of anybody, so there is no bill."""
        yield Work(write_shard, self._shards(unfinished))

    def _shards(self, unfinished: Sequence[Unfinished[FiledPart]]) -> Iterator[ShardWork]:
        for one in unfinished:
            planned, image = one.planned, one.planned.layout.arrays[0]
            for shard in one.missing:
                span = one.part.rows(shard)
                rows = planned.rows[span]
                yield ShardWork(
                    spec=self.spec,
                    part=str(one.part.path),
                    shard=shard,
                    bucket=image.shape[-1],
                    dtype=str(image.dtype),
                    psf_side=planned.psf_side,
                    sources=planned.sources[span],
                    ra=tuple(self._ra[rows].tolist()),
                    dec=tuple(self._dec[rows].tolist()),
                )

    def content(self) -> str:
        """A digest of what the pixels of all objects are, known before any is read."""
        return self.asked


def _described(found: Found) -> str | None:
    return describe(found.source) if found.source is not None else None


def _is_absent(found: Found) -> bool:
    return found.version is None and bool(found.status & Status.MISSING_FILE)


def _place(cutout: NewCutout) -> tuple[str, int, int]:
    """Rows in catalogue order; stamps that share a file in its order, to read it once."""
    source = cutout.source
    if isinstance(source, Stamp):
        return source.member, source.hdu, cutout.row
    return "", 0, cutout.row


def _degrees(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
