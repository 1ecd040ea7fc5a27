"""The bytes of an archive's files; every process opens the archive for itself."""

from __future__ import annotations

import errno
import os
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

from galpipe.archives.trouble import BadImageError
from galpipe.status import Status

LARGEST_FILE = 2**31  # bytes
DENSEST = 200  # times its size in a zip that a large file may have; images reach some 20
LARGE = 2**26  # bytes


def read_member(root: str, name: str) -> bytes:
    """All bytes of one file of a directory or zip, or of the single file that `root` is.

    Raises BadImageError where the file is gone or damaged; a full disk stays an OSError.
    """
    return _read(root, name, None)


def read_head(root: str, name: str, count: int) -> bytes:
    """The first bytes of a file; raises as `read_member`."""
    return _read(root, name, count)


def _read(root: str, name: str, count: int | None) -> bytes:
    try:
        archive = _zip_of(root, _identity(root))
        if archive is None:
            path = member_path(root, name)
            _refuse_large(path.stat().st_size, count)
            with path.open("rb") as file:
                return file.read(-1 if count is None else count)
        info = archive.getinfo(name)
        _refuse_large(info.file_size, count)
        if count is None and info.file_size > max(LARGE, DENSEST * info.compress_size):
            raise BadImageError(Status.CORRUPT, "a bomb: it unpacks to 200 times its size")
        with archive.open(info) as member:
            return member.read(-1 if count is None else count)
    except (FileNotFoundError, KeyError):
        raise BadImageError(Status.MISSING_FILE, f"{name} is not there") from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise BadImageError(Status.CORRUPT, f"unreadable ({error.strerror or error})") from None
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
        raise BadImageError(Status.CORRUPT, f"damaged in the zip ({error})") from None


def member_path(root: str, name: str) -> Path:
    """Where a file lies that is not in a zip."""
    return Path(root) / name if Path(root).is_dir() else Path(root)


def read_kept(root: str, name: str) -> bytes:
    """As `read_member`, with the last files kept: for files that hold many images."""
    return _kept(root, name, member_key(root, name))


def member_key(root: str, name: str) -> tuple[int, int, int]:
    """What changes when a file does (and between processes): a key for what is kept of it."""
    path = member_path(root, name)
    return _identity(str(path) if path.exists() else root)


@lru_cache(maxsize=2)
def _kept(root: str, name: str, key: tuple[int, int, int]) -> bytes:
    return read_member(root, name)


@lru_cache(maxsize=4)
def _zip_of(root: str, key: tuple[int, int, int]) -> zipfile.ZipFile | None:
    """The zip, opened; None where the archive is no zip.

    The process is in the key: a handle inherited by a fork shares its position with the parent.
    """
    return zipfile.ZipFile(root) if zipfile.is_zipfile(root) else None


def _identity(path: str) -> tuple[int, int, int]:
    facts = Path(path).stat()
    return os.getpid(), facts.st_mtime_ns, facts.st_size


def _refuse_large(size: int, count: int | None) -> None:
    if count is None and size > LARGEST_FILE:
        raise BadImageError(Status.CORRUPT, "the file is larger than 2 GiB")
