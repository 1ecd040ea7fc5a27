"""Hubble's products by query, tiles that complete each other, and catalogues of HAP."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS
from starlette.responses import Response

from galpipe.archives.download import Downloader
from galpipe.archives.hst import cone, ecsv
from galpipe.archives.hst.listed import circles
from galpipe.archives.hst.pieces import same_grid
from galpipe.archives.hst.portal import ask, table_of
from galpipe.archives.spec import FixedSize, Products, Tile
from galpipe.archives.trouble import BadImageError
from galpipe.errors import InputError
from galpipe.sample.spec import Cone, Sample
from galpipe.sky.mast import Mast
from galpipe.sky.mast_cache import cached_field
from galpipe.sky.mast_camera import FILTERS, field_wcs, name_of
from galpipe.status import Status
from tests.hubble import FIELD, hst, mosaic, objects, run, saying, serving, stored

DATA = Path(os.environ.get("GALPIPE_DATA", Path(__file__).parents[2] / "shared" / "data"))
RECORDED = DATA / "archive_responses" / "mast"
SIZE = FixedSize(half=1.0)
WHOLE = name_of("F814W")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GALPIPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield cached_field(FIELD)


class Counting(Mast):
    """The stand-in, which counts the files that it gives."""

    def __init__(self, folder: Path, ranges: bool = True) -> None:
        super().__init__(FIELD, executing=True, ranges=ranges)
        self._folder = folder
        self.given: Counter[str] = Counter()

    async def _file(self, name: str) -> Response:
        self.given[name] += 1
        return await super()._file(name)


def visit(folder: Path, name: str, rows: slice, columns: slice, seconds: float, add: float) -> None:
    """A further product: a piece of the field's F814W, with other seconds, lighter by `add`."""
    with fits.open(folder / WHOLE) as hdus:
        hdus[0].header["EXPTIME"], hdus[0].header["PROPOSID"] = seconds, 99002
        made = fits.HDUList([hdus[0].copy()])
        for hdu in hdus[1:]:
            header = hdu.header.copy()
            header["CRPIX1"] -= columns.start
            header["CRPIX2"] -= rows.start
            data = hdu.data[rows, columns] + np.float32(add if hdu.name == "SCI" else 0)
            made.append(fits.ImageHDU(data, header, name=hdu.name))
        made.writeto(folder / name)


def truth(
    folder: Path, row: dict[str, Any], side: int, band: str = "F814W"
) -> np.ndarray[Any, Any]:
    with fits.open(folder / name_of(band)) as hdus:
        place = WCS(hdus["SCI"].header).all_world2pix(row["MatchRA"], row["MatchDec"], 0)
        cut = Cutout2D(hdus["SCI"].data, np.rint(place), side, mode="partial")
        found: np.ndarray[Any, Any] = cut.data
        return found


# Products.


@pytest.mark.parametrize("ranges", [True, False])
def test_products_are_found_by_query_and_cut(folder: Path, tmp_path: Path, ranges: bool) -> None:
    """In pieces, or where the server gives none, by the whole file, which is fetched once."""
    table, mast = objects(folder), Counting(folder, ranges)
    with serving(mast) as address:
        context, lines = run(tmp_path, hst(address, pixels=Products(size=SIZE)), table)
    for line, row in zip(lines, table.to_pylist(), strict=True):
        assert line["status"] == Status.OK, line
        image = stored(context, line, "image")
        for plane, band in enumerate(FILTERS):
            np.testing.assert_array_equal(image[plane], truth(folder, row, image.shape[1], band))
    (ledger,) = tmp_path.glob("store/cutouts/*/ledger.parquet")
    urls = {one["band"]: one["url"] for one in pq.read_table(ledger).to_pylist()}
    assert urls == {b: f"mast:HST/product/{name_of(b)} (PROPOSID 99001)" for b in FILTERS}
    assert set(mast.given) == set(map(name_of, FILTERS))
    if not ranges:  # a look at the first bytes, and the file
        assert set(mast.given.values()) == {2}
        assert not list(tmp_path.rglob("files"))


def test_the_deepest_product_that_saw_the_object_is_taken(folder: Path, tmp_path: Path) -> None:
    """A deeper one over the lower half, a shallow one over all, and one as deep named later."""
    mine = tmp_path / "field"
    shutil.copytree(folder, mine)
    all_of, lower = slice(0, FIELD.side), slice(0, 450)
    visit(mine, "hst_99002_01_acs_wfc_f814w_j00a01_drz.fits", lower, all_of, 9000, 1.0)
    visit(mine, "hst_99002_02_acs_wfc_f814w_j00a02_drz.fits", all_of, all_of, 100, 2.0)
    visit(mine, "hst_99002_03_acs_wfc_f814w_j00a03_drz.fits", lower, all_of, 9000, 3.0)
    # A single exposure is no product, however deep it says it is.
    visit(mine, "hst_99002_01_acs_wfc_f814w_j00a01abq_drz.fits", all_of, all_of, 1e5, 4.0)
    table = objects(folder)
    heights = [row["y"] for row in json.loads((folder / "objects.json").read_text())]
    with serving(Counting(mine)) as address:
        spec = hst(address, pixels=Products(size=SIZE), bands=("F814W",))
        context, lines = run(tmp_path / "ws", spec, table)
        other = hst(address, pixels=Products(size=SIZE, proposals=(99001,)), bands=("F814W",))
        plain, before = run(tmp_path / "plain", other, table)
    seen = set()
    for line, old, y in zip(lines, before, heights, strict=True):
        deep = y < 449.5
        seen.add(deep)
        image, base = stored(context, line, "image")[0], stored(plain, old, "image")[0]
        middle = image.shape[0] // 2
        assert image[middle, middle] - base[middle, middle] == pytest.approx(float(deep), abs=1e-5)
        assert (f"_j00a01_drz.fits (PROPOSID {99002})" in line["source"]) == deep
        assert stored(context, line, "proposal")[0] == (99002 if deep else 99001)
    assert seen == {True, False}


