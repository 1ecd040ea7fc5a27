"""The archive `folder`: images in a directory or a zip, with the table that comes with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from galpipe.archives import hdf5, realgalaxy
from galpipe.archives.hdf5 import StackRow
from galpipe.archives.images import is_image, stem
from galpipe.archives.listing import Entry, is_stack, list_entries
from galpipe.archives.members import read_kept
from galpipe.archives.realgalaxy import RealGalaxies
from galpipe.archives.sources import ImageFile, Source, file_version
from galpipe.archives.spec import Folder
from galpipe.archives.trouble import BadImageError
from galpipe.errors import InputError
from galpipe.sample.table import read_table, table_format
from galpipe.status import Status

CLEAR_TABLES = ("csv", "parquet", "votable")  # files of these formats can only be tables
LOOKED_AT = 64  # rows of a table whose files are looked for, to tell it from other tables


@dataclass(frozen=True)
class Found:
    """Where an object's pixels lie, or why they do not; `version` None where it takes reading."""

    source: Source | None
    version: str | None = None
    status: int = 0  # bits of Status
    reason: str = ""


def open_folder(spec: Folder) -> FolderArchive:
    """Look into a directory, a zip or an HDF5 file; raises InputError where it is none of these."""
    archive = FolderArchive(spec)
    if not archive.entries:
        raise InputError(f"archive.path: {spec.path} is empty; mend the path in the survey.")
    return archive


