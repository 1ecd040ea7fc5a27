"""The server of the embedded sky, asked by real clients over real HTTP."""

from __future__ import annotations

import bz2
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from PIL import Image

from galpipe.sky import imgcutout
from galpipe.sky.imgcutout import Cutouts, Request, colours
from galpipe.sky.server import Settings, application
from galpipe.sky.sql import distance
from galpipe.sky.tsql import SqlError, translate

RUN, CAMCOL, RERUN = 752, 2, 301
FIELDS = (11, 12)
HEIGHT, WIDTH, STEP = 300, 400, 260  # 40 rows overlap
PIXEL = 0.396 / 3600
SHIFTS = {"g": (2.3, -3.1), "r": (0.0, 0.0), "i": (-1.7, 2.4)}
FLUX = {"g": 40.0, "r": 70.0, "i": 90.0}  # nanomaggies
SIGMA = 2.2  # pixels
SEARCH = "/dr17/en/tools/search/x_results.aspx"
SQL = "/dr17/SkyServerWS/SearchTools/SqlSearch"
CUTOUT = "/dr17/SkyServerWS/ImgCutout/getjpeg"
TARGETS = ((200.0, 150.0), (60.3, 90.7), (330.6, 60.2), (120.0, 278.5))  # r pixels of field 11


def frame_wcs(field: int, band: str) -> WCS:
    """Rotated by about 97 degrees, as on the equator; the bands differ by a few pixels."""
    wcs = WCS(naxis=2)
    angle = np.radians(97.0)
    dx, dy = SHIFTS[band]
    wcs.wcs.crpix = WIDTH / 2 + 1 + dx, HEIGHT / 2 + 1 + dy - (field - FIELDS[0]) * STEP
    wcs.wcs.crval = 0.02, -0.4  # across the origin of right ascension
    wcs.wcs.cd = PIXEL * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.set()
    return wcs


def object_id(field: int, number: int) -> int:
    return (2 << 59) | (RERUN << 48) | (RUN << 32) | (CAMCOL << 29) | (field << 16) | number


def plant(folder: Path) -> Path:
    """A sky of two overlapping fields with four round galaxies, laid out as the drawn one."""
    at = frame_wcs(FIELDS[0], "r")
    places = [at.pixel_to_world_values(x, y) for x, y in TARGETS]
    frames = folder / f"sas/dr17/eboss/photoObj/frames/{RERUN}/{RUN}/{CAMCOL}"
    frames.mkdir(parents=True)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for field in FIELDS:
        for band, flux in FLUX.items():
            wcs = frame_wcs(field, band)
            image = np.random.default_rng([field, ord(band)]).normal(0, 0.004, (HEIGHT, WIDTH))
            for ra, dec in places:
                px, py = wcs.world_to_pixel_values(ra, dec)
                spread = np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * SIGMA**2))
                image += flux * spread / (2 * np.pi * SIGMA**2)
            header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"})
            for axis in (1, 2):
                header[f"CRPIX{axis}"] = wcs.wcs.crpix[axis - 1]
                header[f"CRVAL{axis}"] = wcs.wcs.crval[axis - 1]
                for other in (1, 2):
                    header[f"CD{axis}_{other}"] = wcs.wcs.cd[axis - 1, other - 1]
            buffer = io.BytesIO()
            fits.PrimaryHDU(image.astype(np.float32), header).writeto(buffer)
            name = f"frame-{band}-{RUN:06d}-{CAMCOL}-{field:04d}.fits.bz2"
            (frames / name).write_bytes(bz2.compress(buffer.getvalue()))
    ids = [object_id(FIELDS[0], number) for number in range(1, len(places) + 1)]
    described = {b"unit": b"arcsec", b"description": b"Radius of 90 % of the light"}
    photo = pa.table(
        {
            "objID": pa.array(ids, pa.int64()),
            "run": pa.array([RUN] * 4, pa.int16()),
            "rerun": pa.array([RERUN] * 4, pa.int16()),
            "camcol": pa.array([CAMCOL] * 4, pa.uint8()),
            "field": pa.array([FIELDS[0]] * 4, pa.int16()),
            "ra": [float(ra) % 360 for ra, _ in places],
            "dec": [float(dec) for _, dec in places],
            "type": pa.array([3, 3, 6, 3], pa.int16()),
            "mode": pa.array([1, 1, 1, 2], pa.uint8()),
            "petroR90_r": pa.array([4.1, 5.3, 2.2, None], pa.float32()),
            "petroMag_r": pa.array([17.1, 16.2, 15.3, 17.9], pa.float32()),
        }
    )
    place = photo.schema.get_field_index("petroR90_r")
    photo = photo.cast(photo.schema.set(place, photo.schema.field(place).with_metadata(described)))
    spectra = pa.table(
        {
            "specObjID": pa.array([845594848269461504, 845594848269461505], pa.int64()),
            "bestObjID": pa.array(ids[:2], pa.int64()),
            "z": pa.array([0.04559058, 0.1], pa.float32()),
            "class": ["GALAXY", "QSO"],
        }
    )
    (folder / "tables").mkdir()
    pq.write_table(photo, folder / "tables" / "PhotoObjAll.parquet")
    pq.write_table(spectra, folder / "tables" / "SpecObjAll.parquet")
    (folder / "manifest.json").write_text(
        json.dumps({"format": 1, "spec": {"seed": 1}, "frames": 6, "galaxies": 3, "seconds": 0.1})
    )
    return folder


