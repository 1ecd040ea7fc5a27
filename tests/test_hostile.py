"""Answers that mean harm: refused with a reason, without a hang, a crash or a write elsewhere."""

from __future__ import annotations

import bz2
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from galpipe.archives.download import Downloader, elsewhere
from galpipe.archives.pace import Pace
from galpipe.archives.trouble import BadImageError
from galpipe.archives.unpacking import unpacked
from galpipe.archives.waiting import LONGEST_WAIT, backoff, retry_after
from galpipe.status import Status
from tests import sdss_server as server
from tests.sdss_server import Answer, Archive
from tests.test_sdss import sdss

FILE = "/sas/file"
CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def archive() -> Iterator[Archive]:
    with server.serve() as answering:
        answering.files[FILE] = CONTENT
        yield answering


def whole(content: bytes) -> bytes:
    if content != CONTENT:
        raise BadImageError(Status.CORRUPT, "other bytes")
    return content


def fetched(archive: Archive, place: str = FILE, **settings: Any) -> bytes:
    spec = sdss(archive, **{"timeout": 30.0, **settings})
    with Downloader(spec, spec.sas) as downloader:
        return downloader.fetch(archive.address + place, whole)


def refused(archive: Archive, status: Status = Status.FAILED, **settings: Any) -> str:
    with pytest.raises(BadImageError) as error:
        fetched(archive, **settings)
    assert error.value.status == status
    return error.value.reason


# Redirects.


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("http://127.0.0.2/sas/file", "another host, 127.0.0.2"),
        ("http://169.254.169.254/latest/meta-data", "another host, 169.254.169.254"),
        ("http://127.0.0.1:1/sas/file", "another port, 1"),
        ("file:///etc/passwd", "a file: address"),
        ("ftp://127.0.0.1/file", "a ftp: address"),
        ("//example.org/file", "another host, example.org"),
    ],
)
def test_redirects_stay_with_the_host(archive: Archive, place: str, said: str) -> None:
    archive.always[FILE] = Answer(302, headers={"Location": place})
    assert said in refused(archive)
    assert archive.hits[FILE] == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_within_the_host_are_followed(archive: Archive, status: int) -> None:
    archive.always[FILE] = Answer(status, headers={"Location": "/sas/moved"})
    archive.files["/sas/moved"] = CONTENT
    assert fetched(archive) == CONTENT


def test_redirects_without_end_or_sense(archive: Archive) -> None:
    archive.always[FILE] = Answer(302, headers={"Location": FILE})
    assert "without end" in refused(archive, tries=1)
    archive.always[FILE] = Answer(302, headers={"Location": "http://127.0.0.1:what/"})
    assert refused(archive, tries=1)
    archive.always[FILE] = Answer(302)
    assert "without end" in refused(archive, tries=1)


def test_redirects_to_safer_connections_alone() -> None:
    plain, safe = httpx.URL("http://a.org/x"), httpx.URL("https://a.org/x")
    assert elsewhere(plain, safe) is None
    assert elsewhere(safe, plain) == "it sends from https to http"
    assert elsewhere(safe, httpx.URL("https://a.org:444/x")) == "it sends to another port, 444"
    assert elsewhere(safe, httpx.URL("https://a.org.evil.org/x")) is not None


# Sizes and slowness.


def test_larger_than_any_frame(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.always[FILE] = Answer(body=b"", promised=10**12)
    assert "larger than any frame" in refused(archive, Status.CORRUPT)
    assert archive.hits[FILE] == 1
    monkeypatch.setattr("galpipe.archives.download.LARGEST_ANSWER", 1000)
    archive.always[FILE] = Answer(body=CONTENT, promised=-1)
    assert "larger than any frame" in refused(archive, Status.CORRUPT)


@contextmanager
def speaking(say: Callable[[socket.socket, threading.Event], None]) -> Iterator[Archive]:
    """A server of raw bytes: `say` gets every connection, and an event that tells it to end."""
    listener = socket.create_server(("127.0.0.1", 0))
    end = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65536)
                say(connection, end)
            except OSError:
                pass

    def accept() -> None:
        while not end.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield Archive(address=f"http://127.0.0.1:{listener.getsockname()[1]}")
    finally:
        end.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def dripping(content: bytes) -> Callable[[socket.socket, threading.Event], None]:
    def say(connection: socket.socket, end: threading.Event) -> None:
        for place in range(len(content)):
            connection.sendall(content[place : place + 1])
            if end.wait(0.05):
                return

    return say


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n"


def test_a_body_that_drips_is_cut_off() -> None:
    def say(connection: socket.socket, end: threading.Event) -> None:
        connection.sendall(OK + b"\r\n")
        dripping(b"x" * 10**6)(connection, end)

    with speaking(say) as archive:
        assert "too slowly" in refused(archive, tries=1, timeout=2.0)


