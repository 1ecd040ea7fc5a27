"""Fields of SDSS together: stamps over two fields, the ledger of bands, variance, PSF, north up."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sep
from astropy.io import fits
from astropy.wcs import WCS

from galpipe import releases, survey
from galpipe.archives.extinction import COEFFICIENT, extinctions
from galpipe.archives.framecache import FrameCache
from galpipe.archives.frames import FieldName, decode_frame
from galpipe.archives.noise import pixel_variance
from galpipe.archives.psfield import decode_psfield
from galpipe.archives.retrieve import retrieve
from galpipe.archives.spec import FixedSize, Frames, Sdss
from galpipe.archives.trouble import BadImageError
from galpipe.cli import main
from galpipe.errors import InputError
from galpipe.sample.catalogue import sample
from galpipe.sky.instrument import PIXEL, survey_field
from galpipe.sky.psfields import field_named, psfield
from galpipe.stages import Context, Silent
from galpipe.stamps.parts import Part
from galpipe.status import Status
from galpipe.workspace import Ref, Workspace
from tests import sdss_server as server
from tests.running import run_chain
from tests.test_sdss import (
    BANDS,
    CAMCOL,
    FIELDS,
    RUN,
    SAMPLE,
    Archive,
    in_threads,
    ledger,
    path,
    planted,
    run,
    sdss,
    sdss_section,
    stars_by_sql,
    survey_file,
)

STEP = 200  # new rows from one planted field of a scan to the next; frames have 300
FIRST, LAST = 300, 302  # fields of the scan


@pytest.fixture
def archive() -> Iterator[Archive]:
    with server.serve() as answering:
        answering.files.update(planted()[1])
        yield answering


def scan_wcs(number: int, band: str, tilt: float = 0.0) -> WCS:
    """The WCS of a field of one scan: the rows of the next begin STEP rows further."""
    wcs = server.wcs_of(RUN, CAMCOL, FIRST, band)
    wcs.wcs.crpix[1] -= STEP * (number - FIRST)
    turn = np.deg2rad(tilt * (number - FIRST))
    wcs.wcs.cd = wcs.wcs.cd @ np.array(
        [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    )
    wcs.wcs.set()
    return wcs


def scan(archive: Archive, tilt: float = 0.0) -> pa.Table:
    """Three overlapping fields, with stars where two of them meet, and in the middle of each."""
    rows: list[dict[str, Any]] = []
    places = []
    for number in range(FIRST, LAST + 1):
        for x, y in ((80.0, 150.2), (200.3, 245.4 if number < LAST else 150.0)):
            ra, dec = scan_wcs(number, "r", tilt).all_pix2world(x, y, 0)
            places.append((float(ra), float(dec)))
            rows.append({
                "objID": server.object_id(RUN, CAMCOL, number, len(rows) + 1),
                "ra": float(ra), "dec": float(dec), "petroR90_r": 2.0,
                "extinction_g": 0.3, "extinction_r": 0.2, "extinction_i": 0.1,
            })  # fmt: skip
    ra, dec = np.array(places).T
    for number in range(FIRST, LAST + 1):
        for band in BANDS:
            wcs = scan_wcs(number, band, tilt)
            pixels = server.stars(wcs, ra, dec, np.full(len(ra), 100.0))
            content = server.frame_bytes(pixels, wcs, RUN, CAMCOL, number, band)
            archive.files[path(number, band)] = content
    return pa.Table.from_pylist(rows)


WIDE = FixedSize(half=18.0)  # a cutout of 131 pixels: a star at row 245 of 300 reaches over by 11


def bands_of(context: Context, ref: Ref) -> list[dict[str, Any]]:
    place = context.workspace.place(ref) / "ledger.parquet"
    found: list[dict[str, Any]] = pq.read_table(place).to_pylist()
    return found


def arrays_of(context: Context, line: dict[str, Any], *names: str) -> list[np.ndarray[Any, Any]]:
    part = Part(context.workspace.place(Ref("cutout-part", line["part"])))
    return [part.read(name)[line["row"]] for name in names]


def wcs_of(terms: np.ndarray[Any, Any]) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crpix, wcs.wcs.crval, wcs.wcs.cd = terms[:2], terms[2:4], terms[4:].reshape(2, 2)
    return wcs


def fluxes(image: np.ndarray[Any, Any], wcs: WCS, ra: float, dec: float) -> list[float]:
    """The light within 10 pixels of a position in each band."""
    x, y = wcs.all_world2pix(ra, dec, 0)
    return [
        float(sep.sum_circle(plane.astype(np.float64), [float(x)], [float(y)], 10.0)[0][0])
        for plane in image
    ]


# Stamps over two fields.


@pytest.mark.parametrize("tilt", [0.0, 0.05])
@pytest.mark.parametrize("shard", [1, 512])
def test_a_stamp_over_two_fields_is_completed_from_the_neighbour(
    archive: Archive, tmp_path: Path, shard: int, tilt: float
) -> None:
    table = scan(archive, tilt)
    spec = sdss(archive, pixels=Frames(size=WIDE), shard=shard)
    context, ref = run(tmp_path / "w", spec, table)
    used = [name for name in archive.hits if f"-{LAST + 1:04d}" not in name]
    # Every frame that is there is fetched once, also where several tasks want it.
    assert {archive.hits[name] for name in used} == {1} and len(used) == 9
    beside = [row["beside"] for row in bands_of(context, ref) if row["beside"]]
    assert len(beside) == 2 * len(BANDS)
    for name in beside:
        where, digest = name.split()
        assert (
            where.startswith("dr17/eboss/photoObj/frames/301/1000/2/frame-") and len(digest) == 64
        )
    for line, row in zip(ledger(context, ref), table.to_pylist(), strict=True):
        assert line["status"] == Status.OK
        image, terms, coverage = arrays_of(context, line, "image", "wcs", "coverage")
        assert coverage == 1
        for flux in fluxes(image, wcs_of(terms), row["ra"], row["dec"]):
            assert flux == pytest.approx(100.0, rel=1e-3)
    folder = context.workspace.place(Ref("cutout-part", ledger(context, ref)[0]["part"]))
    assert not (folder / "frames").exists()
    # Order and workers change nothing.
    other, again = run(tmp_path / "v", spec, table, in_threads)
    assert again == ref and bands_of(other, again) == bands_of(context, ref)
    assert {archive.hits[name] for name in used} == {2}


def test_pixels_that_two_frames_share_are_copied_and_a_seam_is_not_seen(
    archive: Archive, tmp_path: Path
) -> None:
    """With the same noise in both frames, as in a real scan, a completed stamp is the scan's."""
    table = scan(archive)
    whole = np.random.default_rng(5).normal(0, 0.05, (server.NY + 2 * STEP, server.NX))
    for number in range(FIRST, LAST + 1):
        low = STEP * (number - FIRST)
        pixels, wcs = whole[low : low + server.NY], scan_wcs(number, "r")
        content = server.frame_bytes(pixels, wcs, RUN, CAMCOL, number, "r")
        archive.files[path(number)] = content
    spec = sdss(archive, bands=("r",), pixels=Frames(size=WIDE, variance=True))
    context, ref = run(tmp_path, spec, table)
    for line in ledger(context, ref)[:5]:
        number = (line["object_id"] >> 16) & 0xFFF
        image, terms, variance = arrays_of(context, line, "image", "wcs", "variance")
        own = scan_wcs(number, "r").wcs.crpix
        x, y = np.rint(own - terms[:2]).astype(int)
        y += STEP * (number - FIRST)
        side = image.shape[-1]
        assert (image[0] == whole[y : y + side, x : x + side].astype(np.float32)).all()
        assert np.isfinite(variance).all() and (variance > 0).all()