@contextmanager
def served(folder: Path, settings: Settings | None = None) -> Iterator[str]:
    """The address of a sky served in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(application(folder, settings), log_level="error", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("planted-sky"))


@pytest.fixture(scope="module")
def client(planted: Path) -> Iterator[httpx.Client]:
    with served(planted) as address, httpx.Client(base_url=address, timeout=30) as one:
        yield one


def frame_path(planted: Path, band: str = "r", field: int = FIELDS[0]) -> Path:
    return next(planted.rglob(f"frame-{band}-*-{field:04d}.fits.bz2"))


# Files


def test_a_frame_is_served_whole_and_described(client: httpx.Client, planted: Path) -> None:
    path = frame_path(planted)
    link = f"/{path.relative_to(planted)}"
    whole = client.get(link)
    assert whole.status_code == 200
    assert whole.content == path.read_bytes()
    assert int(whole.headers["content-length"]) == path.stat().st_size
    assert "content-encoding" not in whole.headers
    head = client.head(link)
    assert head.status_code == 200 and head.content == b""
    assert head.headers["content-length"] == whole.headers["content-length"]
    again = client.get(link, headers={"If-None-Match": whole.headers["etag"]})
    assert again.status_code == 304
    assert client.get(link.replace("frame-r", "frame-u")).status_code == 404
    assert client.get(link.rsplit("/", 1)[0]).status_code == 404
    assert client.post(link).status_code == 405


def test_a_broken_off_frame_can_be_resumed(client: httpx.Client, planted: Path) -> None:
    path = frame_path(planted)
    link, content = f"/{path.relative_to(planted)}", path.read_bytes()
    etag = client.head(link).headers["etag"]
    rest = client.get(link, headers={"Range": "bytes=1000-", "If-Range": etag})
    assert rest.status_code == 206 and rest.content == content[1000:]
    assert rest.headers["content-range"] == f"bytes 1000-{len(content) - 1}/{len(content)}"
    changed = client.get(link, headers={"Range": "bytes=1000-", "If-Range": '"another"'})
    assert changed.status_code == 200 and changed.content == content
    past = client.get(link, headers={"Range": f"bytes={len(content)}-"})
    assert past.status_code == 416
    assert past.headers["content-range"] == f"bytes */{len(content)}"


@pytest.mark.parametrize(
    "path",
    [
        "/sas/../manifest.json", "/sas/../tables/PhotoObjAll.parquet", "/sas//etc/passwd",
        "/sas/%2e%2e/manifest.json", "/sas/..%2fmanifest.json", "/sas/..%5cmanifest.json",
        "/sas/dr17/../../manifest.json", "/sas/%00", "/manifest.json",
    ],
)  # fmt: skip
def test_nothing_outside_the_files_is_served(client: httpx.Client, path: str) -> None:
    address = client.base_url
    with socket.create_connection((address.host, address.port or 80)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404")


# SQL


def ask(client: httpx.Client, query: str, form: str = "csv", path: str = SQL) -> httpx.Response:
    return client.get(path, params={"cmd": query, "format": form})


def test_csv_is_streamed_with_exact_numbers(client: httpx.Client, planted: Path) -> None:
    table = pq.read_table(planted / "tables" / "PhotoObjAll.parquet").to_pydict()
    answer = ask(client, "SELECT objid, ra, petroR90_r FROM PhotoObjAll ORDER BY objid")
    assert answer.status_code == 200
    assert "content-length" not in answer.headers
    lines = answer.text.splitlines()
    assert lines[:2] == ["#Table1", "objid,ra,petroR90_r"]
    rows = [line.split(",") for line in lines[2:]]
    assert [int(row[0]) for row in rows] == table["objID"]
    assert [float(row[1]) for row in rows] == table["ra"]
    assert [row[2] for row in rows] == ["4.1", "5.3", "2.2", "null"]  # single precision, missing
    assert answer.text.endswith("\n")


def test_json_and_html(client: httpx.Client) -> None:
    query = "SELECT specObjID, [class] FROM SpecObj WHERE class = 'galaxy'"
    assert ask(client, query, "json").json() == [
        {"TableName": "Table1", "Rows": [{"specObjID": 845594848269461504, "class": "GALAXY"}]}
    ]
    page = ask(client, query, "html", SEARCH)
    assert page.status_code == 200 and "<td>845594848269461504</td>" in page.text


def test_no_rows_are_a_header(client: httpx.Client) -> None:
    assert ask(client, "select ra, dec from Galaxy where ra < -1").text == "#Table1\nra,dec\n"


def test_paths_match_in_any_case(client: httpx.Client) -> None:
    query = "select top 1 run from Galaxy"
    for path in (SEARCH, SEARCH.replace("x_results", "X_Results"), SQL.lower(), SQL.upper()):
        assert ask(client, query, "csv", path).text == f"#Table1\nrun\n{RUN}\n"


def test_a_query_without_top_is_cut_without_a_word(planted: Path) -> None:
    with served(planted, Settings(rows=3)) as address, httpx.Client(base_url=address) as client:
        assert len(ask(client, "SELECT objID FROM PhotoObjAll").text.splitlines()) == 2 + 3
        assert len(ask(client, "SELECT TOP 4 objID FROM PhotoObjAll").text.splitlines()) == 2 + 3
        assert len(ask(client, "SELECT TOP 2 objID FROM PhotoObjAll").text.splitlines()) == 2 + 2


def test_keyed_pages_are_the_whole_table(client: httpx.Client, planted: Path) -> None:
    last, found = 0, []
    while True:
        query = f"SELECT TOP 3 p.objID FROM PhotoObjAll p WHERE p.objID > {last} ORDER BY p.objID"
        rows = [int(line) for line in ask(client, query).text.splitlines()[2:]]
        found += rows
        if len(rows) < 3:
            break
        last = rows[-1]
    assert found == pq.read_table(planted / "tables" / "PhotoObjAll.parquet")["objID"].to_pylist()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "must start with 'select '"),
        ("WITH x AS (SELECT 1) SELECT * FROM x", "must start with 'select '"),
        ("DROP TABLE PhotoObjAll", "must start with 'select '"),
        ("SELECT missing FROM PhotoObjAll", "Invalid column name 'missing'."),
        ("SELECT [missing] FROM PhotoObjAll", "Invalid column name 'missing'."),
        ('SELECT "missing" FROM PhotoObjAll', "Invalid column name 'missing'."),
        ("SELECT 1 FROM Nowhere", "Invalid object name 'Nowhere'."),
        ("SELECT dbo.fNothing(1)", "'fNothing' is not a recognized built-in function name."),
        ("SELECT ra FROM PhotoObjAll LIMIT 3", "Incorrect syntax near 'LIMIT'."),
        ("SELECT ra INTO mydb.x FROM PhotoObjAll", "Incorrect syntax near 'INTO'."),
        ("SELECT ra FROM", "Incorrect syntax near"),
        ("SELECT (ra FROM PhotoObjAll", "a '(' is not closed"),
        ("SELECT 1; DROP TABLE PhotoObjAll", "one statement at a time"),
        ("SELECT 'a' + 'b'", "cannot be joined"),
        ("SELECT @x", "Incorrect syntax near '@'."),
        ("SELECT * FROM sqlite_master", "permission was denied"),
        ("SELECT * FROM pragma_table_info('PhotoObjAll')", "permission was denied"),
        ("SELECT TOP ra FROM PhotoObjAll", "it takes a whole number"),
        ("SELECT TOP 1 ra FROM Galaxy UNION SELECT ra FROM Star", "UNION"),
    ],
)
def test_refusals_are_json_with_400_and_html_with_200(
    client: httpx.Client, query: str, message: str
) -> None:
    answer = ask(client, query)
    assert answer.status_code == 400, answer.text
    assert set(answer.json()) == {"ErrorCode", "ErrorType", "ErrorMessage"}
    assert message in answer.json()["ErrorMessage"]
    page = ask(client, query, "html")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")


def test_the_server_reads_only(client: httpx.Client) -> None:
    before = ask(client, "SELECT * FROM PhotoObjAll ORDER BY objID").text
    for query in ("select 1 union delete from PhotoObjAll", "select load_extension('x')"):
        assert ask(client, query).status_code == 400
    assert ask(client, "SELECT * FROM PhotoObjAll ORDER BY objID").text == before


def test_a_query_past_its_time_is_refused(planted: Path) -> None:
    joins = ", ".join(f"PhotoObjAll a{k}" for k in range(14))
    query = f"SELECT COUNT(*) FROM {joins}"
    settings = Settings(seconds=0.2)
    with served(planted, settings) as address, httpx.Client(base_url=address) as client:
        answer = ask(client, query)
    assert answer.status_code == 400
    assert answer.json()["ErrorMessage"] == "The query ran past the limit of 0.2 s."


def test_many_ask_at_once(client: httpx.Client) -> None:
    queries = [
        "SELECT objID, ra FROM PhotoObjAll ORDER BY objID",
        "SELECT TOP 2 p.objID, s.z FROM PhotoObjAll p JOIN SpecObj s ON s.bestObjID = p.objID",
        "SELECT COUNT(*) n FROM PhotoObjAll a, PhotoObjAll b, PhotoObjAll c, PhotoObjAll d",
        "SELECT missing FROM Galaxy",
    ]
    alone = [ask(client, query).text for query in queries]
    with ThreadPoolExecutor(8) as clients:
        together = list(clients.map(lambda query: ask(client, query).text, queries * 10))
    assert together == alone * 10


def test_the_rate_limit_answers_200(planted: Path) -> None:
    settings = Settings(queries_per_minute=2)
    with served(planted, settings) as address, httpx.Client(base_url=address) as client:
        answers = [ask(client, "SELECT TOP 1 ra FROM Galaxy") for _ in range(3)]
    assert [one.status_code for one in answers] == [200, 200, 200]
    assert answers[1].text.startswith("#Table1\nra\n")
    assert answers[2].text.splitlines()[1] == "error_message"
    assert "ERROR: Maximum 2 queries allowed per minute." in answers[2].text


def test_the_queries_sdss_users_write(client: httpx.Client, planted: Path) -> None:
    table = pq.read_table(planted / "tables" / "PhotoObjAll.parquet").to_pydict()
    ra, dec = table["ra"][0], table["dec"][0]

    def rows(query: str) -> list[dict[str, Any]]:
        answer = ask(client, query, "json")
        assert answer.status_code == 200, answer.text
        return list(answer.json()[0]["Rows"])

    joined = rows(
        "SELECT DISTINCT TOP (10) p.objid, s.z, p.petroMag_r - 0.1 AS r0, "
        "dbo.fPhotoTypeN(p.type) AS kind /* the type */ FROM PhotoObjAll AS p -- all\n"
        "JOIN SpecObjAll s ON s.bestObjID = p.objID ORDER BY p.objid"
    )
    assert [row["objid"] for row in joined] == table["objID"][:2]
    assert joined[0]["kind"] == "GALAXY" and joined[0]["z"] == 0.04559058
    assert joined[0]["r0"] == pytest.approx(17.0)
    near = rows(
        f"SELECT n.objID, n.distance, g.ra FROM dbo.fGetNearbyObjEq({ra}, {dec}, 3) n "
        "JOIN PhotoPrimary g ON g.objID = n.objID"
    )
    assert near[0]["objID"] == table["objID"][0] and near[0]["distance"] < 1e-6
    assert len(near) == 3 and [row["distance"] for row in near] == sorted(
        row["distance"] for row in near
    )
    everything = rows(f"select count(*) as n from dbo.fGetNearbyObjAllEq({ra}, {dec}, 3)")
    assert everything == [{"n": 4}]
    nearest = rows(f"SELECT * FROM fGetNearestObjEq({ra + 0.001}, {dec}, 3)")
    assert [row["objID"] for row in nearest] == table["objID"][:1]
    decoded = rows("SELECT TOP 1 (objID / 4294967296) & 65535 AS run, (objID & 65535) FROM Star")
    assert decoded == [{"run": RUN, "Column1": 3}]
    assert rows(
        "SELECT str(3.14159, 8, 2) a, round(2.567, 1) b, log(exp(2.0)) c, log10(100) d"
    ) == [{"a": "    3.14", "b": 2.6, "c": 2.0, "d": 2.0}]
    assert rows("SELECT p.ra, s.ra FROM Galaxy p JOIN PhotoObjAll s ON s.objID = p.objID")[0] == {
        "ra": ra, "ra1": ra,
    }  # fmt: skip
    assert rows(
        "select top 2 camcol, count(*), avg(petroMag_r) m from PhotoObj group by camcol"
    ) == [{"camcol": 2, "Column1": 4, "m": pytest.approx(16.625)}]
    assert (
        len(rows("SELECT objID FROM Galaxy WHERE objID IN (SELECT TOP 1 bestObjID FROM SpecObj)"))
        == 1
    )


def test_columns_are_documented(client: httpx.Client) -> None:
    query = "select * from dbo.fDocColumns('PhotoObjAll')"
    rows = {row["name"]: row for row in ask(client, query, "json", SEARCH).json()[0]["Rows"]}
    assert rows["objID"]["type"] == "bigint" and rows["ra"]["length"] == 8
    assert rows["petroR90_r"]["unit"] == "arcsec" and "90 %" in rows["petroR90_r"]["description"]


def test_a_spelling_is_kept_and_top_becomes_a_limit() -> None:
    assert translate("select top 3 OBJID, p.[Ra] from t p", 9) == (
        "select OBJID AS [OBJID] , p . [Ra] AS [Ra] from t p LIMIT 3"
    )
    with pytest.raises(SqlError, match="percent"):
        translate("select top 3 percent ra from t", 9)


def test_distance_is_the_one_of_astropy() -> None:
    from astropy.coordinates import SkyCoord

    pairs = np.random.default_rng(1).uniform([0, -90, 0, -90], [360, 90, 360, 90], (50, 4))
    first, second = (SkyCoord(*pairs[:, k : k + 2].T, unit="deg") for k in (0, 2))
    assert [distance(*pair) for pair in pairs] == pytest.approx(first.separation(second).arcmin)


# astroquery


@pytest.fixture()
def sdss(client: httpx.Client) -> Iterator[Any]:
    """astroquery's own SDSS client, pointed at the server."""
    from astroquery.sdss import SDSSClass, conf, field_names

    address = str(client.base_url).rstrip("/")
    field_names._cached_table_fields.clear()
    with (
        conf.set_temp("skyserver_baseurl", address),
        conf.set_temp("sas_baseurl", f"{address}/sas"),
    ):
        yield SDSSClass()
    field_names._cached_table_fields.clear()


