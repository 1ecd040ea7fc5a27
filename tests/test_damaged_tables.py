"""Tables that are damaged or mean harm: refused in one sentence, soon, without much memory."""

from __future__ import annotations

import gzip
import io
import resource
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from galpipe.errors import InputError
from galpipe.sample import parquet_table, table_bytes
from galpipe.sample.table import read_table
from tests.fuzzing import limited, watched
from tests.running import call

MOST_MEMORY = 2**18  # kilobytes by which reading may raise the peak


def refused(content: bytes | Path, name: str, said: str, seconds: float = 5.0) -> None:
    """Check that a table is refused in one sentence, in bounded time and memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=said) as error, limited(seconds), watched():
        read_table(content, name, "objID")
    sentence = str(error.value)
    assert sentence.startswith(f"{name}: ") and sentence.endswith(".") and "\n" not in sentence
    assert len(sentence) < 300
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < MOST_MEMORY


# FITS.


def header(*cards: str) -> bytes:
    lines = [card.ljust(80) for card in (*cards, "END")]
    content = "".join(lines).encode()
    return content + b" " * (-len(content) % 2880)


def card(key: str, value: object) -> str:
    return f"{key:8s}= {value!s:>20s}"


NOTHING = header("XTENSION= 'IMAGE   '", card("BITPIX", 8), card("NAXIS", 0))
EMPTY = header(card("SIMPLE", "T"), card("BITPIX", 8), card("NAXIS", 0))


def table(width: int, rows: int, fields: int = 1, *more: str) -> bytes:
    """A binary table that says so; there are 2880 bytes of data."""
    cards = [
        "XTENSION= 'BINTABLE'", card("BITPIX", 8), card("NAXIS", 2), card("NAXIS1", width),
        card("NAXIS2", rows), card("PCOUNT", 0), card("GCOUNT", 1), card("TFIELDS", fields),
    ]  # fmt: skip
    named = () if any("TTYPE1" in one for one in more) else ("TTYPE1  = 'objID   '",)
    return EMPTY + header(*cards, *named, *more) + bytes(2880)


def endless(key: str) -> bytes:
    return header(card("SIMPLE", "T"), card("BITPIX", 8), f"{key}= {30_000_000:>20d}")


PACKED = (
    "TTYPE1  = 'COMPRESSED_DATA'", "TFORM1  = '1PB(1)  '", card("ZIMAGE", "T"),
    card("ZBITPIX", 16), card("ZNAXIS", 3), card("ZNAXIS1", 4000), card("ZNAXIS2", 4000),
    card("ZNAXIS3", 400_000), card("ZTILE1", 4000), card("ZTILE2", 1), card("ZTILE3", 1),
    "ZCMPTYPE= 'GZIP_1  '",
)  # fmt: skip
BAD_FITS: dict[str, tuple[Callable[[], bytes], str]] = {
    "axes without end": (lambda: endless("NAXIS   "), "more than 999 axes"),
    "in small letters": (lambda: endless("naxis   "), "more than 999 axes"),
    "hierarchical": (lambda: endless("HIERARCH NAXIS "), "more than 999 axes"),
    "columns without end": (lambda: table(8, 1, 30_000_000), "more than 999 axes or columns"),
    "told twice": (lambda: table(8, 1, 1, card("TFIELDS", 30_000_000)), "TFIELDS stands twice"),
    "no number": (lambda: EMPTY.replace(b" 0", b"1e"), "NAXIS of a header is not a whole number"),
    "header without end": (
        lambda: EMPTY + b"XTENSION= 'BINTABLE'".ljust(80) + b"COMMENT ".ljust(80) * 20_000,
        "larger than 1 MiB",
    ),
    "headers without end": (
        lambda: EMPTY + header("XTENSION= 'IMAGE   '", card("BITPIX", 8), card("NAXIS", 0),
                               *["COMMENT"] * 12_000) * 60,
        "larger than 48 MiB together",
    ),
    "HDUs without end": (
        lambda: EMPTY + NOTHING * 10_000,
        "more than 10000 HDUs",
    ),
    "rows of no width": (
        lambda: table(0, 300_000_000, 1, "TFORM1  = '0A      '"), "more rows than the file"
    ),
    "sides below zero": (lambda: table(-8, 3, 1, "TFORM1  = 'K       '"), "how large its data is"),
    "a side untold": (lambda: table(8, 1).replace(b"NAXIS1  ", b"NAXIZ1  "), "how large its data"),
    "unpacking tiles": (lambda: table(8, 1, 1, *PACKED), "larger than 1 GiB once unpacked"),
    "no FITS": (lambda: b"SIMPLY a text", "not a FITS file"),
    "packed otherwise": (lambda: b"BZh91AY&SY" + bytes(100), "not a FITS file"),
    "cut off": (lambda: table(8, 100, 1, "TFORM1  = 'K       '")[:-2880], "not a readable fits"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_FITS)
def test_fits_that_is_no_table(kind: str) -> None:
    make, said = BAD_FITS[kind]
    refused(make(), "t.fits", said)


def test_cells_that_all_lie_at_one_place_are_left_out() -> None:
    """Each of 4,000 rows says that its text is the same million bytes."""
    rows, heap = 4000, 10**6
    columns = [
        fits.Column("objID", "K", array=np.arange(2)),
        fits.Column("text", "PA()", array=np.array(["x" * heap, "y"], object)),
    ]
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(file)
    content = file.getvalue()
    begin = content.index(b"XTENSION")
    head = content[begin : content.index(b"END" + b" " * 77, begin) // 2880 * 2880 + 2880]
    head = head.replace(card("NAXIS2", 2).encode(), card("NAXIS2", rows).encode())
    cells = [n.to_bytes(8, "big") + heap.to_bytes(4, "big") + bytes(4) for n in range(rows)]
    data = b"".join(cells) + b"x" * (heap + 1)
    found = read_table(content[:begin] + head + data + bytes(-len(data) % 2880), "t.fits", "objID")
    assert found.to_pydict() == {"objID": list(range(rows))}


# VOTable.

START = '<?xml version="1.0"?><VOTABLE version="1.3"><RESOURCE><TABLE>'
STOP = "</TABLE></RESOURCE></VOTABLE>"
NUMBER = '<FIELD name="objID" datatype="long"/>'


def document(fields: str, data: str) -> bytes:
    return f"{START}{fields}<DATA>{data}</DATA>{STOP}".encode()


def binary(fields: str, kind: str = "BINARY") -> bytes:
    return document(fields, f'<{kind}><STREAM encoding="base64">AAAAAAAA</STREAM></{kind}>')


def bomb() -> bytes:
    entities = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9))
    return f'<!DOCTYPE VOTABLE [<!ENTITY e0 "x">{entities}]><VOTABLE>&e9;</VOTABLE>'.encode()


BAD_VOTABLES: dict[str, tuple[Callable[[], bytes], str]] = {
    "bomb": (lambda: b'<?xml version="1.0"?>' + bomb(), "a document type"),
    "file": (
        lambda: document(NUMBER, '<BINARY><STREAM href="file:///etc/passwd"/></BINARY>'),
        "data in another file",
    ),
    "file in FITS": (
        lambda: document(NUMBER, '<FITS><STREAM href="file:///etc/passwd"/></FITS>'),
        "data in another file",
    ),
    "entity": (
        lambda: b'<?xml version="1.0"?><!DOCTYPE V [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
        + document(NUMBER, "<TABLEDATA><TR><TD>&x;</TD></TR></TABLEDATA>")[21:],
        "a document type",
    ),
    "no columns": (lambda: binary(""), "binary cells of no bytes"),
    "text of no bytes": (
        lambda: binary('<FIELD name="objID" datatype="char" arraysize="0"/>'), "no bytes"
    ),
    "bits of no bytes": (
        lambda: binary('<FIELD name="objID" datatype="bit" arraysize="0"/>', "BINARY2"), "no bytes"
    ),
    "many of no bytes": (
        lambda: binary('<FIELD name="objID" datatype="bit" arraysize="0x*"/>'), "no bytes"
    ),
    "wide rows": (
        lambda: document(
            '<FIELD name="objID" datatype="double" arraysize="100000"/>',
            "<TABLEDATA>" + "<TR><TD/></TR>" * 3000 + "</TABLEDATA>",
        ),
        "more rows than it can hold",
    ),
    "rows that are told": (
        lambda: document(NUMBER, "").replace(b"<TABLE>", b'<TABLE nrows="+9000000000">'),
        "more rows than it can hold",
    ),
    "columns": (lambda: document(NUMBER * 6000, "<TABLEDATA/>"), "more than 5000 columns"),
    "parameters": (
        lambda: document(
            '<PARAM name="p" datatype="double" arraysize="99999" value="1"/>' * 20, "<TABLEDATA/>"
        ),
        "a cell too large",
    ),
    "elements": (lambda: document("<INFO/>" * 250_000, ""), "more elements"),
    "depth": (lambda: b"<VOTABLE>" + b"<RESOURCE>" * 100_000, "too deep"),
    "page": (lambda: b"<!DOCTYPE html><html><body>busy</body></html>", "a web page"),
    "cut off": (lambda: document(NUMBER, "<TABLEDATA><TR><TD>1")[:-40], "no whole XML"),
    "packed": (lambda: b"BZh91AY&SY" + bytes(100), "not XML"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_VOTABLES)
def test_votables_that_mean_harm(kind: str) -> None:
    make, said = BAD_VOTABLES[kind]
    refused(make(), "t.vot", said)


def test_a_votable_calls_nobody() -> None:
    """A stream that lies at an address: nothing is asked there."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/data"
        data = f'<BINARY><STREAM href="{address}" encoding="gzip"/></BINARY>'
        try:
            refused(document(NUMBER, data), "t.vot", "data in another file")
        finally:
            server.shutdown()
            thread.join()
    assert not asked


