"""galpipe's side of `benchmarks.cutana`: FOLDER OUT BANDS (whole | work) (tiles | packed).

The stage `retrieve` as it is, variance and mask included, but that a frame is read from a folder in
place of a download, and that `tiles` are not unpacked, since they are not packed.  whole: two Dask
workers, as a run starts them.  work: two workers that are there already, from the first task to the
last.
Prints one JSON object.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from flows.dask_map import DaskMap


class Timed:
    """A map over two workers, and what it took: seconds, of processor, MiB of the larger worker."""

    def __init__(self, folder: Path, spread: Callable[..., Iterable[Any]]) -> None:
        self.folder, self.spread = folder, spread
        self.seconds = self.processor = self.peak = 0.0

    def __call__(self, _: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        from benchmarks.cutana_local import local

        todo = list(items)
        begin = time.perf_counter()
        for done, processor, peak in self.spread(
            functools.partial(local, folder=self.folder), todo
        ):
            self.processor += processor
            self.peak = max(self.peak, peak)
            yield done
        self.seconds = time.perf_counter() - begin


def run(folder: Path, out: Path, bands: tuple[str, ...], timed: Timed) -> int:
    """Sample and retrieve every object; returns how many have a cutout.

    What it takes is imported here, while another process imports what the workers need.
    """
    import pyarrow.parquet as pq

    from benchmarks.cutana_local import ADDRESS
    from benchmarks.cutana_tiles import SIDE
    from galpipe.archives.retrieve import retrieve
    from galpipe.archives.spec import FixedSize, Frames, Sdss
    from galpipe.sample.catalogue import sample
    from galpipe.sample.spec import Sample
    from galpipe.stages import Context
    from galpipe.stamps.parts import Part
    from galpipe.workspace import Workspace

    half = (SIDE // 2 - 0.1) * 0.396 / 2**0.5  # arcsec; a cutout reaches sqrt(2) further
    spec = Sdss(
        bands=bands, sas=ADDRESS, skyserver=ADDRESS, requests_per_minute=None,
        pixels=Frames(size=FixedSize(half=half), variance=True, mask=True),
    )  # fmt: skip
    context = Context(Workspace.open(out), map=timed)
    rows = pq.ParquetFile(folder / "objects.parquet").read(columns=["objID", "ra", "dec"])
    made = Sample(id="objID", id_type="int64", ra="ra", dec="dec")
    ref = retrieve(context, spec, sample(context, made, lambda: rows, "benchmark", None), None)
    manifest = context.workspace.manifest(ref)
    assert manifest is not None
    (place,) = out.glob(f"store/cutout-part/{manifest['parts'][0]}")
    assert Part(place).array("image").shape[1:] == (len(bands), SIDE, SIDE)
    return sum(n for status, n in manifest["by_status"].items() if status.startswith("OK"))


def ready(_: int) -> None:
    """Import what the work takes, and keep a worker for a moment, so that each of two gets one."""
    for name in ("galpipe.archives.fieldcuts", "scipy.ndimage"):
        importlib.import_module(name)
    time.sleep(2.0)


def main() -> None:
    """Started by `python -c`, so that the workers are not made to import this file again."""
    folder, out = (Path(one) for one in sys.argv[1:3])
    bands, mode, form = tuple(sys.argv[3]), *sys.argv[4:]
    if mode == "whole":
        dask = DaskMap(2)
        dask.begin()
        timed = Timed(folder / form, dask)
        objects = run(folder, out, bands, timed)
        dask.close()
    else:
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            pool.map(ready, range(2), chunksize=1)
            timed = Timed(folder / form, pool.imap_unordered)
            objects = run(folder, out, bands, timed)
    print(json.dumps({
        "seconds": timed.seconds, "processor": timed.processor, "peak": timed.peak,
        "objects": objects,
    }))  # fmt: skip
    gc.freeze()  # as galpipe's command does when it ends
