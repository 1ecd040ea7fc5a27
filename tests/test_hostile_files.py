"""Files and names that mean harm, in an archive that somebody gives: bounded, and kept as data."""

from __future__ import annotations

import bz2
import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from PIL import Image as Pillow

from galpipe.archives import fits_images, images, members
from galpipe.archives.folder import open_folder
from galpipe.archives.retrieve import retrieve
from galpipe.archives.spec import Folder
from galpipe.archives.trouble import BadImageError
from galpipe.archives.vo import pieces
from galpipe.sample import fits_shape
from galpipe.sample.catalogue import sample
from galpipe.sample.spec import Sample
from galpipe.stages import Context
from galpipe.status import Status
from galpipe.workspace import Workspace
from tests.fuzzing import limited, watched


def test_compressed_images_do_not_go_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGEST_CONTENT", 10**6)
    for packed in (bz2.compress(bytes(10**7)), gzip.compress(bytes(10**7))):
        with pytest.raises(BadImageError, match="once decompressed"):
            images.decode(packed, None)


def test_compressed_tiles_do_not_go_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiles of an image of 30 x 30 pixels, and behind them one of ten million bytes."""
    file = io.BytesIO()
    pixels = np.arange(900, dtype=np.int16).reshape(30, 30)
    hdu = fits.CompImageHDU(pixels, compression_type="GZIP_1")
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(file)
    good, bad = file.getvalue(), file.getvalue() + gzip.compress(bytes(10**7))
    assert fits_images.decode(good, 1).pixels.tolist() == [pixels.tolist()]
    monkeypatch.setattr(fits_shape, "LARGEST_UNPACKED", 10**6)
    assert fits_images.decode(good, 1).pixels.tolist() == [pixels.tolist()]
    with pytest.raises(BadImageError, match="tiles are larger than"):
        fits_images.decode(bad, 1)


def test_planes_without_end() -> None:
    """A cutout of the right sides and a thousand million planes."""
    with pytest.raises(BadImageError, match="more than 1 GiB of pixels"):
        images.check_size(images.Header(10**9, 64, 64, "float32"))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("WCSAXES", 30_000, "WCSAXES of the WCS"), ("A_ORDER", 30_000, "A_ORDER of the WCS"),
        ("BP_ORDER", -1, "BP_ORDER of the WCS"), ("A_ORDER", 2.5, "A_ORDER of the WCS"),
    ],
)  # fmt: skip
def test_terms_without_end(key: str, value: float, said: str) -> None:
    """astropy would make room for a thousand million terms of a distortion."""
    header = fits.Header({"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "CRPIX1": 5.0})
    header.update({"CRPIX2": 5.0, "CRVAL1": 10.0, "CRVAL2": 2.0, "CD1_1": -1e-4, "CD2_2": 1e-4})
    pixels = np.arange(81.0).reshape(9, 9)
    for given in ({}, {key: value}):
        header.update(given)
        file = io.BytesIO()
        fits.PrimaryHDU(pixels, header).writeto(file)
        if not given:
            assert pieces.decode(file.getvalue(), 10.0, 2.0).pixels.shape == (9, 9)
            continue
        with pytest.raises(BadImageError, match=said), limited(10):
            pieces.decode(file.getvalue(), 10.0, 2.0)


def test_files_of_gigabytes(tmp_path: Path) -> None:
    with (tmp_path / "1.fits").open("wb") as file:
        file.truncate(3 * 2**30)  # a hole
    with pytest.raises(BadImageError, match="larger than 2 GiB"):
        members.read_member(str(tmp_path), "1.fits")
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.fits", bytes(members.LARGE + 1))
        archive.writestr("2.fits", bytes(10**6))
    with pytest.raises(BadImageError, match="200 times its size"):
        members.read_member(str(tmp_path / "x.zip"), "1.fits")
    assert members.read_member(str(tmp_path / "x.zip"), "2.fits") == bytes(10**6)


NAMES = (
    "../../evil", "/etc/evil", "a/b", "..", "con:", "'; DROP TABLE objects; --", "1 OR 1=1",
    "$(touch evil)", "`touch evil`", "%2e%2e%2fevil", "<b>", "a\\b", "{last}", "é" * 300,
)  # fmt: skip


def test_identifiers_are_nothing_but_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects named like paths, commands and SQL: fetched, kept and labelled under these names."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "archive"
    (folder / "images").mkdir(parents=True)
    lines = ["name,file"]
    for number, name in enumerate(NAMES):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), np.uint8)
        Pillow.fromarray(pixels).save(folder / "images" / f"{number}.png")
        lines.append(f'"{name}",images/{number}.png')
    (folder / "objects.csv").write_text("\n".join([*lines, ""]))
    spec = Folder(path=str(folder), bands=("g", "r", "i"), shard=4)
    choice = Sample(id="name", id_type="string", file="file")
    with watched(tmp_path / "w"):
        context = Context(Workspace.open(tmp_path / "w"))
        rows = open_folder(spec).table("name")
        catalogue = sample(context, choice, lambda: rows, "archive", None)
        ref = retrieve(context, spec, catalogue, None)
    index = pq.read_table(context.workspace.place(ref) / "index.parquet")
    assert sorted(index["object_id"].to_pylist()) == sorted(NAMES)
    assert set(index["status"].to_pylist()) == {int(Status.OK)}
    assert {path.name for path in tmp_path.iterdir()} == {"archive", "w"}
    for path in (tmp_path / "w").rglob("*"):
        assert "evil" not in path.name and "DROP" not in path.name
