"""Hubble: the stand-in's MAST as the real client meets it, cutouts, noise, and hostile answers."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS

from galpipe import survey
from galpipe.archives.download import Downloader
from galpipe.archives.hst import answers, hubble_catalogue
from galpipe.archives.hst.fetching import choose
from galpipe.archives.hst.mosaics import Files, open_tiles
from galpipe.archives.hst.noise import correlation, sky_of, variance_of
from galpipe.archives.hst.pieces import piece_of
from galpipe.archives.hst.planes import Plane
from galpipe.archives.hst.request import Target
from galpipe.archives.hst.stamp import stamp_of
from galpipe.archives.spec import FixedSize, Hapcut, Tile, Zcut
from galpipe.archives.table import joined
from galpipe.archives.trouble import BadImageError
from galpipe.errors import InputError
from galpipe.sample.spec import Cone, Sample
from galpipe.sky.mast import Mast
from galpipe.sky.mast_cache import cached_field
from galpipe.sky.mast_camera import (
    EXPOSURE,
    EXPOSURES,
    FILTERS,
    NATIVE,
    PIXEL,
    field_wcs,
    name_of,
    product,
)
from galpipe.sky.mast_field import READ_NOISE, drizzled
from galpipe.status import Status
from tests.hubble import FIELD, TILES, hst, mosaic, objects, run, saying, serving, stored

DATA = Path(os.environ.get("GALPIPE_DATA", Path(__file__).parents[2] / "shared" / "data"))
REAL = DATA / "archive_responses" / "mast" / "astrocut_189.49206_62.20615_100x100px_f.zip"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GALPIPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield cached_field(FIELD)


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    mast = Mast(FIELD, executing=True)
    mast._folder = folder
    with serving(mast) as found:
        yield found


# The stand-in, as the real client meets it.


@pytest.fixture
def client(address: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The classes of astroquery.mast, sent to the stand-in."""
    from astroquery import mast
    from astroquery.mast.discovery_portal import PortalAPI
    from astroquery.mast.services import ServiceAPI

    for name, path in (
        ("MAST_REQUEST_URL", "/api/v0/invoke"), ("MAST_DOWNLOAD_URL", "/api/v0.1/Download/file"),
        ("COLUMNS_CONFIG_URL", "/portal/Mashup/Mashup.asmx/columnsconfig"),
    ):  # fmt: skip
        monkeypatch.setattr(PortalAPI, name, address + path)
    monkeypatch.setattr(PortalAPI, "_column_configs", {})
    monkeypatch.setattr(ServiceAPI, "SERVICE_URL", address, raising=False)
    return mast


def test_the_real_client_takes_cutouts_of_the_stand_in(
    client: Any, address: str, folder: Path
) -> None:
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    hapcut = client.cutouts.HapcutClass()
    hapcut._service_api_connection.REQUEST_URL = f"{address}/hapcut/api/v0.1/"
    row = objects(folder).to_pylist()[4]
    place = SkyCoord(row["MatchRA"], row["MatchDec"], unit="deg")
    found = hapcut.get_cutouts(place, size=[21, 31] * u.pixel)
    assert [[hdu.name for hdu in hdus] for hdus in found] == [["PRIMARY", "SCI", "WHT"]] * 2
    with fits.open(folder / name_of("F814W")) as hdus:
        whole = WCS(hdus["SCI"].header)
        truth = Cutout2D(hdus["SCI"].data, place, (21, 31), whole)
    (f814w,) = (hdus for hdus in found if hdus[0].header["FILTER"] == "F814W")
    np.testing.assert_array_equal(f814w["SCI"].data, truth.data)
    x, y = WCS(f814w["SCI"].header).world_to_pixel(place)
    np.testing.assert_allclose((x, y), truth.wcs.world_to_pixel(place), atol=1e-6)
    with pytest.warns(client.cutouts.NoResultsWarning, match="Missing HAP"):
        assert hapcut.get_cutouts(SkyCoord(10, 10, unit="deg"), size=20) == []


