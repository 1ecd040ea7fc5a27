"""Many frames from a failing archive, by a client that is killed again and again."""

from __future__ import annotations

import functools
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.wcs import WCS
from scipy import ndimage

from galpipe.archives.spec import FixedSize, Frames, Sdss
from galpipe.sky.faults import parse
from galpipe.stages import Context
from galpipe.stamps.parts import Part
from galpipe.status import Status
from galpipe.workspace import Ref
from tests import failing_server
from tests import sdss_server as server
from tests.running import environment
from tests.test_sdss import ledger, row_of, run, sdss

RUN, CAMCOL = 2000, 3
BANDS = "ugriz"
REFERENCE = BANDS.index("r")
SHIFTS = {
    "u": (1.6, -3.2),
    "g": (3.37, -2.61),
    "r": (0.0, 0.0),
    "i": (-2.24, 1.73),
    "z": (1.0, 4.0),
}
TRANSIENT = (
    "503=.05,504=.02,429=.02,reset=.03,truncated=.02,unfinished=.02,corrupt=.01,short=.01,"
    "empty=.005,html=.005,swapped=.01,wait=0"
)  # 20 % of requests
PERSISTENT = "persistent.404=.006,persistent.corrupt=.006,persistent.swapped=.004,"
PERSISTENT += "persistent.nocrval=.004"  # 2 % of files
HALF = 4.0  # arcsec
EDGE = 30  # pixels from the border within which there is no object
SLACK = 0.3  # seconds by which a busy machine may notice requests late


@dataclass(frozen=True)
class Load:
    """How much is retrieved, how fast at most, and how often the client is killed."""

    fields: int
    objects: int  # of each field
    kills: int
    per_minute: float
    persistent: str
    seed: int
    shard: int


# A seed that gives the few files of the small one a failure that stays.
SMALL = Load(8, 25, 3, 3000.0, "persistent.404=.05,persistent.corrupt=.05", 4, 25)
LARGE = Load(304, 33, 20, 6000.0, PERSISTENT, 1, 100)


def wcs_of(number: int, band: str) -> WCS:
    """The WCS of a frame: turned, bands shifted and turned against each other."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [20.0 + 0.3 * number, 25.0]
    wcs.wcs.crpix = [server.NX / 2 + SHIFTS[band][0], server.NY / 2 + SHIFTS[band][1]]
    turn = np.deg2rad(97 + 0.01 * BANDS.index(band))
    scale = 0.396 / 3600
    wcs.wcs.cd = scale * np.array([[np.cos(turn), np.sin(turn)], [np.sin(turn), -np.cos(turn)]])
    wcs.wcs.set()
    return wcs


@functools.cache
def pixels_of(number: int, band: str, objects: int) -> Any:
    """A frame of round sources on a slope, so that no two pixels need be alike, (y, x) float32."""
    rows, columns = np.mgrid[: server.NY, : server.NX]
    image = 0.001 * number + 1e-4 * columns + 3e-4 * rows
    ra, dec = places_of(number, objects)
    x, y = wcs_of(number, band).all_world2pix(ra, dec, 0)
    reach = 15
    for px, py in zip(x, y, strict=True):
        left, low = int(px) - reach, int(py) - reach
        cx, cy = np.meshgrid(np.arange(left, left + 31), np.arange(low, low + 31))
        light = 50 * np.exp(-((cx - px) ** 2 + (cy - py) ** 2) / 8.0)
        image[low : low + 31, left : left + 31] += light
    return image.astype(np.float32)


def places_of(number: int, objects: int) -> tuple[Any, Any]:
    """Right ascension and declination of a field's objects, all well on the frame."""
    rng = np.random.default_rng(number)
    x = rng.uniform(EDGE, server.NX - EDGE, objects)
    y = rng.uniform(EDGE, server.NY - EDGE, objects)
    ra, dec = wcs_of(number, "r").all_pix2world(x, y, 0)
    return ra, dec


def path_of(number: int, band: str) -> str:
    return server.frame_path(RUN, CAMCOL, number, band)


