"""Failures made on purpose, by rate and by seed, and what becomes of each of them."""

from __future__ import annotations

import bz2
import io
import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits

from galpipe.archives import skyserver
from galpipe.archives.spec import Sdss
from galpipe.errors import InputError
from galpipe.sample.spec import Sample
from galpipe.sky.cache import cached
from galpipe.sky.faults import FRAME, KINDS, Faults, parse
from galpipe.sky.server import application
from galpipe.sky.spec import SkySpec
from galpipe.stages import Context
from galpipe.status import Status
from galpipe.workspace import Ref
from tests import failing_server
from tests import sdss_server as server
from tests.running import call
from tests.test_sdss import ledger, path, planted, row_of, run, sdss, statuses
from tests.test_sky_server import plant

URLS = [path(number, band) for number in range(400) for band in "gri"]


@dataclass(frozen=True)
class Only(Faults):
    """Just these failures, one after the other, for one address; healthy from then on."""

    path: str = ""
    kinds: tuple[str, ...] = ()
    for_ever: bool = False

    def chosen(self, path: str, query: str, number: int) -> str | None:
        if path != self.path or "moved=1" in query:
            return None
        return self.kinds[0] if self.for_ever else dict(enumerate(self.kinds)).get(number)


def only(path: str, *kinds: str, for_ever: bool = False, wait: float = 0.0) -> Only:
    return Only({}, {}, wait=wait, path=path, kinds=kinds, for_ever=for_ever)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return failing_server.write(tmp_path_factory.mktemp("planted"), planted()[1])


def two_fields() -> pa.Table:
    """The seven objects of two fields."""
    return planted()[0].slice(0, 7)


@pytest.fixture(scope="module")
def unharmed(files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Context, Ref]:
    """What is retrieved where nothing fails."""
    with failing_server.serve(files, parse("")) as served:
        return run(tmp_path_factory.mktemp("unharmed"), of(served), two_fields())


def of(served: failing_server.Recorded, **settings: Any) -> Sdss:
    archive = server.Archive(address=served.address)
    return sdss(archive, **{"timeout": 1.5, **settings})


# Which requests fail.


def test_rates_are_those_asked_for_and_follow_from_the_seed_alone() -> None:
    faults = parse("503=0.05, reset=0.1,nan=0.05,seed=3,persistent.404=0.02,persistent.short=0.03")
    first = {url: faults.chosen(url, "", 0) for url in URLS}
    assert first == {url: faults.chosen(url, "", 0) for url in reversed(URLS)}
    other = parse("503=0.05, reset=0.1,nan=0.05,seed=4,persistent.404=0.02,persistent.short=0.03")
    assert first != {url: other.chosen(url, "", 0) for url in URLS}
    draws = [faults.chosen(url, "", number) for url in URLS for number in range(20)]
    for kind, rate in (("503", 0.05), ("reset", 0.1), ("nan", 0.05), ("404", 0.02)):
        healthy = 1.0 if kind == "404" else 0.95
        assert draws.count(kind) / len(draws) == pytest.approx(rate * healthy, rel=0.25)
    for url in URLS:
        found = {faults.chosen(url, "", number) for number in range(20)}
        assert not found & {"404", "short"} or len(found) == 1


def test_a_field_lacks_one_band_for_good() -> None:
    faults = parse("persistent.missing=0.3,seed=1")
    lacking = 0
    for number in range(400):
        found = [faults.chosen(path(number, band), "", 7) for band in "gri"]
        assert found.count("missing") <= 1 and set(found) <= {None, "missing"}
        lacking += "missing" in found
    assert lacking / 400 == pytest.approx(0.3, abs=0.08)


