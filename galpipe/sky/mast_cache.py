"""Where drawn fields of Hubble are kept: each is drawn once, and counts when it is whole."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from galpipe.sky.cache import MANIFEST
from galpipe.sky.mast_spec import FieldSpec
from galpipe.spec import digest, identity
from galpipe.workspace import cache_folder


def cached_field(spec: FieldSpec) -> Path:
    """The folder of a drawn field, drawn first where it is not there; two that ask draw it once."""
    folder = cache_folder() / "hst" / digest({"hst": identity(spec)})
    if (folder / MANIFEST).exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not (folder / MANIFEST).exists():
            from galpipe.sky.mast_field import draw_field

            partial = folder.with_suffix(".part")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)
            draw_field(spec, partial)
            partial.replace(folder)
    finally:
        os.close(descriptor)
    return folder
