"""Mutated inputs of every parser of bytes from outside: an answer or a refusal, soon, and no more.

No input may crash a parser or keep it busy, and none may make it write, run or fetch anything.
"""

from __future__ import annotations

import bz2
import gzip
import io
import random
import resource
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from PIL import Image as Pillow

from galpipe.archives import fits_images, images, realgalaxy, skyserver
from galpipe.archives.cutting import cut_field
from galpipe.archives.folder import open_folder
from galpipe.archives.frames import FieldName, decode_frame
from galpipe.archives.headers import look_at_headers, look_at_versions
from galpipe.archives.hst import portal
from galpipe.archives.hst.answers import read_answer
from galpipe.archives.pixelmask import decode_mask
from galpipe.archives.psfield import decode_psfield
from galpipe.archives.spec import Folder
from galpipe.archives.vo import pieces, votable
from galpipe.sample.table import read_table
from galpipe.stages import Context
from galpipe.workspace import Workspace
from tests import sdss_server
from tests.fuzzing import NAMED, fuzz, mutated, watched
from tests.test_sdss_fields import psfield_bytes, varying

NAME = FieldName(301, 1000, 2, 100)
MOST_MEMORY = 2**20  # kilobytes by which all the inputs of one parser may raise the process's peak


def small_frame() -> bytes:
    """A frame of 40 x 32 pixels with all the HDUs, not packed."""
    ny, nx = 32, 40
    header = fits.Header({"RUN": 1000, "CAMCOL": 2, "FRAME": 100, "FILTER": "r"})
    header.update({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 20.5, "CRPIX2": 16.5})
    header.update({"CRVAL1": 10.0, "CRVAL2": 2.0, "CD1_1": 1e-5, "CD1_2": 1e-4, "CD2_1": -1e-4})
    header["CD2_2"] = 1e-5
    sky = np.full((4, 5), 100, np.float32)
    columns = [
        fits.Column("ALLSKY", "20E", dim="(5, 4)", array=sky[None]),
        fits.Column("XINTERP", f"{nx}E", array=np.linspace(0, 4, nx, dtype=np.float32)[None]),
        fits.Column("YINTERP", f"{ny}E", array=np.linspace(0, 3, ny, dtype=np.float32)[None]),
    ]
    named = [
        fits.Column("RUN", "J", array=[1000]), fits.Column("CAMCOL", "J", array=[2]),
        fits.Column("FILTER", "1A", array=["r"]), fits.Column("FIELD", "J", array=[100]),
    ]  # fmt: skip
    pixels = np.random.default_rng(1).normal(0, 1, (ny, nx)).astype(np.float32)
    file = io.BytesIO()
    fits.HDUList([
        fits.PrimaryHDU(pixels, header), fits.ImageHDU(np.full(nx, 0.01, np.float32)),
        fits.BinTableHDU.from_columns(columns), fits.BinTableHDU.from_columns(named),
    ]).writeto(file)  # fmt: skip
    return file.getvalue()


def small_compressed() -> bytes:
    """An image in compressed tiles."""
    pixels = np.random.default_rng(2).normal(0, 9, (30, 30)).astype(np.int16)
    file = io.BytesIO()
    hdu = fits.CompImageHDU(pixels, compression_type="GZIP_1")
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(file)
    return file.getvalue()


def small_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("hst_1/hst_1_drc.fits", small_frame())
        archive.writestr("note.txt", "nothing")
    return file.getvalue()


ROWS = {"objID": [1237648720693690368, 2], "ra": [1.5, 2.5], "name": ["a", "b"]}


def small_table(format: str) -> bytes:
    file = io.BytesIO()
    Table(ROWS).write(file, format=format)
    return file.getvalue()


def binary_votable() -> bytes:
    file = io.BytesIO()
    Table(ROWS).write(file, format="votable", tabledata_format="binary2")
    return file.getvalue()


def small_parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(ROWS), file, compression="zstd")
    return file.getvalue()


def small_picture(format: str) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(3).integers(0, 255, (24, 20, 3), np.uint8)
    Pillow.fromarray(pixels).save(file, format)
    return file.getvalue()


def parse_packed(packed: bytes) -> None:
    frame = decode_frame(packed, NAME, "r")
    place = np.array([10.0, 10.002]), np.array([2.0, 1.999])
    cut_field({"r": frame, "g": frame}, NAME, "r", *place, np.array([9, 21]))


def parse_frame(content: bytes) -> None:
    parse_packed(bz2.compress(content, 1))


def parse_mask(content: bytes) -> None:
    decode_mask(gzip.compress(content, 1), NAME, "r", (sdss_server.NY, sdss_server.NX))


def small_mask() -> bytes:
    spans = {"CR": [[(5, 9, 12)], [(7, 20, 22), (8, 20, 23)]]}
    return gzip.decompress(sdss_server.mask_bytes(spans, 1000, 2, 100, "r"))


def parse_psfield(content: bytes) -> None:
    for band in decode_psfield(content, NAME, "ugriz").bands.values():
        band.at(10.0, 20.0)


def parse_sql(content: bytes) -> None:
    class Answered:
        status_code, headers = 200, {}

    answer = Answered()
    answer.content = content  # type: ignore[attr-defined]
    header, rows, *_ = skyserver._judged(answer, 1.0)
    skyserver._table(header, rows, "objID")