# Text.


def test_one_line_of_a_gigabyte(tmp_path: Path) -> None:
    """A file with a hole in it, which is read no further than its first lines."""
    path = tmp_path / "t.csv"
    with path.open("wb") as file:
        file.write(b"objID,ra,dec\n" + b"1" * 3 * 2**20)
        file.truncate(2**30)
    refused(path, str(path), "line 2 is longer than 1 MiB")
    with path.open("wb") as file:
        file.truncate(2**33)
    refused(path, str(path), "larger than 2 GiB")


def test_lines_far_down() -> None:
    rows = b"12345678,1.5,2.5\n" * 200_000
    assert len(read_table(b"objID,ra,dec\n" + rows, "t.csv", "objID")) == 200_000
    refused(b"objID,ra,dec\n" + rows + b"1" * 2**21, "t.csv", "line 200002 is longer than 1 MiB")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("objID,ra\n1,2\n".encode("utf-16"), "the text is UTF-16; save the table as UTF-8"),
        ("objID,ra\n1,2\n".encode("utf-16-be"), "the text is UTF-16"),
        ("objID,ra\n1,2\n".encode("utf-32"), "the text is UTF-32"),
        (b"objID,ra\n1,2\n2,\x003\n", "line 3 holds a NUL byte"),
        (b",".join(b"c%d" % n for n in range(20_000)) + b"\n", "the table has 20000 columns"),
        (b'objID,ra\n1,"2\n' + b"3,4\n" * 1000, "a quotation mark is opened and not closed"),
        (b"objID,ra\n1,2,3\n", "not a readable csv table"), (b"", "the table is empty"),
        (b"objID\rra\r", "not a readable csv table"),
    ],
)  # fmt: skip
def test_text_that_is_no_table(content: bytes, said: str) -> None:
    refused(content, "t.csv", said)