def test_without_a_neighbour_the_stamp_stays_an_edge(archive: Archive, tmp_path: Path) -> None:
    table = scan(archive)
    for band in BANDS:
        del archive.files[path(LAST, band)]
    context, ref = run(tmp_path, sdss(archive, pixels=Frames(size=WIDE)), table.slice(0, 4))
    found = [Status(line["status"]) for line in ledger(context, ref)]
    assert found == [Status.OK, Status.OK, Status.OK, Status.OK | Status.EDGE]
    last = bands_of(context, ref)[-3:]
    assert {row["outcome"] for row in last} == {"edge"} and not any(r["beside"] for r in last)
    [coverage] = arrays_of(context, ledger(context, ref)[3], "coverage")
    assert 0.8 < coverage < 1


def test_a_neighbour_that_does_not_answer_is_waited_for_by_those_who_need_it(
    archive: Archive, tmp_path: Path
) -> None:
    table = scan(archive).slice(0, 4)
    spec = sdss(archive, pixels=Frames(size=WIDE))
    whole, complete = run(tmp_path / "whole", spec, table)
    archive.always[path(LAST, "i")] = server.Answer(503)
    context, ref = run(tmp_path / "w", spec, table)
    found = [Status(line["status"]) for line in ledger(context, ref)]
    assert found == [Status.OK, Status.OK, Status.OK, Status.FAILED]
    assert "neighbouring field" in ledger(context, ref)[3]["reason"]
    archive.always.clear()
    context, ref = run(tmp_path / "w", spec, table)
    assert ref == complete and bands_of(context, ref) == bands_of(whole, complete)