ASKED = {"timeout": 30, "data_release": 17, "cache": False}


def test_astroquery_reads_sql(sdss: Any, planted: Path) -> None:
    table = pq.read_table(planted / "tables" / "PhotoObjAll.parquet").to_pydict()
    query = """SELECT p.objID, p.ra, p.run -- what
        FROM PhotoObjAll p
        WHERE p.mode = 1 ORDER BY p.objID"""
    found = sdss.query_sql(query, **ASKED)
    assert isinstance(found, Table)
    assert list(found["objID"]) == table["objID"][:3]
    assert list(found["ra"]) == table["ra"][:3]
    assert sdss.query_sql("SELECT ra FROM Galaxy WHERE ra < -1", **ASKED) is None


def test_astroquery_meets_the_rate_limit(planted: Path) -> None:
    from astroquery.exceptions import RemoteServiceError
    from astroquery.sdss import SDSSClass, conf

    with (
        served(planted, Settings(queries_per_minute=1)) as address,
        conf.set_temp("skyserver_baseurl", address),
    ):
        assert len(SDSSClass().query_sql("SELECT TOP 1 ra FROM Galaxy", **ASKED)) == 1
        with pytest.raises(RemoteServiceError, match="Maximum 1 queries"):
            SDSSClass().query_sql("SELECT TOP 1 ra FROM Galaxy", **ASKED)


