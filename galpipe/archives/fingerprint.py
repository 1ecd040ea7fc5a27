"""Has the source changed?  Answered without decoding anything, by the standard library alone."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from galpipe.archives.listing import Entry, list_entries
from galpipe.errors import InputError
from galpipe.spec import canonical

if TYPE_CHECKING:
    from galpipe.archives.spec import Archive, Folder
    from galpipe.sample.spec import Sample

READ_FILES = 20_000  # directories up to this many files and bytes are read through
READ_BYTES = 256 * 2**20

END = struct.Struct("<4s4H2IH")  # the last record of a zip (APPNOTE 6.3, section 4.3.16)
LOCATOR = struct.Struct("<4sIQI")  # section 4.3.15
END_64 = struct.Struct("<4sQ2H2I4Q")  # section 4.3.14
MEMBER = struct.Struct("<4s12x4s4x4s3H12x")  # one entry of its directory (section 4.3.12)


def source_fingerprint(spec: Archive, sample: Sample, release: str) -> str:
    """A digest of what a release's objects and pixels come from, decided without a network.

    An archive that answers queries is taken at its word for one release: the same query is asked
    anew for another `release`, and never twice for one.
    """
    if spec.kind == "folder":
        found = fingerprint(spec, sample.table)
        if sample.join is None:
            return found
        return hashlib.sha256(found.encode() + _table_digest(sample.join)).hexdigest()[:32]
    total = hashlib.sha256(canonical(spec).encode())
    if sample.table is not None:
        total.update(_table_digest(sample.table))
    else:
        cone = canonical(sample.cone) if sample.cone is not None else None
        total.update(canonical([sample.sql or sample.adql or cone, release]).encode())
    if sample.join is not None:
        total.update(_table_digest(sample.join))
    return total.hexdigest()[:32]


def fingerprint(spec: Folder, table: str | None) -> str:
    """A digest of a source, 32 hexadecimal characters: equal where nothing changed.

    `table` is the path of a table outside the archive, None where it comes with the images.  For a
    zip: names, sizes and checksums of the members.  For a directory: names, sizes and the bytes'
    checksums while it is small; otherwise the times of change instead, since an image made anew may
    keep its size (a copy of a large directory then counts as changed, which costs one look at each
    file and changes no output).  No path is in it.

    Raises InputError where the source or the table is not there.
    """
    total = hashlib.sha256()
    members = zip_members(spec.path)
    if members is not None:
        total.update(b"".join(members))
    else:
        entries = list_entries(spec.path)
        small = len(entries) <= READ_FILES and sum(entry.size for entry in entries) <= READ_BYTES
        for entry in entries:
            mark = _mark(Path(spec.path), entry, small)
            line = f"{entry.name}\0{entry.size}\0{mark}\n"
            total.update(line.encode("utf-8", "surrogateescape"))
    if table is None:
        total.update(spec.layout.encode())  # it decides which table is found
    else:
        total.update(_table_digest(table))
    return total.hexdigest()[:32]


def _table_digest(table: str) -> bytes:
    try:
        with Path(table).open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise InputError(
            f"sample.table: {table} cannot be read ({error.strerror}); mend the path."
        ) from None


def zip_members(path: str) -> list[bytes] | None:
    """Checksum, size and name of every member, sorted: the directory of a zip, read ten times
    faster than by `zipfile`.  None where it is no zip, or one of a kind that only `zipfile` reads
    (larger than 4 GiB with few members, in pieces, or with something before or after it).
    """
    if not Path(path).is_file():
        return None
    with Path(path).open("rb") as file:
        end = file.seek(0, 2) - END.size
        if end < 0:
            return None
        file.seek(end)
        mark, disk, first_disk, _, count, size, start, _ = END.unpack(file.read(END.size))
        if mark != b"PK\5\6" or disk or first_disk:
            return None
        if count == 0xFFFF and end >= LOCATOR.size:  # many members: the 64-bit record before it
            file.seek(end - LOCATOR.size)
            mark, _, end, _ = LOCATOR.unpack(file.read(LOCATOR.size))
            if mark != b"PK\6\7":
                return None
            file.seek(end)
            record = file.read(END_64.size)
            if len(record) < END_64.size:
                return None
            *_, count, size, start = END_64.unpack(record)
        if start + size != end:
            return None
        file.seek(start)
        directory = file.read(size)
    members, place = [], 0
    while place + MEMBER.size <= len(directory):
        mark, checksum, length, name, extra, comment = MEMBER.unpack_from(directory, place)
        if mark != b"PK\1\2":
            return None
        begin = place + MEMBER.size
        members.append(checksum + length + directory[begin : begin + name] + b"\0")
        place = begin + name + extra + comment
    return sorted(members) if len(members) == count else None


def _mark(root: Path, entry: Entry, small: bool) -> str:
    """What tells the content of one file from another of the same name and size."""
    if entry.crc is not None:
        return f"{entry.crc:08x}"
    if not small:
        return str(entry.modified)
    path = root / entry.name if root.is_dir() else root
    try:
        return f"{zlib.crc32(path.read_bytes()):08x}"
    except PermissionError:  # told as CORRUPT when the image is retrieved
        return str(entry.modified)