def test_the_real_client_finds_products_and_downloads_them(
    client: Any, folder: Path, tmp_path: Path
) -> None:
    observations = client.observations.ObservationsClass()
    found = observations.query_criteria(filters="F814W", obs_collection="HST")
    assert list(found["filters"]) == ["F814W"]
    products = observations.get_product_list(found)
    root = name_of("F814W")[: -len("_drz.fits")]
    names = [name_of("F814W"), f"{root}_point-cat.ecsv", f"{root}_segment-cat.ecsv"]
    assert list(products["productFilename"]) == names
    target = tmp_path / "one.fits"
    observations.download_file(products["dataURI"][0], local_path=str(target))
    assert target.read_bytes() == (folder / name_of("F814W")).read_bytes()


def test_the_sample_of_a_cone_is_that_of_the_real_client(
    client: Any, address: str, folder: Path
) -> None:
    from astropy.coordinates import SkyCoord

    cone = Cone(ra=150.1, dec=2.2, radius=0.15)
    ours = hubble_catalogue.query(
        hst(address), Sample(id="MatchID", id_type="int64", ra="MatchRA", cone=cone)
    )
    catalogs = client.collections.CatalogsClass()
    theirs = catalogs.query_region(SkyCoord(150.1, 2.2, unit="deg"), radius=0.0025, catalog="HSC")
    assert ours["MatchID"].to_pylist() == list(theirs["MatchID"])
    assert 1 < len(ours) < len(objects(folder))
    rows = {row["MatchID"]: row for row in json.loads((folder / "objects.json").read_text())}
    for row in ours.to_pylist():
        assert row["A_F814W"] == rows[row["MatchID"]]["A_F814W"]
    assert ours.schema.field("MatchID").type == pa.int64()


def test_a_cone_without_objects_is_refused_in_a_sentence(address: str) -> None:
    empty = Sample(id="MatchID", id_type="int64", cone=Cone(ra=10.0, dec=2.2, radius=1.0))
    with pytest.raises(InputError, match=r"nothing there; mend .* sample\.table"):
        hubble_catalogue.query(hst(address), empty)


@pytest.mark.parametrize(("body", "said"), [
    (b'{"status": "ERROR", "msg": "No such service."}', "No such service"),
    (b'{"status": "COMPLETE", "data": [], "fields": [], "paging": {"rowsFiltered": 9}}', "cut off"),
    (b"<html>down</html>", "web page"),
    (b'{"status": "COMPLETE", "data": [', "unreadable"),
    (b"[" * 100_000, "unreadable"),
])  # fmt: skip
def test_a_bad_answer_of_the_catalogue_is_told(body: bytes, said: str) -> None:
    cone = Cone(ra=10.0, dec=2.2, radius=1.0)
    with saying(200, body) as (address, _), pytest.raises(InputError, match=said):
        hubble_catalogue.query(hst(address), Sample(id="MatchID", id_type="int64", cone=cone))


# Cutouts.


def test_both_ways_to_the_pixels_give_the_pixels_of_the_mosaic(
    address: str, folder: Path, tmp_path: Path
) -> None:
    table = objects(folder)
    mast = tuple(Tile(band=b, image=f"mast:HST/product/{name_of(b)}") for b in FILTERS)
    s3 = tuple(Tile(band=b, image=f"s3://hst/{name_of(b)}") for b in FILTERS)
    ways = [Hapcut(size=FixedSize(half=1.0)), mosaic(), mosaic(tiles=mast), mosaic(tiles=s3)]
    for number, pixels in enumerate(ways):
        spec = hst(address, pixels=pixels)
        context, lines = run(tmp_path / str(number), spec, table)
        assert [line["object_id"] for line in lines] == table["MatchID"].to_pylist()
        for line, row in zip(lines, table.to_pylist(), strict=True):
            assert line["status"] == Status.OK, line
            assert "PROPOSID 99001" in line["source"]
            image, variance = stored(context, line, "image"), stored(context, line, "variance")
            for plane, band in enumerate(FILTERS):
                with fits.open(folder / name_of(band)) as hdus:
                    wcs = WCS(hdus["SCI"].header)
                    place = wcs.all_world2pix(row["MatchRA"], row["MatchDec"], 0)
                    truth = Cutout2D(hdus["SCI"].data, np.rint(place), image.shape[1:])
                np.testing.assert_array_equal(image[plane], truth.data)
            assert np.isfinite(variance).all() and (variance > 0).all()
            assert list(stored(context, line, "proposal")) == [99001, 99001]
            assert (stored(context, line, "exposure") > EXPOSURE).all()
            zero = stored(context, line, "zero_point")
            assert zero == pytest.approx([26.49, 25.95], abs=0.02)  # ACS zero points of 2004
            local = stored(context, line, "wcs")
            made = WCS(naxis=2)
            made.wcs.ctype, made.wcs.crpix = ["RA---TAN", "DEC--TAN"], local[:2]
            made.wcs.crval, made.wcs.cd = local[2:4], local[4:].reshape(2, 2)
            x, y = made.all_world2pix(row["MatchRA"], row["MatchDec"], 0)
            middle = (image.shape[1] - 1) / 2
            assert abs(x - middle) <= 0.5 and abs(y - middle) <= 0.5


