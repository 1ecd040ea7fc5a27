"""Retrieval by the protocols of SDSS: frames, colour images and SQL, and all that can go wrong."""

from __future__ import annotations

import bz2
import functools
import hashlib
import io
import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sep
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from galpipe import releases, survey
from galpipe import spec as specs
from galpipe.archives import skyserver
from galpipe.archives.fingerprint import source_fingerprint
from galpipe.archives.frames import FieldName
from galpipe.archives.located import decode_object_id, frame_address, locate
from galpipe.archives.packing import pack, shard_size
from galpipe.archives.projection import to_pixels, to_sky
from galpipe.archives.retrieve import retrieve
from galpipe.archives.served import plan
from galpipe.archives.sky import answering
from galpipe.archives.spec import FixedSize, Frames, Jpeg, PetrosianSize, Sdss, Sky
from galpipe.archives.waiting import retry_after
from galpipe.errors import InputError
from galpipe.sample.catalogue import sample
from galpipe.sample.spec import Sample
from galpipe.stages import Context, ShardMap, serial_map
from galpipe.stamps.parts import Part
from galpipe.status import Status
from galpipe.workspace import Ref, Workspace
from tests import sdss_server as server
from tests.running import run_chain

RUN, CAMCOL = 1000, 2
SAMPLE = Sample(id="objID", id_type="int64", ra="ra", dec="dec")
FIELDS = {100: 5, 101: 2, 102: 4, 103: 3, 104: 1, 105: 6}  # objects by field
BANDS = ("g", "r", "i")
FLUX = {"g": 40.0, "r": 100.0, "i": 150.0}
Archive = server.Archive


@functools.cache
def planted() -> tuple[pa.Table, dict[str, bytes]]:
    """Isolated stars in six fields, and the frames that show them."""
    rows: list[dict[str, Any]] = []
    files = {}
    for number, count in FIELDS.items():
        rng = np.random.default_rng(number)
        places = [(x, y) for y in (60, 150, 240) for x in (60, 150, 240, 330)][:count]
        x, y = (np.array(places) + rng.uniform(-4, 4, (count, 2))).T
        ra, dec = server.wcs_of(RUN, CAMCOL, number, "r").all_pix2world(x, y, 0)
        for index in range(count):
            rows.append({
                "objID": server.object_id(RUN, CAMCOL, number, index + 1),
                "ra": float(ra[index]), "dec": float(dec[index]), "petroR90_r": 1.0 + index,
            })  # fmt: skip
        for band in BANDS:
            wcs = server.wcs_of(RUN, CAMCOL, number, band)
            pixels = server.stars(wcs, ra, dec, np.full(count, FLUX[band]))
            content = server.frame_bytes(pixels, wcs, RUN, CAMCOL, number, band)
            files[server.frame_path(RUN, CAMCOL, number, band)] = content
    return pa.Table.from_pylist(rows), files


@pytest.fixture
def archive() -> Iterator[Archive]:
    with server.serve() as answering:
        answering.files.update(planted()[1])
        yield answering


def sdss(archive: Archive, **settings: Any) -> Sdss:
    plain: dict[str, Any] = {
        "pixels": Frames(size=FixedSize(half=8.0)), "shard": 4, "patience": 0.01, "timeout": 5.0,
        "tries": 3, "requests_per_minute": None, "skyserver": archive.address,
        "sas": f"{archive.address}/sas",
    }  # fmt: skip
    return Sdss(**{**plain, **settings})


def run(
    root: Path,
    spec: Sdss | Sky,
    table: pa.Table | None = None,
    map: ShardMap = serial_map,
    base: Ref | None = None,
) -> tuple[Context, Ref]:
    context = Context(Workspace.open(root), map=map)
    rows = planted()[0] if table is None else table
    name = hashlib.sha256(repr(rows.to_pylist()).encode()).hexdigest()
    catalogue = sample(context, SAMPLE, lambda: rows, name, None)
    return context, retrieve(context, spec, catalogue, base)


def ledger(context: Context, ref: Ref) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(
        context.workspace.place(ref) / "index.parquet"
    ).to_pylist()
    return found


