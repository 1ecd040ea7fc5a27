"""Parts: shards written whole and committed one by one; the release joins them lazily."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr

from galpipe.stamps.gather import column_names, gather
from galpipe.stamps.joined import open_joined
from galpipe.stamps.parts import DATA, ArrayLayout, Part, PartLayout, create
from galpipe.workspace import Ref, Workspace

LAYOUT = PartLayout(
    objects=150,
    shard=64,
    chunk=32,
    arrays=(
        ArrayLayout("image", "uint8", (2, 8, 8), ("band", "y", "x")),
        ArrayLayout("measured", "float32", (2,), ("column",), fill=float("nan")),
        ArrayLayout("ra", "float64", fill=float("nan")),
    ),
)


def _arrays(part: Part, shard: int, seed: int = 0) -> dict[str, np.ndarray]:
    rows = part.rows(shard)
    count = rows.stop - rows.start
    rng = np.random.default_rng([seed, shard])
    return {
        "image": rng.integers(0, 256, (count, 2, 8, 8), dtype=np.uint8),
        "measured": rng.normal(size=(count, 2)).astype(np.float32),
        "ra": rng.uniform(0, 360, count),
    }


def _filled(path: Path, ids: object, seed: int = 0) -> Part:
    create(path, LAYOUT, ids, {"bands": ["g", "r"]}, columns=["gini", "m20"])  # type: ignore[arg-type]
    part = Part(path)
    for shard in reversed(range(part.shards)):
        part.write(shard, _arrays(part, shard, seed), {"shard": shard})
    return part


def test_a_shard_exists_once_its_marker_does(tmp_path: Path) -> None:
    create(tmp_path / "p", LAYOUT, np.arange(150), {}, columns=["gini", "m20"])
    part = Part(tmp_path / "p")
    assert part.missing() == [0, 1, 2]
    part.write(1, _arrays(part, 1), {"ok": 64})
    assert Part(tmp_path / "p").missing() == [0, 2]
    create(tmp_path / "p", LAYOUT, np.arange(150), {}, columns=["gini", "m20"])  # kept as it is
    assert Part(tmp_path / "p").missing() == [0, 2]
    np.testing.assert_array_equal(part.read("image", part.rows(1)), _arrays(part, 1)["image"])


def test_order_of_writing_does_not_change_a_byte(tmp_path: Path) -> None:
    forward = tmp_path / "forward"
    create(forward, LAYOUT, np.arange(150), {"bands": ["g", "r"]}, columns=["gini", "m20"])
    part = Part(forward)
    for shard in range(part.shards):
        part.write(shard, _arrays(part, shard), {"shard": shard})
    backward = _filled(tmp_path / "backward", np.arange(150))
    assert part.content() == backward.content()
    files = [p.relative_to(forward) for p in sorted(forward.rglob("*")) if p.is_file()]
    assert files == [
        p.relative_to(backward.path) for p in sorted(backward.path.rglob("*")) if p.is_file()
    ]
    for name in files:
        assert (forward / name).read_bytes() == (backward.path / name).read_bytes()
    assert _filled(tmp_path / "other", np.arange(150), seed=1).content() != part.content()


def test_a_shard_of_another_shape_is_refused(tmp_path: Path) -> None:
    create(tmp_path / "p", LAYOUT, np.arange(150), {})
    with pytest.raises(ValueError, match="image: shape"):
        Part(tmp_path / "p").write(0, {"image": np.zeros((3, 2, 8, 8), np.uint8)}, {})


@pytest.mark.parametrize(
    "ids", [np.array([2**63 - 1 - i for i in range(150)]), [f"PGC é{i}" for i in range(150)]]
)
@pytest.mark.filterwarnings("ignore:The data type")
def test_a_part_opens_in_xarray_with_named_dimensions(tmp_path: Path, ids: object) -> None:
    part = _filled(tmp_path / "p", ids)
    assert list(part.object_ids) == list(ids)  # type: ignore[call-overload]
    opened = xr.open_zarr(part.path / DATA, consolidated=False)
    assert opened.image.dims == ("object", "band", "y", "x")
    assert list(opened.column.values) == ["gini", "m20"]
    assert opened.attrs["bands"] == ["g", "r"]
    assert opened.image.encoding["shards"] == (64, 2, 8, 8)


def test_a_release_joins_its_parts_in_its_own_order(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "w")
    parts = []
    for name, offset in (("a", 0), ("b", 1)):
        path = workspace.place(Ref("stamp-part", name))
        parts.append(_filled(path, np.arange(150) * 2 + offset, seed=offset))
    ref = Ref("stamps", "joined")
    place = workspace.begin(ref)
    numbers = np.arange(301)  # even ids lie in a, odd in b, the last nowhere
    index = {
        "object_id": numbers,
        "part": pa.array([*(["a", "b"] * 150), None]),
        "row": pa.array([*np.repeat(np.arange(150), 2), -1], pa.int32()),
        "status": pa.array([1] * 300 + [16], pa.int32()),
    }
    pq.write_table(pa.table(index), place / "index.parquet")
    joined = open_joined(workspace, ref)
    assert joined.image.chunks is not None  # lazy
    np.testing.assert_array_equal(joined.object_id, numbers)
    images = joined.image.compute().values
    assert images.dtype == np.uint8 and not images[300].any()
    np.testing.assert_array_equal(images[0:300:2], parts[0].read("image"))
    np.testing.assert_array_equal(images[1:300:2], parts[1].read("image"))
    assert np.isnan(joined.ra[300]) and joined.status[300] == 16
    gathered = gather(workspace, ref, ["measured", "ra"])
    np.testing.assert_array_equal(gathered["measured"], joined.measured)
    np.testing.assert_array_equal(gathered["ra"], joined.ra)
    assert column_names(workspace, ref) == ("gini", "m20")


def test_markers_hold_digests_of_the_bytes(tmp_path: Path) -> None:
    part = _filled(tmp_path / "p", np.arange(150))
    marker = json.loads(part.marker(2).read_text())
    assert set(marker["digests"]) == {"image", "measured", "ra"}
    assert marker["facts"] == {"shard": 2}
    assert [facts["shard"] for facts in part.facts()] == [0, 1, 2]
