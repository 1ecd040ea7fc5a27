"""The folder archive: what it finds in directories, zips, HDF5 files and RealGalaxy sets."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import shutil
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from PIL import Image

from galpipe.archives.fingerprint import fingerprint, zip_members
from galpipe.archives.folder import open_folder
from galpipe.archives.images import decode, read_header, stem
from galpipe.archives.psf import psf_fwhm
from galpipe.archives.sources import ImageFile, Reader
from galpipe.archives.spec import Folder
from galpipe.archives.trouble import BadImageError
from galpipe.errors import InputError
from galpipe.status import Status

RNG = np.random.default_rng(7)


def jpeg(shape: tuple[int, ...] = (20, 24, 3), seed: int = 0) -> bytes:
    values = np.random.default_rng(seed).integers(0, 255, shape, np.uint8)
    sink = io.BytesIO()
    Image.fromarray(values).save(sink, "JPEG", quality=95)
    return sink.getvalue()


def png(values: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(values).save(sink, "PNG")
    return sink.getvalue()


def deep_png(values: np.ndarray) -> bytes:
    """A 16-bit RGB PNG by the letter of the standard (filter `Sub` in every row)."""
    height, width, _ = values.shape
    rows = np.frombuffer(values.astype(">u2").tobytes(), np.uint8).reshape(height, width * 6)
    before = np.concatenate([np.zeros((height, 6), np.uint8), rows[:, :-6]], axis=1)
    lines = b"".join(b"\x01" + line.tobytes() for line in rows - before)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )  # fmt: skip


def fits_bytes(values: np.ndarray, header: dict[str, Any] | None = None, kind: str = "") -> bytes:
    sink = io.BytesIO()
    cards = fits.Header(header or {})
    if kind == "fz":
        hdus = [
            fits.PrimaryHDU(),
            fits.CompImageHDU(values, cards, compression_type="GZIP_1", quantize_level=0),
        ]
    else:
        hdus = [fits.PrimaryHDU(values, cards)]
    fits.HDUList(hdus).writeto(sink)
    return sink.getvalue()


def pack(folder: Path, path: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    return path


# Images.


def test_jpeg_and_png_pixels_are_those_of_the_file() -> None:
    values = RNG.integers(0, 255, (9, 7, 3), np.uint8)
    assert (decode(png(values), None).pixels == np.moveaxis(values, -1, 0)).all()
    assert decode(png(values[..., 0]), None).pixels.dtype == np.uint8
    with Image.open(io.BytesIO(jpeg())) as picture:
        assert (decode(jpeg(), None).pixels == np.moveaxis(np.asarray(picture), -1, 0)).all()
    header = read_header(jpeg(), None)
    assert (header.planes, header.ny, header.nx, header.dtype) == (3, 20, 24, "uint8")


def test_sixteen_bits_of_png_are_kept() -> None:
    grey = RNG.integers(0, 65535, (9, 7), np.uint16)
    assert (decode(png(grey), None).pixels[0] == grey).all()
    colour = RNG.integers(0, 65535, (9, 7, 3), np.uint16)
    decoded = decode(deep_png(colour), None).pixels
    assert decoded.dtype == np.float32
    assert (decoded == np.moveaxis(colour, -1, 0)).all()
    assert read_header(deep_png(colour), None).dtype == "float32"


def test_transparency_is_no_band() -> None:
    values = RNG.integers(0, 255, (9, 7, 4), np.uint8)
    assert (decode(png(values), None).pixels == np.moveaxis(values[..., :3], -1, 0)).all()


@pytest.mark.parametrize("wrapping", ["plain", "gz", "bz2", "fz"])
def test_fits_pixels_scale_and_wcs(wrapping: str) -> None:
    values = RNG.normal(size=(12, 10)).astype(np.float32)
    values[3, 4] = np.nan
    scale = 0.05 / 3600
    header = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 5.0, "CRPIX2": 6.0,
        "CRVAL1": 150.0, "CRVAL2": 2.0, "CD1_1": -scale, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": scale,
    }  # fmt: skip
    content = fits_bytes(values, header, wrapping)
    content = {"gz": gzip.compress, "bz2": bz2.compress}.get(wrapping, bytes)(content)
    image = decode(content, None)
    np.testing.assert_array_equal(image.pixels[0], values)
    assert image.pixel_scale == pytest.approx(0.05)
    np.testing.assert_allclose(image.wcs, [5, 6, 150, 2, -scale, 0, 0, scale], rtol=1e-10)


def test_a_rotated_wcs_has_the_scale_of_its_pixels() -> None:
    """CROTA2 of 30 degrees: matrix from Calabretta & Greisen (2002), equation 189."""
    header = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 1.0, "CRPIX2": 1.0, "CRVAL1": 10.0,
        "CRVAL2": 20.0, "CDELT1": -2 / 3600, "CDELT2": 2 / 3600, "CROTA2": 30.0,
    }  # fmt: skip
    image = decode(fits_bytes(np.eye(5, dtype=np.float32), header), None)
    assert image.pixel_scale == pytest.approx(2.0)
    expected = np.array([-np.cos(np.pi / 6), -0.5, -0.5, np.cos(np.pi / 6)]) * 2 / 3600
    np.testing.assert_allclose(image.wcs[4:], expected, rtol=1e-12)


def test_fits_cubes_integers_and_blanks() -> None:
    cube = RNG.normal(size=(3, 8, 6))
    assert decode(fits_bytes(cube), None).pixels.shape == (3, 8, 6)
    assert decode(fits_bytes(cube[None]), None).pixels.shape == (3, 8, 6)
    scaled = fits.PrimaryHDU(np.array([[1, 2], [-9, 4]], np.int16))
    scaled.header["BSCALE"], scaled.header["BZERO"], scaled.header["BLANK"] = 2.0, 10.0, -9
    sink = io.BytesIO()
    scaled.writeto(sink)
    np.testing.assert_array_equal(decode(sink.getvalue(), None).pixels[0], [[12, 14], [np.nan, 18]])


def test_an_hdu_is_chosen_or_found() -> None:
    sink = io.BytesIO()
    fits.HDUList(
        [fits.PrimaryHDU(), fits.ImageHDU(np.ones((4, 4))), fits.ImageHDU(np.full((5, 5), 2.0))]
    ).writeto(sink)
    assert decode(sink.getvalue(), None).pixels.shape == (1, 4, 4)
    assert decode(sink.getvalue(), 2).pixels[0, 0, 0] == 2
    for number in (0, 7):
        with pytest.raises(BadImageError):
            decode(sink.getvalue(), number)


@pytest.mark.parametrize(
    "content",
    [b"", b"not an image", jpeg()[:200], jpeg()[:-300], fits_bytes(np.ones((40, 40)))[:6000],
     gzip.compress(fits_bytes(np.ones((40, 40))))[:60], png(np.ones((40, 40), np.uint8))[:60]],
    ids=["empty", "text", "jpeg-header", "jpeg", "fits", "gz", "png"],
)  # fmt: skip
def test_damaged_images_are_corrupt_with_a_steady_reason(content: bytes) -> None:
    reasons = set()
    for _ in range(2):
        with pytest.raises(BadImageError) as caught:
            decode(content, None)
        assert caught.value.status == Status.CORRUPT
        reasons.add(caught.value.reason)
    assert len(reasons) == 1 and "0x" not in reasons.pop()


def test_huge_images_are_refused_by_their_header() -> None:
    with pytest.raises(BadImageError, match="4097 x 1 pixels"):
        read_header(png(np.zeros((1, 4097), np.uint8)), None)


def test_stems() -> None:
    names = ["a/12.fits.gz", "12.jpg", "x/12.FITS.fz", "12.png"]
    assert {stem(name) for name in names} == {"12"}
    assert stem("hst.r.fits") == "hst.r"


def test_fwhm_of_a_gaussian() -> None:
    y, x = np.mgrid[:41, :41] - np.array([20.3, 19.8])[:, None, None]
    for sigma in (1.0, 1.5, 3.0):
        image = np.exp(-(x**2 + y**2) / (2 * sigma**2))
        assert psf_fwhm(image) == pytest.approx(sigma * np.sqrt(8 * np.log(2)), rel=0.03)
    assert np.isnan(psf_fwhm(np.zeros((9, 9))))


# Finding the table and the images.


def write(root: Path, **files: bytes | str) -> Path:
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def test_the_table_is_discovered_by_what_it_holds(tmp_path: Path) -> None:
    write(
        tmp_path,
        notes_dot_csv="word,number\nfoo,1\n",
        deep__objects_dot_csv="objid,file\n1,images/1.jpg\n",
        deep__images__1_dot_jpg=jpeg(),
        README_dot_md="read me",
        LICENSE="free",
    )
    archive = open_folder(Folder(path=str(tmp_path)))
    assert archive.table("objid").column_names == ["objid", "file"]
    assert archive.table().column_names == ["objid", "file"]
    found = archive.locate([1], ["images/1.jpg"])[0]
    assert found.source == ImageFile("deep/images/1.jpg")


def test_equal_tables_are_not_guessed_between(tmp_path: Path) -> None:
    write(tmp_path, a_dot_csv="objid\n1\n", b_dot_csv="objid\n1\n", c_dot_png=png(np.eye(9) > 0))
    with pytest.raises(InputError, match=r"2 tables .*a.csv, b.csv.*sample.table"):
        open_folder(Folder(path=str(tmp_path))).table("objid")


def test_no_table_and_a_broken_table_say_so(tmp_path: Path) -> None:
    write(tmp_path / "none", x_dot_jpg=jpeg())
    with pytest.raises(InputError, match="holds no table"):
        open_folder(Folder(path=str(tmp_path / "none"))).table()
    write(tmp_path / "bad", x_dot_csv="a,b\n1\n")
    with pytest.raises(InputError, match=r"x.csv: not a readable csv"):
        open_folder(Folder(path=str(tmp_path / "bad"))).table()


@pytest.mark.parametrize("format", ["fits", "votable", "parquet"])
def test_tables_of_other_formats_beside_fits_images(tmp_path: Path, format: str) -> None:
    write(tmp_path, images__5_dot_fits=fits_bytes(RNG.normal(size=(8, 8))))
    table = Table({"objid": np.array([5], np.int64)})
    if format == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"objid": [5]}), tmp_path / "t.parquet")
    else:
        table.write(tmp_path / ("t.fits" if format == "fits" else "t.vot"), format=format)
    archive = open_folder(Folder(path=str(tmp_path)))
    assert archive.table("objid")["objid"].to_pylist() == [5]
    assert archive.locate([5], [None])[0].source == ImageFile("images/5.fits")


def test_images_by_id_and_missing_ones(tmp_path: Path) -> None:
    write(tmp_path, a__7_dot_jpg=jpeg(), b__8_dot_jpg=jpeg(), c__8_dot_jpg=jpeg())
    archive = open_folder(Folder(path=str(tmp_path)))
    seven, eight, nine = archive.locate([7, 8, 9], [None] * 3)
    assert seven.source == ImageFile("a/7.jpg")
    assert eight.status == nine.status == Status.MISSING_FILE
    assert "2 images named 8" in eight.reason
    empty, outside = archive.locate([1, 2], [None, "../../etc/passwd"])
    assert empty.status == outside.status == Status.MISSING_FILE


def test_members_that_leave_the_root_are_not_there(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("../1.jpg", "/2.jpg", "__MACOSX/._3.jpg", "a/../../4.jpg", "ok/5.jpg"):
            archive.writestr(name, jpeg())
    assert list(open_folder(Folder(path=str(tmp_path / "x.zip"))).entries) == ["ok/5.jpg"]


def test_places_that_are_no_archive(tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_text("no")
    (tmp_path / "empty").mkdir()
    for path, match in [
        ("gone.zip", "does not exist"), ("no.zip", "neither a directory"), ("empty", "is empty"),
        ("$NOWHERE/x.zip", "variable that is not set"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=match):
            open_folder(Folder(path=str(tmp_path / path)))


# HDF5.


def stack(path: Path, count: int = 6, dtype: str = "uint8", bands: int = 3) -> np.ndarray:
    images = RNG.integers(0, 200, (count, 16, 14, bands)).astype(dtype)
    with h5py.File(path, "w") as file:
        values = images if bands > 1 else images[..., 0]
        file.create_dataset(
            "images", data=values, chunks=(4, *values.shape[1:]), compression="gzip"
        )
        file["ans"] = np.arange(count, dtype=np.uint8)
        file["ra"] = np.linspace(1, 2, count)
        file["name"] = [f"g{i}".encode() for i in range(count)]
        file["scalars"] = np.arange(count + 1)
    return images


def test_hdf5_in_the_manner_of_galaxy10(tmp_path: Path) -> None:
    images = stack(tmp_path / "Some.h5")
    spec = Folder(path=str(tmp_path / "Some.h5"), bands=("g", "r", "z"))
    archive = open_folder(spec)
    table = archive.table("row")
    assert {"ans", "ra", "name", "row"} <= set(table.column_names)
    assert "scalars" not in table.column_names
    by_reference = archive.locate([3], ["Some.h5#3"])
    by_row = archive.locate([3, 4], [None, None])
    by_name = archive.locate(["g2"], [None])
    with Reader(spec) as reader:
        for found, row in [(by_reference[0], 3), (by_row[1], 4), (by_name[0], 2)]:
            assert found.source is not None
            cutout = reader.cutout(found.source)
            assert (cutout.pixels == np.moveaxis(images[row], -1, 0)).all()


def test_hdf5_within_a_zip_with_an_outside_index(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    images = stack(tmp_path / "in" / "a.hdf5", dtype="float64", bands=1)
    write(tmp_path / "in", index_dot_csv="objid,place\n70,5\n71,0\n72,99\n")
    spec = Folder(path=str(pack(tmp_path / "in", tmp_path / "in.zip")))
    archive = open_folder(spec)
    assert archive.table("objid")["place"].to_pylist() == [5, 0, 99]
    found = archive.locate([70, 72], ["5", "99"])
    with Reader(spec) as reader:
        assert found[0].source is not None and found[1].source is not None
        assert (reader.cutout(found[0].source).pixels[0] == images[5, ..., 0]).all()
        with pytest.raises(BadImageError):
            reader.version(found[1].source)


# RealGalaxy.


def real_galaxies(
    folder: Path, first: int, count: int, psf: bool = True, names: str = "x", shift: float = 0.0
) -> None:
    """A small set in the RealGalaxy format, under names of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(first)
    stamps = [rng.normal(size=(18 + i, 20 + i)) for i in range(count)]
    blur = np.exp(-((np.mgrid[:15, :15] - 7.0) ** 2).sum(0) / 4)
    for kind, images in (("stamps", stamps), ("psfs", [blur] * count)):
        if kind == "psfs" and not psf:
            continue
        hdus = [fits.PrimaryHDU(images[0]), *(fits.ImageHDU(image) for image in images[1:])]
        fits.HDUList(hdus).writeto(folder / f"{names}_{kind}.fits")
    ids = np.arange(first, first + count, dtype=np.int32)
    Table(
        {
            "IDENT": ids, "RA": 150.0 + ids * 0.01 + shift, "DEC": np.full(count, 2.0),
            "GAL_FILENAME": [f"{names}_stamps.fits"] * count,
            "PSF_FILENAME": [f"{names}_psfs.fits"] * count,
            "GAL_HDU": ids - first, "PSF_HDU": ids - first,
            "PIXEL_SCALE": np.full(count, 0.03), "NOISE_VARIANCE": np.full(count, 4e-6),
        }
    ).write(folder / f"{names}_list.fits")  # fmt: skip
    key = "ZPHOT" if psf else "zphot"
    Table({"IDENT": ids[::-1], key: ids[::-1] / 1000, "sersic": np.ones((count, 2))}).write(
        folder / f"{names}_more.fits"
    )