def test_headers_that_drip_are_cut_off() -> None:
    with speaking(dripping(OK + b"X-Slow: " + b"x" * 10**6)) as archive:
        assert "no whole answer (ReadTimeout)" in refused(archive, tries=1, timeout=0.1)


def test_headers_without_end_are_cut_off() -> None:
    def say(connection: socket.socket, end: threading.Event) -> None:
        connection.sendall(OK)
        while not end.is_set():
            connection.sendall(b"X-Long: " + b"x" * 65536)

    with speaking(say) as archive:
        assert "RemoteProtocolError" in refused(archive, tries=1)


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n", b"HTTP/1.1 200\r\n\x00: 1\r\n\r\n", b"HTTP/9.9 999 what\r\n\r\n", b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffffff\r\nabc",
        b"HTTP/1.1 302 Found\r\nLocation: http://\xff\xfe/\r\nContent-Length: 0\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_http_is_a_failure(raw: bytes) -> None:
    with speaking(lambda connection, _: connection.sendall(raw)) as archive:
        assert refused(archive, tries=2)


def test_encoded_answers_are_not_unpacked(archive: Archive) -> None:
    """Nobody asked for an encoding: what comes is taken as it came, and no bomb goes off."""
    import gzip

    bomb = gzip.compress(b"SIMPLE" + bytes(10**8))
    archive.always[FILE] = Answer(body=bomb, headers={"Content-Encoding": "gzip"})
    assert refused(archive, Status.CORRUPT, tries=1) == "other bytes"


def test_bombs_do_not_go_off() -> None:
    bomb = bz2.compress(bytes(10**8))
    with pytest.raises(BadImageError, match="more than 1000000 bytes"):
        unpacked(bomb, 10**6)
    many = bz2.compress(b"x" * 1000) * 50
    assert unpacked(many) == b"x" * 50_000
    with pytest.raises(BadImageError, match="more than 20000 bytes"):
        unpacked(many, 20_000)
    assert unpacked(bz2.compress(b"y") + bytes(100)) == b"y"
    with pytest.raises(BadImageError, match="cut off"):
        unpacked(bz2.compress(b"z" * 1000)[:-4])
    with pytest.raises(BadImageError, match="not a bzip2 file"):
        unpacked(b"")


# Waiting.


def test_more_than_the_longest_wait_is_left_to_a_later_run(archive: Archive) -> None:
    archive.always[FILE] = Answer(503, headers={"Retry-After": "86400"})
    begin = time.monotonic()
    assert "asks to wait 86400 s" in refused(archive, tries=5, connections=3)
    assert time.monotonic() - begin < LONGEST_WAIT / 2 and archive.hits[FILE] == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0), ("-3", 0.0), ("1e400", float("inf")), ("nan", None), ("", None), (None, None),
        ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("Wed, 99 Oct 2015", None),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
    ],
)  # fmt: skip
def test_retry_after_of_any_kind(text: str | None, seconds: float | None) -> None:
    assert retry_after(text) == seconds


def test_waits_are_spread_and_double() -> None:
    for attempt in range(6):
        waits = [backoff(1.0, attempt, None) for _ in range(300)]
        assert 0 <= min(waits) < 0.3 * 2**attempt and 0.7 * 2**attempt < max(waits) <= 2**attempt
    assert backoff(1.0, 1, 5.0) == 5.0 and backoff(1.0, 40, None) <= LONGEST_WAIT


def test_a_closed_host_is_left_alone_by_all_threads(archive: Archive) -> None:
    came: list[float] = []

    def answer(_: dict[str, str]) -> Answer:
        came.append(time.monotonic())
        return Answer(body=CONTENT)

    archive.ask["/sas/b"] = answer
    archive.next[FILE] = [Answer(429, headers={"Retry-After": "1"})]
    spec = sdss(archive, connections=2, timeout=30.0)
    begin = time.monotonic()
    with Downloader(spec, spec.sas) as one, Downloader(spec, spec.sas) as other:
        thread = threading.Thread(target=one.fetch, args=(archive.address + FILE, whole))
        thread.start()
        while not archive.hits[FILE]:
            time.sleep(0.001)
        while not one._host._closed_until:
            time.sleep(0.001)
        closed = one._host._closed_until
        other.fetch(archive.address + "/sas/b", whole)
        thread.join()
    assert closed - begin >= 1.0 and [at >= closed for at in came] == [True]