RETRIEVE = """
import sys
from pathlib import Path
import pyarrow.parquet as pq
from tests.test_sdss import Archive, run, sdss
from tests.test_sdss_fields import WIDE, Frames
spec = sdss(Archive(address=sys.argv[2]), pixels=Frames(size=WIDE), shard=1)
run(Path(sys.argv[1]), spec, pq.read_table(sys.argv[3]))
"""


def test_killed_between_two_fields_it_keeps_what_it_fetched(
    archive: Archive, tmp_path: Path
) -> None:
    """A frame that waits for another task's stamps is not fetched again, and goes in the end."""
    table = scan(archive)
    pq.write_table(table, tmp_path / "table.parquet")
    spec = sdss(archive, pixels=Frames(size=WIDE), shard=1)
    whole, ref = run(tmp_path / "whole", spec, table)
    held = path(LAST)
    gate = threading.Event()
    content = archive.files.pop(held)

    def answer(_: dict[str, str]) -> server.Answer:
        gate.wait(30)
        return server.Answer(body=content)

    archive.ask[held.lower()] = answer
    archive.hits.clear()
    root = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", RETRIEVE, str(root), archive.address, tmp_path / "table.parquet"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    deadline = time.monotonic() + 60
    while len(list(root.glob("store/cutout-part/*/shards/*.json"))) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    # The task of the second field now waits for the last one, with its own frames on disk.
    while archive.hits[held] == 0:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    gate.set()
    kept = {one.name for one in root.glob("store/cutout-part/*/frames/*.bz2")}
    assert len(kept) >= 5
    context, again = run(root, spec, table)
    assert again == ref and bands_of(context, again) == bands_of(whole, ref)
    assert ledger(context, again) == ledger(whole, ref)
    for name, count in archive.hits.items():
        assert count == 1 or name.rsplit("/", 1)[1] not in kept
    assert not list(root.glob("store/cutout-part/*/frames"))


def test_frames_kept_on_disk_stay_within_their_bound(tmp_path: Path) -> None:
    cache = FrameCache(tmp_path, 1000)
    asked = []

    def get(name: str, size: int = 400) -> bytes:
        def fetch() -> tuple[bytes, bytes]:
            asked.append(name)
            return b"x" * size, b"x" * size

        def check(content: bytes) -> bytes:
            if len(content) != size:
                raise BadImageError(Status.CORRUPT, "cut off")
            return content

        return cache.get(name, check, fetch)

    assert get("a") == get("a") == get("b") and asked == ["a", "b"]
    get("c")  # the oldest goes
    held = [one for one in cache.folder.iterdir() if not one.name.endswith(".lock")]
    assert sorted(one.name for one in held) == ["b", "c"]
    (cache.folder / "b").write_bytes(b"broken")  # is not taken for the frame
    assert get("b") == b"x" * 400 and asked == ["a", "b", "c", "b"]
    get("huge", 2000)
    assert not (cache.folder / "huge").exists()
    cache.drop("b")
    assert not (cache.folder / "b").exists()
    cache.clear()
    assert not cache.folder.exists()
    none = FrameCache(tmp_path, 0)
    assert none.get("a", lambda content: content, lambda: (b"y", b"y")) == b"y"
    assert not none.folder.exists()


