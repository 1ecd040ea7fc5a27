"""Whole tables and no more requests than may be: what is proved, waited for, and shared."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from galpipe.archives import skyserver
from galpipe.archives.connections import proxy_of
from galpipe.archives.download import Downloader
from galpipe.archives.sqltext import counting, limit_of
from galpipe.archives.trouble import BadImageError
from galpipe.errors import InputError
from galpipe.status import Status
from tests import sdss_server as server
from tests.sdss_server import Answer, Archive
from tests.test_sdss import IDS, PAGED, SEARCH, asked, csv, paging, planted, run, sdss, statuses
from tests.test_sdss import path as frame_of

FILE = "/sas/file"
CONTENT = b"SIMPLE" * 100
PLAIN = "SELECT objID, ra FROM PhotoObjAll WHERE type = 3 ORDER BY objID"


@pytest.fixture
def archive() -> Iterator[Archive]:
    with server.serve() as answering:
        answering.files.update(planted()[1])
        answering.files[FILE] = CONTENT
        yield answering


def is_count(values: dict[str, str]) -> bool:
    return values["cmd"].strip().startswith("SELECT COUNT(*)")


def count_of(number: int) -> Answer:
    return Answer(body=f"#Table1\nn\n{number}\n".encode(), promised=-1)


# Tables are whole.


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (
            "SELECT TOP 10 a, b FROM t WHERE x > 5 ORDER BY a",
            "SELECT COUNT(*) AS n FROM t WHERE x > 5",
        ),
        (
            "select z.ra, (select max(q) from s where s.id = z.id) as m, 'from' f\nFROM z JOIN p "
            "ON p.i = z.i -- order by nothing\nWHERE p.[order by] = 1\nORDER BY z.ra DESC, z.i",
            "SELECT COUNT(*) AS n FROM z JOIN p ON p.i = z.i -- order by nothing\n"
            "WHERE p.[order by] = 1",
        ),
        (
            "SELECT DISTINCT run FROM Field ORDER BY run",
            "SELECT COUNT(*) AS n FROM (SELECT DISTINCT run FROM Field) AS counted",
        ),
        (
            "SELECT TOP 5 run, COUNT(*) c FROM Field GROUP BY run ORDER BY run",
            "SELECT COUNT(*) AS n FROM (SELECT TOP 5 run, COUNT(*) c FROM Field GROUP BY run "
            "ORDER BY run) AS counted",
        ),
        ("SELECT 1", "SELECT COUNT(*) AS n FROM (SELECT 1) AS counted"),
    ],
)  # fmt: skip
def test_the_query_that_counts(sql: str, expected: str) -> None:
    assert counting(sql) == expected
    assert limit_of("SELECT TOP 50 a FROM t", 500_000) == 50
    assert limit_of("SELECT a FROM t", 500_000) == 500_000


def test_a_table_cut_at_the_end_of_a_line_is_not_taken_for_whole(archive: Archive) -> None:
    """Without a length, a shorter table looks whole: its rows are counted by the server."""
    rows = [len(IDS)]

    def answer(values: dict[str, str]) -> Answer:
        if is_count(values):
            return count_of(len(IDS))
        return Answer(body=csv(IDS[: rows[0]]), promised=-1)

    archive.ask[SEARCH] = answer
    assert len(asked(archive, PLAIN)) == len(IDS) and archive.hits[SEARCH] == 2
    rows[0] = 11
    with pytest.raises(InputError, match=r"cut off: 11 of 23 rows came"):
        asked(archive, PLAIN)
    assert archive.hits[SEARCH] == 2 + 6
    archive.next[SEARCH] = [Answer(body=csv(IDS[:5]), promised=-1), count_of(len(IDS))]
    rows[0] = len(IDS)
    assert len(asked(archive, PLAIN)) == len(IDS)


def test_a_page_cut_after_its_header_is_not_the_last_one(archive: Archive) -> None:
    cut = [True]

    def answer(values: dict[str, str]) -> Answer:
        last = int(values["cmd"].split(">")[1].split()[0])
        left = [id for id in IDS if id > last]
        if is_count(values):
            return count_of(len(left))
        if last == IDS[9] and cut[0]:
            cut[0] = False
            left = []
        return Answer(body=csv(left[:10]), promised=-1)

    archive.ask[SEARCH] = answer
    table = asked(archive)
    assert [int(text) for text in table["objID"].to_pylist()] == IDS and not cut[0]


def test_a_page_cut_at_the_end_of_a_line_is_gone_on_from(archive: Archive) -> None:
    def answer(values: dict[str, str]) -> Answer:
        if is_count(values):
            return count_of(0)
        full = paging(values)
        lines = full.body.splitlines(keepends=True)
        return Answer(body=b"".join(lines[: 2 + len(lines[2:]) // 2 + 1]), promised=-1)

    archive.ask[SEARCH] = answer
    assert [int(text) for text in asked(archive)["objID"].to_pylist()] == IDS


def test_what_cannot_be_counted_is_told(archive: Archive) -> None:
    def answer(values: dict[str, str]) -> Answer:
        if is_count(values):
            return Answer(400, b'{"ErrorMessage":"No column name was specified."}')
        return Answer(body=csv(IDS), promised=-1)

    archive.ask[SEARCH] = answer
    with pytest.raises(InputError, match=r"cannot be counted.*No column name.*select plain"):
        asked(archive, "SELECT DISTINCT objID, ra FROM PhotoObjAll")


def test_a_table_that_drips_is_given_up(archive: Archive) -> None:
    """An answer that comes byte by byte passes every limit on one read."""
    listener = socket.create_server(("127.0.0.1", 0))
    end = threading.Event()

    def drip() -> None:
        while not end.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n#Table1\n")
                for _ in range(200):
                    if end.wait(0.05):
                        return
                    try:
                        connection.sendall(b"1")
                    except OSError:
                        break

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        import astroquery.sdss  # what is not asked before takes seconds

        assert astroquery.sdss
        begin = time.monotonic()
        spec = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(InputError, match="ReadTimeout"):
            asked(archive, PLAIN, skyserver=spec, timeout=0.3, tries=2)
        assert time.monotonic() - begin < 5
    finally:
        end.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


# Waiting as long as was asked.


def test_a_long_wait_is_kept_and_a_longer_one_left_to_a_later_run(
    archive: Archive, tmp_path: Path
) -> None:
    archive.next[frame_of(100)] = [Answer(503, headers={"Retry-After": "2"})]
    begin = time.monotonic()
    context, ref = run(tmp_path / "a", sdss(archive, longest_wait=3.0), planted()[0].slice(0, 7))
    assert time.monotonic() - begin >= 2 and statuses(context, ref, 100) == {Status.OK}
    archive.hits.clear()
    archive.always[frame_of(100)] = Answer(503, headers={"Retry-After": "400"})
    with pytest.raises(InputError, match=r"none of the .* objects.*FAILED"):
        run(tmp_path / "b", sdss(archive, longest_wait=3.0), planted()[0].slice(0, 5))


def test_nobody_asks_a_host_before_the_moment_it_named(archive: Archive) -> None:
    """Also not after the patience of the run has ended: the rest fails without a request."""
    archive.always[FILE] = Answer(503, headers={"Retry-After": "900"})
    archive.files["/sas/b"] = CONTENT
    spec = sdss(archive, connections=2)
    with Downloader(spec, spec.sas) as downloader:
        for place, said in ((FILE, "HTTP 503, and asks to wait 900 s"), ("/sas/b", "wait 900 s")):
            with pytest.raises(BadImageError) as error:
                downloader.fetch(archive.address + place, bytes)
            assert error.value.status == Status.FAILED
            assert said in error.value.reason
            assert "more than longest_wait (600 s)" in error.value.reason
    assert archive.hits == {FILE: 1}


def test_a_query_waits_as_long_as_was_asked_and_no_longer_than_may_be(archive: Archive) -> None:
    archive.ask[SEARCH] = paging
    archive.next[SEARCH] = [Answer(429, headers={"Retry-After": "1"})]
    begin = time.monotonic()
    assert len(asked(archive)) == len(IDS) and time.monotonic() - begin >= 1
    archive.hits.clear()
    archive.next[SEARCH] = [Answer(429, headers={"Retry-After": "7200"})]
    with pytest.raises(InputError, match=r"in 1 try.*HTTP 429, and asks to wait 7200 s"):
        asked(archive)
    assert archive.hits[SEARCH] == 1


# One pace for all processes.

ASK = """
import sys, time, types
from galpipe.archives import pace
from galpipe.archives.download import Downloader
from tests.test_sdss import Archive, sdss
read = []  # by the pace: when it began to wait, and the turn that it took
def monotonic():
    read.append(time.monotonic())
    return read[-1]