def test_astroquery_matches_positions(sdss: Any, planted: Path) -> None:
    from astropy import units
    from astropy.coordinates import SkyCoord

    table = pq.read_table(planted / "tables" / "PhotoObjAll.parquet").to_pydict()
    places = SkyCoord(table["ra"], table["dec"], unit="deg")
    shifted = places.directional_offset_by(40 * units.deg, 1.5 * units.arcsec)
    columns = ["objID", "ra", "run"]
    found = sdss.query_crossid(shifted, radius=3 * units.arcsec, fields=columns, **ASKED)
    assert list(found["objID"]) == table["objID"][:3]  # the fourth is no primary
    assert set(found["type"]) == {"GALAXY", "STAR"}
    far = sdss.query_crossid(shifted[:1], radius=1 * units.arcsec, fields=columns, **ASKED)
    assert far is None
    around = sdss.query_region(places[:1], radius=2.9 * units.arcmin, fields=columns, **ASKED)
    assert sorted(around["objID"]) == sorted(table["objID"])


def test_astroquery_gets_frames(sdss: Any, planted: Path) -> None:
    with bz2.open(frame_path(planted, "g", 11)) as file, fits.open(io.BytesIO(file.read())) as own:
        wanted = own[0].data
    (images,) = sdss.get_images(
        run=RUN, camcol=CAMCOL, field=FIELDS[0], band="g", timeout=30, data_release=17,
        cache=False, show_progress=False,
    )[:1]  # fmt: skip
    with images:
        np.testing.assert_array_equal(images[0].data, wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": "4"}, "radius"),
        ({"photoScope": "somewhere"}, "photoScope"),
        ({"firstcol": "x"}, "list of positions"),
        ({"uquery": "SELECT missing FROM #upload"}, "Invalid column name 'missing'."),
    ],
)
def test_bad_uploads_are_refused(
    client: httpx.Client, change: dict[str, str], message: str
) -> None:
    fields = {
        "format": "csv", "searchtool": "CrossID", "radius": "0.05", "firstcol": "1",
        "photoScope": "nearPrim", "photoUpType": "ra-dec",
        "uquery": "SELECT u.up_name, x.objID FROM #upload u JOIN #x x ON x.up_id = u.up_id",
    }  # fmt: skip
    files = {"upload": ("a", b"name ra dec \none 0.02 -0.4")}
    good = client.post(SEARCH, data=fields, files=files)
    assert good.status_code == 200 and good.text.startswith("#Table1\nup_name,objID\none,")
    bad = client.post(SEARCH, data={**fields, **change}, files=files)
    assert bad.status_code == 400 and message in bad.json()["ErrorMessage"]