# The ledger of bands.


def test_every_object_and_band_ends_in_the_ledger(archive: Archive, tmp_path: Path) -> None:
    del archive.files[path(100, "i")]
    archive.always[path(101, "g")] = server.Answer(503)
    archive.always[path(102)] = server.Answer(body=planted()[1][path(102)][:-200])
    zeros = np.zeros((server.NY, server.NX))
    wcs = server.wcs_of(RUN, CAMCOL, 104, "r")
    archive.files[path(104)] = server.frame_bytes(zeros, wcs, RUN, CAMCOL, 104, "r")
    for band in BANDS:
        del archive.files[path(103, band)]
    context, ref = run(tmp_path, sdss(archive))
    rows = bands_of(context, ref)
    assert len(rows) == 3 * sum(FIELDS.values())
    ends: dict[int, set[tuple[str, str]]] = {}
    for row in rows:
        number = (row["object_id"] >> 16) & 0xFFF
        ends.setdefault(number, set()).add((row["band"], row["outcome"]))
        assert row["url"] == path(number, row["band"]).removeprefix("/sas/")
        there = row["outcome"] in ("ok", "edge")
        assert (row["sha256"] is not None) == there and (row["reason"] is None) == there
    fine = {(band, "ok") for band in BANDS}
    assert ends[105] == fine
    assert ends[100] == {("g", "ok"), ("r", "ok"), ("i", "missing_band")}
    assert ends[101] == {("g", "failed"), ("r", "ok"), ("i", "ok")}
    assert ends[102] == {("g", "ok"), ("r", "corrupt"), ("i", "ok")}
    assert ends[103] == {(band, "no_coverage") for band in BANDS}
    assert ends[104] == {("g", "ok"), ("r", "blank"), ("i", "ok")}
    manifest = context.workspace.manifest(ref)
    assert manifest is not None and manifest["by_band"]["g"] == {
        "ok": 16, "no_coverage": FIELDS[103], "failed": FIELDS[101]
    }  # fmt: skip
    text = (context.workspace.place(ref) / "ledger.parquet").read_bytes()
    assert archive.address.encode() not in text and b"127.0.0.1" not in text


def test_a_later_release_keeps_the_ledger_of_what_it_keeps(
    archive: Archive, tmp_path: Path
) -> None:
    table = scan(archive)
    spec = sdss(archive, pixels=Frames(size=WIDE))
    del archive.files[path(FIRST, "i")]
    context, first = run(tmp_path, spec, table.slice(0, 5))
    context, second = run(tmp_path, spec, table, base=first)
    assert bands_of(context, second)[:15] == bands_of(context, first)
    assert len(bands_of(context, second)) == 18
    assert ledger(context, second)[:5] == ledger(context, first)


def test_a_frame_that_lies_elsewhere_is_asked_for_again(archive: Archive, tmp_path: Path) -> None:
    right = planted()[1][path(100)]
    wcs = server.wcs_of(RUN, CAMCOL, 100, "r")
    wcs.wcs.crval = [10.0, -5.0]
    wrong = server.frame_bytes(
        np.random.default_rng(3).normal(0, 1, (server.NY, server.NX)), wcs, RUN, CAMCOL, 100, "r"
    )
    archive.next[path(100)] = [server.Answer(body=wrong)]
    _, ref = run(tmp_path / "a", sdss(archive))
    archive.files[path(100)] = wrong
    context, again = run(tmp_path / "b", sdss(archive))
    ends = {
        (row["band"], row["outcome"], row["reason"])
        for row in bands_of(context, again) if (row["object_id"] >> 16) & 0xFFF == 100
    }  # fmt: skip
    assert ("r", "off_frame", "the frame lies elsewhere on the sky") in ends
    archive.files[path(100)] = right
    assert run(tmp_path / "c", sdss(archive))[1] == ref


