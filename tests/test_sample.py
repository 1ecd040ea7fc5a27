"""Objects in: identifiers exact, positions checked, the split fixed for ever."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import MaskedColumn, Table
from hypothesis import given, settings
from hypothesis import strategies as st

from galpipe.errors import InputError
from galpipe.sample.catalogue import build_catalogue, sample, table_digest
from galpipe.sample.spec import Sample, Split
from galpipe.sample.split import assign_split, healpix_cells, uniform
from galpipe.sample.table import IMAGE_REFERENCE, read_table
from galpipe.stages import Context
from galpipe.status import Status
from galpipe.workspace import Workspace

LARGE = [587722981746540704, 1237668366931755174, 8647474693038342230, 9223372036854775807]
INT64 = Sample(id="objid", id_type="int64")
INT64_PLACED = Sample(id="objid", id_type="int64", ra="ra", dec="dec")


def csv(text: str, id: str | None = "objid") -> pa.Table:
    return read_table(text.encode(), "table.csv", id)


def astropy_table() -> Table:
    return Table(
        {
            "objid": np.array(LARGE, np.int64),
            "name": np.array(["NGC1  ", "", "M31", "UGC9"]),
            "z": MaskedColumn([0.1, np.nan, 0.3, 0.4], mask=[False, False, False, True]),
            "count": MaskedColumn(
                np.array([1, 2, 3, 4], np.int32), mask=[True, False, False, False]
            ),
        }
    )


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "fits", "vot", "parquet"])
def test_every_format_gives_the_same_exact_table(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table.{suffix}"
    table = astropy_table()
    if suffix.startswith("csv"):
        text = f"objid,name,z,count\n{LARGE[0]},NGC1,0.1,\n{LARGE[1]},,nan,2\n"
        text += f"{LARGE[2]},M31,0.3,3\n{LARGE[3]},UGC9,,4\n"
        path.write_bytes(gzip.compress(text.encode()) if suffix == "csv.gz" else text.encode())
    elif suffix == "parquet":
        given = pa.array([0.1, float("nan"), 0.3, None])
        names = pa.array(["NGC1", "", "M31", "UGC9"]).dictionary_encode()
        counts = pa.array([None, 2, 3, 4], pa.int32())
        pq.write_table(pa.table({"objid": LARGE, "name": names, "z": given, "count": counts}), path)
    else:
        table.write(path, format="fits" if suffix == "fits" else "votable")
    read = read_table(path)
    assert read["objid"].to_pylist() == LARGE
    assert read["name"].to_pylist() == ["NGC1", None, "M31", "UGC9"]
    assert read["count"].to_pylist() == [None, 2, 3, 4]
    z = read["z"].to_pylist()
    assert (z[0], z[2]) == (0.1, 0.3)
    assert z[3] is None or suffix == "fits"  # FITS has no null for floats but NaN
    assert build_catalogue(INT64, read)["object_id"].to_pylist() == LARGE


def test_big_endian_and_vector_columns_of_fits() -> None:
    table = Table({"objid": np.array([2, 1], ">i8"), "fit": np.array([[1.5, 2], [3, 4]], ">f4")})
    sink = io.BytesIO()
    table.write(sink, format="fits")
    read = read_table(sink.getvalue(), "t.fits")
    assert read["fit_0"].to_pylist() == [1.5, 3]
    assert read["fit_1"].to_pylist() == [2, 4]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, unique=True))
@settings(max_examples=50, deadline=None)
def test_int64_identifiers_are_exact(ids: list[int]) -> None:
    text = "objid\n" + "\n".join(map(str, ids)) + "\n"
    for kept in (None, "objid"):
        got = build_catalogue(INT64, csv(text, kept))["object_id"].to_pylist()
        assert got == sorted(ids)


def test_string_identifiers_are_exactly_as_given() -> None:
    spec = Sample(id="objid", id_type="string")
    got = build_catalogue(spec, csv("objid,x\n007,1\n1E5,2\nPGC0000212,3\n12.10,4\n"))
    assert got["object_id"].to_pylist() == ["007", "12.10", "1E5", "PGC0000212"]


@pytest.mark.parametrize("kept", [None, "objid"])
def test_identifiers_rounded_by_the_source_are_refused(kept: str | None) -> None:
    text = "objid,ra\n1.23765E+18,1\n1.23766E+18,2\n"
    with pytest.raises(InputError, match=r"rounded through floating point .*\(2 in all\)"):
        build_catalogue(INT64, csv(text, kept))


def test_small_integers_written_as_decimals_are_integers_still() -> None:
    for kept in (None, "objid"):
        got = build_catalogue(INT64, csv("objid\n100288.0\n3.0\n", kept))
        assert got["object_id"].to_pylist() == [3, 100288]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("objid\n5\n7\n5\n7\n", r"repeats 5, 7 \(2 in all\)"),
        ("objid,x\n5,1\n,2\n", r"no identifier in row 2 \(1 in all\)"),
        ("objid\n99999999999999999999\n1\n", "beyond int64"),
        ("objid\nNGC1\n2\n", r"is not an integer in NGC1"),
        ("objid\n", "empty"),
        ("objid,ra\n1,2,3\n", "not a readable csv"),
        ("objid,objid\n1,2\n", "two columns are named 'objid'"),
        ("", "empty"),
    ],
)
def test_bad_tables_get_one_sentence(text: str, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        build_catalogue(INT64, csv(text))
    assert "\n" not in str(caught.value)


def test_a_missing_column_names_the_nearest() -> None:
    with pytest.raises(
        InputError, match=r"sample.id: .* no column 'objid'; did you mean 'ObjectId'"
    ):
        build_catalogue(INT64, csv("ObjectId,ra\n1,2\n"))
    with pytest.raises(InputError, match=r"sample.ra is given without sample.dec"):
        build_catalogue(Sample(id="objid", id_type="int64", ra="ra"), csv("objid,ra\n1,2\n"))
    with pytest.raises(InputError, match=r"holds text .*'12:30:00'.* degrees"):
        build_catalogue(INT64_PLACED, csv("objid,ra,dec\n1,12:30:00,5\n"))


def test_columns_that_differ_in_case_alone_are_found() -> None:
    got = build_catalogue(INT64_PLACED, csv("ObjID,RA,Dec\n007,2,3\n"))
    assert (got["object_id"][0].as_py(), got["ra"][0].as_py()) == (7, 2.0)
    with pytest.raises(InputError, match="no column 'objid'"):
        build_catalogue(INT64, csv("ObjID,OBJID\n1,2\n"))


def test_bad_positions_become_null_with_a_bit_and_a_count() -> None:
    text = "objid,ra,dec\n1,10,20\n2,nan,20\n3,400,0\n4,10,-91\n5,0,90\n6,,\n7,x,3\n8,inf,3\n"
    got = build_catalogue(INT64_PLACED, csv(text))
    bad, none = (
        [2, 3, 4, 7, 8],
        [6],
    )  # a row with two empty cells has no position, which is no fault
    for row in got.to_pylist():
        wrong = row["object_id"] in bad
        assert row["status"] == (int(Status.BAD_POSITION) if wrong else 0)
        absent = wrong or row["object_id"] in none
        assert (row["ra"] is None) == (row["dec"] is None) == absent


def test_sources_without_coordinates_have_none_and_no_blame() -> None:
    got = build_catalogue(INT64, csv("objid\n1\n"))
    assert got["ra"].to_pylist() == [None]
    assert got["status"].to_pylist() == [0]


def test_redshift_sentinels_are_null() -> None:
    spec = Sample(id="objid", id_type="int64", redshift="z")
    got = build_catalogue(spec, csv("objid,z\n1,0.5\n2,-9999\n3,-1\n4,nan\n5,\n6,99\n7,-0.001\n"))
    assert got["redshift"].to_pylist() == [0.5, None, None, None, None, None, -0.001]


def test_an_archives_own_image_reference_serves_without_a_file_column() -> None:
    table = pa.table({"objid": [1, 2], IMAGE_REFERENCE: ["a.fits#1", None]})
    got = build_catalogue(INT64, table)
    assert got["file"].to_pylist() == ["a.fits#1", None]
    assert f"input_{IMAGE_REFERENCE}" not in got.column_names


@given(st.permutations(list(range(12))))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_input_changes_nothing(order: list[int]) -> None:
    lines = [f"{1000 + i},{i * 30 % 360},{i * 7 - 40},n{i}" for i in range(12)]
    header = "objid,ra,dec,name\n"
    straight = build_catalogue(INT64_PLACED, csv(header + "\n".join(lines)))
    shuffled = build_catalogue(INT64_PLACED, csv(header + "\n".join(lines[i] for i in order)))
    assert straight.equals(shuffled)
    assert table_digest(straight) == table_digest(shuffled)


def test_the_digest_of_a_table_sees_every_value() -> None:
    one: dict[str, Any] = {"a": [1, 2, None], "b": ["x", None, "z"], "c": [0.5, float("nan"), None]}
    digests = {table_digest(pa.table(one))}
    digests.add(table_digest(pa.table({**one, "a": [1, None, 2]})))
    digests.add(table_digest(pa.table({**one, "b": ["", "x", "z"]})))
    digests.add(table_digest(pa.table({**one, "c": [0.5, None, float("nan")]})))
    digests.add(table_digest(pa.table({**one, "a": pa.array([1, 2, None], pa.int32())})))
    assert len(digests) == 5
    chunked = pa.concat_tables([pa.table(one).slice(0, 1), pa.table(one).slice(1)])
    assert table_digest(chunked) == table_digest(pa.table(one))


def test_pruning_keeps_the_same_objects_of_a_grown_table() -> None:
    small = csv("objid\n" + "\n".join(map(str, range(100))))
    large = csv("objid\n" + "\n".join(map(str, range(200))))
    few = build_catalogue(INT64, small, prune=10)["object_id"].to_pylist()
    assert len(few) == 10 and few == sorted(few)
    more = set(build_catalogue(INT64, large, prune=40)["object_id"].to_pylist())
    best = set(build_catalogue(INT64, small, prune=5)["object_id"].to_pylist())
    assert best <= set(few)
    assert {i for i in more if i < 100} & set(few)
    with pytest.raises(InputError, match="prune"):
        build_catalogue(INT64, small, prune=0)


def test_the_stage_is_addressed_by_content_and_reads_once(tmp_path: Path) -> None:
    context = Context(Workspace.open(tmp_path / "w"))
    reads = []

    def read(text: str) -> pa.Table:
        reads.append(text)
        return csv(text)

    first = sample(context, INT64, lambda: read("objid\n1\n2\n"), "f1", None)
    assert sample(context, INT64, lambda: read("objid\n1\n2\n"), "f1", None) == first
    assert len(reads) == 1
    assert sample(context, INT64, lambda: read("objid\n2\n1\n"), "f2", None) == first
    assert sample(context, INT64, lambda: read("objid\n2\n1\n3\n"), "f3", None) != first
    manifest = context.workspace.manifest(first)
    assert manifest is not None
    assert manifest["objects"] == 2


# The split.

GOLDEN_INTEGERS = [0.04151466032705098, 0.13559061395424155]
GOLDEN_STRING = [0.1916011617998521]


def test_the_hash_is_uniform_and_frozen() -> None:
    """Golden values: changing them would move objects between train and test of every survey."""
    numbers = uniform("galpipe/id", np.arange(100_000))
    assert numbers[:2].tolist() == pytest.approx(GOLDEN_INTEGERS, abs=0)
    assert uniform("galpipe/id", ["PGC0000212"]).tolist() == pytest.approx(GOLDEN_STRING, abs=0)
    counts = np.histogram(numbers, 20, (0, 1))[0]
    assert ((counts - 5000) ** 2 / 5000).sum() < 45  # chi-squared of 19 degrees, p = 0.0007


def test_cells_are_those_of_healpix() -> None:
    """Cell numbers from the published formulas (Gorski et al. 2005, section 4.1), ring order."""
    ra, dec = np.array([45.0, 0.0, 0.0]), np.array([90.0, 0.0, -90.0])
    assert healpix_cells(ra, dec, 1).tolist() == [0, 4, 8]
    assert healpix_cells(np.array([0.0]), np.array([89.9]), 64).tolist() == [0]


@given(st.lists(st.integers(0, 2**62), min_size=3, max_size=40, unique=True), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_a_growing_catalogue_moves_nobody(ids: list[int], kept: int) -> None:
    ra = np.array([i % 360 for i in ids], float)
    dec = np.array([i % 170 - 85 for i in ids], float)
    ra[::3] = np.nan
    everyone = assign_split(Split(), np.array(ids), ra, dec)
    some = assign_split(Split(), np.array(ids[:kept]), ra[:kept], dec[:kept])
    assert everyone[:kept].tolist() == some.tolist()


def test_the_same_sky_is_on_one_side() -> None:
    rng = np.random.default_rng(0)
    ra, dec = rng.uniform(0, 360, 5000), rng.uniform(-80, 80, 5000)
    split = assign_split(Split(nside=8), np.arange(5000), ra, dec)
    cells = healpix_cells(ra, dec, 8)
    assert all(len(set(split[cells == cell].tolist())) == 1 for cell in np.unique(cells))
    shares = np.bincount(split, minlength=3) / len(split)
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.05)


def test_a_split_without_training_is_refused() -> None:
    with pytest.raises(InputError, match="leave nothing to train on"):
        assign_split(Split(validation=0.5, test=0.5), ["a"], np.array([0.0]), np.array([0.0]))


@pytest.mark.real
def test_real_tables(real_data: Path) -> None:
    rounded = read_table(real_data / "tables" / "Skyserver_SQL2_27_2018_6_51_39_PM.csv.gz")
    with pytest.raises(InputError, match=r"rounded .*\(10000 in all\)"):
        build_catalogue(INT64, rounded)
    votes = read_table(real_data / "tables" / "gz2_table5_stripe82_coadd_without_heldout.csv.gz")
    got = build_catalogue(INT64_PLACED, votes)
    assert got["object_id"][0].as_py() == 8647474690312307154
    assert int(np.count_nonzero(got["status"])) == 0