def parse_portal(content: bytes) -> None:
    portal.table_of(portal._judged(content))


def parse_votable(content: bytes) -> None:
    list(votable.read(content, 10**6).rows())


SQL_ANSWER = b'#Table1\nobjID,ra,name\n1237648720693690368,1.5,a\n1237648720693690369,2.5,"b,c"\n'
MISSING = b'{"msg":"Missing HAP files for input target. Cutout not performed.","results":[]}'
MAST_ANSWER = (
    b'{"status":"COMPLETE","msg":"","fields":[{"name":"obsid","type":"int"},{"name":"dec",'
    b'"type":"float"},{"name":"obs_id","type":"string"}],"data":[{"obsid":1,"dec":2.5,'
    b'"obs_id":"hst_1"}],"paging":{"rows":1,"rowsFiltered":1,"rowsTotal":1}}'
)
PARSERS: dict[str, tuple[Callable[[], bytes], Callable[[bytes], object]]] = {
    "frame": (small_frame, parse_frame),
    "packed frame": (lambda: bz2.compress(small_frame()), parse_packed),
    "mask": (small_mask, parse_mask),
    "psField": (lambda: psfield_bytes(*varying()[::-1]), parse_psfield),
    "FITS image": (small_frame, lambda content: fits_images.decode(content, None)),
    "FITS HDU": (small_frame, realgalaxy.decode_hdu),
    "compressed FITS": (small_compressed, lambda content: fits_images.decode(content, 1)),
    "cutout of a service": (small_frame, lambda content: pieces.decode(content, 10.0, 2.0)),
    "JPEG": (lambda: small_picture("JPEG"), lambda content: images.decode(content, None)),
    "PNG": (lambda: small_picture("PNG"), lambda content: images.decode(content, None)),
    "zip of cutouts": (small_zip, read_answer),
    "FITS table": (
        lambda: small_table("fits"), lambda content: read_table(content, "table.fits", "objID")
    ),
    "Parquet": (small_parquet, lambda content: read_table(content, "table.parquet", "objID")),
    "CSV": (lambda: SQL_ANSWER, lambda content: read_table(content, "table.csv", "objID")),
    "SQL": (lambda: SQL_ANSWER, parse_sql),
    "JSON of MAST": (lambda: MAST_ANSWER, parse_portal),
    "JSON of cutouts": (lambda: MISSING, read_answer),
    "VOTable": (lambda: small_table("votable"), parse_votable),
    "binary VOTable": (binary_votable, parse_votable),
    "VOTable file": (
        binary_votable, lambda content: read_table(content, "table.vot", "objID")
    ),
}  # fmt: skip


def parse_many(name: str, number: int, seed: int, folder: Path) -> None:
    make, parser = PARSERS[name]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = fuzz(name, make(), parser, number, seed)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    print(f"{name}: {found}, {grown // 1024} MiB more")
    assert found.refused > 0
    assert grown < MOST_MEMORY
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", PARSERS)
def test_mutated_inputs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parse_many(name, 60, 1, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_many_mutated_inputs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parse_many(name, 1500, 2, tmp_path)


def test_what_a_parser_does_besides_is_seen(tmp_path: Path) -> None:
    """The watch itself: a file written, one read that is none of its business, a call."""
    with pytest.raises(AssertionError, match="open"), watched():
        (tmp_path / "file").write_text("x")
    with pytest.raises(AssertionError, match="passwd"), watched(tmp_path):
        Path("/etc/passwd").read_bytes()
    with pytest.raises(AssertionError, match=r"os\.mkdir"), watched():
        (tmp_path / "folder").mkdir()
    with watched(tmp_path):
        (tmp_path / "file").write_text("y")
        (tmp_path / "other").mkdir()


def parse_folder_zip(content: bytes, folder: Path) -> None:
    """A zip of images as the archive of a survey."""
    path = folder / f"{random.getrandbits(60)}.zip"  # a name of its own: files are kept open
    path.write_bytes(content)
    try:
        spec = Folder(path=str(path))
        context = Context(Workspace.open(folder / "w"))
        names: list[str | None] = ["hst_1/hst_1_drc.fits", "note.txt"]
        found = look_at_versions(context, spec, open_folder(spec).locate(["a", "b"], names))
        look_at_headers(context, spec, [one for one in found if one.source is not None])
    finally:
        path.unlink()


def parse_zips(number: int, seed: int, folder: Path) -> None:
    chance, content = random.Random(seed), small_zip()
    parse_folder_zip(content, folder)
    for _ in range(number):
        with warnings.catch_warnings(), watched(folder):
            warnings.simplefilter("ignore")
            try:
                parse_folder_zip(mutated(content, chance), folder)
            except NAMED:
                continue
    assert {path.name for path in folder.iterdir()} <= {"w"}


def test_mutated_zips_of_images(tmp_path: Path) -> None:
    parse_zips(30, 5, tmp_path)


@pytest.mark.slow
def test_many_mutated_zips_of_images(tmp_path: Path) -> None:
    parse_zips(1500, 6, tmp_path)
