"""What a retrieval will cost, told before it starts: requests, bytes and hours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from galpipe.archives.located import Targets
from galpipe.archives.spec import Frames, Sdss, Sky

if TYPE_CHECKING:
    from galpipe.archives.served import Task

FRAME_BYTES = 2.6e6  # of a frame as bz2; 2 to 3 MB are typical
PSFIELD_BYTES = 0.5e6
IMAGE_BYTES_PER_PIXEL = 0.15  # of a colour image as JPEG
CONNECTION_RATE = 1.5e6  # bytes per second that one connection is taken to bring
REQUEST_SECONDS = 0.3  # before the first byte of an answer


def estimate(spec: Sdss | Sky, targets: Targets, work: Sequence[Task]) -> str:
    """One line: how many requests, bytes and hours the waiting tasks of a part will take.

    From typical sizes, `connections` and `requests_per_minute`, for one worker process; more
    workers take less where the archive's pace allows.
    """
    rows = np.concatenate([np.arange(task.start, task.stop) for task in work])
    objects = len(rows)
    if isinstance(spec.pixels, Frames):
        fields = len(np.unique(targets.fields[rows], axis=0))
        requests, size = fields * len(spec.bands), fields * len(spec.bands) * FRAME_BYTES
        if spec.pixels.psf:
            requests, size = requests + fields, size + fields * PSFIELD_BYTES
        per_minute = spec.files_per_minute
    else:
        requests, per_minute = objects, spec.requests_per_minute
        size = objects * spec.pixels.side**2 * IMAGE_BYTES_PER_PIXEL
    seconds = (size / CONNECTION_RATE + requests * REQUEST_SECONDS) / spec.connections
    if per_minute is not None:
        seconds = max(seconds, 60 * requests / per_minute)
    return (
        f"retrieve: {objects:,} objects take about {requests:,} requests, {_bytes(size)} and "
        f"{_time(seconds)} from {'a typical archive' if spec.kind == 'sky' else 'the archive'} "
        "with one worker"
    )


def _bytes(size: float) -> str:
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 1000:
            return f"{size:.3g} {unit}"
    return f"{size / 1000:.3g} TB"


def _time(seconds: float) -> str:
    if seconds < 60:
        return "less than a minute"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:,.1f} hours"
