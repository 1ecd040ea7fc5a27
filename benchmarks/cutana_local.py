"""The task of `retrieve` on frames of a folder, for `benchmarks.cutana_ours`.

A module of its own, so that a worker imports it once: what stands in the script itself would be
sent with every task, and made anew while another one runs.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from galpipe.archives import fetching, frames
from galpipe.archives.fieldwork import FetchWork
from galpipe.archives.trouble import BadImageError
from galpipe.status import Status

ADDRESS = "http://localhost/sas"


class Local:
    """A downloader that reads files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *_: object) -> None: ...

    def fetch(self, url: str, check: Callable[[bytes], Any]) -> Any:
        name = url.removeprefix(f"{ADDRESS}/")
        place = self.folder / name
        if name.endswith(".fit.gz"):
            place = self.folder.with_name("masks") / name
        elif self.folder.name == "tiles":
            place = place.with_suffix("")
        if not place.exists():
            raise BadImageError(Status.NO_COVERAGE, "the archive has no such file")
        return check(place.read_bytes())


def local(work: FetchWork, folder: Path) -> tuple[int, float, float]:
    """`fetch_shards` on files of a folder; objects, seconds of processor and peak MiB with it."""
    begin = time.process_time()
    fetching.Downloader = lambda *_: Local(folder)  # type: ignore[assignment,misc]
    if folder.name == "tiles":
        frames.unpacked = lambda content, most=0: content
    done = fetching.fetch_shards(work)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return done, time.process_time() - begin, peak