def test_where_nothing_was_seen_the_object_says_so(
    address: str, folder: Path, tmp_path: Path
) -> None:
    places = {1: (2.0, 2.0), 2: (450.0, 5.0), 3: (60.0, 18.0), 4: (4000.0, 450.0)}
    rows = []
    for id, (x, y) in places.items():
        ra, dec = WCS(fits.getheader(folder / name_of("F814W"), 1)).all_pix2world(x, y, 0)
        rows.append({"MatchID": id, "MatchRA": float(ra), "MatchDec": float(dec)})
    rows.append({"MatchID": 5, "MatchRA": None, "MatchDec": None})
    for number, pixels in enumerate([Hapcut(size=FixedSize(half=0.3)),
                                     mosaic(size=FixedSize(half=0.3))]):  # fmt: skip
        context, lines = run(
            tmp_path / str(number), hst(address, pixels=pixels), pa.Table.from_pylist(rows)
        )
        by_id = {line["object_id"]: line for line in lines}
        assert by_id[1]["status"] == Status.NO_COVERAGE  # in the corner that no exposure reached
        assert by_id[2]["status"] == Status.OK | Status.EDGE
        assert by_id[3]["status"] == Status.OK | Status.EDGE
        assert by_id[4]["status"] == Status.NO_COVERAGE
        assert by_id[5]["status"] & Status.BAD_POSITION or by_id[5]["reason"]
        image = stored(context, by_id[3], "image")
        with fits.open(folder / name_of("F814W")) as hdus:
            weight = Cutout2D(hdus["WHT"].data, places[3], image.shape[1:], mode="partial").data
        np.testing.assert_array_equal(np.isfinite(image[1]), np.nan_to_num(weight) > 0)
        assert stored(context, by_id[3], "coverage") == pytest.approx((weight > 0).mean())


def test_a_stamp_costs_a_piece_of_the_mosaic(address: str, folder: Path) -> None:
    spec = hst(address, pixels=mosaic(tiles=TILES[1:]), bands=("F814W",), block=64)
    row = objects(folder).to_pylist()[4]
    with Downloader(spec, spec.files) as downloader:
        tiles = open_tiles(spec, downloader, spec.pixels.tiles)
        files = Files(spec, tiles, downloader)
        piece_of(spec, files, tiles[0], row["MatchRA"], row["MatchDec"], 67)
        received = files[tiles[0].tile.image].received
        again = piece_of(spec, files, tiles[0], row["MatchRA"], row["MatchDec"], 67)
        assert files[tiles[0].tile.image].received == received
    assert again.pixels.shape == (73, 73)
    rows = 73 * FIELD.side * 4
    assert received <= 2 * (rows + 2 * 64 * 1024)  # of the image and of its weight
    assert received < (folder / name_of("F814W")).stat().st_size / 5