def test_a_field_without_products_is_told_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    with serving(Counting(folder)) as address:
        for pixels, said in (
            (Products(mosaics="skycell"), "no skycell product of acs_wfc in F606W"),
            (Products(camera="wfc3_ir"), "no visit product of wfc3_ir in F606W"),
            (Products(proposals=(12,)), r"no visit product .*; mend archive\.bands"),
        ):
            with pytest.raises(InputError, match=said):
                run(tmp_path, hst(address, pixels=pixels), objects(folder))


def test_products_of_other_pixels_are_told_with_their_scale(folder: Path, tmp_path: Path) -> None:
    with serving(Counting(folder)) as address:
        spec = hst(address, pixels=Products(size=SIZE), pixel_scale=0.05)
        with pytest.raises(InputError, match=r"no product has pixels of 0\.05 .*of 0\.03 arcsec"):
            run(tmp_path, spec, objects(folder))


def test_places_are_asked_for_in_few_circles() -> None:
    rng = np.random.default_rng(1)
    places = [(359.999, 0.0), (0.001, 0.0), *rng.uniform((10, 60), (11, 61), (50, 2))]
    found = circles([*places, (float("nan"), 0.0)])
    assert len(found) < 12
    for ra, dec in places:
        apart = [
            np.hypot(((ra - r + 180) % 360 - 180) * np.cos(np.radians(dec)), dec - d) - radius
            for r, d, radius in found
        ]
        assert min(apart) < 0


# Tiles that complete each other.