def test_a_published_release_goes_back_for_what_failed_on_request_alone(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stars_by_sql(archive)
    extra = "\n".join([
        sdss_section(archive), "[cluster]", "components = 2", "[evaluate]", "permutations = 5",
    ])  # fmt: skip
    file = survey_file(tmp_path, extra)
    place = ["--workspace", str(tmp_path / "w")]
    archive.always[path(100)] = server.Answer(503)
    del archive.files[path(102, "i")]
    run_chain(file, tmp_path / "w")
    archive.hits.clear()
    assert main(["run", str(file), *place]) == 0
    said = capsys.readouterr().out
    assert "nothing to do" in said and "5 failed" in said and "--retry failed" in said
    assert not archive.hits
    assert main(["status", *place]) == 0
    shown = capsys.readouterr().out
    assert "r: 16 ok, 5 failed" in shown and "i: 17 ok, 4 missing_band" in shown
    assert main(["status", "--json", *place]) == 0
    told = json.loads(capsys.readouterr().out)["releases"][0]["by_band"]
    assert told["r"] == {"ok": 16, "failed": 5}
    chosen = survey.load(file)
    workspace = Workspace.open(tmp_path / "w")
    key = releases.run_key(chosen, "r1", None)
    assert releases.published(workspace, chosen, "r1", key) is not None
    assert releases.published(workspace, chosen, "r1", key, "failed") is None
    archive.always.clear()
    run_chain(file, tmp_path / "w")  # what `--retry failed` then runs
    assert dict(archive.hits) == {path(100, band): 1 for band in BANDS}  # 102 is not asked again
    assert releases.published(workspace, chosen, "r1", key, "failed") is not None


def test_the_bill_is_told_before_anything_is_fetched(archive: Archive, tmp_path: Path) -> None:
    said: list[str] = []

    class Listening(Silent):
        def say(self, text: str) -> None:
            assert not archive.hits
            said.append(text)

    context = Context(Workspace.open(tmp_path), progress=Listening())
    catalogue = sample(context, SAMPLE, lambda: planted()[0], "bill", None)
    retrieve(context, sdss(archive), catalogue, None)
    assert len(said) == 1
    assert said[0].startswith("retrieve: 21 objects take about 18 requests, 46.8 MB and ")
    retrieve(context, sdss(archive), catalogue, None)
    assert len(said) == 1


# Variance, point-spread functions, north up, extinction.


def test_the_variance_is_that_of_sky_light_and_read_out(archive: Archive, tmp_path: Path) -> None:
    spec = sdss(archive, pixels=Frames(size=FixedSize(half=8.0), variance=True))
    context, ref = run(tmp_path, spec)
    for line in ledger(context, ref)[:4]:
        image, variance, noise, ny = arrays_of(context, line, "image", "variance", "noise", "ny")
        image, variance = image[:, :ny, :ny], variance[:, :ny, :ny]
        # r of camera column 2: gain 4.6 and dark variance 1 (SDSS data model), sky of 120 counts.
        counts = np.maximum(image[1] / 0.005 + 120.0, 0)
        assert variance[1] == pytest.approx(0.005**2 * (counts / 4.6 + 1.0), rel=1e-5)
        assert math.sqrt(np.median(variance[1])) == pytest.approx(noise, rel=1e-3)
        g = 0.005**2 * ((image[0] / 0.005 + 120.0) / 3.855 + 1.44)  # resampled
        assert np.abs(variance[0] / g - 1)[5:-5, 5:-5].max() < 0.1  # interpolated linearly
    plain, other = run(tmp_path / "plain", sdss(archive))
    part = Part(plain.workspace.place(Ref("cutout-part", ledger(plain, other)[0]["part"])))
    assert "variance" not in part.group


@pytest.mark.real
@pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")
def test_the_variance_is_the_scatter_of_a_real_sky(real_data: Path) -> None:
    content = (real_data / "sdss_frames" / "frame-r-005112-4-0345.fits.bz2").read_bytes()
    name = FieldName(301, 5112, 4, 345)
    frame = decode_frame(content, name, "r")
    shape = np.array(frame.pixels.shape[::-1])
    variance = pixel_variance(frame, name, "r", np.zeros(2, np.int64), shape)
    pixels = frame.pixels.astype(np.float64)
    background = sep.Background(pixels)
    empty = np.abs(pixels - background.back()) < 3 * np.sqrt(variance)
    ratio = ((pixels - background.back()) / np.sqrt(variance))[empty]
    scatter = 1.4826 * float(np.median(np.abs(ratio - np.median(ratio))))
    assert scatter == pytest.approx(1.0, abs=0.1)


def psfield_bytes(shares: np.ndarray[Any, Any], images: np.ndarray[Any, Any]) -> bytes:
    """A psField with the layout of SDSS, the same in every band."""
    count = len(images)
    columns = [
        fits.Column("NROW_B", "J", array=np.full(count, 3)),
        fits.Column("NCOL_B", "J", array=np.full(count, 2)),
        fits.Column("C", "25E", dim="(5,5)", array=shares),
        fits.Column("LAMBDA", "E", array=np.ones(count)),
        fits.Column("RNROW", "J", array=np.full(count, 51)),
        fits.Column("RNCOL", "J", array=np.full(count, 51)),
        fits.Column("RROWS", "2601E", array=images.reshape(count, -1)),
    ]
    hdus = [fits.PrimaryHDU(), *(fits.BinTableHDU.from_columns(columns) for _ in range(5))]
    file = io.BytesIO()
    fits.HDUList(hdus).writeto(file)
    return file.getvalue()


def gaussian(sigma: float, x: float = 25.0) -> np.ndarray[Any, Any]:
    rows, columns = np.mgrid[:51, :51]
    peak = 1 / (2 * math.pi * sigma**2)
    image: np.ndarray[Any, Any] = peak * np.exp(
        -((rows - 25.0) ** 2 + (columns - x) ** 2) / (2 * sigma**2)
    )
    return image


def varying() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Eigenimages and shares of a PSF that widens along the rows and more so along the columns."""
    images = np.stack([gaussian(1.5), gaussian(3.0)])
    shares = np.zeros((2, 5, 5))
    shares[0, 0, 0], shares[1, 1, 0], shares[1, 0, 1], shares[1, 2, 1] = 1.0, 0.4, 0.9, 0.3
    shares[1, 4, 4] = 99.0  # beyond the polynomial: not looked at
    return images, shares


def test_the_point_spread_function_is_that_at_the_object() -> None:
    images, shares = varying()
    found = decode_psfield(psfield_bytes(shares, images), FieldName(301, 1, 1, 1), ["r", "z"])
    x, y = 1200.0, 700.0
    # As the IDL routine sdss_psf_recon sums it, term by term.
    expected = np.zeros((51, 51))
    for k in range(2):
        total = sum(
            float(shares[k, i, j]) * ((y + 0.5) * 1e-3) ** i * ((x + 0.5) * 1e-3) ** j
            for i in range(3) for j in range(2)
        )  # fmt: skip
        expected += total * images[k]
    expected /= expected.sum()
    assert np.allclose(found.bands["r"].at(x, y), expected, rtol=1e-4, atol=1e-8)
    assert found.bands["z"].at(x, y).sum() == pytest.approx(1.0, abs=1e-5)


def test_each_eigenimage_has_the_orders_of_its_own_polynomial() -> None:
    """As in SDSS's files: eigenimages in the heap, coefficients beyond the orders undefined."""
    images, _ = varying()
    shares = np.full((2, 5, 5), np.nan)
    shares[0, :1, :1], shares[1, :3, :2] = 1.0, 0.0
    shares[1, 2, 1] = 0.5
    heap = np.empty(2, dtype=object)
    heap[:] = [image.astype(np.float32).ravel() for image in images]
    columns = [
        fits.Column("nrow_b", "J", array=[1, 3]), fits.Column("ncol_b", "J", array=[1, 2]),
        fits.Column("c", "25E", dim="(5,5)", array=shares),
        fits.Column("lambda", "E", array=[1, 1]),
        fits.Column("RNROW", "J", array=[51, 51]), fits.Column("RNCOL", "J", array=[51, 51]),
        fits.Column("RTYPE", "J", array=[128, 128]), fits.Column("RROWS", "1PE()", array=heap),
        fits.Column("RROW0", "J", array=[0, 0]), fits.Column("RCOL0", "J", array=[0, 0]),
        fits.Column("counts", "E", array=[1, 1]),
    ]  # fmt: skip
    hdus = [fits.PrimaryHDU(), *(fits.BinTableHDU.from_columns(columns) for _ in range(5))]
    file = io.BytesIO()
    fits.HDUList(hdus).writeto(file)
    assert hdus[1].header["NAXIS1"] == 144
    found = decode_psfield(file.getvalue(), FieldName(301, 1, 1, 1), ["u"]).bands["u"]
    expected = images[0] + 0.5 * 0.7005**2 * 1.2005 * images[1]
    assert np.allclose(found.at(1200.0, 700.0), expected / expected.sum(), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>", "not a FITS"),
        (psfield_bytes(*varying()[::-1])[:9000], "."),
        (psfield_bytes(np.full((2, 5, 5), np.nan), varying()[0]), "undefined"),
    ],
)
def test_a_damaged_psfield_is_told(content: bytes, said: str) -> None:
    with pytest.raises(BadImageError, match=said):
        decode_psfield(content, FieldName(301, 1, 1, 1), ["r"])