# Cutouts


def cut(client: httpx.Client, ra: float, dec: float, **options: Any) -> httpx.Response:
    return client.get(CUTOUT, params={"ra": repr(float(ra)), "dec": repr(float(dec)), **options})


def pixels(answer: httpx.Response) -> np.ndarray:
    assert answer.headers["content-type"] == "image/jpeg"
    return np.asarray(Image.open(io.BytesIO(answer.content)), float)


def centroid(image: np.ndarray) -> tuple[float, float]:
    """Column and row, by moments of what stands out of the darkness."""
    light = np.clip(image.sum(axis=-1) - 40, 0, None)
    y, x = np.mgrid[: light.shape[0], : light.shape[1]]
    return float((light * x).sum() / light.sum()), float((light * y).sum() / light.sum())


@pytest.mark.parametrize("target", range(len(TARGETS)))
@pytest.mark.parametrize("scale", [0.1, 0.3])
def test_the_target_is_centred(client: httpx.Client, target: int, scale: float) -> None:
    ra, dec = frame_wcs(11, "r").pixel_to_world_values(*TARGETS[target])
    image = pixels(cut(client, ra, dec, scale=scale, width=101, height=81))
    assert image.shape == (81, 101, 3)
    assert centroid(image) == pytest.approx((50, 40), abs=0.5 * scale)


