"""Masks of SDSS pixels: read as SDSS writes them, cut, turned and completed with the pixels."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits

from galpipe.archives.frames import FieldName, decode_frame
from galpipe.archives.pixelmask import PLANES, UNKNOWN, bit_names, decode_mask
from galpipe.archives.sky import answering
from galpipe.archives.skyserver import query
from galpipe.archives.spec import FixedSize, Frames, Sky
from galpipe.archives.trouble import BadImageError
from galpipe.sample.spec import Sample
from galpipe.sky.cache import cached
from galpipe.sky.frames import frame as draw_frame
from galpipe.sky.frames import name_of
from galpipe.sky.instrument import COLUMNS, FULL_WELL, ROWS, survey_field
from galpipe.sky.photo import Photo
from galpipe.sky.pixelmasks import ABOUT, packed, planes
from galpipe.sky.spec import SkySpec
from galpipe.stages import Context
from galpipe.stamps.parts import Part
from galpipe.status import Status
from galpipe.workspace import Ref, Workspace
from tests import sdss_server as server
from tests.test_sdss import BANDS, CAMCOL, RUN, Archive, ledger, path, planted, run, sdss
from tests.test_sdss_fields import FIRST, LAST, STEP, WIDE, arrays_of, scan, scan_wcs, wcs_of

NAME = FieldName(301, RUN, CAMCOL, 100)
SHAPE = (server.NY, server.NX)
SMALL = FixedSize(half=8.0)
Bits = np.ndarray[Any, Any]
Spans = dict[str, list[list[tuple[int, int, int]]]]


@pytest.fixture
def archive() -> Iterator[Archive]:
    with server.serve() as answering:
        answering.files.update(planted()[1])
        yield answering


def mask_path(number: int, band: str = "r") -> str:
    return server.mask_path(RUN, CAMCOL, number, band)


def scattered(seed: int, shape: tuple[int, int] = SHAPE) -> tuple[Bits, Spans]:
    """Random spans in every plane, some beyond the frame, and the bits they set."""
    rng = np.random.default_rng(seed)
    ny, nx = shape
    bits = np.zeros(shape, np.uint16)
    spans: Spans = {}
    for bit, plane in enumerate(PLANES):
        if plane == "SUBTRACTED":
            continue  # a plane without objects
        for _ in range(12):
            top, left = int(rng.integers(-6, ny)), int(rng.integers(-6, nx))
            one = [(top + k, left + k, left + k + int(rng.integers(0, 40))) for k in range(5)]
            spans.setdefault(plane, []).append(one)
            for y, first, last in one:
                if 0 <= y < ny:
                    bits[y, max(first, 0) : max(last + 1, 0)] |= 1 << bit
    return bits, spans


def serve_masks(archive: Archive, numbers: list[int]) -> dict[tuple[int, str], Bits]:
    found = {}
    for number in numbers:
        for place, band in enumerate(BANDS):
            bits, spans = scattered(10 * number + place)
            content = server.mask_bytes(spans, RUN, CAMCOL, number, band)
            archive.files[mask_path(number, band)] = content
            found[number, band] = bits
    return found


def mask_of(context: Context, line: dict[str, Any]) -> Bits:
    mask, ny = arrays_of(context, line, "mask", "ny")
    return mask[:, :ny, :ny]


def seen(mask: Bits, x: Bits, y: Bits) -> tuple[Bits, Bits]:
    """The bits at places on a frame, pixel by pixel, and where rounding does not decide them."""
    out = np.zeros(x.shape, np.uint16)
    sure = np.ones(x.shape, bool)
    for place in np.ndindex(x.shape):
        pixels = []
        for value in (x[place], y[place]):
            low = int(np.floor(value))
            share = value - low
            sure[place] &= min(abs(share - 0.01), abs(share - 0.99)) > 0.003
            pixels.append([low + k for k, part in ((0, 1 - share), (1, share)) if part > 0.01])
        for column in pixels[0]:
            for row in pixels[1]:
                there = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
                out[place] |= mask[row, column] if there else UNKNOWN
    return out, sure


# Files.


def test_a_mask_is_read_pixel_for_pixel() -> None:
    bits, spans = scattered(3)
    content = server.mask_bytes(spans, RUN, CAMCOL, 100, "g")
    found, digest = decode_mask(content, NAME, "g", SHAPE)
    assert found.dtype == np.uint16 and (found == bits).all() and len(digest) == 64
    assert set(np.unique(found)) > {0, 1, 2, 512} and not (found & UNKNOWN).any()
    assert bit_names()["CR"] == 512 and bit_names()["UNKNOWN"] == 32768


def test_spans_that_lie_over_one_another_are_one() -> None:
    """More of them than the frame has pixels, and some beyond its borders."""
    spans = [(row, 3 - row, SHAPE[1] + 5) for row in range(-2, 9)] * SHAPE[0]
    content = server.mask_bytes({"CR": [spans], "SATUR": [spans[:11]]}, RUN, CAMCOL, 100, "g")
    found, _ = decode_mask(content, NAME, "g", SHAPE)
    y, x = np.indices(SHAPE)
    assert (found == np.where((y < 9) & (x >= 3 - y), 512 | 2, 0)).all()


def changed(content: bytes, hdu: int, change: Any) -> bytes:
    with fits.open(io.BytesIO(gzip.decompress(content))) as hdus:
        change(hdus[hdu])
        file = io.BytesIO()
        hdus.writeto(file)
    return gzip.compress(file.getvalue())


PLAIN = server.mask_bytes(scattered(4)[1], RUN, CAMCOL, 100, "g")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (PLAIN[:-9], "cut off"),
        (b"<html>", "header"),
        (gzip.compress(b"SIMPLE" + bytes(10**8)), "more than"),
        (gzip.compress(gzip.decompress(PLAIN)[:20000]), "."),
        (server.mask_bytes({}, RUN, CAMCOL, 101, "g"), "another frame"),
        (server.mask_bytes({}, RUN, CAMCOL, 100, "r"), "another frame"),
        (server.mask_bytes({}, RUN, CAMCOL, 100, "g", (NAME.run, 7)), "size of its frame"),
        (server.mask_bytes({"CR": [[(5, 9, 8)]]}, RUN, CAMCOL, 100, "g"), "ends before"),
        (changed(PLAIN, 1, lambda hdu: hdu.data["nspan"].fill(3)), "number of spans"),
        (changed(PLAIN, 11, lambda hdu: hdu.data["Value"].fill(2)), "other planes"),
    ],
)
def test_a_damaged_mask_is_told(content: bytes, said: str) -> None:
    with pytest.raises(BadImageError, match=said) as error:
        decode_mask(content, NAME, "g", SHAPE)
    assert error.value.status == Status.CORRUPT


def test_the_field_of_a_frame_is_that_of_its_astrans_row() -> None:
    """FRAME counts the frames of one CCD; other bands' CCDs are further in their count."""
    content = planted()[1][path(100, "g")]
    frame = decode_frame(content, NAME, "g")
    assert frame.pixels.shape == SHAPE
    with pytest.raises(BadImageError, match="asTrans row is of another frame"):
        decode_frame(content, FieldName(301, RUN, CAMCOL, 108), "g")


