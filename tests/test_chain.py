"""The chain: every object ends somewhere, and the same inputs give the same bytes."""

from __future__ import annotations

import io
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import galpipe
from galpipe import releases, survey
from galpipe.workspace import Workspace
from tests import sky
from tests.running import ForkedChain, committed, kill_after, labels, run_chain


@pytest.fixture(scope="module")
def undisturbed(sky_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which the planted sky was run without disturbance."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_chain(sky.survey_file(folder / "sky.toml", sky_folder), folder / "w")
    return folder / "w"


def test_every_object_has_one_row_with_exact_id_and_status(
    undisturbed: Path, sky_folder: Path
) -> None:
    table = galpipe.open_labels(str(undisturbed), "sky")
    ids = [587722981741363200 + 7919 * number for number in range(240)]
    assert table["object_id"].to_pylist() == ids
    assert set(table["status_text"].to_pylist()) <= {"OK", "OK|TRUNCATED", "OK|NO_SOURCE"}
    assert all(p is not None and 0 < p <= 1 for p in table["probability"].to_pylist())
    assert table["ra"][1].as_py() == pytest.approx(37.7)
    assert table.schema.field("ra").metadata[b"unit"] == b"deg"


def test_planted_kinds_come_out_as_clusters(undisturbed: Path) -> None:
    table = galpipe.open_labels(str(undisturbed), "sky")
    kinds = [sky.KINDS[int(np.random.default_rng(n).integers(3))] for n in range(240)]
    clusters = table["cluster"].to_numpy()
    agreeing = sum(
        max(np.sum(clusters[np.array(kinds) == kind] == c) for kind in sky.KINDS)
        for c in np.unique(clusters)
    )
    assert agreeing / 240 > 0.8


def test_a_release_opens_as_one_lazy_array(undisturbed: Path) -> None:
    stamps = galpipe.open_release(str(undisturbed), "sky")
    assert stamps.image.dims == ("object", "band", "y", "x")
    assert stamps.image.shape == (240, 1, 32, 32) and stamps.image.chunks is not None
    assert {"status", "ra", "dec", "pixel_scale", "coverage"} <= set(stamps.data_vars)
    assert stamps.object_id.dtype == np.int64 and stamps.attrs["stamps"]


def test_an_unchanged_survey_has_nothing_to_do(undisturbed: Path, sky_folder: Path) -> None:
    path = undisturbed.parent / "sky.toml"
    chosen = survey.load(path)
    workspace = Workspace.open(undisturbed)
    key = releases.run_key(chosen, "r1", None)
    assert releases.published(workspace, chosen, "r1", key) is not None
    (undisturbed / "releases" / "sky" / "r1" / "labels.parquet").rename(undisturbed / "aside")
    assert releases.published(workspace, chosen, "r1", key) is None
    summary = run_chain(path, undisturbed)
    assert all(stage["done"] == 0 for stage in summary["stages"].values())
    assert labels(undisturbed) == (undisturbed / "aside").read_bytes()
    (undisturbed / "aside").unlink()


def test_order_of_the_table_and_the_workers_change_no_byte(
    undisturbed: Path, sky_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shuffled"
    shutil.copytree(sky_folder, folder)
    header, *rows = (sky_folder / "galaxies.csv").read_text().splitlines(keepends=True)
    random.Random(0).shuffle(rows)
    (folder / "galaxies.csv").write_text(header + "".join(rows))
    with ThreadPoolExecutor(4) as pool:
        run_chain(sky.survey_file(tmp_path / "sky.toml", folder), tmp_path / "w", map=pool.map)
    assert labels(tmp_path / "w") == labels(undisturbed)


def test_a_release_that_grows_does_only_what_is_new(tmp_path: Path) -> None:
    folder = sky.draw(tmp_path / "sky", objects=130)
    path = sky.survey_file(tmp_path / "sky.toml", folder)
    run_chain(path, tmp_path / "w")
    sky.draw(folder, objects=180, first=130)
    summary = run_chain(path, tmp_path / "w", release="B")
    assert summary["stages"]["retrieve"] | {"seconds": 0} == {
        "seconds": 0,
        "done": 50,
        "reused": 130,
    }
    assert summary["stages"]["prepare"] | {"seconds": 0} == {
        "seconds": 0,
        "done": 50,
        "reused": 130,
    }
    old, new = (galpipe.open_labels(str(tmp_path / "w"), "sky", r) for r in ("r1", "B"))
    kept = new.slice(0, 130)
    assert kept.drop_columns(["release"]).equals(old.drop_columns(["release"]))
    assert set(new["release"].to_pylist()) == {"B"} and new.num_rows == 180
    assert new.slice(130)["cluster"].to_numpy().min() >= 0
    record = releases.record(Workspace.open(tmp_path / "w"), "sky", "B")
    assert record["base"] == "r1" and set(record["kept"]) == {"cutouts", "scaling", "clusters"}
    again = run_chain(path, tmp_path / "w", release="B")
    assert all(stage["done"] == 0 for stage in again["stages"].values())
    assert galpipe.open_release(str(tmp_path / "w"), "sky", "B").sizes["object"] == 180


def test_a_changed_survey_replaces_its_release_and_keeps_the_old(
    tmp_path: Path, sky_folder: Path
) -> None:
    path = sky.survey_file(tmp_path / "sky.toml", sky_folder)
    run_chain(path, tmp_path / "w", prune=60)
    first = labels(tmp_path / "w", "r1-prune60")
    path.write_text(path.read_text().replace("components = 3", "components = 2"))
    summary = run_chain(path, tmp_path / "w", prune=60)
    assert summary["stages"]["prepare"]["done"] == 0  # what did not change is not made again
    assert labels(tmp_path / "w", "r1-prune60") != first
    aside = list((tmp_path / "w").glob("releases/sky/r1-prune60/superseded/*/labels.parquet"))
    assert [p.read_bytes() for p in aside] == [first]


def test_an_image_that_is_gone_keeps_what_was_fetched(tmp_path: Path) -> None:
    folder = sky.draw(tmp_path / "sky", objects=60)
    path = sky.survey_file(tmp_path / "sky.toml", folder)
    run_chain(path, tmp_path / "w")
    sky.draw(folder, objects=70, first=60)
    for image in sorted((folder / "images").iterdir())[:50]:
        image.unlink()
    run_chain(path, tmp_path / "w", release="B")
    old, new = (galpipe.open_labels(str(tmp_path / "w"), "sky", r) for r in ("r1", "B"))
    kept = new.slice(0, 60).drop_columns(["release"])
    assert kept.equals(old.drop_columns(["release"])) and new.num_rows == 70


@pytest.mark.parametrize("side", [2, 3, 5])
def test_a_tiny_image_does_not_stop_the_others(side: int, tmp_path: Path) -> None:
    folder = sky.draw(tmp_path / "sky", objects=30)
    first = min((folder / "images").iterdir())
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(first)
    run_chain(sky.survey_file(tmp_path / "sky.toml", folder), tmp_path / "w")
    table = galpipe.open_labels(str(tmp_path / "w"), "sky")
    assert table.num_rows == 30 and table["object_id"][0].as_py() == int(first.stem)


def _spoil(folder: Path) -> dict[int, str]:
    """Make five images unusable; returns the expected status per object id."""
    paths = sorted((folder / "images").iterdir())
    truncated, blank, missing, grey, text = paths[:5]
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    Image.fromarray(np.full((48, 48, 3), 7, np.uint8)).save(blank)
    missing.unlink()
    Image.fromarray(np.asarray(Image.open(grey))[..., 0]).save(grey)
    text.write_text("<html>503</html>")
    Image.fromarray(np.asarray(Image.open(paths[5]).resize((70, 70)))).save(paths[5])
    return {
        int(path.stem): name
        for path, name in zip(
            paths[:5], ("CORRUPT", "BLANK", "MISSING_FILE", "MISSING_BAND", "CORRUPT"), strict=True
        )
    }


def test_unusable_images_end_as_status_bits(tmp_path: Path) -> None:
    folder = sky.draw(tmp_path / "sky", objects=80)
    expected = _spoil(folder)
    summary = run_chain(sky.survey_file(tmp_path / "sky.toml", folder), tmp_path / "w")
    table = galpipe.open_labels(str(tmp_path / "w"), "sky")
    assert table.num_rows == 80 and sum(summary["by_status"].values()) == 80
    rows = {row["object_id"]: row for row in table.to_pylist()}
    for identifier, name in expected.items():
        assert rows[identifier]["status_text"] == name
        assert rows[identifier]["cluster"] == -1 and rows[identifier]["label"] is None
        assert rows[identifier]["probability"] is None
    assert sum(row["cluster"] >= 0 for row in rows.values()) >= 70
    stamps = galpipe.open_release(str(tmp_path / "w"), "sky")
    assert list(stamps.object_id.values) == list(rows)


def test_killed_anywhere_it_goes_on_to_the_same_bytes(undisturbed: Path, tmp_path: Path) -> None:
    path = undisturbed.parent / "sky.toml"
    root = tmp_path / "w"
    kills, commits = 0, 1
    while (code := kill_after(ForkedChain(path, root), root, commits)) is None:
        kills += 1
        assert committed(root) >= commits  # nothing committed is lost
        commits = committed(root) + 2
    assert code == 0
    assert kills >= 5
    assert labels(root) == labels(undisturbed)


def test_labels_of_a_table_on_its_own(sky_folder: Path, tmp_path: Path) -> None:
    """A table given by path, without positions, with string ids, beside a directory of images."""
    text = (sky_folder / "galaxies.csv").read_text().splitlines()
    rows = [line.split(",") for line in text]
    named = [["name", "file"], *([f"G{row[0][-6:]}", row[1]] for row in rows[1:])]
    (tmp_path / "mine.csv").write_text("\n".join(",".join(row) for row in named))
    path = sky.survey_file(tmp_path / "sky.toml", sky_folder)
    declared = path.read_text().replace(
        'id = "objid"\nid_type = "int64"', 'id = "name"\nid_type = "string"'
    )
    declared = declared.replace('ra = "ra"\ndec = "dec"', 'table = "mine.csv"')
    path.write_text(declared.replace('truth = { classes = "kind" }', ""))
    run_chain(path, tmp_path / "w")
    table = pq.read_table(io.BytesIO(labels(tmp_path / "w")))
    assert table["object_id"].to_pylist() == sorted(row[0] for row in named[1:])
    assert table["ra"].null_count == 240