def test_north_is_up_and_east_is_left(client: httpx.Client) -> None:
    ra, dec = frame_wcs(11, "r").pixel_to_world_values(*TARGETS[0])
    step = 8 / 3600
    for east, north in ((step, 0.0), (0.0, step)):
        around = cut(client, ra - east / np.cos(np.radians(dec)), dec - north, scale=0.2,
                     width=129, height=129)  # fmt: skip
        x, y = centroid(pixels(around))
        assert x == pytest.approx(64 - east * 3600 / 0.2, abs=0.3)
        assert y == pytest.approx(64 - north * 3600 / 0.2, abs=0.3)


def test_fields_are_joined_where_a_cutout_crosses_them(client: httpx.Client, planted: Path) -> None:
    ra, dec = frame_wcs(11, "r").pixel_to_world_values(*TARGETS[3])  # 21 rows below the upper edge
    image = pixels(cut(client, ra, dec, scale=0.396, width=100, height=100))
    assert centroid(image) == pytest.approx((49.5, 49.5), abs=0.3)
    joined = Cutouts(planted / "sas", 2**24)
    assert (joined.light(Request(float(ra), float(dec), 0.396, 100, 100)) != 0).all()
    ra, dec = map(float, frame_wcs(11, "r").pixel_to_world_values(5, 100))
    edge = Request(ra, dec, 0.396, 100, 100)
    assert (joined.light(edge) == 0).mean() == pytest.approx(0.44, abs=0.05)  # beyond the frames


def test_the_light_is_that_of_the_frames(planted: Path) -> None:
    ra, dec = map(float, frame_wcs(11, "r").pixel_to_world_values(*TARGETS[0]))
    cutouts = Cutouts(planted / "sas", 2**20)  # holds two frames: the rest is read again
    # Finer, equal and coarser than a frame's pixels: coarse ones sample a compact source sparsely.
    for scale, agreement in ((0.1, 0.01), (0.396, 0.01), (1.0, 0.06)):
        wanted = Request(ra, dec, scale, 64, 64)
        light = cutouts.light(wanted)
        total = light.sum(axis=(1, 2)) * (scale / 0.396) ** 2
        assert total == pytest.approx([FLUX[band] for band in "irg"], rel=agreement)
        np.testing.assert_array_equal(light, cutouts.light(wanted))


def test_same_request_same_bytes(client: httpx.Client, planted: Path) -> None:
    ra, dec = frame_wcs(11, "r").pixel_to_world_values(*TARGETS[1])
    asked = {"scale": 0.25, "width": 96, "height": 96}
    first = cut(client, ra, dec, **asked).content
    assert cut(client, ra + 360, dec, **asked).content != b""
    settings = Settings(frame_bytes=1)
    with served(planted, settings) as address, httpx.Client(base_url=address) as other:
        assert cut(other, ra, dec, **asked).content == first