pace.time = types.SimpleNamespace(monotonic=monotonic)
spec = sdss(Archive(address=sys.argv[1]), files_per_minute=300.0)
with Downloader(spec, spec.sas) as downloader:
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(4):
        downloader.fetch(sys.argv[1] + "/sas/file", bytes)
print(*read[1::2])
"""


def test_processes_of_a_machine_share_one_pace(archive: Archive) -> None:
    times: list[float] = []

    def answer(_: dict[str, str]) -> Answer:
        times.append(time.monotonic())
        return Answer(body=CONTENT)

    archive.ask[FILE] = answer
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", ASK, archive.address],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    begin = time.monotonic()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    turns: list[float] = []
    for worker in workers:
        said, _ = worker.communicate(timeout=60)
        assert worker.returncode == 0
        turns += map(float, said.split())
    turns.sort()
    gaps = [later - earlier for earlier, later in itertools.pairwise(turns)]
    assert len(turns) == 12 and min(gaps) > 0.2 - 0.001
    # A busy machine makes a request late, and so nearer to the next, but never early.
    early = [turn for turn, at in enumerate(sorted(times)) if at - begin < turn * 0.2]
    assert len(times) == 12 and not early, [at - begin for at in times]


def test_queries_and_colour_images_share_one_pace(archive: Archive) -> None:
    archive.ask[SEARCH] = paging
    spec = sdss(archive, requests_per_minute=120.0)
    begin = time.monotonic()
    asked(archive, PAGED, requests_per_minute=120.0)  # four pages
    with Downloader(spec, spec.skyserver, skyserver.pace_of(spec)) as downloader:
        downloader.fetch(archive.address + FILE, bytes)
    assert time.monotonic() - begin >= 4 * 0.5 - 0.05


# Connections.


def test_the_proxy_is_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, archive: Archive
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    assert proxy_of("https://data.sdss.org/sas") is None
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "localhost,.edu")
    assert proxy_of("https://data.sdss.org/sas") == "http://proxy.example:3128"
    assert proxy_of("https://mast.stsci.edu") is None and proxy_of("http://data.sdss.org") is None
    assert proxy_of("http://127.0.0.1:80") is None
    monkeypatch.setenv("https_proxy", "socks5://proxy.example:1080")
    with pytest.raises(InputError, match="socks5"):
        proxy_of("https://data.sdss.org/sas")
    monkeypatch.setenv("http_proxy", archive.address)  # answers for hosts that are not there
    archive.files["http://archive.invalid/sas/x"] = CONTENT
    archive.files["/sas/x"] = CONTENT
    spec = sdss(archive, sas="http://archive.invalid/sas", tries=1)
    with Downloader(spec, spec.sas) as downloader:
        assert downloader.fetch("http://archive.invalid/sas/x", lambda content: content) == CONTENT


def test_errors_of_the_network_are_those_of_httpx(archive: Archive) -> None:
    from galpipe.archives.connections import Transport

    with httpx.Client(transport=Transport("http://127.0.0.1:9", 1), timeout=2.0) as client:
        with pytest.raises(httpx.ConnectError):
            client.get("http://127.0.0.1:9/")
        archive.always[FILE] = Answer(reset=True)
        with pytest.raises(httpx.ReadError):
            client.get(archive.address + FILE)
        archive.always[FILE] = Answer(body=CONTENT, promised=10_000)
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(archive.address + FILE)