def test_realgalaxy_catalogues_are_known_by_their_columns(tmp_path: Path) -> None:
    real_galaxies(tmp_path / "in", 10, 3, names="alpha")
    real_galaxies(tmp_path / "in" / "sub", 50, 2, psf=False, names="beta")
    spec = Folder(
        path=str(pack(tmp_path / "in", tmp_path / "in.zip")), layout="realgalaxy", bands=("I",)
    )
    archive = open_folder(spec)
    table = archive.table("IDENT")
    assert sorted(table["IDENT"].to_pylist()) == [10, 11, 12, 50, 51]
    assert dict(zip(table["IDENT"].to_pylist(), table["ZPHOT"].to_pylist(), strict=True)) == {
        i: i / 1000 for i in (10, 11, 12, 50, 51)
    }
    assert {"sersic_0", "sersic_1", "catalogue"} <= set(table.column_names)
    found = archive.locate([11, 50], [None, None])
    with Reader(spec) as reader:
        assert found[0].source is not None and found[1].source is not None
        first, second = (reader.cutout(one.source) for one in found if one.source is not None)
    with fits.open(tmp_path / "in" / "alpha_stamps.fits") as hdus:
        np.testing.assert_array_equal(first.pixels[0], hdus[1].data.astype(np.float32))
    assert first.noise == pytest.approx(0.002)
    assert first.pixel_scale == pytest.approx(0.03)
    assert first.psf is not None and first.psf.shape == (15, 15)
    assert first.psf_fwhm == pytest.approx(np.sqrt(2) * np.sqrt(8 * np.log(2)), rel=0.05)
    assert second.psf is None and np.isnan(second.psf_fwhm)