def test_no_more_at_once_than_allowed(archive: Archive) -> None:
    """Over all downloaders of a process."""
    lock, now, most = threading.Condition(), 0, 0

    def answer(_: dict[str, str]) -> Answer:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            lock.notify_all()
            lock.wait_for(lambda: most >= 3, timeout=60)
        time.sleep(0.02)  # room for a fourth
        with lock:
            now -= 1
        return Answer(body=CONTENT)

    archive.ask["/sas/slow"] = answer

    def fetch() -> None:
        fetched(archive, "/sas/slow", connections=3)

    threads = [threading.Thread(target=fetch) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 3


def test_the_pace_is_kept_over_threads_and_objects(tmp_path: Path) -> None:
    """By separate objects, as in separate processes."""
    host = f"{tmp_path}.example"
    moments: list[float] = []

    def ask() -> None:
        pace = Pace(1200.0, host)
        for _ in range(4):
            pace.wait()
            moments.append(time.monotonic())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    moments.sort()
    assert len(moments) == 16 and all(at - begin >= turn * 0.05 for turn, at in enumerate(moments))


# Ranges.


def broken(size: int, tag: str) -> Answer:
    return Answer(body=CONTENT[:size], headers={"ETag": tag}, promised=len(CONTENT))


def rest(first: int, content: bytes, tag: str, total: int = len(CONTENT)) -> Answer:
    place = f"bytes {first}-{total - 1}/{total}"
    return Answer(206, content, {"ETag": tag, "Content-Range": place})


HALF = len(CONTENT) // 2
STRONG = '"abc"'


def test_the_rest_is_joined(archive: Archive) -> None:
    archive.next[FILE] = [broken(HALF, STRONG), rest(HALF, CONTENT[HALF:], STRONG)]
    assert fetched(archive) == CONTENT and archive.hits[FILE] == 2


def test_the_rest_is_joined_after_it_broke_again(archive: Archive) -> None:
    second = rest(HALF, CONTENT[HALF : HALF + 100], STRONG)
    second.promised = len(CONTENT) - HALF
    archive.next[FILE] = [
        broken(HALF, STRONG), second, rest(HALF + 100, CONTENT[HALF + 100 :], STRONG)
    ]  # fmt: skip
    assert fetched(archive) == CONTENT and archive.hits[FILE] == 3


@pytest.mark.parametrize(
    "second",
    [
        rest(HALF - 1, CONTENT[HALF:], STRONG), rest(HALF, CONTENT[HALF:], '"other"'),
        rest(HALF, CONTENT[HALF:-1], STRONG, len(CONTENT) - 1), Answer(206, CONTENT[HALF:]),
        Answer(206, CONTENT[HALF:], {"ETag": STRONG, "Content-Range": "bytes */*"}),
        Answer(416), Answer(200, CONTENT),
    ],
)  # fmt: skip
def test_what_is_not_proved_to_be_the_rest_is_not_joined(archive: Archive, second: Answer) -> None:
    archive.next[FILE] = [broken(HALF, STRONG), second]
    assert fetched(archive) == CONTENT
    assert archive.hits[FILE] == (2 if second.status == 200 else 3)


@pytest.mark.parametrize("tag", ["", 'W/"abc"', "abc"])
def test_without_a_strong_tag_all_is_fetched_again(archive: Archive, tag: str) -> None:
    archive.next[FILE] = [broken(HALF, tag)]
    assert fetched(archive) == CONTENT and archive.hits[FILE] == 2


def test_bytes_joined_wrongly_are_fetched_anew(archive: Archive) -> None:
    """A server that proves what is not so: the check finds it, and nothing is kept of it."""
    wrong = bytes(len(CONTENT) - HALF)
    archive.next[FILE] = [broken(HALF, STRONG), rest(HALF, wrong, STRONG)]
    assert fetched(archive) == CONTENT and archive.hits[FILE] == 3


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (rest(HALF, CONTENT[HALF : HALF + 10], STRONG), "another piece"),
        (Answer(200, CONTENT), "ignores Range"), (Answer(416), "ends before"),
        (Answer(206, CONTENT[HALF : HALF + 10]), "another piece"),
    ],
)  # fmt: skip
def test_a_piece_is_that_piece(archive: Archive, answer: Answer, said: str) -> None:
    spec = sdss(archive, timeout=30.0)
    place, headers = archive.address + FILE, {"Range": f"bytes={HALF}-{HALF + 9}"}
    good = Answer(206, CONTENT[HALF : HALF + 10])
    good.headers["Content-Range"] = f"bytes {HALF}-{HALF + 9}/{len(CONTENT)}"
    with Downloader(spec, spec.sas) as downloader:
        archive.next[FILE] = [Answer(503), good]
        assert downloader.fetch(place, bytes, headers=headers) == CONTENT[HALF : HALF + 10]
        archive.always[FILE] = answer
        with pytest.raises(BadImageError, match=said):
            downloader.fetch(place, bytes, headers=headers)


def test_an_unasked_part_is_no_file(archive: Archive) -> None:
    archive.always[FILE] = rest(0, CONTENT, STRONG)
    assert refused(archive) == "HTTP 206"