# Stamps.


def test_the_mask_of_whole_pixels_and_of_resampled_ones(archive: Archive, tmp_path: Any) -> None:
    truth = serve_masks(archive, [100, 101, 102, 103, 104, 105])
    context, ref = run(tmp_path / "w", sdss(archive, pixels=Frames(size=SMALL, mask=True)))
    part = Part(context.workspace.place(Ref("cutout-part", ledger(context, ref)[0]["part"])))
    assert part.group["mask"].attrs["bits"] == bit_names()
    compared = 0
    for line in ledger(context, ref):
        assert line["status"] == Status.OK and line["reason"] is None
        number = (line["object_id"] >> 16) & 0xFFF
        mask, [terms] = mask_of(context, line), arrays_of(context, line, "wcs")
        side = mask.shape[-1]
        own = server.wcs_of(RUN, CAMCOL, number, "r").wcs.crpix
        x, y = np.rint(own - terms[:2]).astype(int)
        assert (mask[1] == truth[number, "r"][y : y + side, x : x + side]).all()
        columns, rows = np.meshgrid(np.arange(side), np.arange(side))
        ra, dec = wcs_of(terms).all_pix2world(columns, rows, 0)
        for plane, band in ((0, "g"), (2, "i")):
            there = server.wcs_of(RUN, CAMCOL, number, band).all_world2pix(ra, dec, 0)
            expected, sure = seen(truth[number, band], *there)
            assert (mask[plane] == expected)[sure].all() and sure.mean() > 0.9
            compared += int((expected[sure] != 0).sum())
    assert compared > 2000
    assert archive.hits[mask_path(100, "g")] == 1


