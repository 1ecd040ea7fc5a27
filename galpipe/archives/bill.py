"""What a retrieval will cost, told before it starts: requests, bytes and hours."""

from __future__ import annotations

from dataclasses import dataclass

from galpipe.archives.spec import Remote

CONNECTION_RATE = 1.5e6  # bytes per second that one connection is taken to bring
REQUEST_SECONDS = 0.3  # before the first byte of an answer
DOCUMENT_BYTES = 4e3  # of an answer that describes images, with one row
JPEG_BYTES_PER_PIXEL = 0.15  # of a colour image


@dataclass(frozen=True)
class Cost:
    """What the waiting objects of a part will take, from typical sizes."""

    objects: int
    requests: int
    size: float  # bytes
    per_minute: float | None = None  # requests, at most, of this machine; None: as many as can be

    def told(self, spec: Remote, simulated: bool = False) -> str:
        """One line: requests, bytes and hours for one worker process, by its `connections`.

        More workers take less where the archive's pace allows.  `simulated`: the sky that comes
        with galpipe, which is faster than the archives that it stands for.
        """
        seconds = (self.size / CONNECTION_RATE + self.requests * REQUEST_SECONDS) / spec.connections
        if self.per_minute is not None:
            seconds = max(seconds, 60 * self.requests / self.per_minute)
        return (
            f"retrieve: {self.objects:,} objects take about {self.requests:,} requests, "
            f"{_bytes(self.size)} and {_time(seconds)} from "
            f"{'a typical archive' if simulated else 'the archive'} with one worker"
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
