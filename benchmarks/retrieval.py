"""How fast frames become stamps: `python -m benchmarks.retrieval [fields] [objects of each]`.

Frames of SDSS's size (1489 x 2048) in g, r and i on this machine.  Cutting: all stamps of decoded
frames against a loop of astropy's Cutout2D over sky coordinates, one process each, on the reference
band alone (whole pixels on both sides).  The whole: from a server that answers after 50 ms, against
the network alone and the work alone.
"""

from __future__ import annotations

import bz2
import io
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS

from galpipe.archives.cutting import cut_field
from galpipe.archives.frames import FieldName, decode_frame
from galpipe.archives.spec import FixedSize, Frames, Sdss
from galpipe.sky.faults import parse
from tests import failing_server
from tests import sdss_server as server
from tests.test_sdss import run

NY, NX = 1489, 2048
SIDE = 63  # pixels of a stamp
BANDS = ("g", "r", "i")
RUN, CAMCOL = 1000, 2
REPEATS = 5
DELAY = 0.05  # seconds before an answer
CONNECTIONS = 4


def plant(fields: int, objects: int) -> tuple[pa.Table, dict[str, bytes]]:
    """Noisy frames quantised as SDSS's (about 2.5 MB packed), and objects spread over them."""
    server.NY, server.NX = NY, NX
    rows, files = [], {}
    for number in range(1, fields + 1):
        rng = np.random.default_rng(number)
        ra, dec = server.wcs_of(RUN, CAMCOL, number, "r").all_pix2world(
            rng.uniform(80, NX - 80, objects), rng.uniform(80, NY - 80, objects), 0
        )
        rows += [
            {"objID": server.object_id(RUN, CAMCOL, number, k + 1), "ra": a, "dec": d}
            for k, (a, d) in enumerate(zip(ra.tolist(), dec.tolist(), strict=True))
        ]
        for band in BANDS:
            counts = rng.poisson(120, (NY, NX)).astype(np.float32) - 120
            content = server.frame_bytes(
                counts * np.float32(0.005), server.wcs_of(RUN, CAMCOL, number, band),
                RUN, CAMCOL, number, band,
            )  # fmt: skip
            files[server.frame_path(RUN, CAMCOL, number, band)] = content
    return pa.Table.from_pylist(rows), files


def timed(function: Callable[[], object], repeats: int = REPEATS) -> str:
    """The median and the spread of the seconds that a function takes, after one turn to warm up."""
    function()
    return spread([_seconds(function) for _ in range(repeats)])


def _seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def spread(values: list[float]) -> str:
    return f"{np.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def cutting(table: pa.Table, files: dict[str, bytes]) -> None:
    """Stamps of one decoded frame, ours and astropy's, in turns."""
    here = [row for row in table.to_pylist() if (row["objID"] >> 16) & 0xFFF == 1]
    ra, dec = (np.array([row[name] for row in here]) for name in ("ra", "dec"))
    name = FieldName(301, RUN, CAMCOL, 1)
    content = files[server.frame_path(RUN, CAMCOL, 1, "r")]
    frame = decode_frame(content, name, "r")
    with fits.open(io.BytesIO(bz2.decompress(content))) as hdus:
        pixels, wcs = hdus[0].data.astype(np.float32), WCS(hdus[0].header)
    sides = np.full(len(ra), SIDE)

    def ours() -> list[np.ndarray]:
        return cut_field({"r": frame}, name, "r", ra, dec, sides).images

    def astropys() -> list[np.ndarray]:
        places = SkyCoord(ra, dec, unit="deg")
        return [
            Cutout2D(pixels, place, SIDE, wcs, mode="partial", fill_value=np.nan).data
            for place in places
        ]

    for one, other in zip(ours(), astropys(), strict=True):
        assert (one[0] == other).all()
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS):
        for function, seconds in zip((ours, astropys), taken, strict=True):
            seconds.append(_seconds(function))
    ratios = [b / a for a, b in zip(*taken, strict=True)]
    print(f"cutting {len(ra)} stamps of a decoded frame, s        {spread(taken[0])}")
    print(f"the same by a Cutout2D loop, s                 {spread(taken[1])}")
    print(f"ratio                                          {spread(ratios)}")
    frames = {
        band: decode_frame(files[server.frame_path(RUN, CAMCOL, 1, band)], name, band)
        for band in BANDS
    }
    print(f"three bands registered on one, s               "
          f"{timed(lambda: cut_field(frames, name, 'r', ra, dec, sides))}")  # fmt: skip


def whole(table: pa.Table, files: dict[str, bytes]) -> None:
    """Download, decode, cut and write, against the network and against the work alone."""
    with tempfile.TemporaryDirectory() as place:
        folder = failing_server.write(Path(place) / "files", files)
        turn = iter(range(1000))

        def retrieve(served: failing_server.Recorded) -> float:
            spec = Sdss(
                bands=BANDS, pixels=Frames(size=FixedSize(half=SIDE / 2 * 0.28)),
                skyserver=served.address, sas=f"{served.address}/sas", connections=CONNECTIONS,
            )  # fmt: skip
            root = Path(place) / f"w{next(turn)}"
            seconds = _seconds(lambda: run(root, spec, table))
            shutil.rmtree(root)
            return seconds

        def download(served: failing_server.Recorded) -> float:
            def get(path: str) -> int:
                return len(client.get(served.address + path).content)

            with httpx.Client() as client, ThreadPoolExecutor(CONNECTIONS) as pool:
                return _seconds(lambda: list(pool.map(get, files)))

        taken: dict[str, list[float]] = {"whole": [], "work": [], "network": [], "bz2": []}
        for _ in range(3):
            with failing_server.serve(folder, parse(f"delay={DELAY}")) as slow:
                taken["whole"].append(retrieve(slow))
                taken["network"].append(download(slow))
            with failing_server.serve(folder, parse("")) as fast:
                taken["work"].append(retrieve(fast))
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                taken["bz2"].append(
                    _seconds(
                        lambda: list(pool.map(lambda c: len(bz2.decompress(c)), files.values()))
                    )
                )
        for name, seconds in taken.items():
            print(f"{name:46s} {spread(seconds)}")
        slower = [max(a, b) for a, b in zip(taken["work"], taken["network"], strict=True)]
        ratios = [a / b for a, b in zip(taken["whole"], slower, strict=True)]
        shares = [a / b for a, b in zip(taken["bz2"], taken["whole"], strict=True)]
        print(f"whole, of the slower of network and work       {spread(ratios)}")
        print(f"bz2 alone on all cores, of the whole           {spread(shares)}")


def main(fields: int = 12, objects: int = 60) -> None:
    table, files = plant(fields, objects)
    size = sum(map(len, files.values())) / len(files) / 1e6
    print(f"{len(files)} frames of {size:.1f} MB, {len(table)} objects in {len(BANDS)} bands")
    cutting(table, files)
    whole(table, files)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"peak memory of this process, server included, MiB  {peak:.0f}")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