def test_filters_on_other_pixels_are_brought_onto_those_of_the_reference() -> None:
    """A star on a turned, coarser, shifted grid keeps its flux and its place."""
    base = field_wcs(200)
    other = base.copy()
    turn = np.deg2rad(30)
    turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    other[4:] = (1.3 * base[4:].reshape(2, 2) @ turned).ravel()
    other[:2] += (3.3, -5.7)
    planes = {}
    for band, wcs in (("F814W", base), ("F606W", other)):
        y, x = np.mgrid[:200, :200]
        sx, sy = _world(wcs).all_world2pix(150.1, 2.2, 0)
        scale = np.sqrt(abs(np.linalg.det(wcs[4:].reshape(2, 2)))) * 3600 / PIXEL
        sigma = 4 / scale
        star = np.exp(-((x - sx) ** 2 + (y - sy) ** 2) / 2 / sigma**2) / (2 * np.pi * sigma**2)
        content = io.BytesIO()
        image = (100 * star).astype(np.float32)
        product(band, image, np.full_like(image, 2000), wcs).writeto(content)
        planes[band] = answers.planes_of(content.getvalue(), "a.fits")
    spec = hst("http://127.0.0.1", pixels=mosaic())
    stamp = stamp_of(spec, planes, 150.1, 2.2, 61)
    assert stamp.pixels.sum(axis=(1, 2)) == pytest.approx([100, 100], rel=2e-3)
    np.testing.assert_allclose(stamp.pixels[0], stamp.pixels[1], atol=2e-3)


def _world(wcs: np.ndarray[Any, Any]) -> WCS:
    made = WCS(naxis=2)
    made.wcs.ctype, made.wcs.crpix, made.wcs.crval = ["RA---TAN", "DEC--TAN"], wcs[:2], wcs[2:4]
    made.wcs.cd = wcs[4:].reshape(2, 2)
    return made


def test_an_interrupted_retrieval_goes_on_to_the_same_bytes(
    address: str, folder: Path, tmp_path: Path
) -> None:
    spec, table = hst(address, pixels=mosaic(), shard=2), objects(folder)

    def broken(function: Callable[[Any], Any], work: Any) -> Iterator[Any]:
        for number, one in enumerate(work):
            if number == 2:
                raise KeyboardInterrupt
            yield function(one)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", spec, table, broken)
    _, lines = run(tmp_path / "a", spec, table)
    _, whole = run(tmp_path / "b", spec, table.take(list(range(len(table)))[::-1]))
    assert lines == whole


# Noise.


def test_the_factor_of_correlation_is_that_of_casertano() -> None:
    assert correlation(0.03, 0.05, 1.0) == pytest.approx(5 / 3 / (1 - 0.2))
    assert correlation(0.05, 0.05, 0.5) == pytest.approx(1 / (1 - 0.5 / 3))
    assert correlation(0.05, 0.05, 1.0) == pytest.approx(1.5)