def test_a_stamp_over_two_tiles_is_that_of_the_whole_mosaic(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "field"
    shutil.copytree(folder, mine)
    table = objects(folder).slice(3, 3)
    y = [json.loads((folder / "objects.json").read_text())[n]["y"] for n in range(3, 6)]
    seam = round(y[1]) + 9  # an object near it, on the lower tile
    whole = slice(0, FIELD.side)
    for number, rows in enumerate((slice(0, seam), slice(seam, FIELD.side))):
        visit(mine, f"hst_tile_{number}_drz.fits", rows, whole, 2028, 0.0)
    both = tuple(Tile(band="F814W", image=f"hst_tile_{n}_drz.fits") for n in range(2))
    with serving(Counting(mine)) as address:
        found = {}
        for name, tiles in (("both", both), ("turned", both[::-1]), ("one", both[:1])):
            spec = hst(address, pixels=mosaic(tiles=tiles), bands=("F814W",))
            found[name] = run(tmp_path / name, spec, table)
    for name in ("both", "turned"):
        context, lines = found[name]
        for line, row in zip(lines, table.to_pylist(), strict=True):
            assert line["status"] == Status.OK
            image = stored(context, line, "image")[0]
            np.testing.assert_array_equal(image, truth(folder, row, image.shape[0]))
            assert np.isfinite(stored(context, line, "variance")).all()
        assert "hst_tile_0" in lines[1]["source"] and "hst_tile_1" in lines[1]["source"]
    context, lines = found["one"]
    assert lines[1]["status"] == Status.OK | Status.EDGE
    image = stored(context, lines[1], "image")[0]
    share = np.isfinite(image).mean()
    assert stored(context, lines[1], "coverage") == pytest.approx(share) and 0.5 < share < 0.8
    known = np.isfinite(image)
    seen = truth(folder, table.to_pylist()[1], len(image))
    np.testing.assert_array_equal(image[known], seen[known])


def test_tiles_of_one_grid_are_known() -> None:
    one = field_wcs(900)
    moved, off, turned = one.copy(), one.copy(), one.copy()
    moved[:2] += (4096, -77)
    off[0] += 0.4
    turned[5] = 1e-7
    assert same_grid(one, moved) and not same_grid(one, off) and not same_grid(one, turned)


# Catalogues of HAP.


@pytest.mark.parametrize("kind", ["hap-point", "hap-segment"])
def test_the_sample_of_a_cone_is_that_of_haps_catalogues(folder: Path, kind: str) -> None:
    asked = Sample(
        id="hap_id", id_type="string", ra="RA", dec="DEC", cone=Cone(ra=150.1, dec=2.2, radius=0.15)
    )
    with serving(Counting(folder)) as address:
        found = cone.query(hst(address, catalogue=kind), asked)
    rows = {row["MatchRA"]: row for row in json.loads((folder / "objects.json").read_text())}
    assert 1 < len(found) < len(rows)
    suffix = kind.removeprefix("hap-")
    for row in found.to_pylist():
        mine = rows[row["RA"]]
        assert row["DEC"] == mine["MatchDec"]
        assert row["hap_id"] == f"hst_galpipe-field_acs_wfc_f814w_{suffix}-{row['ID']}"
        assert row["MagAp2"] == pytest.approx(mine["A_F814W"] + 0.1)
        assert row["kind"] == mine["kind"] and ("MagSegment" in row) == (suffix == "segment")
    assert found.schema.field("ID").type == pa.int64()
    assert found.schema.field("Flags").type == pa.int64()


def test_an_object_of_two_visits_is_taken_once_from_the_deeper(
    folder: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "field"
    shutil.copytree(folder, mine)
    name = "hst_99002_01_acs_wfc_f814w_j00a01_drz.fits"
    visit(mine, name, slice(0, 450), slice(0, FIELD.side), 9000, 0.0)
    asked = Sample(id="hap_id", id_type="string", cone=Cone(ra=150.1, dec=2.2, radius=1.0))
    with serving(Counting(mine)) as address:
        found = cone.query(hst(address, catalogue="hap-segment"), asked)
    rows = json.loads((folder / "objects.json").read_text())
    assert sorted(found["RA"].to_pylist()) == sorted(row["MatchRA"] for row in rows)
    low = {row["MatchRA"] for row in rows if row["y"] < 449.5}
    deep = {row["RA"] for row in found.to_pylist() if row["hap_id"].startswith(name[:30])}
    assert deep == low and 0 < len(low) < len(rows)


def text(types: dict[str, str], rows: str = "1,2\n", more: str = "") -> bytes:
    columns = "".join(f"# - {{name: {n}, datatype: {t}}}\n" for n, t in types.items())
    head = (
        f"# %ECSV 1.0\n# ---\n# delimiter: ','\n# datatype:\n{columns}{more}# schema: astropy-2.0\n"
    )
    return (head + ",".join(types) + "\n" + rows).encode()


def test_ecsv_of_plain_columns_is_read_exactly() -> None:
    types = {"ID": "int64", "RA": "float64", "word": "string", "good": "bool"}
    found = ecsv.read_ecsv(text(types, '9007199254740993,1.5,"a,b",True\n2,nan,"",False\n'))
    assert found.to_pydict() == {
        "ID": [9007199254740993, 2], "RA": [1.5, None], "word": ["a,b", None],
        "good": ["True", "False"],
    }  # fmt: skip


PLAIN = {"ID": "int64", "RA": "float64"}
BAD = {
    "objects": (text({"ID": "int64", "RA": "object"}), "more than plain columns"),
    "composed": (
        text(PLAIN, more="# meta: {__serialized_columns__: {a: {__class__: os.system}}}\n"),
        "more than plain columns",
    ),
    "a tag": (text(PLAIN, more="# meta: !!python/object/apply:os.system [true]\n"), "constructor"),
    "astropy's tag": (text(PLAIN, more="# meta: !astropy.units.Unit {unit: m}\n"), "constructor"),
    "aliases": (text(PLAIN, more="# meta: {a: &x [1, 2], b: [*x, *x]}\n"), "alias"),
    "no YAML": (b"# %ECSV 1.0\n# ---\n# : : {\nID\n1\n", "."),
    "no columns": (b"# %ECSV 1.0\n# ---\n# meta: 1\nID\n1\n", "without columns"),
    "other columns": (text(PLAIN).replace(b"ID,RA\n1", b"ID,DEC\n1"), "."),
    "words": (text(PLAIN, "one,two\n"), "."),
    "too few": (text(PLAIN, "1\n"), "."),
    "endless": (b"# %ECSV 1.0\n" + b"# a\n" * 300_000, "without end"),
    "a page": (b"<html>", "not an ECSV"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_ecsv_that_holds_more_is_refused(kind: str) -> None:
    content, said = BAD[kind]
    with pytest.raises(BadImageError, match=said) as caught:
        ecsv.read_ecsv(content)
    assert caught.value.status == Status.CORRUPT and caught.value.reason


# Recorded answers.


@pytest.mark.real
@pytest.mark.skipif(not RECORDED.exists(), reason="needs GALPIPE_DATA")
@pytest.mark.parametrize("name", ["products.json", "caom.json"])
def test_the_recorded_tables_of_the_portal_are_read(name: str) -> None:
    body = (RECORDED / name).read_bytes()
    rows = json.loads(body)["data"]
    with saying(200, body) as (address, _):
        spec = hst(address)
        with Downloader(spec, address) as downloader:
            found = ask(spec, downloader, "Mast.Caom.Products", {"obsid": "1"}, "archive.pixels")
    assert found["data"] == rows
    table = table_of(found)
    assert len(table) == len(rows)
    key = "size" if name == "products.json" else "t_exptime"
    assert table[key].to_pylist() == [row[key] for row in rows]