def row_of(context: Context, line: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    part = Part(context.workspace.place(Ref("cutout-part", line["part"])))
    names = ("image", "ny", "nx", "wcs", "noise", "pixel_scale", "coverage", "ra", "status")
    return {name: part.read(name)[line["row"]] for name in names}


def statuses(context: Context, ref: Ref, number: int) -> set[Status]:
    """How the objects of one field ended."""
    lines = ledger(context, ref)
    return {Status(line["status"]) for line in lines if (line["object_id"] >> 16) & 0xFFF == number}


def in_threads(function: Callable[[Any], Any], items: Any) -> Iterator[Any]:
    with ThreadPoolExecutor(4) as pool:
        yield from pool.map(function, list(items)[::-1])


# Packing.


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 30))
def test_packing_gives_every_field_to_one_task_and_every_row_once(
    counts: list[int], shard: int
) -> None:
    tasks = pack(counts, shard)
    assert sorted(n for task in tasks for n in task.fields) == list(range(len(counts)))
    assert [s for task in tasks for s in task.shards] == list(range(-(-sum(counts) // shard)))
    for task in tasks[:-1]:
        assert sum(counts[n] for n in task.fields) == shard * len(task.shards)
    size = shard_size(counts, shard)
    assert shard // 2 <= size <= shard and size >= 1


def test_packing_draws_other_fields_forward_to_fill_a_shard() -> None:
    # 7 leaves 3, which 9 does not fit into; 1 and 2 together do, and 5 with 5 comes later.
    tasks = pack([7, 9, 1, 5, 2, 5, 1], 10)
    assert [task.fields for task in tasks] == [(0, 2, 4), (1, 6), (3, 5)]
    # Nothing fills what 4 leaves, but a shard can be filled without it.
    assert [task.fields for task in pack([4, 5, 5, 5], 10)] == [(1, 2), (0, 3)]
    # Nothing fills it: the task goes on over the next shard.
    assert [(task.shards, task.fields) for task in pack([7, 9, 4], 10)] == [(range(2), (0, 1, 2))]


def test_a_shard_is_given_the_size_of_the_fields() -> None:
    assert shard_size([100] * 24, 170) == 100
    assert shard_size([100] * 10 + [40] + [100] * 11, 512) == 500
    assert shard_size([1] * 5000, 170) == 170


# Names and positions.


def test_object_ids_tell_the_frame() -> None:
    # Two rows that SkyServer answered, and one made up.
    known = [1237653651835781245, 1237652943176138868, server.object_id(8162, 6, 1023, 77)]
    rerun, run, camcol, field = decode_object_id(np.array(known))
    assert rerun.tolist() == [301] * 3
    assert list(zip(run.tolist(), camcol.tolist(), field.tolist(), strict=True)) == [
        (1904, 3, 163), (1739, 3, 315), (8162, 6, 1023)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("release", "tree"),
    [(9, "boss"), (12, "boss"), (13, "eboss"), (17, "eboss"),
     (18, "prior-surveys/sdss4-dr17-eboss")],
)  # fmt: skip
def test_frames_lie_where_each_release_has_them(release: int, tree: str) -> None:
    spec = Sdss(imaging_release=release)
    assert frame_address(spec, FieldName(301, 5112, 4, 345), "g") == (
        f"https://data.sdss.org/sas/dr{release}/{tree}/photoObj/frames/301/5112/4/"
        "frame-g-005112-4-0345.fits.bz2"
    )


def test_the_projection_is_that_of_astropy() -> None:
    wcs = server.wcs_of(RUN, CAMCOL, 100, "g")
    terms = np.array([*wcs.wcs.crpix, *wcs.wcs.crval, *wcs.wcs.cd.ravel()])
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, server.NX, 50), rng.uniform(0, server.NY, 50)
    ra, dec = wcs.all_pix2world(x, y, 0)
    assert np.allclose(to_sky(terms, x, y), (ra, dec), rtol=0, atol=1e-11)
    assert np.allclose(to_pixels(terms, ra, dec), (x, y), rtol=0, atol=1e-6)


def test_run_camcol_and_field_go_before_the_objid_and_dr7_ids_are_refused() -> None:
    dr7 = 587722984435351614
    rows = {"object_id": [dr7], "ra": [150.0], "dec": [2.0]}
    with pytest.raises(InputError, match=r"DR7 objIDs.*dr8objid"):
        locate(Sdss(), pa.table(rows))
    columns = {"input_run": [752], "input_CAMCOL": [3], "input_field": [373]}
    [target] = locate(Sdss(), pa.table({**rows, **columns}))
    assert target.field == FieldName(301, 752, 3, 373)
    [target] = locate(
        Sdss(), pa.table({**rows, "input_dr8objid": [server.object_id(752, 3, 373, 9)]})
    )
    assert target.field == FieldName(301, 752, 3, 373)


def test_sizes_follow_the_radius_within_limits() -> None:
    table = pa.table({
        "object_id": [server.object_id(1, 1, 1, n) for n in range(5)], "ra": [1.0] * 5,
        "dec": [2.0] * 5, "input_petroR90_r": pa.array([10.0, 100.0, 0.5, None, -9999.0]),
    })  # fmt: skip
    spec = Sdss(pixels=Frames(size=PetrosianSize(radii=2.0, smallest=5.0, largest=60.0)))
    targets = locate(spec, table)
    assert [target.half for target in targets] == [20.0, 60.0, 5.0, 5.0, 5.0]
    assert [target.cut_short is None for target in targets] == [True, False, True, True, True]
    assert targets[0].side == 2 * math.ceil(20 * math.sqrt(2) / 0.396) + 1
    with pytest.raises(InputError, match="no column 'petroR50_r'"):
        locate(Sdss(pixels=Frames(size=PetrosianSize(column="petroR50_r"))), table)


def test_versions_say_without_a_network_what_is_to_be_fetched() -> None:
    rows = {"object_id": [server.object_id(1, 1, 1, 1)], "ra": [1.0], "dec": [2.0]}
    [one] = locate(Sdss(), pa.table(rows))
    [moved] = locate(Sdss(), pa.table({**rows, "ra": [1.00001]}))
    [wider] = locate(Sdss(pixels=Frames(size=FixedSize(half=30.0))), pa.table(rows))
    [elsewhere] = locate(Sdss(sas="http://127.0.0.1:1/sas"), pa.table(rows))
    [later] = locate(Sdss(catalog_release=18), pa.table(rows))
    assert one.version == elsewhere.version == later.version
    assert len({one.version, moved.version, wider.version}) == 3


# Frames.


def test_photometry_positions_and_facts(archive: Archive, tmp_path: Path) -> None:
    """Aperture photometry of frame and stamp to 0.1 %, positions to 0.05 pixel, in every band."""
    context, ref = run(tmp_path, sdss(archive))
    lines = ledger(context, ref)
    assert {line["status"] for line in lines} == {int(Status.OK)}
    assert archive.agents and all(agent.startswith("galpipe (") for agent in archive.agents)
    radec = {row["objID"]: (row["ra"], row["dec"]) for row in planted()[0].to_pylist()}
    for line in lines:
        cutout = row_of(context, line)
        side = int(cutout["ny"])
        number = (line["object_id"] >> 16) & 0xFFF
        assert line["source"] == f"frame-r-001000-2-{number:04d}.fits.bz2"
        terms = cutout["wcs"]
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crpix, wcs.wcs.crval, wcs.wcs.cd = terms[:2], terms[2:4], terms[4:].reshape(2, 2)
        x, y = wcs.all_world2pix(*radec[line["object_id"]], 0)
        assert abs(x - (side - 1) / 2) <= 0.5 and abs(y - (side - 1) / 2) <= 0.5
        rows, columns = np.mgrid[:side, :side]
        for plane, band in zip(cutout["image"][:, :side, :side], BANDS, strict=True):
            content = bz2.decompress(planted()[1][server.frame_path(RUN, CAMCOL, number, band)])
            frame = fits.getdata(io.BytesIO(content)).astype(np.float64)
            fx, fy = server.wcs_of(RUN, CAMCOL, number, band).all_world2pix(
                *radec[line["object_id"]], 0
            )
            truth, _, _ = sep.sum_circle(frame, [float(fx)], [float(fy)], 10.0, subpix=0)
            flux, _, _ = sep.sum_circle(
                plane.astype(np.float64), [float(x)], [float(y)], 10.0, subpix=0
            )
            assert flux[0] == pytest.approx(truth[0], rel=1e-3)
            centroid = (plane * columns).sum() / plane.sum(), (plane * rows).sum() / plane.sum()
            assert centroid == pytest.approx((float(x), float(y)), abs=0.05)
        # Sky of 120 counts, gain 4.6 and dark variance 1 in r of camera column 2 (SDSS data model).
        assert cutout["noise"] == pytest.approx(0.005 * math.sqrt(120 / 4.6 + 1.0), rel=1e-5)
        assert cutout["pixel_scale"] == pytest.approx(0.396, rel=1e-5)
        assert cutout["coverage"] == 1


def test_the_reference_band_is_not_resampled(archive: Archive, tmp_path: Path) -> None:
    context, ref = run(tmp_path, sdss(archive, bands=("r",)))
    line = ledger(context, ref)[0]
    content = planted()[1][server.frame_path(RUN, CAMCOL, 100, "r")]
    frame = fits.getdata(io.BytesIO(bz2.decompress(content)))
    cutout = row_of(context, line)
    side = int(cutout["ny"])
    x, y = np.rint(
        server.wcs_of(RUN, CAMCOL, 100, "r").all_world2pix(
            [[planted()[0]["ra"][0].as_py(), planted()[0]["dec"][0].as_py()]], 0
        )[0]
    ).astype(int)
    half = side // 2
    expected = frame[y - half : y + half + 1, x - half : x + half + 1]
    assert (cutout["image"][0, :side, :side] == expected).all()
    both = hashlib.sha256(hashlib.sha256(content).digest()).hexdigest()
    assert line["sha256"] == both


@pytest.mark.parametrize("shard", [1, 2, 4, 7, 512])
def test_each_frame_is_fetched_once_per_band(archive: Archive, tmp_path: Path, shard: int) -> None:
    context, ref = run(tmp_path, sdss(archive, shard=shard))
    assert archive.hits == dict.fromkeys(planted()[1], 1)
    assert len(ledger(context, ref)) == sum(FIELDS.values())
    run(tmp_path, sdss(archive, shard=shard))
    assert sum(archive.hits.values()) == len(planted()[1])


def test_order_and_workers_change_no_byte(archive: Archive, tmp_path: Path) -> None:
    context, ref = run(tmp_path / "a", sdss(archive))
    shuffled = planted()[0].take(np.random.default_rng(1).permutation(len(planted()[0])))
    other, again = run(tmp_path / "b", sdss(archive, connections=1), shuffled, in_threads)
    assert ref == again
    for line, same in zip(ledger(context, ref), ledger(other, again), strict=True):
        assert line == same
    for part in context.workspace.manifest(ref)["parts"]:  # type: ignore[index]
        paths = [c.workspace.place(Ref("cutout-part", part)) for c in (context, other)]
        assert Part(paths[0]).content() == Part(paths[1]).content()


def test_off_the_frame_and_at_its_edge(archive: Archive, tmp_path: Path) -> None:
    for band in BANDS:
        wcs = server.wcs_of(RUN, CAMCOL, 100, band)
        pixels = np.random.default_rng(2).normal(0, 0.02, (server.NY, server.NX))
        content = server.frame_bytes(pixels, wcs, RUN, CAMCOL, 100, band)
        archive.files[path(100, band)] = content
    wcs = server.wcs_of(RUN, CAMCOL, 100, "r")
    x, y = np.array([-30.0, 5.0, server.NX - 1.0]), np.array([100.0, 150.0, 150.0])
    ra, dec = wcs.all_pix2world(x, y, 0)
    ids = [server.object_id(RUN, CAMCOL, 100, 900 + k) for k in range(3)]
    table = pa.table({"objID": ids, "ra": ra, "dec": dec})
    context, ref = run(tmp_path, sdss(archive), table)
    off, left, right = ledger(context, ref)
    assert off["status"] == Status.OFF_FRAME and off["part"] is None and "not on" in off["reason"]
    for line in (left, right):
        assert line["status"] == Status.OK | Status.EDGE
    image = row_of(context, left)["image"][1]
    half = image.shape[0] // 2
    assert np.isnan(image[:, : half - 5]).all() and np.isfinite(image[:, half - 5 :]).all()
    assert 0.5 < row_of(context, left)["coverage"] < 0.7


def test_an_object_larger_than_the_limit_is_cut_and_told(archive: Archive, tmp_path: Path) -> None:
    size = PetrosianSize(radii=2.0, smallest=3.0, largest=6.0)
    context, ref = run(tmp_path, sdss(archive, pixels=Frames(size=size)))
    lines = {line["object_id"]: line for line in ledger(context, ref)}
    for row in planted()[0].to_pylist():
        line = lines[row["objID"]]
        half = min(max(2 * row["petroR90_r"], 3.0), 6.0)
        assert int(row_of(context, line)["ny"]) == 2 * math.ceil(math.sqrt(2) * half / 0.396) + 1
        large = row["petroR90_r"] > 3
        assert bool(line["status"] & Status.EDGE) == large
        assert (line["reason"] or "").startswith("cut to 6 of") == large


# What can go wrong.


def corrupted(content: bytes) -> bytes:
    return content[: len(content) // 2] + bytes(64) + content[len(content) // 2 + 64 :]


def path(number: int, band: str = "r") -> str:
    return server.frame_path(RUN, CAMCOL, number, band)


TROUBLES: dict[str, tuple[Callable[[bytes], server.Answer], Status]] = {
    "absent": (lambda _: server.Answer(404, b"no"), Status.MISSING_BAND),
    "truncated": (lambda c: server.Answer(body=c[:-100], promised=-1), Status.CORRUPT),
    "short": (lambda c: server.Answer(body=c[:-100], promised=len(c)), Status.FAILED),
    "corrupt": (lambda c: server.Answer(body=corrupted(c)), Status.CORRUPT),
    "no bzip2": (lambda c: server.Answer(body=bz2.decompress(c)), Status.CORRUPT),
    "another frame": (lambda _: server.Answer(body=planted()[1][path(101)]), Status.CORRUPT),
    "another band": (lambda _: server.Answer(body=planted()[1][path(100, "i")]), Status.CORRUPT),
    "no FITS": (lambda _: server.Answer(body=bz2.compress(b"SIMPLE")), Status.CORRUPT),
    "half a FITS": (
        lambda c: server.Answer(body=bz2.compress(bz2.decompress(c)[:20000])), Status.CORRUPT
    ),
    "web page": (lambda _: server.Answer(body=b"<html>sorry</html>"), Status.FAILED),
    "empty": (lambda _: server.Answer(), Status.FAILED),
    "busy": (lambda _: server.Answer(503), Status.FAILED),
    "forbidden": (lambda _: server.Answer(403), Status.FAILED),
    "reset": (lambda _: server.Answer(reset=True), Status.FAILED),
}  # fmt: skip


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_with_a_frame_is_that_of_its_objects(
    archive: Archive, tmp_path: Path, trouble: str
) -> None:
    make, expected = TROUBLES[trouble]
    archive.always[path(100)] = make(planted()[1][path(100)])
    context, ref = run(tmp_path, sdss(archive))
    assert statuses(context, ref, 100) == {expected}
    reasons = {line["reason"] for line in ledger(context, ref)} - {None}
    assert len(reasons) == 1 and reasons.pop().startswith("r: ")
    for number in (101, 102, 103, 104, 105):
        assert statuses(context, ref, number) == {Status.OK}
    asked = archive.hits[path(100)]
    assert asked == (1 if trouble in ("absent", "forbidden") else 3)


def test_a_field_without_any_frame_has_no_coverage(archive: Archive, tmp_path: Path) -> None:
    for band in BANDS:
        del archive.files[path(102, band)]
    context, ref = run(tmp_path, sdss(archive))
    assert statuses(context, ref, 102) == {Status.NO_COVERAGE}


@pytest.mark.parametrize("trouble", ["truncated", "short", "corrupt", "busy", "reset", "web page"])
def test_trouble_that_passes_leaves_no_trace(
    archive: Archive, tmp_path: Path, trouble: str
) -> None:
    make, _ = TROUBLES[trouble]
    _, ref = run(tmp_path / "a", sdss(archive))
    archive.next[path(100)] = [make(planted()[1][path(100)])] * 2
    _, again = run(tmp_path / "b", sdss(archive))
    assert ref == again and archive.hits[path(100)] == 4


def test_retry_after_is_honoured(archive: Archive, tmp_path: Path) -> None:
    archive.next[path(100)] = [server.Answer(503, headers={"Retry-After": "1"})]
    begin = time.monotonic()
    context, ref = run(tmp_path, sdss(archive, patience=0.0))
    assert time.monotonic() - begin >= 1
    assert statuses(context, ref, 100) == {Status.OK}
    assert retry_after("7") == 7
    assert retry_after("soon") is None
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 50 < (retry_after(later) or 0) <= 60


def test_what_failed_is_asked_again_and_then_nothing_is(archive: Archive, tmp_path: Path) -> None:
    """A row that failed decides nothing: the next run fetches it, and the rest stays."""
    whole, complete = run(tmp_path / "whole", sdss(archive))
    archive.hits.clear()
    archive.always[path(100)] = archive.always[path(103, "i")] = server.Answer(503)
    context, first = run(tmp_path / "w", sdss(archive))
    assert statuses(context, first, 100) == statuses(context, first, 103) == {Status.FAILED}
    archive.hits.clear()
    _, still = run(tmp_path / "w", sdss(archive))
    assert still == first and set(archive.hits) == {path(n, b) for n in (100, 103) for b in BANDS}
    del archive.always[path(100)]
    context, second = run(tmp_path / "w", sdss(archive))
    assert second != first
    assert statuses(context, second, 100) == {Status.OK}
    assert statuses(context, second, 103) == {Status.FAILED}
    archive.hits.clear()
    archive.always.clear()
    context, third = run(tmp_path / "w", sdss(archive))
    assert dict(archive.hits) == {path(103, band): 1 for band in BANDS}
    assert third == complete  # the content of a run that never failed
    for line, same in zip(ledger(context, third), ledger(whole, complete), strict=True):
        assert {**line, "part": 0, "row": 0} == {**same, "part": 0, "row": 0}
        assert (row_of(context, line)["image"] == row_of(whole, same)["image"]).all()
    archive.hits.clear()
    assert run(tmp_path / "w", sdss(archive))[1] == third and not archive.hits


def test_a_later_release_fetches_what_is_new_and_what_failed(
    archive: Archive, tmp_path: Path
) -> None:
    table = planted()[0]
    archive.always[path(101)] = server.Answer(503)
    context, first = run(tmp_path, sdss(archive), table.slice(0, 12))
    before = {line["object_id"]: line for line in ledger(context, first)}
    archive.always.clear()
    archive.hits.clear()
    context, second = run(tmp_path, sdss(archive), table, base=first)
    numbers = {int(name.split("-")[-1][:4]) for name in archive.hits}
    assert numbers == {101, 103, 104, 105}
    for line in ledger(context, second):
        assert line["status"] == Status.OK
        old = before.get(line["object_id"])
        assert old is None or old["status"] == Status.FAILED or line == old


def test_a_silent_archive_ends_the_run_in_one_sentence(archive: Archive, tmp_path: Path) -> None:
    spec = sdss(archive, sas="http://127.0.0.1:9/sas")
    with pytest.raises(InputError, match=r"none of the 21 objects.*FAILED.*archive"):
        run(tmp_path, spec)
    assert not list(tmp_path.glob("store/cutout-part/*"))
    context, ref = run(tmp_path, sdss(archive))
    assert context.workspace.manifest(ref)["by_status"] == {"OK": 21}  # type: ignore[index]


def test_a_row_without_a_frame_or_a_position_stops_nobody(archive: Archive, tmp_path: Path) -> None:
    table = planted()[0].slice(0, 4).to_pylist()
    table[0]["ra"] = None
    table[1]["objID"] = 5
    context, ref = run(tmp_path, sdss(archive), pa.Table.from_pylist(table))
    found = [Status(line["status"]) for line in ledger(context, ref)]
    assert sorted(found) == sorted([
        Status.NO_COVERAGE, Status.BAD_POSITION, Status.OK, Status.OK
    ])  # fmt: skip


RETRIEVE = """
import sys
from pathlib import Path
from tests.test_sdss import Archive, run, sdss
run(Path(sys.argv[1]), sdss(Archive(address=sys.argv[2])))
"""


def test_killed_and_gone_on_with_gives_the_same_bytes(archive: Archive, tmp_path: Path) -> None:
    whole, ref = run(tmp_path / "whole", sdss(archive))
    root = tmp_path / "killed"
    last = plan(sdss(archive), locate(sdss(archive), _catalogue()), None).targets[-1].field
    assert last is not None
    slow = archive.files.pop(path(last.field))
    gate = threading.Event()

    def held(_: dict[str, str]) -> server.Answer:
        gate.wait(30)
        return server.Answer(body=slow)

    archive.ask[path(last.field).lower()] = held
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", RETRIEVE, str(root), archive.address], env=environment
    )
    deadline = time.monotonic() + 60
    while not list(root.glob("store/cutout-part/*/shards/*.json")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    gate.set()
    done = list(root.glob("store/cutout-part/*/shards/*.json"))
    archive.hits.clear()
    context, again = run(root, sdss(archive))
    assert again == ref and ledger(context, again) == ledger(whole, ref)
    asked = {int(name.split("-")[-1][:4]) for name in archive.hits}
    assert done and asked < set(FIELDS)
    [part] = context.workspace.manifest(again)["parts"]  # type: ignore[index]
    places = [c.workspace.place(Ref("cutout-part", part)) for c in (context, whole)]
    assert Part(places[0]).content() == Part(places[1]).content()


# Colour images.


def jpeg(values: dict[str, str], color: tuple[int, int, int] = (200, 100, 50)) -> server.Answer:
    size = int(values["width"]), int(values["height"])
    picture = Image.new("RGB", size, color)
    picture.putpixel((0, 0), (0, 0, 0))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95)
    return server.Answer(body=file.getvalue(), headers={"Content-Type": "image/jpeg"})


IMAGES = "/dr17/skyserverws/imgcutout/getjpeg"


def colours(archive: Archive, **settings: Any) -> Sdss:
    size = PetrosianSize(radii=4.24, smallest=2.0, largest=20.0)
    return sdss(
        archive, bands=("i", "r", "g"), pixels=Jpeg(size=size, side=64), shard=3, **settings
    )


def test_colour_images_are_asked_for_by_position_and_size(archive: Archive, tmp_path: Path) -> None:
    asked: list[dict[str, str]] = []
    lock = threading.Lock()

    def answer(values: dict[str, str]) -> server.Answer:
        with lock:
            asked.append(values)
        return jpeg(values)

    archive.ask[IMAGES] = answer
    table = planted()[0].slice(0, 7)
    context, ref = run(tmp_path, colours(archive), table)
    rows = {float(values["ra"]): values for values in asked}
    assert len(asked) == 7
    for row, line in zip(table.to_pylist(), ledger(context, ref), strict=True):
        values = rows[row["ra"]]
        assert float(values["dec"]) == row["dec"]
        scale = min(4.24 * row["petroR90_r"], 20.0) * 2 / 64
        assert float(values["scale"]) == pytest.approx(scale)
        cutout = row_of(context, line)
        assert cutout["image"].dtype == np.uint8 and cutout["image"].shape == (3, 64, 64)
        assert abs(cutout["image"][:, 40, 40].astype(int) - [200, 100, 50]).max() <= 3
        assert cutout["pixel_scale"] == pytest.approx(scale)


@pytest.mark.parametrize(
    ("status", "expected", "asked"),
    [(404, Status.NO_COVERAGE, 1), (500, Status.FAILED, 3), (400, Status.FAILED, 1)],
)
def test_pictures_of_errors_are_no_galaxies(
    archive: Archive, tmp_path: Path, status: int, expected: Status, asked: int
) -> None:
    table = planted()[0].slice(0, 3)
    bad = table["ra"][1].as_py()

    def answer(values: dict[str, str]) -> server.Answer:
        found = jpeg(values)
        if float(values["ra"]) == bad:
            archive.hits["bad"] += 1
            found.status = status
        return found

    archive.ask[IMAGES] = answer
    context, ref = run(tmp_path, colours(archive), table)
    found = [Status(line["status"]) for line in ledger(context, ref)]
    assert found == [Status.OK, expected, Status.OK] and archive.hits["bad"] == asked


def test_an_image_of_another_size_or_cut_off_is_corrupt(archive: Archive, tmp_path: Path) -> None:
    table = planted()[0].slice(0, 3)

    def answer(values: dict[str, str]) -> server.Answer:
        place = table["ra"].to_pylist().index(float(values["ra"]))
        found = jpeg({"width": "90", "height": "90"} if place == 0 else values)
        return server.Answer(body=found.body[:300]) if place == 1 else found

    archive.ask[IMAGES] = answer
    context, ref = run(tmp_path, colours(archive), table)
    found = [Status(line["status"]) for line in ledger(context, ref)]
    assert found == [Status.CORRUPT, Status.CORRUPT, Status.OK]


def test_requests_are_spaced_over_all_threads(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[float] = []
    read: list[float] = []  # by the pace, under its lock: when a thread comes, and when its turn is

    def clock() -> float:
        read.append(time.monotonic())
        return read[-1]

    monkeypatch.setattr("galpipe.archives.pace.time", SimpleNamespace(monotonic=clock))
    begin = time.monotonic()

    def answer(values: dict[str, str]) -> server.Answer:
        times.append(time.monotonic())
        return jpeg(values)

    archive.ask[IMAGES] = answer
    run(tmp_path, colours(archive, requests_per_minute=1200.0), planted()[0].slice(0, 9))
    turns = read[1::2]
    gaps = [later - earlier for earlier, later in itertools.pairwise(turns)]
    assert len(turns) == len(times) == 9 and min(gaps) > 0.05 - 0.001
    # A busy machine makes a request late, and so nearer to the next, but never early.
    assert all(at - begin >= turn * 0.05 - 0.001 for turn, at in enumerate(sorted(times)))


# SQL.

SEARCH = "/dr17/en/tools/search/x_results.aspx"
IDS = [server.object_id(RUN, CAMCOL, 100, k) for k in range(1, 24)]
PAGED = "SELECT TOP 10 objID, ra FROM PhotoObjAll WHERE objID > {last} ORDER BY objID"


def csv(ids: Sequence[int]) -> bytes:
    return ("#Table1\nobjID,ra\n" + "".join(f"{id},{id % 360}.5\n" for id in ids)).encode()


def paging(values: dict[str, str]) -> server.Answer:
    last = int(values["cmd"].split(">")[1].split()[0])
    return server.Answer(body=csv([id for id in IDS if id > last][:10]))


def asked(archive: Archive, sql: str = PAGED, **settings: Any) -> pa.Table:
    return skyserver.query(
        sdss(archive, **settings), Sample(id="objID", id_type="int64", ra="ra", dec="dec", sql=sql)
    )


def test_sql_pages_by_key_until_nothing_is_left(archive: Archive) -> None:
    from astroquery.sdss import conf

    before = conf.skyserver_baseurl
    archive.ask[SEARCH] = paging
    table = asked(archive)
    assert [int(text) for text in table["objID"].to_pylist()] == IDS
    assert archive.hits[SEARCH] == 4  # 10, 10, 3 and none
    assert conf.skyserver_baseurl == before
    assert asked(archive, PAGED, requests_per_minute=6000.0).equals(table)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (server.Answer(500, b'{"ErrorCode":500,"ErrorMessage":"deadlock"}'), "deadlock"),
        (server.Answer(503, b"", {"Retry-After": "0"}), "503"),
        (server.Answer(200, b"<html>maintenance</html>"), "web page"),
        (server.Answer(200, b""), "empty"),
        (server.Answer(200, b"#Table1\nobjID,ra\n12,1.5\n13,1"), "cut off"),
        (server.Answer(200, b"#Table1\nobjID,ra\n12,1.5\n13\n"), "cut off"),
        (server.Answer(200, csv(IDS[:3]), promised=4000), "answer"),
        (server.Answer(reset=True), "ConnectionError"),
        (server.Answer(200, b"error_message\nERROR: Maximum 60 queries allowed per minute.\n"),
         "Maximum 60"),
    ],
)  # fmt: skip
def test_sql_trouble_that_passes_and_that_does_not(
    archive: Archive, answer: server.Answer, said: str
) -> None:
    archive.ask[SEARCH] = paging
    archive.next[SEARCH] = [answer] * 2
    assert len(asked(archive)) == len(IDS)
    archive.next[SEARCH] = [answer] * 3
    with pytest.raises(InputError, match=said):
        asked(archive)


@pytest.mark.parametrize(
    "answer",
    [
        server.Answer(400, b'{"ErrorMessage":"Invalid column name \'petro\'."}'),
        server.Answer(200, b'{"ErrorMessage":"Invalid column name \'petro\'."}'),
        server.Answer(200, b"#Table1\nerror_message\nInvalid column name 'petro'.\n"),
    ],
)
def test_a_wrong_query_is_told_at_once(archive: Archive, answer: server.Answer) -> None:
    archive.always[SEARCH] = answer
    with pytest.raises(InputError, match=r"Invalid column name 'petro'.*mend"):
        asked(archive)
    assert archive.hits[SEARCH] == 1


def test_a_query_that_may_be_cut_off_is_refused(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.always[SEARCH] = server.Answer(body=csv(IDS))
    assert len(asked(archive, "select top 24 objID, ra from PhotoObj")) == 23
    with pytest.raises(InputError, match=r"23 rows.*page by key.*objID > \{last\}"):
        asked(archive, "select top 23 objID, ra from PhotoObj")
    monkeypatch.setattr(skyserver, "MOST_ROWS", 23)
    with pytest.raises(InputError, match="may be cut off"):
        asked(archive, "select objID, ra from PhotoObj")


@pytest.mark.parametrize("ids", [IDS[:5][::-1], [IDS[0], IDS[0]]])
def test_pages_out_of_order_or_repeating_are_refused(archive: Archive, ids: list[int]) -> None:
    archive.always[SEARCH] = server.Answer(body=csv(ids))
    with pytest.raises(InputError, match="ORDER BY objID"):
        asked(archive)


def test_a_page_that_comes_again_is_refused(archive: Archive) -> None:
    archive.always[SEARCH] = server.Answer(body=csv(IDS[:10]))
    with pytest.raises(InputError, match="filter by objID"):
        asked(archive, PAGED)


def test_queries_and_identifiers_that_cannot_be_paged(archive: Archive) -> None:
    with pytest.raises(InputError, match="begin with SELECT"):
        asked(archive, "WITH t AS (SELECT 1) SELECT * FROM t")
    archive.ask[SEARCH] = paging
    with pytest.raises(InputError, match="no column 'specObjID'"):
        skyserver.query(sdss(archive), Sample(id="specObjID", id_type="int64", sql=PAGED))
    with pytest.raises(InputError, match="int64"):
        skyserver.query(sdss(archive), Sample(id="objID", id_type="string", sql=PAGED))


# Surveys.


def survey_file(folder: Path, archive: str, sql: str | None = PAGED, extra: str = "") -> Path:
    lines = [
        'name = "stars"', "[sample]", 'id = "objID"', 'id_type = "int64"', 'ra = "ra"',
        'dec = "dec"', f'sql = "{sql}"' if sql else "", extra, archive,
    ]  # fmt: skip
    file = folder / "stars.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


def sdss_section(archive: Archive) -> str:
    return "\n".join([
        "[archive]", 'kind = "sdss"', f'skyserver = "{archive.address}"',
        f'sas = "{archive.address}/sas"', "requests_per_minute = 1e6", "shard = 4",
        "patience = 0.01", 'pixels = { kind = "frames", size = { kind = "fixed", half = 8.0 } }',
        "[prepare]", "size = 32",
    ])  # fmt: skip


def stars_by_sql(archive: Archive) -> None:
    def answer(values: dict[str, str]) -> server.Answer:
        last = int(values["cmd"].split(">")[1].split()[0])
        rows = [row for row in planted()[0].to_pylist() if row["objID"] > last][:10]
        lines = [f"{row['objID']},{row['ra']!r},{row['dec']!r}" for row in rows]
        return server.Answer(body="\n".join(["#Table1", "objID,ra,dec", *lines, ""]).encode())

    archive.ask[SEARCH] = answer


def test_a_survey_from_query_to_cutouts_and_then_nothing_to_ask(
    archive: Archive, tmp_path: Path
) -> None:
    stars_by_sql(archive)
    file = survey_file(tmp_path, sdss_section(archive))
    summary = run_chain(file, tmp_path / "w", until="retrieve")
    assert summary["stages"]["retrieve"] == {
        "seconds": summary["stages"]["retrieve"]["seconds"], "done": 21, "reused": 0
    }  # fmt: skip
    archive.hits.clear()
    again = run_chain(file, tmp_path / "w", until="retrieve")
    assert not archive.hits and again["stages"]["retrieve"]["reused"] == 21
    run_chain(file, tmp_path / "w", release="B", until="sample")
    assert archive.hits[SEARCH] == 4  # a new release asks again


def test_identities_hold_no_address(archive: Archive) -> None:
    near = sdss(archive)
    far = Sdss(pixels=near.pixels, shard=4)
    query = Sample(id="objID", id_type="int64", ra="ra", dec="dec", sql=PAGED)
    assert specs.digest(near) == specs.digest(far)
    assert "127.0.0.1" not in specs.canonical(near)
    assert "http" not in specs.canonical(Sky(sas="http://h/sas", skyserver="http://h"))
    assert source_fingerprint(near, query, "r1") == source_fingerprint(far, query, "r1")
    assert source_fingerprint(far, query, "r1") != source_fingerprint(far, query, "B")
    assert specs.digest(Sky(galaxies=60)) != specs.digest(Sky(galaxies=61))
    targets = locate(near, _catalogue())
    assert plan(near, targets, None).ref == plan(far, targets, None).ref


def _catalogue() -> pa.Table:
    table = planted()[0]
    return pa.table({"object_id": table["objID"], "ra": table["ra"], "dec": table["dec"]})


@pytest.mark.parametrize(
    ("archive_lines", "sql", "extra", "said"),
    [
        ("[archive]\nbands = ['r']", None, "", "kind.*folder, sdss, sky"),
        ("[archive]\nkind = 'sdsss'", None, "", "did you mean 'sdss'"),
        ("[archive]\nkind = 'sky'\nport = 1", PAGED, "", "no key 'port'"),
        ("[archive]\nkind = 'sky'", None, "", "either sample.sql or sample.table"),
        ("[archive]\nkind = 'sky'", PAGED, "table = 'a.csv'", "either sample.sql or"),
        ("[archive]\nkind = 'folder'\npath = '.'", PAGED, "", "a folder answers no queries"),
        ("[archive]\nkind = 'sdss'\nbands = ['r', 'y']", PAGED, "", "no 'y'"),
        ("[archive]\nkind = 'sdss'\nbands = ['g', 'i']", PAGED, "", "pixels.reference 'r'"),
        ("[archive]\nkind = 'sdss'\npixels = { kind = 'jpeg' }", PAGED, "", "this order"),
        ("[archive]\nkind = 'sdss'\npixels = { kind = 'jpg' }", PAGED, "", "mean 'jpeg'"),
    ],
)
def test_wrong_surveys_are_told_in_one_sentence(
    tmp_path: Path, archive_lines: str, sql: str | None, extra: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        survey.load(survey_file(tmp_path, archive_lines, sql, extra))


def test_the_sky_is_served_while_it_is_asked(tmp_path: Path) -> None:
    spec = Sky(galaxies=20, pixels=Frames(size=FixedSize(half=10.0)))
    context = Context(Workspace.open(tmp_path))
    query = "SELECT objID, ra, dec, type FROM PhotoObjAll WHERE type = 3"
    with answering(context, spec) as answered:
        table = skyserver.query(
            answered, Sample(id="objID", id_type="int64", ra="ra", dec="dec", sql=query)
        )
        assert answered.sas.startswith("http://127.0.0.1:") and answered.sas.endswith("/sas")
    assert len(table) >= 20
    with pytest.raises(InputError, match="no usable answer"):
        skyserver.query(
            Sky(skyserver=answered.skyserver, tries=1),
            Sample(id="objID", id_type="int64", sql=query),
        )
    context, ref = run(tmp_path / "w", spec, table)
    by_status = context.workspace.manifest(ref)["by_status"]  # type: ignore[index]
    assert sum(n for name, n in by_status.items() if "OK" in name) > 0.9 * len(table)


def test_a_sky_that_cannot_be_served_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "a-file"
    blocked.write_text("no folder")
    monkeypatch.setenv("GALPIPE_CACHE", str(blocked))
    context = Context(Workspace.open(tmp_path / "w"))
    with (
        pytest.raises(InputError, match=r"sky server ended with code 2.*galpipe sky serve"),
        answering(context, Sky(galaxies=20, seed=987)),
    ):
        pass


@pytest.mark.real
@pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")
def test_a_real_frame(real_data: Path, archive: Archive, tmp_path: Path) -> None:
    """Stars and galaxies of a real frame, among them Haro 25: in the middle, with the light and at
    the place they have on the frame.
    """
    content = (real_data / "sdss_frames" / "frame-r-005112-4-0345.fits.bz2").read_bytes()
    archive.files[server.frame_path(5112, 4, 345, "r")] = content
    with fits.open(io.BytesIO(bz2.decompress(content))) as hdus:
        frame, wcs = hdus[0].data.astype(np.float64), WCS(hdus[0].header)
    # Haro 25, two more galaxies and four stars; found with sep on the frame.
    x = np.array([1906.8, 1154.1, 700.7, 564.0, 509.5, 952.5, 1399.9])
    y = np.array([947.0, 751.0, 115.4, 1050.9, 630.1, 186.7, 1078.9])
    ra, dec = wcs.all_pix2world(x, y, 0)
    ids = [server.object_id(5112, 4, 345, index) for index in range(1, 8)]
    table = pa.table({"objID": ids, "ra": ra, "dec": dec})
    spec = sdss(archive, bands=("r",), pixels=Frames(size=FixedSize(half=10.0)))
    context, ref = run(tmp_path, spec, table)
    assert archive.hits == {server.frame_path(5112, 4, 345, "r"): 1}
    rms = sep.Background(frame).globalrms
    for index, line in enumerate(ledger(context, ref)):
        assert line["status"] == Status.OK
        cutout = row_of(context, line)
        image = cutout["image"][0].astype(np.float64)
        middle = (image.shape[0] - 1) / 2
        there = [float(v[0]) for v in to_pixels(cutout["wcs"], ra[[index]], dec[[index]])]
        assert max(abs(there[0] - middle), abs(there[1] - middle)) <= 0.5
        on_frame = sep.winpos(frame, x[[index]], y[[index]], 1.5)
        on_stamp = sep.winpos(image, [there[0]], [there[1]], 1.5)
        moved = [float(on_stamp[k][0]) - there[k] for k in (0, 1)]
        assert moved == pytest.approx(
            [float(on_frame[0][0]) - x[index], float(on_frame[1][0]) - y[index]], abs=0.05
        )
        for radius in (5.0, 10.0, 20.0):
            truth = sep.sum_circle(frame, x[[index]], y[[index]], radius, subpix=0)[0][0]
            flux = sep.sum_circle(image, [there[0]], [there[1]], radius, subpix=0)[0][0]
            assert flux == pytest.approx(truth, rel=1e-3)
        # The scatter of empty sky on the frame is the noise that the calibration gives.
        assert cutout["noise"] == pytest.approx(rms, rel=0.15)


def test_a_release_with_failures_is_not_done_and_a_whole_one_needs_no_archive(
    archive: Archive, tmp_path: Path
) -> None:
    stars_by_sql(archive)
    extra = "\n".join([
        sdss_section(archive), "[cluster]", "components = 2", "[evaluate]", "permutations = 5",
    ])  # fmt: skip
    file = survey_file(tmp_path, extra)
    workspace = Workspace.open(tmp_path / "w")

    def published() -> dict[str, Any] | None:
        chosen = survey.load(file)
        key = releases.run_key(chosen, "r1", None)
        return releases.published(workspace, chosen, "r1", key, "failed")

    archive.always[path(100)] = server.Answer(503)
    first = run_chain(file, tmp_path / "w")
    assert first["by_status"]["FAILED"] == FIELDS[100]
    assert published() is None
    archive.always.clear()
    archive.hits.clear()
    second = run_chain(file, tmp_path / "w")
    assert not any("FAILED" in name for name in second["by_status"])
    assert sum(second["by_status"].values()) == 21
    assert dict(archive.hits) == {path(100, band): 1 for band in BANDS}
    archive.hits.clear()
    found = published()
    assert found is not None and found["objects"] == 21 and not archive.hits


def test_a_local_table_with_fields_needs_no_query(archive: Archive, tmp_path: Path) -> None:
    lines = ["name,ra,dec,run,camcol,field"]
    for row in planted()[0].to_pylist():
        field = (row["objID"] >> 16) & 0xFFF
        lines.append(f"star {row['objID'] % 997},{row['ra']!r},{row['dec']!r},1000,2,{field}")
    (tmp_path / "stars.csv").write_text("\n".join([*lines, ""]))
    file = survey_file(tmp_path, sdss_section(archive), None, 'table = "stars.csv"')
    text = file.read_text().replace('"objID"', '"name"').replace("int64", "string")
    file.write_text(text)
    summary = run_chain(file, tmp_path / "w", until="retrieve")
    assert summary["objects"] == 21 and archive.hits == dict.fromkeys(planted()[1], 1)


def test_colour_images_of_the_sky(tmp_path: Path) -> None:
    spec = Sky(galaxies=20, bands=("i", "r", "g"), pixels=Jpeg(side=96))
    context = Context(Workspace.open(tmp_path))
    query = "SELECT TOP 5 objID, ra, dec, petroR90_r FROM PhotoObjAll WHERE objID > {last} "
    query += "AND clean = 1 AND type = 3 ORDER BY objID"
    with answering(context, spec) as answered:
        asked = Sample(id="objID", id_type="int64", ra="ra", dec="dec", sql=query)
        context, ref = run(tmp_path / "w", answered, skyserver.query(answered, asked))
    usable = [line for line in ledger(context, ref) if line["status"] & Status.OK]
    assert len(usable) > 15
    for line in usable:
        image = row_of(context, line)["image"]
        assert image.shape == (3, 96, 96) and image[:, 40:56, 40:56].mean() > image.mean()
