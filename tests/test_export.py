"""Labels in every format: ids exact, units and meanings with them, nulls told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.io.votable import parse
from astropy.table import Table

from galpipe.catalogue.difference import difference
from galpipe.catalogue.export import FORMATS, SUFFIX, export
from galpipe.catalogue.labels import with_meanings, write_table
from galpipe.errors import InputError

IDS = [587739505552785605, 2**53 + 1, -(2**63), 2**63 - 1]


def _labels(path: Path, ids: pa.Array | None = None, **changes: pa.Array) -> Path:
    columns = {
        "object_id": pa.array(IDS, pa.int64()) if ids is None else ids,
        "ra": pa.array([1.25, None, 359.5, 0.0]),
        "dec": pa.array([-10.0, None, 89.5, 0.0]),
        "release": pa.array(["r1"] * 4),
        "status": pa.array([1, 16, 1, 1], pa.int32()),
        "label": pa.array(["c00", None, "c01", "c00"]),
        "cluster": pa.array([0, -1, 1, 0], pa.int32()),
        "probability": pa.array([0.9, None, 0.8, 0.7], pa.float32()),
        "probabilities": pa.array(
            [[0.9, 0.1], None, [0.2, 0.8], [0.7, 0.3]], pa.list_(pa.float32())
        ),
        "axis_ratio": pa.array([0.5, None, 0.9, 0.3], pa.float32()),
        **changes,
    }
    write_table(with_meanings(pa.table(columns)), path)
    return path


@pytest.mark.parametrize("format", FORMATS)
def test_int64_ids_survive_every_format(tmp_path: Path, format: str) -> None:
    labels = _labels(tmp_path / "labels.parquet")
    target = export(labels, tmp_path / f"out{SUFFIX[format]}", format)
    if format == "parquet":
        read = pq.read_table(target)["object_id"].to_pylist()
    elif format == "csv":
        read = pa.csv.read_csv(target)["object_id"].to_pylist()
    else:
        table = Table.read(target)
        assert table["object_id"].dtype.kind == "i" and table["object_id"].dtype.itemsize == 8
        read = [int(value) for value in table["object_id"]]
    assert read == IDS
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_string_ids_survive_every_format(tmp_path: Path) -> None:
    ids = ["PGC0000212", "a,b", "007", "x" * 40]
    labels = _labels(tmp_path / "labels.parquet", pa.array(ids))
    for format in ("fits", "votable"):
        table = Table.read(export(labels, tmp_path / f"out{SUFFIX[format]}", format))
        assert [str(value) for value in table["object_id"]] == ids
    csv = pa.csv.ConvertOptions(column_types={"object_id": pa.string()})
    read = pa.csv.read_csv(export(labels, tmp_path / "out.csv", "csv"), convert_options=csv)
    assert read["object_id"].to_pylist() == ids


def test_fits_carries_units_ucds_and_descriptions(tmp_path: Path) -> None:
    target = export(_labels(tmp_path / "labels.parquet"), tmp_path / "out.fits", "fits")
    with fits.open(target) as hdus:
        header, data = hdus["LABELS"].header, hdus["LABELS"].data
        names = hdus["LABELS"].columns.names
        number = names.index("ra") + 1
        assert header[f"TUNIT{number}"] == "deg"
        assert header[f"TUCD{number}"] == "pos.eq.ra;meta.main"
        assert "Right ascension" in header[f"TCOMM{number}"]
        assert np.isnan(data["ra"][1]) and data["label"][1] == ""
        assert Table.read(hdus["LABELS"])["cluster"].tolist() == [0, -1, 1, 0]  # a value, no null
        np.testing.assert_allclose(data["probabilities"][0], [0.9, 0.1], rtol=1e-6)
        assert "DATE" not in header and "DATE" not in hdus[0].header


def test_votable_carries_coordinates_ucds_and_nulls(tmp_path: Path) -> None:
    target = export(_labels(tmp_path / "labels.parquet"), tmp_path / "out.vot", "votable")
    tree = parse(target)
    assert tree.resources[0].coordinate_systems[0].system == "ICRS"
    fields = {field.name: field for field in tree.get_first_table().fields}
    assert fields["object_id"].ucd == "meta.id;meta.main"
    assert fields["label"].ucd == "src.morph.type"
    assert fields["probability"].ucd == "stat.probability"
    assert str(fields["ra"].unit) == "deg" and fields["ra"].description


def test_export_says_what_it_cannot_do(tmp_path: Path) -> None:
    labels = _labels(tmp_path / "labels.parquet")
    with pytest.raises(InputError, match="is not a folder"):
        export(labels, tmp_path / "nowhere" / "x.fits", "fits")
    with pytest.raises(InputError, match="no format 'xlsx'"):
        export(labels, tmp_path / "x", "xlsx")


def test_difference_counts_by_id(tmp_path: Path) -> None:
    old = _labels(tmp_path / "old.parquet")
    same = _labels(tmp_path / "same.parquet", release=pa.array(["B"] * 4))
    assert difference(old, same) == {
        "added": 0, "removed": 0, "unchanged": 4, "changed": 0, "transitions": [],
    }  # fmt: skip
    other = _labels(tmp_path / "other.parquet", label=pa.array(["c01", None, "c01", "c00"]))
    found = difference(old, other)
    assert found["changed"] == 1
    assert found["transitions"] == [{"old": "c00", "new": "c01", "objects": 1}]