def test_one_galaxy_in_two_catalogues_stands_once_and_prefers_its_psf(tmp_path: Path) -> None:
    real_galaxies(tmp_path / "a", 10, 2, psf=False, names="a")
    real_galaxies(tmp_path / "b", 11, 2, names="b")
    table = open_folder(Folder(path=str(tmp_path), layout="realgalaxy")).table()
    assert sorted(table["IDENT"].to_pylist()) == [10, 11, 12]
    origin = dict(zip(table["IDENT"].to_pylist(), table["catalogue"].to_pylist(), strict=True))
    assert origin[11] == "b/b_list.fits"


def test_one_number_for_two_places_is_left_to_be_refused(tmp_path: Path) -> None:
    real_galaxies(tmp_path / "a", 10, 2, names="a")
    real_galaxies(tmp_path / "b", 11, 2, names="b", shift=1.0)
    table = open_folder(Folder(path=str(tmp_path), layout="realgalaxy")).table()
    assert sorted(table["IDENT"].to_pylist()) == [10, 11, 11, 12]


def test_a_folder_without_catalogue_says_what_is_needed(tmp_path: Path) -> None:
    write(tmp_path, a_dot_fits=fits_bytes(np.ones((4, 4))))
    with pytest.raises(InputError, match=r"no RealGalaxy catalogue .*IDENT, GAL_FILENAME, GAL_HDU"):
        open_folder(Folder(path=str(tmp_path), layout="realgalaxy")).table()