def test_frames_are_decoded_once_and_kept_within_bounds(
    planted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    plain = imgcutout._read_frame

    def counted(path: Path) -> imgcutout.Frame:
        read.append(path)
        return plain(path)

    monkeypatch.setattr(imgcutout, "_read_frame", counted)
    ra, dec = map(float, frame_wcs(11, "r").pixel_to_world_values(*TARGETS[0]))
    cutouts = Cutouts(planted / "sas", 2**24)
    with ThreadPoolExecutor(8) as clients:
        images = set(clients.map(cutouts.jpeg, [Request(ra, dec, 0.2, 64, 64)] * 24))
    assert len(images) == 1 and len(read) == 3
    small = Cutouts(planted / "sas", 2 * HEIGHT * WIDTH * 4)
    with ThreadPoolExecutor(8) as clients:
        assert set(clients.map(small.jpeg, [Request(ra, dec, 0.2, 64, 64)] * 24)) == images
    small._frames._readers.shutdown(wait=True)
    held = [frame.result().image.nbytes for frame in small._frames._frames.values()]
    assert sum(held) <= 2 * HEIGHT * WIDTH * 4


def test_sizes_are_clamped(client: httpx.Client) -> None:
    ra, dec = frame_wcs(11, "r").pixel_to_world_values(*TARGETS[0])
    small = pixels(cut(client, ra, dec, width=3, height=70, scale=0.4))
    assert small.shape == (70, 64, 3)
    wide = pixels(cut(client, ra, dec, width=5000, height=1, scale=0.02))
    assert wide.shape == (64, 2048, 3)
    fine = cut(client, ra, dec, width=64, height=64, scale=0.0)
    assert fine.content == cut(client, ra, dec, width=64, height=64, scale=0.015).content


def test_outside_the_footprint_is_404_with_an_image(client: httpx.Client) -> None:
    for place in ((120.0, 40.0), (180.02, 0.4)):
        answer = cut(client, *place, width=200, height=100)
        assert answer.status_code == 404
        assert pixels(answer).shape == (100, 200, 3)


@pytest.mark.parametrize(
    "asked",
    [{"dec": "1"}, {"ra": "x", "dec": "1"}, {"ra": "1", "dec": "95"}, {"ra": "nan", "dec": "1"},
     {"ra": "1", "dec": "1", "scale": "x"}, {"ra": "1", "dec": "1", "width": "inf"}],
)  # fmt: skip
def test_bad_parameters_are_400(client: httpx.Client, asked: dict[str, str]) -> None:
    answer = client.get(CUTOUT, params=asked)
    assert answer.status_code == 400 and "parameter" in answer.json()["ErrorMessage"]


def test_a_broken_frame_is_500_with_an_image(tmp_path: Path) -> None:
    folder = plant(tmp_path / "sky")
    path = frame_path(folder, "g")
    path.write_bytes(path.read_bytes()[:4000])
    ra, dec = frame_wcs(11, "r").pixel_to_world_values(*TARGETS[1])
    with served(folder) as address, httpx.Client(base_url=address) as client:
        answer = cut(client, ra, dec, width=100, height=100)
        assert answer.status_code == 500
        assert pixels(answer).shape == (100, 100, 3)
        assert client.get("/health").status_code == 200


def test_colours_are_those_of_the_published_scaling() -> None:
    """5 i, 6.5 r and 9 g at non-linearity 2.25 (sdss_frame_jpeg), in astropy's own parameters."""
    from astropy.visualization import make_lupton_rgb

    light = np.random.default_rng(3).lognormal(-4, 2, (3, 40, 40)).astype(np.float32)
    softening = 3 * 2.25  # astropy's intensity is the mean of the bands
    q = 10 * np.sinh(0.1 * softening)
    wanted = make_lupton_rgb(
        5.0 * light[0], 6.5 * light[1], 9.0 * light[2], minimum=0, stretch=q / softening, Q=q
    )
    np.testing.assert_allclose(colours(light).astype(float), wanted.astype(float), atol=1.01)
    assert wanted.max() == 255 and wanted.min() < 5
    assert not colours(np.zeros((3, 4, 4), np.float32)).any()


# The page


def test_the_page_shows_links_that_work(client: httpx.Client) -> None:
    import html
    import re

    page = client.get("/")
    assert page.status_code == 200 and "simulated galaxies" in page.text
    links = [html.unescape(link) for link in re.findall(r'(?:href|src)="([^"]+)"', page.text)]
    assert len(links) >= 4
    for link in links:
        assert client.get(link).status_code == 200, link
    assert client.get("/health").json() == {"status": "ok", "galaxies": 3, "frames": 6}


# The command: a real small sky, drawn once for the module

SERVE = [sys.executable, "-m", "galpipe", "sky", "serve"]
START_LIMIT = 300.0  # seconds
END_LIMIT = 60.0  # seconds in which a hang is told from a loaded machine


def start(cache: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*SERVE, *options], env={**os.environ, "GALPIPE_CACHE": str(cache)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def said(process: subprocess.Popen[str]) -> tuple[list[dict[str, Any]], str]:
    """The lines about the drawing, and the address."""
    lines: list[dict[str, Any]] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(json.loads(line))
        if "address" in lines[-1]:
            return lines[:-1], lines[-1]["address"]
    raise AssertionError(process.communicate()[1])


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def gone(identifiers: list[int]) -> bool:
    """True when none of the processes is left, within a few seconds."""
    limit = time.monotonic() + END_LIMIT
    while any(map(lives, identifiers)):
        if time.monotonic() > limit:
            return False
        time.sleep(0.05)
    return True


def lives(identifier: int) -> bool:
    try:
        return bool(psutil.Process(identifier).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the sky of 60 galaxies, drawn through the command."""
    folder = tmp_path_factory.mktemp("cache")
    process = start(folder, "--galaxies", "60", "--tied")
    try:
        drawing, address = said(process)
        total = drawing[0]["of"]
        assert drawing[0] == {"drawing": 0, "of": total}
        assert drawing[-1] == {"drawing": total, "of": total}
        health = httpx.get(f"{address}/health").json()
        assert health == {"status": "ok", "galaxies": 60, "frames": total}
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(END_LIMIT) == 0
        assert process.stderr is not None and process.stderr.read() == ""
    finally:
        end(process)
    return folder


@pytest.fixture(scope="module")
def drawn(cache: Path) -> Iterator[httpx.Client]:
    process = start(cache, "--galaxies", "60", "--tied")
    try:
        drawing, address = said(process)
        assert drawing == []
        with httpx.Client(base_url=address, timeout=60) as client:
            yield client
    finally:
        end(process)


def test_every_object_of_the_drawn_sky_has_its_frames(drawn: httpx.Client) -> None:
    query = "SELECT DISTINCT run, rerun, camcol, field FROM PhotoObjAll"
    for row in ask(drawn, query, "json").json()[0]["Rows"]:
        for band in "gri":
            link = (
                f"/sas/dr17/eboss/photoObj/frames/{row['rerun']}/{row['run']}/{row['camcol']}/"
                f"frame-{band}-{row['run']:06d}-{row['camcol']}-{row['field']:04d}.fits.bz2"
            )
            answer = drawn.get(link)
            assert answer.status_code == 200
            with fits.open(io.BytesIO(bz2.decompress(answer.content))) as hdus:
                assert hdus[0].header["FILTER"].strip() == band
                assert hdus[0].data.shape == (1489, 2048)


def test_drawn_objects_are_centred_where_the_catalogue_says(drawn: httpx.Client) -> None:
    query = (
        "SELECT TOP 5 p.ra, p.dec FROM PhotoObjAll p JOIN SkyTruth t ON t.objID = p.objID "
        "WHERE t.kind = 'elliptical' AND t.companion = 0 AND p.rowc_r BETWEEN 100 AND 1389 "
        "AND p.colc_r BETWEEN 100 AND 1948 ORDER BY p.petroMag_r DESC"
    )
    places = ask(drawn, query, "json").json()[0]["Rows"]
    assert len(places) == 5
    for place in places:
        image = pixels(cut(drawn, place["ra"], place["dec"], scale=0.396, width=64, height=64))
        core = image[24:40, 24:40] - np.median(image, axis=(0, 1))  # away from neighbours
        x, y = centroid(core * 4)
        assert (x, y) == pytest.approx((7.5, 7.5), abs=0.5)


def test_votes_and_truth_join_the_photometry(drawn: httpx.Client) -> None:
    query = (
        "SELECT TOP 50000 z.dr8objid, z.dr7objid, z.specobjid, z.ra, z.dec, z.gz2class, p.run, "
        "p.rerun, p.camcol, p.field, p.petroR90_r, p.petroMag_r-p.extinction_r AS r0, p.clean "
        "FROM zoo2MainSpecz z JOIN PhotoObjAll p ON p.objID=z.dr8objid "
        "WHERE z.dr8objid>0 ORDER BY z.dr8objid"
    )
    rows = ask(drawn, query, "json").json()[0]["Rows"]
    ids = [row["dr8objid"] for row in rows]
    assert len(ids) > 30 and ids == sorted(set(ids))
    for row in rows:
        assert (row["dr8objid"] >> 32) & 0xFFFF == row["run"]
        assert (row["dr8objid"] >> 16) & 0xFFF == row["field"]
    kinds = ask(drawn, "SELECT DISTINCT kind FROM SkyTruth", "json").json()[0]["Rows"]
    assert len(kinds) >= 6


def test_sigterm_and_interrupt_end_it(cache: Path) -> None:
    for number, status in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        process = start(cache, "--galaxies", "60")
        try:
            _, address = said(process)
            assert httpx.get(address).status_code == 200
            process.send_signal(number)
            text = process.communicate(timeout=END_LIMIT)[1]
            assert process.returncode == status
            assert f'conf.skyserver_baseurl = "{address}"' in text and "Traceback" not in text
        finally:
            end(process)


PARENT = """
import json, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
for line in child.stdout:
    print(json.dumps({"child": child.pid, **json.loads(line)}), flush=True)
"""


@contextmanager
def parent_of(cache: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A process that starts the command, tied to itself, and repeats what it says."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, *SERVE, *options, "--tied"], text=True,
        env={**os.environ, "GALPIPE_CACHE": str(cache)}, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        end(process)


def test_a_tied_server_ends_with_its_killed_parent(cache: Path) -> None:
    with parent_of(cache, "--galaxies", "60") as parent:
        assert parent.stdout is not None
        first = json.loads(parent.stdout.readline())
        assert httpx.get(f"{first['address']}/health").status_code == 200
        parent.kill()
        assert gone([first["child"]])


@pytest.mark.parametrize("ended", ["parent", "server", "server asked"])
def test_drawing_processes_end_with_it(tmp_path: Path, ended: str) -> None:
    with parent_of(tmp_path, "--galaxies", "2000") as parent:
        assert parent.stdout is not None
        server = psutil.Process(json.loads(parent.stdout.readline())["child"])
        limit = time.monotonic() + START_LIMIT
        while len(server.children(recursive=True)) < 2:  # the drawing has begun
            assert server.is_running() and time.monotonic() < limit
            time.sleep(0.05)
        everyone = [server.pid, *(child.pid for child in server.children(recursive=True))]
        if ended == "parent":
            parent.kill()
        else:
            server.send_signal(signal.SIGKILL if ended == "server" else signal.SIGTERM)
        assert gone(everyone)
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_taken_port_is_one_sentence_before_any_drawing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(tmp_path, "--port", str(port))
        output, text = process.communicate(timeout=60)
    assert process.returncode == 2 and output == ""
    assert text.startswith(f"galpipe: port {port} is in use") and text.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--port", "70000"], "port 70000 cannot be taken"),
        (["--port", "-1"], "port -1 cannot be taken"),
        (["--seed", "-1"], "seed"),
        (["--galaxies", "60"], "GALPIPE_CACHE"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, options: list[str], words: str) -> None:
    (tmp_path / "file").write_text("no folder")
    process = start(tmp_path / "file", *options)
    output, text = process.communicate(timeout=60)
    assert process.returncode == 2 and output == ""
    assert words in text and text.count("\n") == 1


def test_serving_loads_nothing_that_trains(cache: Path) -> None:
    code = (
        "import sys, threading, time\n"
        "from galpipe.sky import command\n"
        "command._say = lambda value: (print(*sys.modules), sys.stdout.flush())\n"
        "command.serve(60, 1, 0, True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "GALPIPE_CACHE": str(cache)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        loaded = set(process.stdout.readline().split())
    finally:
        end(process)
    assert "uvicorn" in loaded
    assert not loaded & {"torch", "mlflow", "prefect", "sklearn", "matplotlib", "galsim"}