# gzip.


def test_gzip_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_bytes, "ALWAYS", 2**20)
    refused(gzip.compress(b"objID,ra\n" + b"1,2\n" * 10**7, 9), "t.csv.gz", "unpacks to more than")


def test_gzip_that_is_damaged() -> None:
    whole = gzip.compress(b"objID,ra\n1,2\n")
    members = gzip.compress(b"objID,ra\n") + gzip.compress(b"1,2\n") + bytes(512)
    assert read_table(members, "t.csv.gz", "objID") == read_table(whole, "t.csv.gz", "objID")
    refused(whole[:-6], "t.csv.gz", "the gzip file is cut off")
    refused(whole[:12] + b"\xff" * 9 + whole[21:], "t.csv.gz", "not a readable csv table")


# Parquet.


def parquet(columns: dict[str, object], **settings: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **settings)
    return file.getvalue()


def test_parquet_that_unfolds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty million times one number, or half a gigabyte of one text, in few bytes."""
    number = parquet({"objID": np.zeros(30_000_000, np.int64)})
    assert len(number) < 10**6
    monkeypatch.setattr(parquet_table, "MOST_VALUES", 2**20)
    refused(number, "t.parquet", "unfolds to more than 1048576 values")
    text = parquet({"objID": pa.array(["x" * 2**20] * 512)})
    monkeypatch.setattr(parquet_table, "LARGEST", 2**28)
    refused(text, "t.parquet", "unfolds to more than 4 GiB of text")


def test_parquet_that_is_damaged() -> None:
    whole = parquet({"objID": [1, 2], "name": ["a", "b"]}, compression="none")
    assert read_table(whole, "t.parquet", "objID").to_pydict() == {
        "objID": [1, 2], "name": ["a", "b"]
    }  # fmt: skip
    refused(whole[:-4], "t.parquet", "not a readable parquet table")
    refused(whole[:-8] + b"\xff\xff\xff\x7f" + whole[-4:], "t.parquet", "not a readable parquet")
    refused(whole.replace(b"\x01\0\0\0b", b"\x01\0\0\0\xff"), "t.parquet", "Invalid UTF8")
    wide = {f"c{n}": [1] for n in range(10_001)}
    refused(parquet(wide), "t.parquet", "the table has 10001 columns", seconds=20)


def test_text_is_read_from_dictionaries_and_without() -> None:
    columns = {"objID": [1, 2, 3, 4], "name": ["é", None, "", "é"], "other": ["a", "b", "c", "d"]}
    plain = parquet(columns, use_dictionary=False)
    assert read_table(parquet(columns), "t.parquet", "objID") == read_table(plain, "t.parquet")
    assert read_table(plain, "t.parquet").column("name").to_pylist() == ["é", None, None, "é"]


# All.


def test_devices_are_no_tables(tmp_path: Path) -> None:
    link = tmp_path / "t.csv"
    link.symlink_to("/dev/zero")
    refused(link, str(link), "a device or a pipe is no table")


def test_a_damaged_table_ends_the_command_with_2(tmp_path: Path) -> None:
    (tmp_path / "t.fits").write_bytes(endless("naxis   "))
    (tmp_path / "s.toml").write_text(
        'name = "s"\n[archive]\nkind = "folder"\npath = "."\n'
        '[sample]\ntable = "t.fits"\nid = "objID"\nid_type = "int64"\n'
    )
    done = call("run", tmp_path / "s.toml", "--workspace", tmp_path / "w", timeout=60)
    assert done.returncode == 2
    assert "t.fits: the header tells of more than 999 axes or columns" in done.stderr
    assert "Traceback" not in done.stderr