def test_the_mask_of_stamps_with_north_up(archive: Archive, tmp_path: Any) -> None:
    truth = serve_masks(archive, [100])
    spec = sdss(archive, pixels=Frames(size=SMALL, mask=True, north_up=True))
    context, ref = run(tmp_path, spec, planted()[0].slice(0, 5))
    for line in ledger(context, ref):
        mask, [terms] = mask_of(context, line), arrays_of(context, line, "wcs")
        columns, rows = np.meshgrid(*[np.arange(mask.shape[-1])] * 2)
        ra, dec = wcs_of(terms).all_pix2world(columns, rows, 0)
        for plane, band in enumerate(BANDS):
            there = server.wcs_of(RUN, CAMCOL, 100, band).all_world2pix(ra, dec, 0)
            expected, sure = seen(truth[100, band], *there)
            assert (mask[plane] == expected)[sure].all() and sure.mean() > 0.9


def scan_masks(archive: Archive) -> Bits:
    """The masks of one scan in r, the same where two fields overlap; returns all of it."""
    rows = server.NY + 2 * STEP
    whole, spans = scattered(77, (rows, server.NX))
    for number in range(FIRST, LAST + 1):
        low = STEP * (number - FIRST)
        moved = {
            plane: [[(y - low, a, b) for y, a, b in one] for one in objects]
            for plane, objects in spans.items()
        }
        archive.files[mask_path(number)] = server.mask_bytes(moved, RUN, CAMCOL, number, "r")
    return whole


@pytest.mark.parametrize("shard", [1, 512])
def test_a_mask_over_two_fields_is_completed(archive: Archive, tmp_path: Any, shard: int) -> None:
    table, whole = scan(archive), scan_masks(archive)
    spec = sdss(archive, bands=("r",), pixels=Frames(size=WIDE, mask=True), shard=shard)
    context, ref = run(tmp_path, spec, table)
    for line in ledger(context, ref):
        number = (line["object_id"] >> 16) & 0xFFF
        mask, [terms] = mask_of(context, line), arrays_of(context, line, "wcs")
        x, y = np.rint(scan_wcs(number, "r").wcs.crpix - terms[:2]).astype(int)
        y += STEP * (number - FIRST)
        side = mask.shape[-1]
        assert (mask[0] == whole[y : y + side, x : x + side]).all()
    assert {archive.hits[mask_path(n)] for n in range(FIRST, LAST + 1)} == {1}


def test_pixels_off_the_frame_are_unknown(archive: Archive, tmp_path: Any) -> None:
    truth = serve_masks(archive, [100])
    ra, dec = server.wcs_of(RUN, CAMCOL, 100, "r").all_pix2world([5.0], [150.0], 0)
    ids = [server.object_id(RUN, CAMCOL, 100, 900)]
    for band in BANDS:  # something is to be seen there
        wcs = server.wcs_of(RUN, CAMCOL, 100, band)
        pixels = np.random.default_rng(2).normal(0, 0.02, SHAPE)
        content = server.frame_bytes(pixels, wcs, RUN, CAMCOL, 100, band)
        archive.files[path(100, band)] = content
    spec = sdss(archive, pixels=Frames(size=SMALL, mask=True))
    context, ref = run(tmp_path, spec, pa.table({"objID": ids, "ra": ra, "dec": dec}))
    mask = mask_of(context, ledger(context, ref)[0])[1]
    half = mask.shape[0] // 2
    assert (mask[:, : half - 5] == UNKNOWN).all()
    rows = slice(150 - half, 150 + half + 1)
    assert (mask[:, half - 5 :] == truth[100, "r"][rows, : half + 6]).all()