def psf_path(number: int) -> str:
    return f"/sas/dr17/eboss/photo/redux/301/{RUN}/objcs/{CAMCOL}/psField-001000-2-{number:04d}.fit"


def test_point_spread_functions_are_kept_per_object_and_band(
    archive: Archive, tmp_path: Path
) -> None:
    images, shares = varying()
    for number in (100, 101, 102, 103):
        archive.files[psf_path(number)] = psfield_bytes(shares, images)
    archive.always[psf_path(102)] = server.Answer(body=b"SIMPLE nothing")
    archive.always[psf_path(103)] = server.Answer(503)
    spec = sdss(archive, pixels=Frames(size=FixedSize(half=8.0), psf=True))
    context, ref = run(tmp_path, spec)
    for line in ledger(context, ref):
        number = (line["object_id"] >> 16) & 0xFFF
        if number == 103:
            assert line["status"] == Status.FAILED and "503" in line["reason"]
            continue
        if number not in (100, 101):
            assert line["status"] == Status.OK | Status.NO_PSF and line["reason"]
            [fwhm] = arrays_of(context, line, "psf_fwhm")
            assert np.isnan(fwhm)
            continue
        assert line["status"] == Status.OK
        psf, fwhm = arrays_of(context, line, "psf", "psf_fwhm")
        assert psf.shape == (3, 51, 51) and psf.sum(axis=(1, 2)) == pytest.approx(1.0, abs=1e-4)
        assert 2.3548 * 1.5 < fwhm < 2.3548 * 2.0  # of both widths together, mostly the narrow one
    assert archive.hits[psf_path(100)] == 1 and archive.hits[psf_path(104)] == 1