def plant(folder: Path, load: Load) -> pa.Table:
    """Write all frames; returns the table of the objects."""
    rows: list[dict[str, Any]] = []
    for number in range(1, load.fields + 1):
        ra, dec = places_of(number, load.objects)
        ids = (server.object_id(RUN, CAMCOL, number, k) for k in range(1, load.objects + 1))
        rows += [
            {"objID": id, "ra": float(a), "dec": float(d)}
            for id, a, d in zip(ids, ra, dec, strict=True)
        ]
        for band in BANDS:
            wcs = wcs_of(number, band)
            pixels = pixels_of(number, band, load.objects)
            content = server.frame_bytes(pixels, wcs, RUN, CAMCOL, number, band)
            failing_server.write(folder, {path_of(number, band): content})
    return pa.Table.from_pylist(rows)


def spec_of(address: str, load: Load) -> Sdss:
    return sdss(
        server.Archive(address=address), bands=tuple(BANDS), shard=load.shard, patience=0.01,
        pixels=Frames(size=FixedSize(half=HALF)), tries=12, timeout=20.0,
        files_per_minute=load.per_minute,
    )  # fmt: skip


CLIENT = """
import sys
from pathlib import Path
import pyarrow.parquet as pq
from tests.test_sdss import run
from tests.test_stress import LARGE, SMALL, spec_of
load = {"small": SMALL, "large": LARGE}[sys.argv[4]]
run(Path(sys.argv[1]), spec_of(sys.argv[2], load), pq.read_table(sys.argv[3]))
"""


