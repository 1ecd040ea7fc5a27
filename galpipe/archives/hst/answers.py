"""What the cutout services of MAST answer: a zip of FITS files, or JSON that says there is nothing.

No entry is written to disk, no path of one is believed, and nothing is unpacked without bound.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib

from galpipe.archives.hst.planes import Plane, planes_of
from galpipe.archives.trouble import BadImageError
from galpipe.status import Status

MOST_ENTRIES = 256
LARGEST_ENTRY = 64 * 2**20  # bytes, once unpacked
LARGEST_ZIP = 256 * 2**20  # bytes, all of it
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_answer(content: bytes) -> list[Plane] | None:
    """The images of an answer; None where it says that nothing covers the place.

    Raises BadImageError: CORRUPT where the answer is damaged or unsafe.
    """
    if content.lstrip()[:1] == b"{":
        _refuse_other(content)
        return None
    if not content.startswith(b"PK"):
        raise BadImageError(Status.CORRUPT, "neither a zip nor JSON")
    found: list[Plane] = []
    for name, entry in _entries(content):
        if name.lower().endswith((".fits", ".fit")):
            found += planes_of(entry, name)
    return found


def _refuse_other(content: bytes) -> None:
    """Refuse JSON that says anything else than that nothing covers the place."""
    try:
        said = json.loads(content)
        nothing = said["results"] == [] and "missing" in str(said["msg"]).lower()
    except (ValueError, KeyError, TypeError, RecursionError):
        nothing, said = False, {}
    if not nothing:
        text = " ".join(str(said.get("msg", "") if isinstance(said, dict) else "").split())[:120]
        raise BadImageError(Status.CORRUPT, f"JSON instead of a zip ({text or 'no message'})")


def _entries(content: bytes) -> list[tuple[str, bytes]]:
    """Names without folders, and bytes, of a zip's files."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            listed = archive.infolist()
            if len(listed) > MOST_ENTRIES:
                raise BadImageError(Status.CORRUPT, f"a zip of {len(listed)} files")
            for entry in listed:
                _check(entry)
            if sum(entry.file_size for entry in listed) > LARGEST_ZIP:
                raise BadImageError(Status.CORRUPT, "a zip that unpacks to more than 256 MiB")
            return [
                (entry.filename.rpartition("/")[2], _unpacked(archive, entry))
                for entry in listed
                if not entry.is_dir()
            ]
    except BadImageError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError,
            NotImplementedError) as error:  # fmt: skip
        text = " ".join(str(error).split())[:120]
        raise BadImageError(Status.CORRUPT, f"a damaged zip ({text})") from None


def _check(entry: zipfile.ZipInfo) -> None:
    """Refuse an entry that is no plain file of bounded size with a harmless name."""
    name = entry.orig_filename
    steps = name.replace("\\", "/").split("/")
    if ".." in steps or name.startswith(("/", "\\")) or "\\" in name or ":" in name:
        raise BadImageError(Status.CORRUPT, f"the zip names a file outside itself ({name[:80]!r})")
    if "\0" in name or not name.isprintable():
        raise BadImageError(Status.CORRUPT, "the zip names a file with unprintable characters")
    if entry.flag_bits & 1 or entry.compress_type not in METHODS:
        raise BadImageError(Status.CORRUPT, "an encrypted or oddly packed zip")
    if entry.file_size > LARGEST_ENTRY:
        raise BadImageError(Status.CORRUPT, f"a zip entry of {entry.file_size} bytes")


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of an entry, which must be as many as were announced; their CRC is checked."""
    with archive.open(entry) as file:
        content = file.read(entry.file_size + 1)
    if len(content) != entry.file_size:
        raise BadImageError(Status.CORRUPT, "a zip entry of another size than announced")
    return content