def test_failures_befall_what_they_can() -> None:
    every = {kind: 1.0 for kind in KINDS if kind != "missing"}
    for kind in every:
        faults = parse(f"{kind}=1")
        frame = faults.chosen(path(1), "", 0)
        table = faults.chosen("/dr17/en/tools/search/x_results.aspx", "cmd=1", 0)
        picture = faults.chosen("/dr17/skyserverws/imgcutout/getjpeg", "ra=1", 0)
        assert (frame == kind) == (KINDS[kind][0] != "sql")
        assert (table == kind) == (KINDS[kind][0] in ("sql", "any", "sql or file"))
        assert (picture == kind) == (KINDS[kind][0] == "any")
        psf = faults.chosen("/sas/dr17/x/psField-001000-2-0100.fit", "", 0)
        assert (psf == kind) == (KINDS[kind][0] not in ("sql", FRAME))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5o3=0.1", "no failure '5o3'"), ("503", "503=0.05"), ("503=much", "503=0.05"),
        ("503=-1", "no number"), ("503=nan", "no number"), ("503=0.6,reset=0.6", "more than 1"),
        ("persistent.delay=1", "no failure 'persistent.delay'"), ("seed=1.5", "whole number"),
        ("missing=0.1", "persistent.missing"), ("persistent.missing=2", "more than 1"),
    ],
)  # fmt: skip
def test_wrong_failures_are_one_sentence(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        parse(text)
    assert str(error.value).count("\n") == 0


def test_the_command_refuses_wrong_failures_before_it_draws() -> None:
    done = call("sky", "serve", "--faults", "5o3=0.1", "--galaxies", "60")
    assert done.returncode == 2 and done.stdout == ""
    assert "--faults: there is no failure '5o3'" in done.stderr and done.stderr.count("\n") == 1


# What is sent.


@contextmanager
def asking(files: Path, faults: Faults) -> Iterator[httpx.Client]:
    with (
        failing_server.serve(files, faults) as served,
        httpx.Client(base_url=served.address, timeout=5) as client,
    ):
        yield client


@pytest.mark.parametrize(("kind", "wait"), [("503", 2), ("429", 3), ("429", 1)])
def test_a_busy_server_says_when_to_come_again(files: Path, kind: str, wait: int) -> None:
    with asking(files, parse(f"{kind}=1,wait={wait}")) as client:
        answer = client.get(path(100))
    assert answer.status_code == int(kind)
    text = answer.headers["Retry-After"]
    assert text == str(wait) or text.endswith("GMT")


def test_ranges_and_heads_are_refused_or_not(files: Path) -> None:
    content = planted()[1][path(100)]
    with asking(files, parse("norange=1")) as client:
        answer = client.get(path(100), headers={"Range": "bytes=100-199"})
        assert answer.status_code == 200 and answer.content == content
        assert client.head(path(100)).status_code == 200
    with asking(files, parse("nohead=1")) as client:
        assert client.head(path(100)).status_code == 405
        answer = client.get(path(100), headers={"Range": "bytes=100-199"})
        assert answer.status_code == 206 and answer.content == content[100:200]


def test_cut_connections_are_cut(files: Path) -> None:
    content = planted()[1][path(100)]
    with asking(files, parse("reset=1")) as client, pytest.raises(httpx.ReadError):
        client.get(path(100))
    with (
        asking(files, parse("truncated=1")) as client,
        pytest.raises(httpx.RemoteProtocolError, match="without sending complete"),
    ):
        client.get(path(100))
    with asking(files, parse("unfinished=1")) as client:
        answer = client.get(path(100))
    assert "Content-Length" not in answer.headers and answer.content == content[: len(content) // 2]


def test_changed_frames_are_changed_as_told(files: Path) -> None:
    def sent(kind: str) -> bytes:
        with asking(files, parse(f"{kind}=1")) as client:
            return client.get(path(100)).content

    def frame(kind: str) -> Any:
        return fits.open(io.BytesIO(bz2.decompress(sent(kind))))

    whole = fits.getheader(io.BytesIO(bz2.decompress(planted()[1][path(100)])))
    with frame("crval") as hdus:
        assert hdus[0].header["CRVAL1"] == pytest.approx(whole["CRVAL1"] + 3, abs=1e-9)
        assert hdus[0].header["CRVAL2"] == whole["CRVAL2"] and len(hdus) == 4
    with frame("nocrval") as hdus:
        assert hdus[0].header["CRVAL1"] == hdus[0].header["CRVAL2"] == 0
    with frame("nan") as hdus:
        assert np.isnan(hdus[0].data).all() and (hdus[1].data == np.float32(0.005)).all()
    with frame("zeros") as hdus:
        assert (hdus[0].data == 0).all() and (hdus[1].data == np.float32(0.005)).all()
    with frame("swapped") as hdus:
        assert hdus[0].header["FRAME"] == 101 and hdus[0].header["FILTER"] == "r"
    with pytest.raises(OSError):
        bz2.decompress(sent("corrupt"))
    short = bz2.decompress(sent("short"))
    assert bz2.decompress(planted()[1][path(100)]).startswith(short) and len(short) % 2880 == 0
    assert sent("empty") == b""


# What becomes of the objects.

ENDS: Mapping[str, tuple[Status, str, int]] = {  # status, reason and requests where it never passes
    "503": (Status.FAILED, "HTTP 503", 3),
    "504": (Status.FAILED, "HTTP 504", 3),
    "429": (Status.FAILED, "HTTP 429", 3),
    "404": (Status.MISSING_BAND, "not in the archive", 1),
    "missing": (Status.MISSING_BAND, "not in the archive", 1),
    "reset": (Status.FAILED, "no whole answer", 3),
    "truncated": (Status.FAILED, "no whole answer", 3),
    "unfinished": (Status.CORRUPT, "cut off", 3),
    "empty": (Status.FAILED, "the answer is empty", 3),
    "drip": (Status.FAILED, "too slowly", 3),
    "html": (Status.FAILED, "web page", 3),
    "corrupt": (Status.CORRUPT, "", 3),
    "short": (Status.CORRUPT, "", 3),
    "nocrval": (Status.CORRUPT, "no usable WCS", 3),
    "swapped": (Status.CORRUPT, "another frame", 3),
    "band": (Status.CORRUPT, "another frame", 3),
    "crval": (Status.OFF_FRAME, "elsewhere", 3),
    "nan": (Status.BLANK, "undefined", 3),
    "zeros": (Status.BLANK, "all pixels of the frame are 0", 3),
}
WRONG_ROWS = {  # how the object ends whose row is wrong
    "lookup": Status.NO_COVERAGE, "edge": Status.OK | Status.EDGE, "off": Status.OFF_FRAME,
}  # fmt: skip
HARMLESS = ("301", "nohead", "norange")


@pytest.mark.parametrize("kind", ENDS)
def test_each_failure_is_named_and_passes(
    files: Path, unharmed: tuple[Context, Ref], tmp_path: Path, kind: str
) -> None:
    status, reason, asked = ENDS[kind]
    with failing_server.serve(files, only(path(100), kind, for_ever=True)) as served:
        context, ref = run(tmp_path / "a", of(served), two_fields())
        assert served.paths().count(path(100)) == asked
    assert statuses(context, ref, 100) == {status}
    assert statuses(context, ref, 101) == {Status.OK}
    reasons = {line["reason"] for line in ledger(context, ref) if line["reason"]}
    assert len(reasons) == 1 and reason in reasons.pop()
    if asked == 1:
        return
    with failing_server.serve(files, only(path(100), kind, kind)) as served:
        context, ref = run(tmp_path / "b", of(served), two_fields())
    whole, again = unharmed
    assert ref == again
    for line, same in zip(ledger(context, ref), ledger(whole, again), strict=True):
        assert line == same
        assert (row_of(context, line)["image"] == row_of(whole, same)["image"]).all()


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_is_no_failure_changes_nothing(files: Path, tmp_path: Path, kind: str) -> None:
    with failing_server.serve(files, parse(f"persistent.{kind}=1")) as served:
        context, ref = run(tmp_path, of(served), two_fields())
        asked = len(served.requests)
    assert {line["status"] for line in ledger(context, ref)} == {int(Status.OK)}
    assert asked == (2 if kind == "301" else 1) * 2 * 3


def test_all_failures_are_known_to_these_tests() -> None:
    elsewhere = {"limit", "duplicates", "cutrows", *WRONG_ROWS}  # of tables, below
    assert set(ENDS) | set(HARMLESS) | elsewhere == set(KINDS)


def test_what_was_begun_is_gone_on_with(tmp_path: Path) -> None:
    """After a broken answer the rest alone is asked for, where the server proves that it fits."""
    rng = np.random.default_rng(1)
    content = dict(planted()[1])
    wcs = server.wcs_of(1000, 2, 100, "r")
    noise = rng.normal(0, 1, (server.NY, server.NX))
    content[path(100)] = server.frame_bytes(noise, wcs, 1000, 2, 100, "r")
    files = failing_server.write(tmp_path / "files", content)
    half = len(content[path(100)]) // 2
    asked = {}
    for name, kinds in {"once": ("truncated",), "ignored": ("truncated", "norange")}.items():
        with failing_server.serve(files, only(path(100), *kinds)) as served:
            context, ref = run(tmp_path / name, of(served), two_fields())
        assert statuses(context, ref, 100) == {Status.OK}
        asked[name] = [ranged for _, place, ranged in served.requests if place == path(100)]
    assert asked["once"] == asked["ignored"] == ["", f"bytes={half}-"]


# Tables.

SQL = "SELECT TOP 2 objID, ra, dec FROM PhotoObjAll WHERE objID > {last} ORDER BY objID"


def tables(folder: Path, faults: Faults, sql: str = SQL, **settings: Any) -> list[int]:
    with failing_server.serve(folder, faults, application(folder)) as served:
        spec = Sdss(
            skyserver=served.address, sas=f"{served.address}/sas", patience=0.0,
            requests_per_minute=None, **{"tries": 8, **settings},
        )  # fmt: skip
        sample = Sample(id="objID", id_type="int64", ra="ra", dec="dec", sql=sql)
        return [int(text) for text in skyserver.query(spec, sample)["objID"].to_pylist()]


@pytest.fixture(scope="module")
def small_sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("sky"))


@pytest.mark.parametrize(
    "kind",
    ["503", "504", "429", "limit", "html", "empty", "reset", "truncated", "unfinished", "cutrows"],
)
def test_tables_are_whole_or_refused(small_sky: Path, kind: str) -> None:
    truth = tables(small_sky, parse(""))
    assert len(truth) == 4
    for seed in range(3):
        assert tables(small_sky, parse(f"{kind}=0.4,wait=0,seed={seed}")) == truth
    said = {"limit": "Maximum 60", "html": "web page", "empty": "empty", "reset": "Connection",
            "unfinished": "cut off", "truncated": "ConnectionError",
            "cutrows": "(cut off|did not come)"}  # fmt: skip
    with pytest.raises(InputError, match=said.get(kind, kind)):
        tables(small_sky, parse(f"{kind}=1,wait=0"))


def test_rows_that_come_twice_are_refused(small_sky: Path) -> None:
    with pytest.raises(InputError, match="one row per object"):
        tables(small_sky, parse("duplicates=1"))


def test_a_table_of_one_answer_is_whole_or_refused(small_sky: Path) -> None:
    sql = "SELECT objID, ra, dec FROM PhotoObjAll"
    truth = sorted(tables(small_sky, parse(""), sql))
    assert len(truth) == 4
    for seed in range(3):
        assert sorted(tables(small_sky, parse(f"cutrows=0.4,seed={seed}"), sql)) == truth
    with pytest.raises(InputError, match=r"(cut off|did not come)"):
        tables(small_sky, parse("cutrows=1"), sql)


def test_a_table_that_drips_is_refused(small_sky: Path) -> None:
    with pytest.raises(InputError, match="ReadTimeout"):
        tables(small_sky, parse("drip=1"), timeout=0.5, tries=1)


FIELDS = (
    "SELECT TOP 100 objID, ra, dec, run, camcol, field FROM Galaxy WHERE objID > {last} "
    "ORDER BY objID"
)


@pytest.mark.parametrize("kind", WRONG_ROWS)
def test_a_row_that_is_wrong_ends_as_it_must(kind: str, tmp_path: Path) -> None:
    """A look-up that names another field, an object at the edge of its frame, or off it."""
    folder = cached(SkySpec(galaxies=20))
    with failing_server.serve(folder, parse(f"{kind}=1"), application(folder)) as served:
        spec = of(served, timeout=5.0)
        sample = Sample(id="objID", id_type="int64", ra="ra", dec="dec", sql=FIELDS)
        table = skyserver.query(spec, sample)
        context, ref = run(tmp_path, spec, table)
    ends = [Status(line["status"]) for line in ledger(context, ref)]
    assert ends[-1] == WRONG_ROWS[kind]
    assert ends.count(Status.OK) > 0.8 * (len(ends) - 1)


def test_a_moved_address_is_followed(small_sky: Path) -> None:
    assert len(tables(small_sky, parse("301=1"))) == 4


def test_answers_are_delayed_as_told(files: Path) -> None:
    with asking(files, parse("delay=0.2")) as client:
        begin = time.monotonic()
        assert client.get(path(100)).status_code == 200
        assert time.monotonic() - begin >= 0.2


def test_requests_over_all_tries_fail_independently() -> None:
    faults = parse("503=0.2")
    runs = [
        len(list(itertools.takewhile(lambda n, u=url: faults.chosen(u, "", n), range(9))))
        for url in URLS
    ]
    assert max(runs) <= 6 and runs.count(0) / len(runs) == pytest.approx(0.8, abs=0.04)
