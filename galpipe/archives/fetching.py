"""Fetch and write the cutouts of some shards of a part.  Runs in any process.

Frames: a task's fields are taken one after the other; the next ones are fetched and decoded by
threads meanwhile, and a frame is dropped once its field is cut, so that memory does not grow.
Colour images: a shard at a time, by threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from galpipe.archives.download import Downloader
from galpipe.archives.fieldwork import FetchWork
from galpipe.archives.filling import Fetched, ShardStore
from galpipe.archives.pace import pace_of
from galpipe.archives.spec import Frames
from galpipe.stamps.parts import Part

MOST_DECODING = 8  # threads that decode at once


def fetch_shards(work: FetchWork) -> int:
    """Fetch and write the shards of a task that are not there; returns how many objects they have.

    What is wrong with one object becomes its status and reason, kept in the shard's marker.
    """
    part = Part(work.part)
    start = part.rows(work.shards[0]).start
    missing = [shard for shard in work.shards if not part.marker(shard).exists()]
    done = 0
    writers = iter(missing)
    pixels = work.spec.pixels
    reference = work.spec.bands.index(pixels.reference) if isinstance(pixels, Frames) else 0
    with _rows(work, part, missing) as rows:
        for shard in writers:
            place = part.rows(shard)
            targets = work.targets[place.start - start : place.stop - start]
            store = ShardStore(part, targets, work.spec.bands, reference)
            for row in range(len(targets)):
                store.put(row, next(rows))
            store.write(part, shard)
            done += len(targets)
        next(rows, None)  # what is to be done once all is written
    return done


@contextmanager
def _rows(work: FetchWork, part: Part, missing: Sequence[int]) -> Iterator[Iterator[Fetched]]:
    """What is fetched for the rows of the missing shards, in order."""
    start = part.rows(work.shards[0]).start
    places = [
        np.arange(part.rows(shard).start - start, part.rows(shard).stop - start)
        for shard in missing
    ]
    targets = work.targets.take(np.concatenate(places))
    spec = work.spec
    if isinstance(spec.pixels, Frames):  # each brings libraries that the other does not need
        from galpipe.archives.fieldcuts import from_frames as fetched

        address, pace = spec.sas, None
    else:
        from galpipe.archives.colour import from_images as fetched

        address, pace = spec.skyserver, pace_of(spec)
    # The downloader holds to `connections`; the other threads decode what has come.
    pool = ThreadPoolExecutor(spec.connections + min(os.cpu_count() or 1, MOST_DECODING), "fetch")
    try:
        with Downloader(spec, address, pace) as downloader:
            yield fetched(work, targets, downloader, pool)
    finally:  # nothing is under way where all went well; an interrupted run does not wait
        pool.shutdown(wait=False, cancel_futures=True)