def retrieve_killed(
    root: Path, served: failing_server.Recorded, table: Path, load: Load, total: int
) -> list[tuple[int, dict[str, tuple[int, int]]]]:
    """Retrieve in processes that are killed; returns what was committed when each began.

    That is the number of requests so far, and inode and time of every marker of a shard.
    """
    chance = random.Random(load.seed)
    began = []
    name = "small" if load is SMALL else "large"
    arguments = [sys.executable, "-c", CLIENT, str(root), served.address, str(table), name]
    for turn in range(load.kills + 1):
        markers = {str(one): one.stat() for one in root.glob("store/cutout-part/*/shards/*.json")}
        facts = {one: (stat.st_ino, stat.st_mtime_ns) for one, stat in markers.items()}
        began.append((len(served.requests), facts))
        process = subprocess.Popen(arguments, env=environment())
        if turn == load.kills:
            assert process.wait(1200) == 0
            break
        step = total // load.kills
        after = len(served.requests) + chance.randint(step // 2, 2 * step)
        deadline = time.monotonic() + 300
        while len(served.requests) < after and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    return began


def check_pixels(context: Context, lines: Sequence[dict[str, Any]], load: Load) -> int:
    """Every pixel of the usable stamps: exact in the reference band, else by astropy and scipy."""
    compared = 0
    splines: dict[str, Any] = {}
    here = -1
    for line in lines:
        if not line["status"] & Status.OK:
            assert line["part"] is None
            continue
        number = (line["object_id"] >> 16) & 0xFFF
        if number != here:
            here, splines = number, {}
        stamp = row_of(context, line)
        side = int(stamp["ny"])
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crpix, wcs.wcs.crval = stamp["wcs"][:2], stamp["wcs"][2:4]
        wcs.wcs.cd = stamp["wcs"][4:].reshape(2, 2)
        x, y = np.meshgrid(np.arange(side), np.arange(side))
        sky = wcs.all_pix2world(x.ravel(), y.ravel(), 0)
        for plane, band in enumerate(BANDS):
            if band not in splines:
                frame = pixels_of(number, band, load.objects).astype(np.float64)
                splines[band] = ndimage.spline_filter(frame, order=3, mode="mirror")
            fx, fy = wcs_of(number, band).all_world2pix(*sky, 0)
            found = stamp["image"][plane, :side, :side]
            assert np.isfinite(found).all()
            if plane == REFERENCE:
                left, low = round(float(fx[0])), round(float(fy[0]))
                frame = pixels_of(number, band, load.objects)
                truth = frame[low : low + side, left : left + side]
                assert (found == truth).all()
            else:
                truth = ndimage.map_coordinates(splines[band], [fy, fx], order=3, prefilter=False)
                assert np.abs(found.ravel() - truth).max() < 2e-3
            compared += found.size
    return compared


def content_of(context: Context, ref: Ref) -> list[Any]:
    """All bytes of what was retrieved."""
    manifest = context.workspace.manifest(ref)
    assert manifest is not None
    parts = [Part(context.workspace.place(Ref("cutout-part", p))) for p in manifest["parts"]]
    return [manifest, ledger(context, ref), [part.content() for part in parts]]


def stress(folder: Path, load: Load) -> None:
    table = plant(folder, load)
    objects = load.fields * load.objects
    pq.write_table(table, folder / "table.parquet")
    staying = parse(f"{load.persistent},seed={load.seed}")
    passing = replace(parse(f"{TRANSIENT},{load.persistent}"), seed=load.seed)
    bad = {
        number
        for number in range(1, load.fields + 1)
        if any(staying.chosen(path_of(number, band), "", 0) for band in BANDS)
    }
    assert 0 < len(bad) < load.fields / 2

    with failing_server.serve(folder, staying) as served:
        calm, whole = run(folder / "calm", spec_of(served.address, load), table)
        total = len(served.requests)
    lines = ledger(calm, whole)
    assert len(lines) == objects
    for line in lines:  # every object ends, and those of damaged fields with a reason
        healthy = (line["object_id"] >> 16) & 0xFFF not in bad
        assert (line["status"] == Status.OK) == healthy
        assert healthy or (
            line["status"] in (Status.CORRUPT, Status.MISSING_BAND, Status.NO_COVERAGE)
        )
        assert healthy or line["reason"]
    side = 2 * int(np.ceil(np.sqrt(2) * HALF / 0.396)) + 1
    compared = check_pixels(calm, lines, load)
    assert compared == (load.fields - len(bad)) * load.objects * len(BANDS) * side**2

    with failing_server.serve(folder, passing) as served:
        root = folder / "killed"
        began = retrieve_killed(root, served, folder / "table.parquet", load, total)
        context, ref = run(root, spec_of(served.address, load), table)
        requests = served.requests
    happened = served.app.happened
    made = sum(happened[kind] for kind in passing.transient)
    assert made / len(requests) > 0.15
    assert ref == whole and content_of(context, ref) == content_of(calm, whole)
    check_once(context, ref, began, served)
    check_rate([moment for moment, _, _ in requests], load.per_minute)


def check_once(
    context: Context,
    ref: Ref,
    began: Sequence[tuple[int, dict[str, tuple[int, int]]]],
    served: failing_server.Recorded,
) -> None:
    """A shard that is committed is never written again, nor a frame asked for that it needed."""
    manifest = context.workspace.manifest(ref)
    assert manifest is not None
    committed = 0
    for count, markers in began:
        for marker, fact in markers.items():
            stat = Path(marker).stat()
            assert (stat.st_ino, stat.st_mtime_ns) == fact
        for digest in manifest["parts"]:
            part = Part(context.workspace.place(Ref("cutout-part", digest)))
            ids = part.read("object_id")
            fields = (ids >> 16) & 0xFFF
            done = np.zeros(len(ids), bool)
            for marker in markers:
                if digest in marker:
                    done[part.rows(int(Path(marker).stem))] = True
            for number in np.unique(fields):
                if done[fields == number].all():
                    committed += 1
                    later = {path for _, path, _ in served.requests[count:]}
                    assert not later & {path_of(int(number), band) for band in BANDS}
    assert committed > 0


def check_rate(moments: Sequence[float], per_minute: float) -> None:
    """No more requests than stated in any stretch of time, over all the processes."""
    found = np.sort(np.array(moments))
    interval = 60.0 / per_minute
    for count in (10, 25, 50, 100, 500):
        if len(found) > count:
            assert (found[count:] - found[:-count]).min() >= count * interval - SLACK
    assert found[-1] - found[0] >= (len(found) - 1) * interval - SLACK


def test_frames_from_a_failing_archive_by_a_client_that_is_killed(tmp_path: Path) -> None:
    stress(tmp_path, SMALL)


@pytest.mark.slow
def test_ten_thousand_objects_in_five_bands(tmp_path: Path) -> None:
    stress(tmp_path, LARGE)
