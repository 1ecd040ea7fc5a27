"""Many frames from a failing archive, by a client that is killed again and again."""

from __future__ import annotations

import functools
import itertools
import json
import random
import resource
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

from galpipe import spec as specs
from galpipe.archives.spec import FixedSize, Frames, Sdss
from galpipe.sky.faults import parse
from galpipe.stages import Context
from galpipe.stamps.parts import Part
from galpipe.status import Status
from galpipe.workspace import Ref, Workspace
from tests import failing_server
from tests import sdss_server as server
from tests.running import environment

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
SMALL = Load(6, 15, 2, 1500.0, "persistent.404=.05,persistent.corrupt=.05", 3, 15)
LARGE = Load(304, 33, 20, 6000.0, PERSISTENT, 1, 100)


@functools.lru_cache(maxsize=2 * len(BANDS))
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


@functools.lru_cache(maxsize=2 * len(BANDS))
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
    return Sdss(
        bands=tuple(BANDS), skyserver=address, sas=f"{address}/sas", shard=load.shard,
        pixels=Frames(size=FixedSize(half=HALF)), patience=0.001, tries=12, timeout=20.0,
        requests_per_minute=None, files_per_minute=load.per_minute,
    )  # fmt: skip


CLIENT = """
import json, sys
from pathlib import Path
import pyarrow.parquet as pq
from galpipe import spec as specs
from galpipe.archives.retrieve import retrieve
from galpipe import spec as specs
from galpipe.archives.spec import Sdss
from galpipe.sample.catalogue import sample
from galpipe.sample.spec import Sample
from galpipe.stages import Context
from galpipe.workspace import Workspace
context = Context(Workspace.open(Path(sys.argv[1])))
rows = pq.read_table(sys.argv[3])
choice = Sample(id="objID", id_type="int64", ra="ra", dec="dec")
catalogue = sample(context, choice, lambda: rows, "planted", None)
print(retrieve(context, specs.load(Sdss, json.loads(sys.argv[2])), catalogue, None).digest)
"""


def client(root: Path, spec: Sdss, table: Path) -> list[str]:
    """The command of a process that retrieves all, and says where the ledger is."""
    values = json.dumps(specs.dump(spec))
    return [sys.executable, "-c", CLIENT, str(root), values, str(table)]


def retrieve_whole(root: Path, spec: Sdss, table: Path) -> tuple[Context, Ref]:
    """Retrieve in a process that is left alone."""
    done = subprocess.run(
        client(root, spec, table), env=environment(), capture_output=True, text=True, timeout=2400
    )
    assert done.returncode == 0, done.stderr
    return Context(Workspace.open(root)), Ref("cutouts", done.stdout.split()[-1])


Began = tuple[int, dict[str, tuple[int, int]]]


def retrieve_killed(
    root: Path,
    served: failing_server.Recorded,
    table: Path,
    load: Load,
    total: int,
    shards: int,
) -> list[Began]:
    """Retrieve in processes that are killed; returns what was committed when each began.

    That is the number of requests so far, and inode and time of every marker of a shard.  A kill
    comes after a random share of the requests that are still to come, `total` in all for all
    `shards`, and it must find the process at work.
    """
    chance = random.Random(load.seed)
    command = client(root, spec_of(served.address, load), table)
    began: list[Began] = []
    for left in range(load.kills, 0, -1):
        began.append((len(served.requests), facts := markers(root)))
        still = total * (1 - len(facts) / shards)
        assert still > 0
        after = len(served.requests) + chance.uniform(0.2, 1.6) * still / (left + 1)
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while len(served.requests) < after and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    began.append((len(served.requests), markers(root)))
    return began


