"""What lies in a directory or a zip: names, sizes, checksums.  Standard library only."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from galpipe.errors import InputError

STACKS = (".h5", ".hdf5")  # one file that holds many images


@dataclass(frozen=True)
class Entry:
    """A file of an archive; `name` is relative to its root, with forward slashes."""

    name: str
    size: int  # bytes
    crc: int | None  # CRC-32 of the bytes; None in a directory, where it takes reading
    modified: int  # ns; 0 in a zip


def list_entries(path: str) -> list[Entry]:
    """The files of a directory, of a zip, or one HDF5 file by itself, in order of name.

    Hidden files and names that leave the root (`..`, absolute) are no part of an archive.
    Raises InputError where the path is none of these.
    """
    place = Path(path)
    if "$" in path and not place.exists():
        raise InputError(f"archive.path: {path} names a variable that is not set; set it first.")
    if place.is_dir():
        found = _directory(path)
    elif not place.exists():
        raise InputError(f"archive.path: {path} does not exist; mend the path in the survey.")
    elif is_stack(place.name):
        facts = place.stat()
        found = [Entry(place.name, facts.st_size, None, facts.st_mtime_ns)]
    else:
        found = _zip(path)
    return sorted(found, key=lambda entry: entry.name)


def is_stack(name: str) -> bool:
    """Whether a file's name is that of an HDF5 file."""
    return name.lower().endswith(STACKS)


def _directory(root: str) -> list[Entry]:
    found = []
    waiting = [("", root)]
    while waiting:
        prefix, folder = waiting.pop()
        try:
            scan = os.scandir(folder)
        except PermissionError as error:
            raise InputError(f"archive.path: {folder} cannot be read ({error.strerror}).") from None
        with scan:
            for item in scan:
                if item.name.startswith("."):
                    continue
                if item.is_dir(follow_symlinks=False):
                    waiting.append((f"{prefix}{item.name}/", item.path))
                elif item.is_file():
                    facts = item.stat()
                    found.append(
                        Entry(f"{prefix}{item.name}", facts.st_size, None, facts.st_mtime_ns)
                    )
    return found


def _zip(path: str) -> list[Entry]:
    try:
        with zipfile.ZipFile(path) as archive:
            # Of two members with one name the last is the one that a reader gets.
            members = {info.filename: info for info in archive.infolist()}
    except zipfile.BadZipFile:
        raise InputError(
            f"archive.path: {path} is neither a directory, a whole zip nor an HDF5 file; "
            "fetch it again or mend the path in the survey."
        ) from None
    except PermissionError as error:
        raise InputError(f"archive.path: {path} cannot be read ({error.strerror}).") from None
    return [
        Entry(name, info.file_size, info.CRC, 0)
        for name, info in members.items()
        if not info.is_dir() and _inside(name)
    ]


def _inside(name: str) -> bool:
    """Whether a zip member is a plain file below the root, and not a system's own."""
    parts = PurePosixPath(name).parts
    return not (
        name.startswith(("/", "\\", "__MACOSX/"))
        or "\0" in name
        or any(part.startswith(".") for part in parts)
    )
