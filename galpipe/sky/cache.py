"""Where drawn skies are kept: each is drawn once, whoever asks, and counts when it is whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from galpipe.errors import InputError
from galpipe.sky.spec import SkySpec
from galpipe.spec import digest, identity
from galpipe.stages import Progress
from galpipe.workspace import cache_folder

MANIFEST = "manifest.json"


def sky_folder(spec: SkySpec) -> Path:
    """Where the sky of this spec lies, or would lie."""
    return cache_folder() / "sky" / digest({"sky": identity(spec)})


def cached(spec: SkySpec, progress: Progress | None = None, processes: int | None = None) -> Path:
    """The folder of a whole sky, drawn first if it is not there yet.

    Two that ask for the same sky at once draw it once: the second waits.  A drawing that was
    killed counts for nothing; its fields are used by the next.  InputError where the cache
    cannot be written.
    """
    folder = sky_folder(spec)
    if (folder / MANIFEST).exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.with_suffix(".lock")):
            if not (folder / MANIFEST).exists():
                _draw(spec, folder, progress, processes)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise InputError(
            f"{cache_folder()} cannot hold the sky ({error.strerror}); "
            "give a folder that can be written in GALPIPE_CACHE."
        ) from None
    return folder


def _draw(spec: SkySpec, folder: Path, progress: Progress | None, processes: int | None) -> None:
    from galpipe.sky import drawing

    partial = folder.with_suffix(".part")
    drawing.draw(spec, partial, progress, processes)
    shutil.rmtree(partial / drawing.FIELDS)
    if folder.exists():  # without a manifest: something was deleted from it
        shutil.rmtree(folder)
    partial.replace(folder)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock that a killed process lets go of."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