def markers(root: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every marker of a shard."""
    found = root.glob("store/cutout-part/*/shards/*.json")
    return {str(one): (one.stat().st_ino, one.stat().st_mtime_ns) for one in found}


def check_pixels(context: Context, lines: Sequence[dict[str, Any]], load: Load) -> int:
    """Every pixel of the usable stamps: exact in the reference band, else by astropy and scipy."""
    compared = 0
    by_part: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if line["status"] & Status.OK:
            by_part.setdefault(line["part"], []).append(line)
        else:
            assert line["part"] is None
    for digest, held in by_part.items():
        part = Part(context.workspace.place(Ref("cutout-part", digest)))
        ids = part.object_ids
        sizes, places = part.read("ny"), part.read("wcs")
        held.sort(key=lambda line: int(line["row"]))
        shards = itertools.groupby(held, lambda line: int(line["row"]) // part.shard)  # noqa: B023
        for shard, group in shards:
            first, images = part.rows(shard).start, part.read("image", part.rows(shard))
            for line in group:
                row = line["row"]
                assert ids[row] == line["object_id"]
                side = int(sizes[row])
                found = images[row - first, :, :side, :side]
                compared += check_stamp(line["object_id"], found, places[row], load)
    return compared


def check_stamp(id: int, found: Any, terms: Any, load: Load) -> int:
    """Compare one stamp, (band, y, x), with its frames; returns how many pixels were compared."""
    number, side = (id >> 16) & 0xFFF, found.shape[-1]
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crpix, wcs.wcs.crval = terms[:2], terms[2:4]
    wcs.wcs.cd = terms[4:].reshape(2, 2)
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    sky = wcs.all_pix2world(x.ravel(), y.ravel(), 0)
    assert np.isfinite(found).all()
    for plane, band in enumerate(BANDS):
        fx, fy = wcs_of(number, band).all_world2pix(*sky, 0)
        if plane == REFERENCE:
            left, low = round(float(fx[0])), round(float(fy[0]))
            frame = pixels_of(number, band, load.objects)
            assert (found[plane] == frame[low : low + side, left : left + side]).all()
        else:
            spline = spline_of(number, band, load.objects)
            truth = ndimage.map_coordinates(spline, [fy, fx], order=3, prefilter=False)
            assert np.abs(found[plane].ravel() - truth).max() < 2e-3
    return int(found.size)


@functools.lru_cache(maxsize=2 * len(BANDS))
def spline_of(number: int, band: str, objects: int) -> Any:
    """The coefficients of a frame's cubic spline."""
    frame = pixels_of(number, band, objects).astype(np.float64)
    return ndimage.spline_filter(frame, order=3, mode="mirror")


def content_of(context: Context, ref: Ref) -> list[Any]:
    """All bytes of what was retrieved."""
    manifest = context.workspace.manifest(ref)
    assert manifest is not None
    parts = [Part(context.workspace.place(Ref("cutout-part", p))) for p in manifest["parts"]]
    return [manifest, ledger(context, ref), [part.content() for part in parts]]


def stress(folder: Path, load: Load) -> None:
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {what}", flush=True)

    table = folder / "table.parquet"
    pq.write_table(plant(folder, load), table)
    objects = load.fields * load.objects
    staying = parse(f"{load.persistent},seed={load.seed}")
    passing = replace(parse(f"{TRANSIENT},{load.persistent}"), seed=load.seed)
    damaged = [
        (number, band)
        for number in range(1, load.fields + 1)
        for band in BANDS
        if staying.chosen(path_of(number, band), "", 0)
    ]
    bad = {number for number, _ in damaged}
    assert 0 < len(bad) < load.fields / 2
    tell(f"{load.fields} fields, {len(damaged)} of {load.fields * len(BANDS)} files damaged")

    with failing_server.serve(folder, staying) as served:
        calm, whole = retrieve_whole(folder / "calm", spec_of(served.address, load), table)
        total = len(served.requests)
    shards = len(markers(folder / "calm"))
    tell(f"retrieved undisturbed by {total} requests")
    lines = ledger(calm, whole)
    assert len(lines) == objects == len({line["object_id"] for line in lines})
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
    tell(f"{compared} pixels are the frames'")

    with failing_server.serve(folder, passing) as served:
        root = folder / "killed"
        starts = retrieve_killed(root, served, table, load, total, shards)
        tell(f"killed {load.kills} times, after {[count for count, _ in starts]} requests")
        context, ref = retrieve_whole(root, spec_of(served.address, load), table)
        requests = served.requests
    happened = served.app.happened
    made = sum(happened[kind] for kind in passing.transient)
    tell(f"retrieved by {len(requests)} requests, of which {made} were made to fail")
    assert made / len(requests) > 0.15
    assert ref == whole and content_of(context, ref) == content_of(calm, whole)
    check_once(context, ref, starts, served)
    check_rate([moment for moment, _, _ in requests], load.per_minute)
    kilobytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    tell(f"the same bytes; at most {kilobytes // 1024} MiB in one process")


def ledger(context: Context, ref: Ref) -> list[dict[str, Any]]:
    place = context.workspace.place(ref) / "index.parquet"
    found: list[dict[str, Any]] = pq.read_table(place).to_pylist()
    return found


def check_once(
    context: Context,
    ref: Ref,
    began: Sequence[Began],
    served: failing_server.Recorded,
) -> None:
    """A shard that is committed is never written again, nor a frame asked for that it needed."""
    manifest = context.workspace.manifest(ref)
    assert manifest is not None
    parts = [Part(context.workspace.place(Ref("cutout-part", p))) for p in manifest["parts"]]
    committed = 0
    for count, facts in began:
        later = {path for _, path, _ in served.requests[count:]}
        for marker, fact in facts.items():
            stat = Path(marker).stat()
            assert (stat.st_ino, stat.st_mtime_ns) == fact
        for part in parts:
            fields = (part.object_ids >> 16) & 0xFFF
            done = np.zeros(len(fields), bool)
            for marker in facts:
                if part.path.name in marker:
                    done[part.rows(int(Path(marker).stem))] = True
            for number in np.setdiff1d(fields, fields[~done]).tolist():
                committed += 1
                assert not later & {path_of(number, band) for band in BANDS}
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