def test_without_a_mask_the_pixels_are_kept_and_nothing_is_said_of_them(
    archive: Archive, tmp_path: Any
) -> None:
    serve_masks(archive, [100, 101, 102, 103])
    del archive.files[mask_path(101, "i")]
    archive.files[mask_path(102)] = b"\x1f\x8b nonsense"
    archive.always[mask_path(103, "g")] = server.Answer(503)
    spec = sdss(archive, pixels=Frames(size=SMALL, mask=True))
    table = planted()[0].slice(0, 14)
    context, ref = run(tmp_path, spec, table)
    for line in ledger(context, ref):
        number = (line["object_id"] >> 16) & 0xFFF
        if number == 103:
            assert line["status"] == Status.FAILED and "fpM: HTTP 503" in line["reason"]
            continue
        assert line["status"] == Status.OK
        unknown = (mask_of(context, line) == UNKNOWN).all(axis=(1, 2)).tolist()
        assert (
            unknown
            == {100: [False] * 3, 101: [False, False, True], 102: [False, True, False]}[number]
        )
        told = {100: None, 101: "fpM of i: not in the archive", 102: "fpM of r: "}[number]
        assert (line["reason"] is None) if told is None else line["reason"].startswith(told)
    archive.always.clear()
    context, whole = run(tmp_path, spec, table)
    assert {line["status"] for line in ledger(context, whole)} == {int(Status.OK)}


# The simulated sky.


def test_the_sky_masks_saturated_stars_and_cosmic_rays() -> None:
    field = survey_field(1, 0)
    light = np.zeros((ROWS, COLUMNS), np.float32)
    well = FULL_WELL * field.calibration["r"]
    light[700:706, 3:9] = 4 * well
    light[1480:, 1000:1004] = 4 * well
    masks = planes(draw_frame(light, field, "r", 1), field, "r", 1)
    assert (masks["SATUR"] == (light > 0)).all()
    assert (masks["INTERP"] == masks["SATUR"] | masks["CR"]).all() and masks["CR"].sum() > 20
    assert masks["NOTCHECKED"].shape == (ROWS + 2 * ABOUT, COLUMNS + 2 * ABOUT)
    assert masks["NOTCHECKED"][:, :ABOUT].any()  # beyond the frame
    assert masks["NOTCHECKED"][-ABOUT:].any()
    assert masks["BRIGHTOBJECT"][702, 5] and masks["OBJECT"][702, 5]
    content = packed(masks, field, "r")
    name = FieldName(301, field.run, field.camcol, field.field)
    bits, _ = decode_mask(content, name, "r", (ROWS, COLUMNS))
    for plane, mask in masks.items():
        inner = mask[ABOUT:-ABOUT, ABOUT:-ABOUT] if plane == "NOTCHECKED" else mask
        assert ((bits & bit_names()[plane] != 0) == inner).all()
    with fits.open(io.BytesIO(gzip.decompress(content))) as hdus:
        assert len(hdus) == 12 and {hdu.header["NAXIS1"] for hdu in hdus[1:11]} == {44}


def test_masks_are_retrieved_from_the_sky_pixel_for_pixel(tmp_path: Any) -> None:
    spec = Sky(galaxies=20, pixels=Frames(size=FixedSize(half=10.0), mask=True))
    context = Context(Workspace.open(tmp_path))
    sql = "SELECT objID, ra, dec FROM PhotoObjAll WHERE type = 3"
    with answering(context, spec) as answered:
        table = query(answered, Sample(id="objID", id_type="int64", ra="ra", dec="dec", sql=sql))
        context, ref = run(tmp_path / "w", answered, table)
    folder = cached(SkySpec(galaxies=20))
    field = survey_field(1, 0)
    frame = (folder / "sas" / name_of(field, "r")).read_bytes()
    truth = np.zeros((ROWS, COLUMNS), np.uint16)
    for plane, mask in planes(frame, field, "r", 1).items():
        inner = mask[ABOUT:-ABOUT, ABOUT:-ABOUT] if plane == "NOTCHECKED" else mask
        truth[inner] |= bit_names()[plane]
    compared = 0
    for line in ledger(context, ref):
        if line["status"] != Status.OK:
            continue
        found, [terms] = mask_of(context, line)[1], arrays_of(context, line, "wcs")
        x, y = np.rint(np.array([1025.0, 745.0]) - terms[:2]).astype(int)
        side = found.shape[-1]
        assert (found == truth[y : y + side, x : x + side]).all()
        compared += int((found & bit_names()["OBJECT"] != 0).sum())
    assert compared > 1000
    assert Photo(folder).file(field.run, field.camcol, "fpM-009001-r9-0100.fit.gz") is None
    assert Photo(folder).file(field.run, field.camcol + 1, "fpM-009001-r1-0100.fit.gz") is None