@pytest.mark.parametrize("light", [0.0, 0.5])
def test_the_variance_is_that_of_large_apertures(light: float) -> None:
    """Against photons and read-out noise of the camera's pixels, and the scatter of boxes."""
    source = np.full((600, 600), light * (PIXEL / NATIVE) ** 2)
    science, weight = drizzled(source, "F814W", (1, 2, 3))
    y, x = np.mgrid[100:500, 350:590]  # every exposure sees it
    keep = (weight[y, x] == EXPOSURES * EXPOSURE).all(axis=1)
    image, seconds = science[100:500, 350:590][keep], weight[100:500, 350:590][keep]
    level, scatter = sky_of(image, seconds)
    factor = correlation(PIXEL, NATIVE, 1.0)
    # The model sees the light as sky where it is everywhere; as source it is counted once more.
    found = variance_of(image, seconds, level, scatter, factor)
    rate = (FILTERS["F814W"][0] + light) * EXPOSURE + READ_NOISE**2
    truth = rate / EXPOSURE**2 / EXPOSURES * (PIXEL / NATIVE) ** 2
    assert float(np.median(found)) == pytest.approx(truth, rel=0.1)
    rows, columns = (n // 30 * 30 for n in image.shape)
    boxes = image[:rows, :columns].reshape(rows // 30, 30, columns // 30, 30).sum(axis=(1, 3))
    assert boxes.var() / 900 == pytest.approx(truth, rel=0.5)
    assert scatter**2 < 0.4 * truth  # of single pixels, which are correlated


def test_counts_of_the_source_and_exposure_enter_the_variance() -> None:
    rng = np.random.default_rng(1)
    seconds = np.full((120, 120), 2000, np.float32)
    seconds[:, 60:] = 500
    image = (rng.normal(0, 0.01, seconds.shape) * np.sqrt(2000 / seconds)).astype(np.float32)
    image[20:30, 20:30] += 5.0
    image[0, :5] = np.nan
    level, scatter = sky_of(image, seconds)
    found = variance_of(image, seconds, level, scatter, 2.0)
    assert np.isnan(found[0, :5]).all() and np.isfinite(found[1:]).all()
    shallow, deep = float(np.median(found[50:, 70:])), float(np.median(found[50:, :50]))
    assert shallow / deep == pytest.approx(4, rel=0.05)
    assert found[25, 25] - np.median(found[50:, :50]) == pytest.approx(5 / 2000, rel=0.01)


# Which image of an answer.


def plane(
    band: str = "F814W", name: str | None = None, seen: int = 400, camera: str = "ACS"
) -> Plane:
    image = np.ones((20, 20), np.float32)
    weight = np.ones_like(image)
    weight.ravel()[seen:] = 0
    hdus = product(band, image, weight, field_wcs(20))
    hdus[0].header["INSTRUME"] = camera
    content = io.BytesIO()
    hdus.writeto(content)
    return answers.planes_of(content.getvalue(), name or f"x_acs_wfc_{band.lower()}.fits")[0]


TARGET = Target(0, 1, 150.1, 2.2, 11, "v")


def test_the_image_is_chosen_by_its_header() -> None:
    spec = hst("http://127.0.0.1", bands=("F814W",))
    deep, half = plane(), plane(seen=200, name="y_acs_wfc_f814w.fits")
    coarse, other = plane(name="x_acs_wfc_f814w_coarse.fits"), plane("F606W")
    for order in ([deep, half, coarse, other], [other, coarse, half, deep]):
        chosen, problem = choose(spec, order, TARGET)
        assert problem is None and chosen == {"F814W": deep}
    chosen, problem = choose(spec, [other], TARGET)
    assert not chosen and problem is not None and problem[0] == Status.MISSING_BAND
    assert "no F814W of acs_wfc (there is acs_wfc F606W)" in problem[1]
    swapped = plane("F814W", "x_acs_wfc_f606w.fits")
    _, problem = choose(spec, [swapped], TARGET)
    assert problem is not None and problem[0] == Status.CORRUPT and "holds F814W" in problem[1]
    chosen, problem = choose(spec, [plane(camera="WFPC2")], TARGET)
    assert problem is not None and problem[0] == Status.MISSING_BAND


def test_pixels_of_another_size_than_said_are_refused() -> None:
    spec = hst("http://127.0.0.1", bands=("F814W",), pixel_scale=0.05)
    with pytest.raises(BadImageError, match=r"0.03 arcsec where archive.pixel_scale says 0.05"):
        stamp_of(spec, {"F814W": [plane()]}, 150.1, 2.2, 11)


# Answers of other kinds.


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return made.getvalue()


def good() -> bytes:
    content = io.BytesIO()
    rng = np.random.default_rng(2)
    image = rng.normal(0, 1, (140, 140)).astype(np.float32)
    product("F814W", image, np.ones_like(image), field_wcs(140)).writeto(content)
    return content.getvalue()


def announcing(size: int) -> bytes:
    """A zip whose entry says that it unpacks to another size."""
    made = bytearray(zipped({"a_acs_wfc_f814w.fits": b"0" * 1000}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = made.index(signature) + offset
        made[at : at + 4] = struct.pack("<I", size)
    return bytes(made)


BAD = {
    "..": (zipped({"../../a_acs_wfc_f814w.fits": b"x"}), "outside itself"),
    "absolute": (zipped({"/etc/a_f814w.fits": b"x"}), "outside itself"),
    "backslash": (zipped({"..\\a_f814w.fits": b"x"}), "outside itself"),
    "truncated": (zipped({"a_acs_wfc_f814w.fits": good()})[:-300], "damaged zip"),
    "larger than said": (announcing(10), "damaged zip|another size"),
    "gigabytes": (announcing(2**31), "zip entry of 2147483648 bytes"),
    "many": (zipped({f"{n}.fits": b"" for n in range(300)}), "300 files"),
    "bomb": (zipped({f"{n}.fits": bytes(60 * 2**20) for n in range(5)}), "more than 256 MiB"),
    "no FITS": (zipped({"a_acs_wfc_f814w.fits": b"hello"}), "not a FITS file"),
    "endless header": (
        zipped({"a_acs_wfc_f814w.fits": b"SIMPLE  =".ljust(80) + b" " * 800_000}), "no end",
    ),
    "JSON": (b'{"msg": "Rate limited", "results": [1]}', "Rate limited"),
    "text": (b"sorry", "neither a zip"),
    "deep": (b'{"a":' * 100_000, "JSON instead"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_hostile_answers_are_refused_with_a_reason(kind: str) -> None:
    body, said = BAD[kind]
    with pytest.raises(BadImageError, match=said) as caught:
        answers.read_answer(body)
    assert caught.value.status == Status.CORRUPT


def test_mutated_answers_give_named_errors_alone() -> None:
    rng = np.random.default_rng(5)
    original = np.frombuffer(zipped({"a_acs_wfc_f814w.fits": good()}, zipfile.ZIP_STORED), np.uint8)
    plain = np.frombuffer(good(), np.uint8)
    for number in range(400):
        content = (original if number % 2 else plain).copy()
        spots = rng.integers(0, 9000, rng.integers(1, 12))
        content[spots] = rng.integers(0, 256, len(spots))
        cut = content[: int(rng.integers(1, len(content)))] if number % 5 == 0 else content
        try:
            if number % 2:
                answers.read_answer(cut.tobytes())
            else:
                answers.planes_of(cut.tobytes(), "a.fits")
        except BadImageError as error:
            assert error.reason


ONE = pa.Table.from_pylist([{"MatchID": 1, "MatchRA": 150.1, "MatchDec": 2.2}])


@pytest.mark.parametrize("kind", ["..", "truncated", "no FITS"])
def test_a_hostile_answer_ends_as_corrupt_and_writes_nothing_outside(
    kind: str, tmp_path: Path
) -> None:
    with saying(200, BAD[kind][0]) as (address, asked), pytest.raises(InputError, match="CORRUPT"):
        run(tmp_path / "ws", hst(address, bands=("F814W",)), ONE)
    assert len(asked) == 2  # as many tries as the survey allows
    assert [path.name for path in tmp_path.iterdir()] == ["ws"]


def test_no_coverage_is_asked_once_and_for_good(tmp_path: Path) -> None:
    body = b'{"msg": "Missing HAP files for input target. Cutout not performed.", "results": []}'
    with saying(200, body) as (address, asked), pytest.raises(InputError, match="NO_COVERAGE"):
        run(tmp_path, hst(address), ONE)
    assert asked == ["POST /hapcut/api/v0.1/astrocut"]


@pytest.mark.parametrize("target", ["http://127.0.0.2:1/x", "file:///etc/passwd", "http://a.b/"])
@pytest.mark.parametrize("kind", ["hapcut", "zcut", "mosaic"])
def test_a_redirect_to_elsewhere_is_not_followed(target: str, kind: str, tmp_path: Path) -> None:
    pixels = {"hapcut": Hapcut(), "zcut": Zcut(survey="a"), "mosaic": mosaic()}[kind]
    with (
        saying(302, b"", {"Location": target}) as (address, _),
        pytest.raises(InputError, match=r"not followed|HTTP 302"),
    ):
        run(tmp_path, hst(address, pixels=pixels), ONE)


def test_a_server_that_ignores_ranges_is_told_by_name(folder: Path, tmp_path: Path) -> None:
    body = (folder / name_of("F814W")).read_bytes()[:100_000]
    with (
        saying(200, body) as (address, asked),
        pytest.raises(InputError, match=r"drz.fits: .*ignores Range.*mend the tile"),
    ):
        run(tmp_path, hst(address, pixels=mosaic()), ONE)
    assert len(asked) == len(set(asked))  # nothing is asked for twice


def test_a_tile_of_another_filter_is_refused(address: str, tmp_path: Path) -> None:
    swapped = (TILES[0], Tile(band="F814W", image=name_of("F606W")))
    with pytest.raises(InputError, match="the header says filter F606W"):
        run(tmp_path, hst(address, pixels=mosaic(tiles=swapped)), ONE)


def test_what_a_survey_may_not_ask_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pixels\.tiles has no image of F606W"):
        hst("http://a", pixels=mosaic(tiles=TILES[1:]))
    with pytest.raises(ValueError, match="reference 'F160W' must be one of bands"):
        hst("http://a", reference="F160W")
    with pytest.raises(ValueError, match="too large"):
        hst("http://a", pixels=Hapcut(size=FixedSize(half=100)))
    for place in ("../x.fits", "/x.fits", "file:///x", "http://a/x.fits", "a?b.fits"):
        with pytest.raises(ValueError, match="image"):
            Tile(band="F814W", image=place)


# A further table.


def test_photometric_redshifts_are_joined_by_id(tmp_path: Path) -> None:
    table = pa.table({"MatchID": pa.array([9007199254740993, 2, 3]), "MatchRA": [1.0, 2.0, 3.0]})
    path = tmp_path / "photoz.csv"
    path.write_text("MatchID,zphot\n3,0.7\n9007199254740993,0.5\n9007199254740992,9\n")
    spec = Sample(id="MatchID", id_type="int64", join=str(path))
    assert joined(table, spec)["zphot"].to_pylist() == [0.5, None, 0.7]
    for text, said in (
        ("MatchID,MatchRA\n1,2\n", "'MatchRA' is in the table of objects too"),
        ("MatchID,z\n1,2\n1,3\n", "stands in it twice"),
        ("id,z\n1,2\n", "no column 'MatchID'"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            joined(table, spec)


# Real pixels.


@pytest.mark.real
@pytest.mark.skipif(not REAL.exists(), reason="needs GALPIPE_DATA")
def test_the_real_cutout_of_candels_is_centred_and_keeps_its_pixels(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"MatchID": 1, "MatchRA": 189.49206, "MatchDec": 62.20615}])
    pixels = Zcut(survey="candels_gn_30mas", size=FixedSize(half=0.7))
    bands = ("F606W", "F814W", "F850LP")
    content = REAL.read_bytes()
    with saying(200, content) as (address, asked):
        spec = hst(address, pixels=pixels, bands=bands)
        context, (line,) = run(tmp_path, spec, table)
    assert "survey=candels_gn_30mas" in asked[0]
    assert line["status"] == Status.OK
    image, wcs = stored(context, line, "image"), stored(context, line, "wcs")
    x, y = _world(wcs).all_world2pix(189.49206, 62.20615, 0)
    middle = (image.shape[1] - 1) / 2
    assert abs(x - middle) <= 0.5 and abs(y - middle) <= 0.5
    with (
        zipfile.ZipFile(REAL) as archive,
        fits.open(io.BytesIO(archive.read(archive.namelist()[0]))) as hdus,
    ):
        for number, hdu in enumerate(hdus[1:]):
            place = WCS(hdu.header).celestial.all_world2pix(189.49206, 62.20615, 0)
            truth = Cutout2D(hdu.data, np.rint(place), image.shape[1:])
            np.testing.assert_array_equal(image[number], truth.data)
        proposals = [hdu.header["PROPOSID"] for hdu in hdus[1:]]
    assert stored(context, line, "proposal").tolist() == proposals
    assert np.isnan(stored(context, line, "variance")).all()  # no exposure times come with it
    outside = np.abs(image[1] - np.median(image[1]))
    scatter = 1.4826 * float(np.median(outside))
    assert stored(context, line, "noise") == pytest.approx(
        scatter * correlation(PIXEL, NATIVE, 1.0), rel=0.3
    )


@pytest.mark.real
@pytest.mark.skipif(not REAL.exists(), reason="needs GALPIPE_DATA")
def test_the_recorded_answer_of_the_hubble_source_catalog_is_read() -> None:
    body = (REAL.parent / "hsc.json").read_bytes()
    rows = json.loads(body)["data"]
    cone = Cone(ra=322.49, dec=12.17, radius=1.0)
    with saying(200, body) as (address, asked):
        table = hubble_catalogue.query(
            hst(address), Sample(id="MatchID", id_type="int64", cone=cone)
        )
    assert asked == ["POST /api/v0/invoke"]
    assert table["MatchID"].to_pylist() == [row["MatchID"] for row in rows]
    assert table["A_F814W"].to_pylist() == [row["A_F814W"] for row in rows]
    assert table["MatchRA"].to_pylist() == [row["MatchRA"] for row in rows]


# The chain.


def test_the_ready_survey_of_the_simulated_field_is_whole() -> None:
    found = survey.load(survey.ready("hst-field"))
    assert found.archive.kind == "hst-sky" and found.sample.cone is not None
    assert {tile.image for tile in found.archive.pixels.tiles} == set(map(name_of, FILTERS))