def test_the_sky_serves_the_point_spread_functions_it_was_drawn_with() -> None:
    field = survey_field(7, 9)
    name = f"psField-{field.run:06d}-{field.camcol}-{field.field:04d}.fit"
    assert field_named(7, 20, field.run, field.camcol, name) == field
    assert field_named(7, 9, field.run, field.camcol, name) is None
    assert field_named(7, 20, field.run, field.camcol, "psField-009001-4-0101.fit") is None
    assert field_named(7, 20, field.run, field.camcol, "../../secret") is None
    found = decode_psfield(
        psfield(7, 9), FieldName(301, field.run, field.camcol, field.field), ["g", "r", "i"]
    )
    from galpipe.archives.psf import psf_fwhm

    with fits.open(io.BytesIO(psfield(7, 9))) as hdus:  # the layout of SDSS's own
        assert len(hdus) == 10 and hdus[0].header["FILTERS"].split() == list("ugriz")
        assert {hdu.header["NAXIS1"] for hdu in hdus[1:6]} == {144}
        assert str(hdus[3].columns["RROWS"].format).startswith("1PE")
    for band in ("g", "r", "i"):
        width = psf_fwhm(found.bands[band].at(900.0, 300.0)) * PIXEL
        assert width == pytest.approx(field.seeing[band], rel=0.08)  # pixels widen it a little