class FolderArchive:
    """A directory or zip of images, by what it holds: never by the names of its files."""

    def __init__(self, spec: Folder) -> None:
        self.spec = spec
        self.entries: dict[str, Entry] = {entry.name: entry for entry in list_entries(spec.path)}

    # The table.

    def table(self, id: str | None = None) -> pa.Table:
        """The table that comes with the images; see `read_table` for its types.

        `id` is the column that identifies objects: kept as exact text, and telling tables apart.
        Where there are several tables, one is chosen by what it holds: the column `id`; then names
        of images of this archive; then the fewest folders above it.  Raises InputError where there
        is none, or where these do not settle it.
        """
        if self.spec.layout == "realgalaxy":
            return self._galaxies.table
        names = [name for name in self.entries if table_format(name) in CLEAR_TABLES]
        if not names and self._stack is not None:
            return hdf5.read_columns(self.spec.path, *self._stack)
        candidates = {name: self._read_table(name, id) for name in names}
        tables = {name: table for name, table in candidates.items() if isinstance(table, pa.Table)}
        if not tables:
            tables = self._fits_tables(id)
        if not tables:
            for trouble in candidates.values():
                if isinstance(trouble, InputError):
                    raise trouble
            raise InputError(
                f"archive.path: {self.spec.path} holds no table of objects (CSV, FITS, VOTable or "
                "Parquet); add one, or name one with sample.table."
            )
        ranked = sorted((self._rank(name, table, id), name) for name, table in tables.items())
        best = [name for rank, name in ranked if rank == ranked[0][0]]
        if len(best) > 1:
            raise InputError(
                f"archive.path: {self.spec.path} holds {len(best)} tables that could be the one of "
                f"the objects ({', '.join(best[:4])}); name one with sample.table."
            )
        return tables[best[0]]

    def _read_table(self, name: str, id: str | None) -> pa.Table | InputError:
        try:
            return read_table(read_kept(self.spec.path, name), name, id)
        except BadImageError as error:
            return InputError(f"{name}: {error.reason}; fetch the archive again.")
        except InputError as error:
            return error

    def _fits_tables(self, id: str | None) -> dict[str, pa.Table]:
        """The FITS files that are tables; images are told apart by their first records."""
        tables = {}
        for name in self.entries:
            if table_format(name) == "fits" and realgalaxy.is_table(self.spec.path, name):
                table = self._read_table(name, id)
                if isinstance(table, pa.Table):
                    tables[name] = table
        return tables

    def _rank(self, name: str, table: pa.Table, id: str | None) -> tuple[int, int, int]:
        """The smaller, the more likely the table of the objects."""
        known = {column.lower() for column in table.column_names}
        lacks_id = int(id is not None and id.lower() not in known)
        images = any(
            isinstance(text, str) and self._image(text) is not None
            for column in table.slice(0, LOOKED_AT).columns
            if pa.types.is_string(column.type)
            for text in column.to_pylist()
        )
        return lacks_id, int(not images), name.count("/")

    # The images.

    @cached_property
    def _images(self) -> list[str]:
        return [name for name in self.entries if is_image(name)]

    @cached_property
    def _by_base(self) -> dict[str, list[str]]:
        bases = defaultdict(list)
        for name in self._images:
            bases[name.rsplit("/", 1)[-1]].append(name)
        return dict(bases)

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        stems = defaultdict(list)
        for name in self._images:
            stems[stem(name)].append(name)
        return dict(stems)

    @cached_property
    def _stack(self) -> tuple[str, str] | None:
        """The HDF5 file that holds the images, and its data set of them; None without one."""
        found = []
        for name in self.entries:
            if is_stack(name):
                dataset = hdf5.image_dataset(self.spec.path, name)
                if dataset is not None:
                    found.append((name, dataset))
        if len(found) > 1:
            raise InputError(
                f"archive.path: {self.spec.path} holds {len(found)} HDF5 files of images "
                f"({', '.join(name for name, _ in found[:4])}); give one, or its own path."
            )
        return found[0] if found else None

    @cached_property
    def _galaxies(self) -> RealGalaxies:
        return realgalaxy.read_catalogues(self.spec.path, list(self.entries))

    def _image(self, reference: str) -> str | None:
        """The image that a table names: its path, or the only one that ends so, or of its name."""
        reference = reference.removeprefix("./")
        if reference in self.entries:
            return reference
        alike = self._by_base.get(reference.rsplit("/", 1)[-1], [])
        ending = [name for name in alike if name.endswith(f"/{reference}")] or alike
        return ending[0] if len(ending) == 1 else None

    def locate(self, ids: Sequence[int | str], files: Sequence[str | None]) -> list[Found]:
        """Where the pixels of each object lie: by the table's reference, or by its id."""
        if self.spec.layout == "realgalaxy":
            return self._locate_stamps(ids, files)
        if self._stack is not None and all(
            realgalaxy.is_table(self.spec.path, name) for name in self._images
        ):
            return self._locate_rows(*self._stack, ids, files)
        named = any(file is not None for file in files)
        return [self._locate_file(id, file, named) for id, file in zip(ids, files, strict=True)]

    def _locate_file(self, id: int | str, file: str | None, named: bool) -> Found:
        if file is not None:
            name = self._image(file)
            if name is None:
                return _missing(f"no image {file} in the archive")
        elif named:
            return _missing("the table names no image")
        else:
            alike = self._by_stem.get(str(id), [])
            if len(alike) != 1:
                many = f"{len(alike)} images named {id}, where one is needed"
                return _missing(many if alike else f"no image named {id} in the archive")
            name = alike[0]
        entry = self.entries[name]
        version = file_version(entry.crc, entry.size) if entry.crc is not None else None
        return Found(ImageFile(name), version)

    def _locate_stamps(self, ids: Sequence[int | str], files: Sequence[str | None]) -> list[Found]:
        stamps = self._galaxies.stamps
        references = {}
        if any(file is None for file in files):
            table = self._galaxies.table
            known = (str(ident) for ident in table["IDENT"].to_pylist())
            references = dict(zip(known, stamps, strict=True))
        found = []
        for id, file in zip(ids, files, strict=True):
            stamp = stamps.get(file if file is not None else references.get(str(id), ""))
            if stamp is None:
                found.append(_missing(f"no catalogue of the archive has {file or id}"))
            elif stamp.member not in self.entries:
                found.append(_missing(f"no file {stamp.member} in the archive"))
            else:
                found.append(Found(stamp))
        return found

    def _locate_rows(
        self, member: str, dataset: str, ids: Sequence[int | str], files: Sequence[str | None]
    ) -> list[Found]:
        rows: dict[str, int] = {}
        if all(file is None for file in files):
            own = hdf5.read_columns(self.spec.path, member, dataset)
            wanted = {str(id) for id in ids}
            for name in own.column_names:
                values = [str(value) for value in own[name].to_pylist()]
                if wanted <= set(values):
                    rows = {value: row for row, value in enumerate(values)}
                    break
        found = []
        for id, file in zip(ids, files, strict=True):
            number = str(rows.get(str(id), "")) if file is None else file.rpartition("#")[2]
            if number.isdecimal():
                found.append(Found(StackRow(member, dataset, int(number))))
            else:
                found.append(_missing(f"no row of {member} for {file or id}"))
        return found


def _missing(reason: str) -> Found:
    return Found(None, None, int(Status.MISSING_FILE), reason)
