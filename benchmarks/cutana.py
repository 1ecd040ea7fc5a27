"""Tiles to stamps beside ESA's Cutana.

    python -m benchmarks.cutana --cutana-python ENVIRONMENT/bin/python [--galaxies N] [--repeats N]

The same tiles (frames of the simulated sky as plain FITS on this disk), the same catalogue, the
same machine, two workers each, both to Zarr.  Cutana lives in an environment of its own
(`pip install cutana`).  galpipe keeps WCS, variance, mask, coverage and status of every object and
brings the other bands onto the pixels of r; Cutana keeps the pixels of each band where they lie.

Sides take turns, so that what else the machine does falls on both.  "work": two workers that are
there already.  "whole": from the start of the first process to the end of the last, as a script
runs either tool.  Seconds of processor are those of the workers in "work", of all processes of the
side in "whole".
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import zarr

from benchmarks.cutana_tiles import SIDE, prepare
from benchmarks.retrieval import spread
from galpipe.stamps.parts import Part

OURS = "from benchmarks.cutana_ours import main; main()"
ADOPT = 36  # PR_SET_CHILD_SUBREAPER: processes whose parent ends become children of this one
LINE = "{:34s} {:>26s} {:>26s} {:>22s}"


def measured(command: list[str], environment: dict[str, str] | None) -> dict[str, float]:
    """What one side says of itself, and the seconds of all its processes."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    with contextlib.suppress(ChildProcessError):  # those that the command left are ours by now
        while True:
            os.wait()
    whole, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}"
        )
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    processors = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**told, "whole": whole, "whole processor": processors}


def compare(folder: Path, python: str, bands: str, mode: str, form: str, repeats: int) -> None:
    """Both sides in turns, and a line of each figure."""
    told: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    theirs = str(Path(__file__).with_name("cutana_theirs.py"))
    for _ in range(repeats):
        for side, found in enumerate(told):
            out = folder / ("ours", "theirs")[side]
            shutil.rmtree(out, ignore_errors=True)
            common = [str(folder), str(out), bands, mode]
            if side == 0:
                command = [sys.executable, "-c", OURS, *common, form]
                found.append(measured(command, None))
            else:
                clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
                found.append(measured([python, "-P", theirs, *common], clean))
            print(("galpipe", "Cutana")[side], found[-1], file=sys.stderr, flush=True)
    print(f"\n{mode}, bands {bands}, galpipe from {form}; "
          f"objects {told[0][0]['objects']:.0f} and {told[1][0]['objects']:.0f}")  # fmt: skip
    print(LINE.format("", "galpipe", "Cutana", "ratio"))
    if len({one["objects"] for side in told for one in side}) > 1:
        raise SystemExit("not every run gave the same number of objects")
    key, used = ("whole", "whole processor") if mode == "whole" else ("seconds", "processor")
    for title, name in (("seconds", key), ("seconds of processor", used)):
        ours, others = ([one[name] for one in side] for side in told)
        ratios = [b / a for a, b in zip(ours, others, strict=True)]
        print(LINE.format(title, spread(ours), spread(others), spread(ratios)))
    rates = [[one["objects"] / one[key] for one in side] for side in told]
    print(LINE.format("objects/s", *(f"{np.median(one):.0f}" for one in rates), ""))
    peaks = [max(one["peak"] for one in side) for side in told]
    print(LINE.format("largest worker, MiB", *(f"{one:.0f}" for one in peaks), ""))


def agreeing(folder: Path) -> float:
    """The share of objects whose cutouts in r have the same pixels on both sides.

    Cutana takes the pixel below a position where galpipe takes the nearest one: a shift by one.
    """
    (place,) = (folder / "ours").glob("store/cutout-part/*")
    part = Part(place)
    ours = dict(zip(part.object_ids.tolist(), part.read("image")[:, 0], strict=True))
    same: list[bool] = []
    for metadata in (folder / "theirs").glob("stamps/*/images_metadata.parquet"):
        images: Any = zarr.open_group(metadata.parent / "images.zarr", mode="r")["images"]
        names = pd.Series(pq.read_table(metadata)["source_id"].to_pylist())
        for name, image in zip(names, np.asarray(images[:])[..., 0], strict=True):
            mine = ours[int(name.removeprefix("s"))]
            inner = image[1 : SIDE - 1, 1 : SIDE - 1]
            same.append(any(
                np.array_equal(mine[y : y + SIDE - 2, x : x + SIDE - 2], inner)
                for y in (0, 1, 2) for x in (0, 1, 2)
            ))  # fmt: skip
    return float(np.mean(same))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cutana-python", required=True, help="interpreter that has Cutana")
    parser.add_argument("--galaxies", type=int, default=2000, help="of the simulated sky")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--only", default="", help="some comparisons, as r:work:tiles,gri:whole:tiles"
    )
    parser.add_argument("--folder", type=Path, help="where the tiles stay for the next time")
    given = parser.parse_args()
    ctypes.CDLL(None).prctl(ADOPT, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as place:
        folder = given.folder.absolute() if given.folder else Path(place)
        objects = prepare(folder, given.galaxies)
        tiles = len(list((folder / "named").iterdir()))
        print(f"{tiles} tiles, {objects} objects, {SIDE} pixels; load {os.getloadavg()[0]:.1f}")
        for bands, mode, form in (
            ("r", "work", "tiles"), ("r", "whole", "tiles"), ("gri", "work", "tiles"),
            ("gri", "whole", "tiles"), ("r", "work", "packed"),
        ):  # fmt: skip
            if given.only and f"{bands}:{mode}:{form}" not in given.only.split(","):
                continue
            compare(folder, given.cutana_python, bands, mode, form, given.repeats)
            if bands == "r" and form == "tiles" and mode == "work":
                print(f"the same pixels on both sides: {agreeing(folder):.1%} of Cutana's objects")
        print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