def test_north_up_stamps(archive: Archive, tmp_path: Path) -> None:
    table = scan(archive)
    spec = sdss(archive, pixels=Frames(size=WIDE, north_up=True, variance=True))
    context, ref = run(tmp_path, spec, table)
    for line, row in zip(ledger(context, ref), table.to_pylist(), strict=True):
        image, terms, variance = arrays_of(context, line, "image", "wcs", "variance")
        wcs, middle = wcs_of(terms), (image.shape[-1] - 1) / 2
        x, y = wcs.all_world2pix(row["ra"], row["dec"], 0)
        assert (float(x), float(y)) == pytest.approx((middle, middle), abs=1e-6)
        east = wcs.all_world2pix(row["ra"] + 0.001, row["dec"], 0)
        north = wcs.all_world2pix(row["ra"], row["dec"] + 0.001, 0)
        assert east[0] < x - 5 and abs(east[1] - y) < 0.01
        assert north[1] > y + 5 and abs(north[0] - x) < 0.01
        for flux in fluxes(image, wcs, row["ra"], row["dec"]):
            assert flux == pytest.approx(100.0, rel=1e-3)
        rows, columns = np.mgrid[: image.shape[-1], : image.shape[-1]]
        plane = np.where(np.hypot(rows - middle, columns - middle) < 8, image[1], 0)
        centre = (plane * columns).sum() / plane.sum(), (plane * rows).sum() / plane.sum()
        assert centre == pytest.approx((middle, middle), abs=0.05)
        assert np.isfinite(variance).all() and (variance > 0).all()


def test_extinction_is_undone_on_request(archive: Archive, tmp_path: Path) -> None:
    table = scan(archive)
    rows = table.to_pylist()
    rows[2]["extinction_r"] = None
    table = pa.Table.from_pylist(rows)
    size = FixedSize(half=8.0)
    plain = sdss(archive, pixels=Frames(size=size, variance=True))
    free = sdss(archive, pixels=Frames(size=size, variance=True, deredden=True))
    before, one = run(tmp_path / "a", plain, table)
    after, other = run(tmp_path / "b", free, table)
    undone = 10 ** (0.4 * np.array([0.3, 0.2, 0.1]))[:, None, None]
    for number, (line, mine) in enumerate(
        zip(ledger(before, one), ledger(after, other), strict=True)
    ):
        if number == 2:
            assert mine["status"] == Status.MISSING_BAND and "extinction" in mine["reason"]
            continue
        image, variance, noise = arrays_of(before, line, "image", "variance", "noise")
        brighter, more, louder, kept = arrays_of(
            after, mine, "image", "variance", "noise", "extinction"
        )
        assert np.allclose(brighter, image * undone, rtol=1e-6, equal_nan=True)
        assert np.allclose(more, variance * undone**2, rtol=1e-6, equal_nan=True)
        assert louder == pytest.approx(noise * undone[1, 0, 0], rel=1e-6)
        assert kept == pytest.approx([0.3, 0.2, 0.1])
    with pytest.raises(InputError, match="no column 'extinction_g'"):
        run(tmp_path / "c", free, table.drop_columns(["extinction_g", "extinction_r"]))


def test_extinction_from_the_reddening() -> None:
    table = pa.table({"input_EBV": [0.1, -1.0, None], "input_extinction_r": [0.5, 0.5, 0.5]})
    found = extinctions(["g", "r"], table)
    assert found[0] == pytest.approx([0.1 * COEFFICIENT["g"], 0.5])
    assert np.isnan(found[1:, 0]).all() and (found[:, 1] == 0.5).all()


def test_options_are_part_of_what_a_stamp_is(archive: Archive) -> None:
    from galpipe.archives.located import locate
    from galpipe.archives.served import plan

    table = scan(archive)
    columns = {f"input_{name}": table[name] for name in table.column_names[2:]}
    rows = pa.table(
        {"object_id": table["objID"], "ra": table["ra"], "dec": table["dec"], **columns}
    )
    options: Sequence[dict[str, Any]] = [
        {}, {"variance": True}, {"psf": True}, {"north_up": True}, {"deredden": True}
    ]  # fmt: skip
    found = set()
    for option in options:
        spec = Sdss(pixels=Frames(size=WIDE, **option))
        found.add(plan(spec, locate(spec, rows), None).ref)
    assert len(found) == len(options)
    more = [Sdss(pixels=Frames(size=WIDE), cache=n) for n in (0, 5)]
    assert len({plan(one, locate(one, rows), None).ref for one in more}) == 1
