"""Drawing a whole sky: field by field, on all cores, the same bytes in whatever order."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import connection
from pathlib import Path
from typing import Any

from galpipe.sky import frames, tables
from galpipe.sky.instrument import BANDS, survey_field
from galpipe.sky.population import fields_of, members
from galpipe.sky.scene import light_of
from galpipe.sky.spec import SkySpec
from galpipe.spec import identity
from galpipe.stages import Progress, Silent
from galpipe.workspace import write_bytes, write_json

FORMAT = 1  # of the manifest
FIELDS = "fields"  # what is kept of fields drawn already, until the sky is whole


def draw(
    spec: SkySpec, folder: Path, progress: Progress | None = None, processes: int | None = None
) -> None:
    """Draw the sky into a folder; the manifest, written last, says that it is whole.

    Fields that an earlier, interrupted drawing of the same sky left there are kept.  processes:
    as many as there are cores where None; 1 draws in this process.
    """
    progress = progress or Silent()
    begin = time.monotonic()
    (folder / FIELDS).mkdir(parents=True, exist_ok=True)
    count = fields_of(spec)
    todo = [index for index in range(count) if not _record(folder, index).exists()]
    bands = len(BANDS)
    progress.start("sky", bands * count, "frames", bands * (count - len(todo)))
    if (processes or os.cpu_count() or 1) == 1:
        for index in todo:
            draw_field(spec, folder, index)
            progress.advance(bands)
    else:
        _draw_together(spec, folder, todo, progress, processes)
    progress.finish()
    rows = [row for index in range(count) for row in json.loads(_record(folder, index).read_text())]
    tables.write(folder / "tables", rows)
    write_json(
        folder / "manifest.json",
        {
            "format": FORMAT,
            "spec": identity(spec),
            "frames": bands * count,
            "galaxies": spec.galaxies,
            "objects": len(rows),
            "seconds": round(time.monotonic() - begin, 1),
        },
    )


def _draw_together(
    spec: SkySpec, folder: Path, todo: list[int], progress: Progress, processes: int | None
) -> None:
    workers = min(processes or os.cpu_count() or 1, max(len(todo), 1))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        drawn = [pool.submit(draw_field, spec, folder, index) for index in todo]
        try:
            for field in as_completed(drawn):
                field.result()
                progress.advance(len(BANDS))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """A worker whose parent is gone ends at once, whatever ended the parent."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel

        def watch() -> None:
            connection.wait([sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def draw_field(spec: SkySpec, folder: Path, index: int) -> None:
    """Draw one field's frames, and last the record of its objects, which commits them."""
    field = survey_field(spec.seed, index)
    inhabitants = members(spec, field)
    light, seen = light_of(field, inhabitants, spec.seed)
    for band in BANDS:
        path = folder / "sas" / frames.name_of(field, band)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, frames.frame(light[band], field, band, spec.seed))
    rows: list[dict[str, Any]] = [
        tables.rows_of(member, what, field) for member, what in zip(inhabitants, seen, strict=True)
    ]
    write_bytes(_record(folder, index), json.dumps(rows).encode())


def _record(folder: Path, index: int) -> Path:
    return folder / FIELDS / f"{index:05d}.json"
