"""Cutana's side of `benchmarks.cutana`: FOLDER OUT BANDS (whole | work), in Cutana's environment.

Settings that let it go fast: no catalogue validation, no wait for the first worker's memory, logs
of errors alone, no stretch, no flux conversion, no resampling.  It keeps one core of the machine
free, and would start one worker on two cores: here it believes in one more.  whole: its
orchestrator.  work: the batch function of its workers, in two processes that are there already,
half of the tiles each.  Prints one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

SIDE = 63
NAMES = {"g": "NIR-Y", "r": "VIS", "i": "NIR-H"}


def catalogue(folder: Path, bands: str) -> Any:
    """The catalogue as Cutana reads it."""
    table = pd.read_parquet(folder / "objects.parquet")

    def tiles(row: Any) -> str:
        name = f"tile_{row.run:06d}_{row.camcol}_{row.field:04d}"
        return json.dumps([str(folder / "named" / f"{name}_{NAMES[band]}.fits") for band in bands])

    return pd.DataFrame(
        {
            "SourceID": [f"s{id}" for id in table.objID],
            "RA": table.ra,
            "Dec": table.dec,
            "diameter_pixel": SIDE,
            "fits_file_paths": [tiles(row) for row in table.itertuples()],
        }
    )


def configured(out: Path, bands: str, objects: int) -> Any:
    from cutana import get_default_config

    config = get_default_config()
    config.source_catalogue, config.output_dir = str(out / "catalogue.csv"), str(out / "stamps")
    config.output_format, config.data_type = "zarr", "float32"
    config.target_resolution, config.normalisation_method = SIDE, "none"
    config.apply_flux_conversion, config.skip_catalogue_validation = False, True
    config.selected_extensions = [{"name": NAMES[band], "ext": "PRIMARY"} for band in bands]
    config.channel_weights = {NAMES[band]: [float(one == band) for one in bands] for band in bands}
    config.max_workers = config.loadbalancer.initial_workers = 2
    config.loadbalancer.skip_memory_calibration_wait = True
    config.loadbalancer.max_sources_per_process = -(-objects // 2)
    config.log_level = config.console_log_level = "ERROR"
    return config


def work(number: int, rows: Any, config: Any, barrier: Any, told: Any) -> None:
    """One worker: its rows, from when both are ready."""
    from cutana.cutout_process import create_cutouts_batch
    from cutana.job_tracker import JobTracker
    from loguru import logger

    logger.remove()
    config.process_id = f"cutout_process_{number:03d}_benchmark"
    config.batch_index = str(number)
    with tempfile.TemporaryDirectory() as place:
        tracker = JobTracker(progress_dir=place, session_id="benchmark")
        tracker.register_process(config.process_id, len(rows))
        barrier.wait()
        begin, processor = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(sys.stderr):
            create_cutouts_batch(rows, config, tracker)
        processor = time.process_time() - processor
        barrier.wait()
        seconds = time.perf_counter() - begin
    told.put((seconds, processor, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10))


def workers(table: Any, config: Any) -> tuple[float, float, float]:
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(2), context.Queue()
    sets = sorted(table.fits_file_paths.unique())
    started = []
    for number in range(2):
        own = table[table.fits_file_paths.isin(sets[number::2])].to_dict("records")
        process = context.Process(target=work, args=(number, own, config, barrier, told))
        process.start()
        started.append(process)
    found = [told.get() for _ in started]
    for process in started:
        process.join()
    seconds, processors, peaks = zip(*found, strict=True)
    return max(seconds), sum(processors), max(peaks)


def main(folder: Path, out: Path, bands: str, mode: str) -> None:
    from cutana import Orchestrator

    out.mkdir(parents=True)
    table = catalogue(folder, bands)
    config = configured(out, bands, len(table))
    if mode == "whole":
        table.to_csv(out / "catalogue.csv", index=False)
        begin = time.perf_counter()
        orchestrator = Orchestrator(config)
        monitor = orchestrator.load_balancer.system_monitor
        cores = max(monitor.get_cpu_count(), 3)
        monitor.get_cpu_count = lambda: cores
        status = orchestrator.run()
        assert status["status"] == "completed", status
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = time.perf_counter() - begin
        processor, peak = children.ru_utime + children.ru_stime, children.ru_maxrss / 2**10
    else:
        seconds, processor, peak = workers(table, config)
    objects = sum(len(pd.read_parquet(one)) for one in out.glob("stamps/*/images_metadata.parquet"))
    print(json.dumps({
        "seconds": seconds, "processor": processor, "peak": peak, "objects": objects
    }))  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