# The fingerprint.


def test_the_fingerprint_sees_changes_and_no_paths(tmp_path: Path) -> None:
    root = write(tmp_path / "a", t_dot_csv="objid\n1\n", x_dot_jpg=jpeg(seed=1))
    spec = Folder(path=str(root))
    before = fingerprint(spec, None)
    shutil.copytree(root, tmp_path / "copy")
    assert fingerprint(Folder(path=str(tmp_path / "copy")), None) == before
    image = bytearray((root / "x.jpg").read_bytes())
    image[-10] ^= 1
    (root / "x.jpg").write_bytes(bytes(image))  # of the same size
    assert fingerprint(spec, None) != before
    table = tmp_path / "t.csv"
    table.write_text("objid\n1\n")
    assert fingerprint(spec, str(table)) != fingerprint(spec, None)
    with pytest.raises(InputError, match=r"sample\.table"):
        fingerprint(spec, str(tmp_path / "gone.csv"))
    with pytest.raises(InputError, match="does not exist"):
        fingerprint(Folder(path=str(tmp_path / "gone")), None)


def test_the_fingerprint_of_a_zip_is_of_its_members(tmp_path: Path) -> None:
    root = write(tmp_path / "a", t_dot_csv="objid\n1\n", x_dot_jpg=jpeg(seed=1))
    one = fingerprint(Folder(path=str(pack(root, tmp_path / "1.zip"))), None)
    for file in root.iterdir():
        os.utime(file, (10**9, 10**9))
    two = pack(root, tmp_path / "2.zip", zipfile.ZIP_STORED)
    assert fingerprint(Folder(path=str(two)), None) == one
    (root / "x.jpg").write_bytes(jpeg(seed=2))
    assert fingerprint(Folder(path=str(pack(root, tmp_path / "3.zip"))), None) != one


def test_the_fast_way_through_a_zip_is_the_slow_one(tmp_path: Path) -> None:
    for count in (3, 70_000):  # beyond 65,535 members a zip has a 64-bit directory
        path = tmp_path / f"{count}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(count):
                archive.writestr(f"images/{number}.jpg", b"x" * (number % 7))
        with zipfile.ZipFile(path) as archive:
            slow = sorted(
                struct.pack("<II", info.CRC, info.file_size) + info.filename.encode() + b"\0"
                for info in archive.infolist()
            )
        assert zip_members(str(path)) == slow
    whole = path.read_bytes()
    for odd in (b"", b"no zip", whole[:-30], whole + b"trailing", b"leading" + whole):
        path.write_bytes(odd)
        assert zip_members(str(path)) is None
    assert zip_members(str(tmp_path)) is None
