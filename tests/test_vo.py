"""VO archives: TAP, SIA2, DataLink, SODA and hips2fits, asked by real clients and by ours."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
from astropy import units
from astropy.io import fits
from astropy.wcs import WCS
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from galpipe import spec as specs
from galpipe import survey
from galpipe.archives.retrieve import retrieve
from galpipe.archives.spec import EmbeddedSky, FixedSize, Hips, PetrosianSize, Soda, Vo
from galpipe.archives.table import read_objects
from galpipe.archives.vo import tap
from galpipe.archives.vo.votable import BadVotableError, read
from galpipe.errors import InputError
from galpipe.sample.catalogue import sample
from galpipe.sample.spec import Sample
from galpipe.sky import adql, votable
from galpipe.sky.server import Settings, application
from galpipe.sky.votable import Field
from galpipe.stages import Context, ShardMap, serial_map
from galpipe.stamps.parts import Part
from galpipe.status import Status
from galpipe.workspace import Ref, Workspace
from tests.running import environment, kill_after
from tests.test_sky_server import FLUX, PIXEL, plant

SAMPLE = Sample(id="objID", id_type="int64", ra="ra", dec="dec")
PAGED = "SELECT TOP 1000 objID, ra, dec, petroR90_r FROM PhotoObjAll WHERE objID > {last} "
PAGED += "ORDER BY objID"
SODA = Soda(
    pixel_scale=0.396, collections=("SKY",), wavelengths=(4.7e-7, 6.2e-7, 7.6e-7),
    size=FixedSize(half=8.0), reference="r",
)  # fmt: skip
COUNT = 4  # planted galaxies
SECRET = "s3cr3t-T0ken.value"


@dataclass
class Meddled:
    """A sky whose answers can be replaced by path, and what it was asked."""

    app: Any
    address: str = ""
    always: dict[str, Response] = field(default_factory=dict)
    next: dict[str, list[Response]] = field(default_factory=dict)
    asked: list[Request] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.asked.append(Request(scope))
            path = scope["path"]
            answer = self.next[path].pop(0) if self.next.get(path) else self.always.get(path)
            if answer is not None:
                await answer(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def paths(self) -> list[str]:
        return [request.url.path for request in self.asked]


@contextlib.contextmanager
def meddled(folder: Path, settings: Settings | None = None) -> Iterator[Meddled]:
    sky = Meddled(application(folder, settings))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(sky, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    sky.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield sky
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("planted-vo"))


@pytest.fixture
def sky(planted: Path) -> Iterator[Meddled]:
    with meddled(planted) as one:
        yield one


def vo(at: Meddled | None, **settings: Any) -> Vo:
    address = at.address if at else "http://127.0.0.1:1"
    plain: dict[str, Any] = {
        "service": "ivo://galpipe/sky", "pixels": SODA, "shard": 2, "patience": 0.01,
        "timeout": 5.0, "tries": 2, "requests_per_minute": None, "tap": f"{address}/tap",
        "sia": f"{address}/sia2", "hips2fits": f"{address}/hips2fits",
    }  # fmt: skip
    return Vo(**{**plain, **settings})


def objects(planted: Path) -> pa.Table:
    names = ["objID", "ra", "dec", "petroR90_r"]
    return pq.read_table(planted / "tables" / "PhotoObjAll.parquet", columns=names)


def run(
    root: Path, spec: Vo, table: pa.Table, map: ShardMap = serial_map, base: Ref | None = None
) -> tuple[Context, Ref]:
    context = Context(Workspace.open(root), map=map)
    name = hashlib.sha256(repr(table.to_pylist()).encode()).hexdigest()
    catalogue = sample(context, SAMPLE, lambda: table, name, None)
    return context, retrieve(context, spec, catalogue, base)


def index(context: Context, ref: Ref, name: str = "index.parquet") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(context.workspace.place(ref) / name).to_pylist()
    return rows


def row_of(context: Context, line: dict[str, Any]) -> dict[str, Any]:
    part = Part(context.workspace.place(Ref("cutout-part", line["part"])))
    return {
        name: part.read(name)[line["row"]]
        for name in ("image", "ny", "wcs", "pixel_scale", "coverage")
    }


# The sky speaks the protocols: asked by pyvo.


def test_pyvo_asks_tap(sky: Meddled, planted: Path) -> None:
    import pyvo

    service = pyvo.dal.TAPService(f"{sky.address}/tap")
    assert service.hardlimit == Settings().rows
    assert [c.name for c in service.tables["PhotoObjAll"].columns][:2] == ["objID", "run"]
    found = service.run_sync("SELECT objID, ra, petroR90_r FROM PhotoObjAll ORDER BY objID")
    truth = objects(planted).sort_by("objID").to_pydict()
    assert found.query_status == "OK"
    assert found["objID"].tolist() == truth["objID"]  # exact beyond 2**53
    assert found["objID"].dtype == np.int64 and found["ra"].tolist() == truth["ra"]
    assert found["petroR90_r"].mask.tolist() == [False, False, False, True]
    near = service.run_sync(
        "SELECT objID, DISTANCE(POINT('ICRS', ra, dec), POINT('ICRS', 0.02, -0.4)) AS d "
        "FROM PhotoObjAll WHERE 1 = CONTAINS(POINT('ICRS', ra, dec), "
        "CIRCLE('ICRS', 0.02, -0.4, 0.0002)) ORDER BY d"
    )
    assert len(near) == 1 and near["d"][0] < 1e-9
    cut = service.run_sync("SELECT objID FROM PhotoObjAll", maxrec=2)
    assert len(cut) == 2 and cut.query_status == "OVERFLOW"
    with pytest.raises(pyvo.dal.DALQueryError, match="Invalid object name 'nowhere'"):
        service.run_sync("SELECT a FROM nowhere")


def test_geometry_is_translated_and_strings_are_left_alone() -> None:
    text = "SELECT 'CONTAINS(POINT(a,b),CIRCLE(1,2,3)) = 1' FROM t -- CONTAINS\nWHERE "
    cone = "CONTAINS(POINT('ICRS', ra, dec), CIRCLE('ICRS', 10.5, -2, 0.1)) = 1"
    found = adql.translated(text + cone)
    assert found.startswith(text)
    assert "fDistanceArcMinEq((10.5), (-2), (ra), (dec)) <= (0.1) * 60.0" in found
    other = adql.translated("CONTAINS(POINT(ra, dec), CIRCLE(POINT(10.5, -2), 0.1)) = 1")
    assert other == found[len(text) :]
    assert adql.translated("CONTAINS(POINT(ra, dec), BOX(1, 2, 3, 4)) = 1").startswith("CONTAINS")


def test_pyvo_finds_images_and_cuts_them(sky: Meddled, planted: Path) -> None:
    import pyvo

    service = pyvo.dal.SIA2Service(f"{sky.address}/sia2")
    ra, dec = 0.02, -0.4
    found = service.search(pos=(ra, dec, 0.001), band=6.2e-7, collection="SKY")
    assert len(found) == 1 and found[0]["obs_publisher_did"].endswith("?frame-r-000752-2-0011")
    assert len(service.search(pos=(ra, dec, 0.001), collection="OTHER")) == 0
    assert len(service.search(pos=(100.0, 10.0, 0.001))) == 0
    content = found[0].processed(circle=(ra, dec, 0.002) * units.deg).read()
    path = next(planted.rglob("frame-r-*-0011.fits.bz2"))
    with fits.open(io.BytesIO(content)) as cut, fits.open(path) as frame:
        corner = WCS(frame[0].header).all_world2pix(*WCS(cut[0].header).all_pix2world(0, 0, 0), 0)
        x, y = (round(float(v)) for v in corner)
        assert np.allclose(corner, (x, y), atol=1e-6)
        height, width = cut[0].data.shape
        assert min(height, width) >= 2 * 0.002 / PIXEL
        assert np.array_equal(cut[0].data, frame[0].data[y : y + height, x : x + width])


def test_services_say_what_they_do_not_have(sky: Meddled) -> None:
    def get(path: str, **parameters: str) -> httpx.Response:
        return httpx.get(f"{sky.address}/{path}", params=parameters)

    id = "ivo://galpipe/sky?frame-r-000752-2-0011"
    assert get("soda", ID=id, CIRCLE="100 10 0.001").status_code == 204
    assert get("soda", ID=id, POS="CIRCLE 0.02 -0.4 0.001").status_code == 200
    assert get("soda", ID="ivo://galpipe/sky?../../etc", CIRCLE="1 1 0.1").status_code == 404
    assert get("soda", ID=id, CIRCLE="1 1 nan").status_code == 400
    assert get("soda", ID=id, POS="POLYGON 1 2 3 4 5 6").status_code == 400
    for path, asked in (
        ("sia2", {"POS": "RANGE 1 2 3 4"}), ("tap/sync", {"QUERY": ""}),
        ("tap/sync", {"QUERY": "SELECT 1", "LANG": "PQL"}), ("sia2", {"MAXREC": "-1"}),
    ):  # fmt: skip
        answer = get(path, **asked)
        assert answer.status_code == 400
        assert read(answer.content, 10**6).status == "ERROR"
    assert "NotFoundFault" in get("datalink", ID="nothing").text
    assert get("hips2fits", hips="galpipe/P/sky/q", ra="0", dec="0", fov="1").status_code == 400


# Samples by ADQL.


def test_a_sample_is_paged_past_what_a_service_gives(planted: Path) -> None:
    wanted = objects(planted).sort_by("objID").to_pydict()
    with meddled(planted, Settings(rows=3)) as sky:
        spec = vo(sky)
        with pytest.raises(InputError, match=r"cut its answer at 3 rows.*objID > \{last\}"):
            tap.query(spec, Sample(id="objID", id_type="int64", adql="SELECT * FROM PhotoObjAll"))
        found = tap.query(spec, Sample(id="objID", id_type="int64", adql=PAGED))
    assert found["objID"].type == pa.int64()
    for name, values in found.to_pydict().items():
        assert values == (wanted[name] if name != "petroR90_r" else [4.1, 5.3, 2.2, None])


def test_an_empty_answer_is_a_table_without_rows(sky: Meddled) -> None:
    for text in ("SELECT objID FROM PhotoObjAll WHERE ra > 400", PAGED.replace("TOP 1000", "")):
        text = text.replace("WHERE objID", "WHERE ra > 400 AND objID")
        assert len(tap.query(vo(sky), Sample(id="objID", id_type="int64", adql=text))) == 0


def test_what_a_service_refuses_is_told(sky: Meddled) -> None:
    one = {"id": "objID", "id_type": "int64"}
    cases = (
        ({**one, "adql": "SELECT a FROM nowhere"}, "Invalid object name 'nowhere'"),
        ({**one, "adql": "DROP TABLE PhotoObjAll"}, "begins with SELECT"),
        ({**one, "adql": PAGED.replace("ORDER BY objID", "ORDER BY objID DESC")}, "in order of"),
        ({**one, "adql": PAGED.replace("objID, ra", "ra")}, "no column 'objID'"),
        ({"id": "objID", "id_type": "string", "adql": PAGED}, 'id_type = "int64"'),
    )
    for values, said in cases:
        with pytest.raises(InputError, match=said):
            tap.query(vo(sky), Sample(**values))
    with pytest.raises(InputError, match=r"archive\.tap gives no TAP service"):
        tap.query(vo(sky, tap=""), Sample(**one, adql="SELECT 1"))


def test_a_repeated_row_is_refused(sky: Meddled) -> None:
    text = PAGED.replace("FROM PhotoObjAll", "FROM PhotoObjAll CROSS JOIN SpecObjAll")
    text = text.replace("petroR90_r", "z")
    with pytest.raises(InputError, match="one row per object"):
        tap.query(vo(sky), Sample(id="objID", id_type="int64", adql=text))


def test_passing_trouble_of_tap_is_waited_for(sky: Meddled) -> None:
    sky.next["/tap/sync"] = [Response(status_code=503), HTMLResponse("<html>busy</html>")]
    asked = Sample(id="objID", id_type="int64", adql="SELECT objID, ra FROM PhotoObjAll")
    assert len(tap.query(vo(sky, tries=3), asked)) == COUNT
    assert sky.paths() == ["/tap/sync"] * 3
    sky.always["/tap/sync"] = HTMLResponse("<html>closed</html>")
    with pytest.raises(InputError, match=r"no usable answer in 2 tries .*no VOTable"):
        tap.query(vo(sky), asked)


def test_tap_is_not_followed_to_another_host(sky: Meddled) -> None:
    asked = Sample(id="objID", id_type="int64", adql="SELECT objID FROM PhotoObjAll")
    for target in ("http://example.org/tap/sync", "file:///etc/passwd"):
        sky.always["/tap/sync"] = Response(status_code=302, headers={"Location": target})
        with pytest.raises(InputError, match="redirects to another host"):
            tap.query(vo(sky), asked)


# Answers that are not what they should be.

HEAD = '<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">'
LAUGHS = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(1, 9))
BAD = {
    "entities": f'<!DOCTYPE v [<!ENTITY l1 "ha">{LAUGHS}]>{HEAD}<INFO name="a" value="&l9;"/>'
    "</VOTABLE>",
    "external": f'<?xml version="1.0"?><!DOCTYPE v [<!ENTITY x SYSTEM "file:///etc/passwd">]>{HEAD}'
    '<INFO name="a" value="b">&x;</INFO></VOTABLE>',
    "another file": f'{HEAD}<RESOURCE><TABLE><FIELD name="a" datatype="char" arraysize="*"/><DATA>'
    '<BINARY><STREAM href="file:///etc/passwd"/></BINARY></DATA></TABLE></RESOURCE></VOTABLE>',
    "many rows": f'{HEAD}<RESOURCE><TABLE nrows="99999999999"><FIELD name="a" datatype="double"/>'
    "<DATA><TABLEDATA/></DATA></TABLE></RESOURCE></VOTABLE>",
    "large cell": f'{HEAD}<RESOURCE><TABLE><FIELD name="a" datatype="double" '
    'arraysize="99999x99999"/><DATA><TABLEDATA/></DATA></TABLE></RESOURCE></VOTABLE>',
    "deep": HEAD + "<RESOURCE>" * 5000 + "</RESOURCE>" * 5000 + "</VOTABLE>",
    "web page": "<!DOCTYPE html><html><body>Login</body></html>",
    "other XML": "<rss><channel/></rss>",
    "cut": votable.results([Field("a", "long")], [(1,), (2,)])[:-30],
    "nothing": "   ",
    "text": "ERROR: rate limit",
    "wide": '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE v []><VOTABLE/>',
}


@pytest.mark.parametrize("name", BAD)
def test_hostile_votables_are_refused(name: str) -> None:
    for content in (BAD[name].encode(), BAD[name].encode("utf-16")):
        with pytest.raises(BadVotableError) as refused:
            read(content, 10**6)
        assert len(str(refused.value)) < 200 and "root:" not in str(refused.value)
    with pytest.raises(BadVotableError, match="larger"):
        read(votable.results([Field("a", "long")], [(1,)]).encode(), 100)


def test_mutated_votables_give_an_answer_or_the_named_error() -> None:
    whole = bytearray(
        votable.results(
            [Field("a", "long"), Field("b", "char"), Field("c", "double")],
            [(n, f"x{n}", n / 7) for n in range(6)],
            overflow=True,
            more=votable.soda_descriptor("http://127.0.0.1/soda", "ivo://a?b"),
        ).encode()
    )
    rng = np.random.default_rng(5)
    for _ in range(400):
        content = bytearray(whole)
        for place in rng.integers(0, len(content), rng.integers(1, 6)):
            content[place] = rng.integers(0, 256)
        cut = int(rng.integers(0, len(content))) if rng.random() < 0.3 else len(content)
        with contextlib.suppress(BadVotableError):
            list(read(bytes(content[:cut]), 10**6).rows())


@pytest.mark.parametrize("name", ["entities", "another file", "web page", "cut"])
def test_a_hostile_answer_fails_the_object_and_not_the_run(
    name: str, sky: Meddled, planted: Path, tmp_path: Path
) -> None:
    sky.next["/sia2"] = [Response(BAD[name], media_type="text/xml")] * 2  # both tries of one object
    context, ref = run(tmp_path, vo(sky, connections=1), objects(planted))
    lines = index(context, ref)
    assert [line["status"] & Status.FAILED for line in lines].count(Status.FAILED) == 1
    failed = next(line for line in lines if line["status"] & Status.FAILED)
    assert "no VOTable" in failed["reason"] and len(failed["reason"]) < 300
    context, again = run(tmp_path, vo(sky), objects(planted))  # a later run gets it
    assert {line["status"] & Status.FAILED for line in index(context, again)} == {0}


# Cutouts by SIA2 and SODA.


def test_photometry_positions_and_facts(sky: Meddled, planted: Path, tmp_path: Path) -> None:
    """The light of each galaxy to 0.5 % in every band, its place to 0.05 pixel."""
    context, ref = run(tmp_path, vo(sky, rights="collaboration"), objects(planted))
    lines = index(context, ref)
    truth = {row["objID"]: row for row in objects(planted).to_pylist()}
    assert [bool(line["status"] & Status.OK) for line in lines] == [True] * COUNT
    whole = [line for line in lines if line["status"] == Status.OK]
    assert len(whole) == COUNT - 1  # one lies across the border of its field
    for line in whole:
        found = row_of(context, line)
        side = int(found["ny"])
        assert side == 2 * int(np.ceil(np.sqrt(2) * 8.0 / 0.396)) + 1
        image = found["image"][:, :side, :side]
        header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"})
        names = ("CRPIX1", "CRPIX2", "CRVAL1", "CRVAL2", "CD1_1", "CD1_2", "CD2_1", "CD2_2")
        header.update(zip(names, found["wcs"].tolist(), strict=True))
        row = truth[line["object_id"]]
        x, y = WCS(header).all_world2pix(row["ra"], row["dec"], 0)
        assert abs(x - side // 2) <= 0.5 and abs(y - side // 2) <= 0.5
        rows, columns = np.mgrid[:side, :side]
        aperture = np.hypot(columns - x, rows - y) < 14
        for band, plane in zip("gri", image, strict=True):
            light = plane[aperture].sum()
            assert light == pytest.approx(FLUX[band], rel=0.005)
            assert (plane * columns)[aperture].sum() / light == pytest.approx(x, abs=0.05)
            assert (plane * rows)[aperture].sum() / light == pytest.approx(y, abs=0.05)
        assert found["pixel_scale"] == pytest.approx(0.396, rel=1e-3)
        assert line["source"] == "ivo://galpipe/sky?frame-r-000752-2-0011"
    part = Part(context.workspace.place(Ref("cutout-part", lines[0]["part"])))
    assert part.group.attrs["rights"] == "collaboration"
    assert part.group.attrs["service"] == "ivo://galpipe/sky"
    manifest = context.workspace.manifest(ref)
    assert manifest is not None and manifest["spec"]["rights"] == "collaboration"
    bands = index(context, ref, "ledger.parquet")
    assert [(row["band"], row["outcome"]) for row in bands[:3]] == [(b, "ok") for b in "gri"]
    assert bands[0]["url"] == "ivo://galpipe/sky?frame-g-000752-2-0011"
    assert manifest["by_band"]["r"]["ok"] == COUNT - 1
    assert len(next(iter(bands))["sha256"]) == 64


def test_an_object_across_a_border_says_so(sky: Meddled, planted: Path, tmp_path: Path) -> None:
    context, ref = run(tmp_path, vo(sky), objects(planted))
    (line,) = [line for line in index(context, ref) if line["status"] & Status.EDGE]
    found = row_of(context, line)
    side = int(found["ny"])
    assert 0.3 < found["coverage"] < 1
    assert np.isnan(found["image"][:, :side, :side]).any()


def test_sizes_follow_the_radius(sky: Meddled, planted: Path, tmp_path: Path) -> None:
    size = PetrosianSize(radii=1.5, smallest=4.0, largest=7.0)
    pixels = specs.load(Soda, {**specs.dump(SODA), "size": specs.dump(size)})
    context, ref = run(tmp_path, vo(sky, pixels=pixels), objects(planted))
    lines = {line["object_id"]: line for line in index(context, ref)}
    truth = objects(planted).to_pylist()
    for row in truth:
        half = min(max((row["petroR90_r"] or 0) * 1.5, 4.0), 7.0)
        side = 2 * int(np.ceil(np.sqrt(2) * half / 0.396)) + 1
        assert row_of(context, lines[row["objID"]])["ny"] == side
    short = lines[truth[1]["objID"]]  # 5.3 arcsec, and 7.95 wanted
    assert short["status"] & Status.EDGE and short["reason"] == "cut to 7 of 7.95 arcsec"
    with pytest.raises(InputError, match="no column 'petroR50_r'"):
        size = PetrosianSize(column="petroR50_r")
        pixels = specs.load(Soda, {**specs.dump(SODA), "size": specs.dump(size)})
        run(tmp_path, vo(sky, pixels=pixels), objects(planted))


def first_object(planted: Path) -> pa.Table:
    return objects(planted).slice(0, 1)


def ended(root: Path, spec: Vo, planted: Path, **place: float) -> dict[str, Any]:
    """How one object ends, beside another that is well."""
    table = objects(planted).slice(0, 2).to_pylist()
    table[1].update(place)
    context, ref = run(root, spec, pa.Table.from_pylist(table))
    lines = index(context, ref)
    assert lines[0]["status"] == Status.OK
    return lines[1]


def test_places_without_images_or_without_a_position(
    sky: Meddled, planted: Path, tmp_path: Path
) -> None:
    line = ended(tmp_path / "a", vo(sky), planted, ra=100.0, dec=10.0)
    assert line["status"] == Status.NO_COVERAGE and "no image there" in line["reason"]
    line = ended(tmp_path / "b", vo(sky), planted, dec=float("nan"))
    assert line["status"] == Status.BAD_POSITION


def served_row(sky: Meddled, planted: Path, band: str = "r", **changes: Any) -> tuple[Any, ...]:
    """The ObsCore row of a frame of field 11, with some cells changed."""
    ra, dec = 0.02, -0.4
    answer = httpx.get(
        f"{sky.address}/sia2",
        params={"POS": f"CIRCLE {ra} {dec} 0.0001", "BAND": {"r": "6.2e-7"}[band]},
    )
    (row,) = read(answer.content, 10**6).rows()
    from galpipe.sky.observations import OBSCORE

    return tuple(changes.get(one.name, row[one.name]) for one in OBSCORE)


ONE_BAND = {
    "bands": ("r",),
    "pixels": Soda(pixel_scale=0.396, wavelengths=(6.2e-7,), size=FixedSize(half=8.0)),
}


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"access_url": "http://example.org/x"}, Status.FAILED, "example.org, which is not among"),
        ({"access_url": "file:///etc/passwd"}, Status.FAILED, "not among archive.hosts"),
        ({"access_url": "http://user:word@evil.test/"}, Status.FAILED, "evil.test, which is not"),
        ({"calib_level": 1}, Status.NO_COVERAGE, "no image there"),
        ({"dataproduct_type": "cube"}, Status.NO_COVERAGE, "no image there"),
        ({"access_url": ""}, Status.NO_COVERAGE, "no image there"),
    ],
)
def test_what_an_archive_points_to_is_not_trusted(
    changes: dict[str, Any], status: Status, said: str, sky: Meddled, planted: Path, tmp_path: Path
) -> None:
    from galpipe.sky.observations import OBSCORE

    spec = vo(sky, connections=1, **ONE_BAND)
    good = Response(votable.results(OBSCORE, [served_row(sky, planted)]))
    bad = Response(votable.results(OBSCORE, [served_row(sky, planted, **changes)]))
    sky.next["/sia2"] = [good, bad]
    line = ended(tmp_path, spec, planted)
    assert line["status"] == status and said in line["reason"]


def cutout(sky: Meddled, planted: Path) -> fits.PrimaryHDU:
    id = "ivo://galpipe/sky?frame-r-000752-2-0011"
    place = objects(planted).to_pylist()[1]
    circle = f"{place['ra']!r} {place['dec']!r} 0.005"
    answer = httpx.get(f"{sky.address}/soda", params={"ID": id, "CIRCLE": circle})
    with fits.open(io.BytesIO(answer.content)) as hdus:
        return hdus[0].copy()


def written(hdu: fits.PrimaryHDU) -> bytes:
    file = io.BytesIO()
    hdu.writeto(file, output_verify="ignore")
    return file.getvalue()


def test_cutouts_are_judged(sky: Meddled, planted: Path, tmp_path: Path) -> None:
    def changed(**cards: Any) -> bytes:
        hdu = cutout(sky, planted)
        hdu.header.update(cards)
        return written(hdu)

    def filled(value: float) -> bytes:
        hdu = cutout(sky, planted)
        hdu.data[:] = value
        return written(hdu)

    first = Response(written(cutout_of_first(sky, planted)))
    header = cutout(sky, planted).header
    place = objects(planted).to_pylist()[1]
    x, y = (float(v) for v in WCS(header).all_world2pix(place["ra"], place["dec"], 1))
    twice = {key: 2 * header[key] for key in ("CD1_1", "CD1_2", "CD2_1", "CD2_2")}
    twice |= {"CRPIX1": x, "CRPIX2": y, "CRVAL1": place["ra"], "CRVAL2": place["dec"]}
    whole = changed()
    cases = [
        (changed(CRVAL1=10.0), Status.OFF_FRAME, "not on the image"),
        (changed(CTYPE1="GLON-TAN", CTYPE2="GLAT-TAN"), Status.CORRUPT, "no WCS in right"),
        (changed(CD1_1=0.0, CD1_2=0.0, CD2_1=0.0, CD2_2=0.0), Status.CORRUPT, ""),
        (changed(**twice), Status.CORRUPT, "pixels of 0.792 arcsec where"),
        (changed(RADESYS="FK4"), Status.CORRUPT, "FK4"),
        (filled(np.nan), Status.NO_COVERAGE, "no defined pixel"),
        (filled(0.0), Status.BLANK, "all pixels are 0"),
        (whole[: len(whole) // 2], Status.CORRUPT, ""),
        (b"SIMPLE  =" + b"x" * 5000, Status.CORRUPT, ""),
        (b"not a file", Status.CORRUPT, "not a FITS file"),
        (b"<html>sorry</html>", Status.FAILED, "web page"),
        (b"", Status.FAILED, "empty"),
    ]
    for number, (content, status, said) in enumerate(cases):
        sky.next["/soda"] = [first, *[Response(content)] * 2]
        line = ended(tmp_path / str(number), vo(sky, connections=1, **ONE_BAND), planted)
        assert line["status"] == status and said in line["reason"], (number, line)
    sky.next["/soda"] = [first, Response(status_code=204)]
    line = ended(tmp_path / "204", vo(sky, connections=1, **ONE_BAND), planted)
    assert line["status"] == Status.NO_COVERAGE


def cutout_of_first(sky: Meddled, planted: Path) -> fits.PrimaryHDU:
    id = "ivo://galpipe/sky?frame-r-000752-2-0011"
    place = objects(planted).to_pylist()[0]
    circle = f"{place['ra']!r} {place['dec']!r} 0.005"
    answer = httpx.get(f"{sky.address}/soda", params={"ID": id, "CIRCLE": circle})
    with fits.open(io.BytesIO(answer.content)) as hdus:
        return hdus[0].copy()


def test_a_missing_band_is_told(sky: Meddled, planted: Path, tmp_path: Path) -> None:
    pixels = Soda(
        pixel_scale=0.396, wavelengths=(6.2e-7, 2.2e-6), size=FixedSize(half=8.0), reference="r"
    )
    spec = vo(sky, bands=("r", "K"), pixels=pixels)
    with pytest.raises(InputError, match=r"MISSING_BAND \(K: the archive has no image there\)"):
        run(tmp_path, spec, objects(planted))


def test_a_given_service_spares_the_datalink(sky: Meddled, planted: Path, tmp_path: Path) -> None:
    context, ref = run(tmp_path / "a", vo(sky), first_object(planted))
    assert sky.paths().count("/datalink") == 3 and sky.paths().count("/sia2") == 1
    sky.asked.clear()
    spec = vo(sky, soda=f"{sky.address}/soda")
    other, same = run(tmp_path / "b", spec, first_object(planted))
    assert sky.paths().count("/datalink") == 0
    assert index(context, ref) == index(other, same)


# Previews by hips2fits.


def test_previews_are_north_up(sky: Meddled, planted: Path, tmp_path: Path) -> None:
    maps = tuple(f"galpipe/P/sky/{band}" for band in "gri")
    spec = vo(sky, pixels=Hips(maps=maps, pixel_scale=0.3, size=FixedSize(half=8.0)))
    context, ref = run(tmp_path, spec, objects(planted).slice(0, 3))
    for line in index(context, ref):
        assert line["status"] == Status.OK
        assert line["source"] == "ivo://galpipe/sky galpipe/P/sky/g galpipe/P/sky/r galpipe/P/sky/i"
        found = row_of(context, line)
        side = int(found["ny"])
        step = 0.3 / 3600
        assert np.allclose(found["wcs"][4:], [-step, 0, 0, step], atol=1e-9)
        for plane in found["image"]:
            rows, columns = np.mgrid[:side, :side] - side // 2
            near = np.hypot(rows, columns) < 15
            light = plane[:side, :side]
            assert abs((light * rows)[near].sum() / light[near].sum()) < 0.1
            assert abs((light * columns)[near].sum() / light[near].sum()) < 0.1
    part = Part(context.workspace.place(Ref("cutout-part", index(context, ref)[0]["part"])))
    assert part.group.attrs["resampled"] is True


def test_colour_previews_are_bytes(sky: Meddled, planted: Path, tmp_path: Path) -> None:
    pixels = Hips(maps=("galpipe/P/sky/color",), format="jpeg", size=FixedSize(half=8.0))
    spec = vo(sky, bands=("i", "r", "g"), pixels=pixels)
    table = objects(planted).to_pylist()[:2]
    table[1].update(ra=100.0, dec=10.0)
    context, ref = run(tmp_path, spec, pa.Table.from_pylist(table))
    lines = index(context, ref)
    assert [line["status"] for line in lines] == [Status.OK, Status.BLANK]
    image = row_of(context, lines[0])["image"]
    assert image.dtype == np.uint8
    middle = image.shape[-1] // 2
    assert image[:, middle, middle].min() > 150 > image[:, 2, 2].max()


def test_a_preview_without_pixels_is_no_coverage(
    sky: Meddled, planted: Path, tmp_path: Path
) -> None:
    pixels = Hips(maps=("galpipe/P/sky/r",), size=FixedSize(half=8.0))
    line = ended(tmp_path, vo(sky, bands=("r",), pixels=pixels), planted, ra=100.0, dec=10.0)
    assert line["status"] == Status.NO_COVERAGE


# Tokens.


def everything(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file())


def test_a_token_goes_to_its_archive_and_nowhere_else(
    sky: Meddled, planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("GALPIPE_TEST_TOKEN", SECRET)
    caplog.set_level(logging.DEBUG)
    with meddled(planted) as other:
        from galpipe.sky.observations import OBSCORE

        elsewhere = other.address.replace("127.0.0.1", "localhost")
        row = served_row(sky, planted, obs_publisher_did=f"ivo://x?{SECRET}")
        id = "ivo://galpipe/sky%3Fframe-r-000752-2-0011"
        moved = served_row(sky, planted, access_url=f"{elsewhere}/datalink?ID={id}")
        leaking = served_row(sky, planted, access_url=f"{elsewhere}/datalink?ID={SECRET}")
        sky.asked.clear()
        sky.next["/sia2"] = [
            Response(votable.results(OBSCORE, [one])) for one in (row, moved, leaking)
        ]
        sky.next["/tap/sync"] = [
            Response(votable.error(f"no right for {SECRET}"), 400),
        ]
        spec = vo(
            sky, connections=1, token_env="GALPIPE_TEST_TOKEN", hosts=("localhost",), **ONE_BAND
        )
        with pytest.raises(InputError) as refused:
            tap.query(spec, Sample(id="objID", id_type="int64", adql="SELECT objID FROM t"))
        sky.asked.clear()
        context, ref = run(tmp_path / "w", spec, objects(planted).slice(0, 3))
        assert {r.url.path for r in other.asked} == {"/datalink", "/soda"}
        assert not any("authorization" in r.headers for r in other.asked)
    assert sky.asked
    assert {r.headers.get("authorization") for r in sky.asked} == {f"Bearer {SECRET}"}
    lines = index(context, ref)
    assert [line["status"] & ~Status.EDGE for line in lines] == [Status.OK] * 2 + [Status.FAILED]
    assert lines[0]["source"] == "ivo://x?***" and "puts the token" in lines[2]["reason"]
    assert SECRET not in str(refused.value) + caplog.text + "".join(capfd.readouterr())
    assert SECRET.encode() not in everything(tmp_path / "w")
    assert SECRET not in json.dumps(lines)
    assert b"GALPIPE_TEST_TOKEN" not in everything(tmp_path / "w")
    assert specs.digest(spec) == specs.digest(vo(sky, **ONE_BAND))


def test_a_token_must_be_there_and_travel_encrypted(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GALPIPE_TEST_TOKEN", raising=False)
    spec = vo(None, token_env="GALPIPE_TEST_TOKEN")
    with pytest.raises(InputError, match="GALPIPE_TEST_TOKEN is not set"):
        run(tmp_path, spec, objects(planted))
    monkeypatch.setenv("GALPIPE_TEST_TOKEN", "two\nlines")
    with pytest.raises(InputError, match="no plain text"):
        run(tmp_path, spec, objects(planted))
    monkeypatch.setenv("GALPIPE_TEST_TOKEN", SECRET)
    spec = vo(None, token_env="GALPIPE_TEST_TOKEN", sia="http://archive.test/sia2")
    with pytest.raises(InputError, match="unencrypted") as refused:
        run(tmp_path, spec, objects(planted))
    assert SECRET not in str(refused.value)


# The same bytes, whatever happens on the way.


def in_threads(function: Any, items: Any) -> Iterator[Any]:
    with ThreadPoolExecutor(3) as pool:
        yield from pool.map(function, list(items)[::-1])


def fingerprint(context: Context, ref: Ref) -> tuple[Any, ...]:
    manifest = context.workspace.manifest(ref)
    assert manifest is not None
    parts = [context.workspace.manifest(Ref("cutout-part", part)) for part in manifest["parts"]]
    files = [
        (context.workspace.place(ref) / name).read_bytes()
        for name in ("index.parquet", "ledger.parquet")
    ]
    return (ref, files, [part["content"] for part in parts if part is not None])


def test_the_bytes_do_not_depend_on_order_workers_or_addresses(
    sky: Meddled, planted: Path, tmp_path: Path
) -> None:
    table = objects(planted)
    first = fingerprint(*run(tmp_path / "a", vo(sky, connections=1), table))
    turned = table.take([2, 0, 3, 1])
    with meddled(planted) as other:
        second = fingerprint(*run(tmp_path / "b", vo(other, connections=4), turned, in_threads))
    assert first == second
    sky.asked.clear()
    assert fingerprint(*run(tmp_path / "a", vo(sky), table)) == first
    assert sky.asked == []  # nothing is asked twice


RETRIEVE = """
import sys, json
from pathlib import Path
import pyarrow.parquet as pq
from galpipe import spec as specs
from galpipe.archives.spec import Vo
from tests.test_vo import objects, run
run(Path(sys.argv[1]), specs.load(Vo, json.loads(sys.argv[2])), objects(Path(sys.argv[3])))
"""


def test_a_killed_retrieval_goes_on(sky: Meddled, planted: Path, tmp_path: Path) -> None:
    spec = vo(sky, shard=1, connections=1)
    whole = fingerprint(*run(tmp_path / "a", spec, objects(planted)))
    sky.asked.clear()
    values = json.dumps(specs.dump(spec))
    command = [sys.executable, "-c", RETRIEVE, str(tmp_path / "b"), values, str(planted)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet, env=environment())
    kill_after(process, tmp_path / "b", 4)
    killed = len(sky.asked)
    sky.asked.clear()
    assert fingerprint(*run(tmp_path / "b", spec, objects(planted))) == whole
    assert killed > 0 and len(sky.asked) < 7 * COUNT


def test_a_later_release_fetches_what_is_new(sky: Meddled, planted: Path, tmp_path: Path) -> None:
    context, base = run(tmp_path, vo(sky), objects(planted).slice(0, 2))
    before = index(context, base)
    sky.asked.clear()
    context, ref = run(tmp_path, vo(sky), objects(planted), base=base)
    assert sky.paths().count("/sia2") == 2
    assert index(context, ref)[:2] == before
    bands = index(context, ref, "ledger.parquet")
    assert bands[:6] == index(context, base, "ledger.parquet")
    assert len(bands) == 3 * COUNT


# Survey files.


def test_a_spec_says_what_is_wrong_with_it() -> None:
    def load(**values: Any) -> Vo:
        plain = {"service": "ivo://a/b", "bands": ["g", "r"]}
        return specs.load(Vo, {**plain, **values})

    soda = {"kind": "soda", "pixel_scale": 0.4}
    cases = (
        ({"pixels": soda}, "do not tell the bands apart"),
        ({"pixels": {**soda, "collections": ["a", "b", "c"]}}, "has 3 for 2 bands"),
        ({"pixels": {**soda, "collections": ["a", "b"], "reference": "z"}}, "must be one of bands"),
        ({"pixels": {"kind": "hips", "maps": ["a"]}}, "has 1 for 2 bands"),
        ({"pixels": {"kind": "hips", "maps": ["a"], "format": "jpeg"}}, "shows three bands"),
        ({"pixels": {**soda, "collections": ["a", "b"]}, "token_env": "a b"}, "token_env"),
        ({"pixels": {**soda, "collections": ["a", "b"]}, "service": "x\n"}, "service"),
    )
    for values, said in cases:
        with pytest.raises(InputError, match=said):
            load(**values)
    one = load(pixels={**soda, "collections": ["a", "b"]}, sia="https://a.test/sia")
    two = load(pixels={**soda, "collections": ["a", "b"]}, hosts=["b.test"], token_env="TOKEN")
    assert specs.digest(one) == specs.digest(two)
    assert "a.test" not in specs.canonical(one)


def test_an_archive_without_addresses_is_refused(planted: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"archive\.sia: .* need the address"):
        run(tmp_path, vo(None, sia=""), objects(planted))


def test_the_sample_fits_the_archive(tmp_path: Path) -> None:
    text = survey.ready("vo-sky").read_text()
    path = tmp_path / "one.toml"
    path.write_text(text)
    assert isinstance(survey.load(path).archive, Vo)
    path.write_text(text.replace("adql =", "sql ="))
    with pytest.raises(InputError, match=r"needs either sample\.adql or sample\.table"):
        survey.load(path)


def test_the_sky_serves_itself_to_a_vo_survey(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALPIPE_CACHE", str(tmp_path / "cache"))
    chosen = EmbeddedSky(galaxies=20)
    spec = vo(None, embedded=chosen, tap="", sia="", hips2fits="", timeout=60.0, tries=4)
    context = Context(Workspace.open(tmp_path / "w"))
    text = PAGED.replace("FROM PhotoObjAll", "FROM Galaxy").replace("dec,", "dec, rowc_r, colc_r,")
    asked = Sample(id="objID", id_type="int64", ra="ra", dec="dec", adql=text)
    table = read_objects(context, spec, asked)
    assert len(table) >= 20
    context, ref = run(tmp_path / "w", spec, table.slice(0, 6))
    for line, row in zip(index(context, ref), table.to_pylist(), strict=False):
        there = 0 < row["rowc_r"] < 1489 and 0 < row["colc_r"] < 2048
        expected = Status.OK if there else Status.NO_COVERAGE  # some are off their frame on purpose
        assert line["status"] & ~Status.EDGE == expected, line
    assert "127.0.0.1" not in everything(tmp_path / "w").decode("latin-1")
