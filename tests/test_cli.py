"""The command line: fast help, and one clear sentence with exit code 2 for whatever is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from astropy.table import Table

from galpipe.errors import InputError
from tests import sky
from tests.running import call, environment, run_chain

HEAVY = ("torch", "sklearn", "mlflow", "prefect", "distributed", "zarr", "numpy", "astropy")


def _modules(arguments: list[str]) -> set[str]:
    """The modules that a command has imported when it ends."""
    code = (
        "import sys, json; from galpipe.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print('\\n' + json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, env=environment(), check=True,
    )  # fmt: skip
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["labels", "export", "--help"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    assert not _modules(words) & {*HEAVY, "pydantic"}


def test_help_shows_examples() -> None:
    assert "galpipe run deploy/surveys/gz5-images.toml" in call("run", "--help").stdout
    assert "labels export gz5 --format fits" in call("labels", "export", "--help").stdout


@pytest.fixture(scope="module")
def published(sky_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    run_chain(sky.survey_file(folder / "sky.toml", sky_folder), folder / "w", prune=60)
    return folder


def test_nothing_to_do_is_said_without_heavy_libraries(published: Path) -> None:
    words = ["run", f"{published}/sky.toml", "--workspace", f"{published}/w", "--prune", "60"]
    assert not _modules(words) & set(HEAVY)
    done = call(*words, "--json")
    assert done.returncode == 0
    summary = json.loads(done.stdout)
    assert summary["nothing_to_do"] and summary["objects"] == 60
    assert summary["release"] == "r1-prune60" and Path(summary["labels"]).exists()
    assert set(summary) >= {"by_status", "stages", "report", "mlflow_run_id"}
    assert "nothing to do" in call(*words).stdout


def test_status_export_and_difference(published: Path) -> None:
    where = ("--workspace", published / "w")
    assert "sky r1-prune60: 60 objects" in call("status", *where).stdout
    known = json.loads(call("status", *where, "--json").stdout)
    assert known["releases"][0]["by_status"]["OK"] > 50
    target = published / "labels.fits"
    done = call("labels", "export", "sky", "--format", "fits", "--output", target, *where)
    assert done.returncode == 0 and len(Table.read(target)) == 60
    found = call("diff", "sky", "r1-prune60", "r1-prune60", *where, "--json")
    assert json.loads(found.stdout)["unchanged"] == 60


BAD: dict[str, tuple[tuple[str, str], str]] = {
    "unknown key": (("size = 32", "sise = 32"), "did you mean 'size'"),
    "unknown table": (("[prepare]", "[prepair]"), "did you mean 'prepare'"),
    "not toml": (("[prepare]", "[prepare"), "not a valid TOML file"),
    "wrong type": (("size = 32", 'size = "32"'), "prepare.size"),
    "missing column": (('id = "objid"', 'id = "objd"'), "objid"),
    "no folder": (('path = "', 'path = "/nowhere'), "nowhere"),
    "unset variable": (('path = "', 'path = "$NOT_SET_ANYWHERE'), "NOT_SET_ANYWHERE"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_survey_file_is_one_sentence(case: str, sky_folder: Path, tmp_path: Path) -> None:
    (old, new), expected = BAD[case]
    path = sky.survey_file(tmp_path / "sky.toml", sky_folder)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    _one_sentence(call("run", path, "--workspace", tmp_path / "w"), expected)


def _table(folder: Path, change: str) -> None:
    lines = (folder / "galaxies.csv").read_text().splitlines()
    if change == "duplicate ids":
        lines.append(lines[1])
    elif change == "missing id":
        lines.append("," + lines[1].split(",", 1)[1])
    elif change == "rounded ids":
        lines[1] = "5.87722981741363E+17," + lines[1].split(",", 1)[1]
    elif change == "empty":
        lines = lines[:1]
    (folder / "galaxies.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("change", ["duplicate ids", "missing id", "rounded ids", "empty"])
def test_a_bad_table_is_one_sentence(change: str, tmp_path: Path) -> None:
    folder = sky.draw(tmp_path / "sky", objects=5)
    _table(folder, change)
    done = call(
        "run", sky.survey_file(tmp_path / "sky.toml", folder), "--workspace", tmp_path / "w"
    )
    _one_sentence(done, "")


def test_other_bad_input_is_one_sentence(published: Path, tmp_path: Path) -> None:
    where = ("--workspace", published / "w")
    _one_sentence(call("run", tmp_path / "no.toml", *where), "no such survey file")
    _one_sentence(call("run", published / "sky.toml", "--until", "dinner", *where), "no such stage")
    _one_sentence(call("labels", "export", "moon", "--format", "csv", *where), "it holds sky")
    _one_sentence(call("diff", "sky", "r1", "r2", *where), "it has r1-prune60")
    _one_sentence(call("status", "--workspace", tmp_path), "not a galpipe workspace")
    newer = tmp_path / "newer"
    shutil.copytree(published / "w", newer)
    (newer / "galpipe.json").write_text('{"format": 99}')
    _one_sentence(call("run", published / "sky.toml", "--workspace", newer), "newer galpipe")


def _one_sentence(done: subprocess.CompletedProcess[str], expected: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    message = [line for line in done.stderr.splitlines() if line.startswith("galpipe: ")]
    assert len(message) == 1 and expected in message[0], done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.parametrize(  # 5m: too small for Prefect's database; 9m: full on the way
    "size", [pytest.param("5m", marks=pytest.mark.slow), "9m"]
)
def test_a_full_disk_is_one_sentence_and_loses_nothing(
    size: str, sky_folder: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this machine does not let tests mount a small disk")
    try:
        path = sky.survey_file(tmp_path / "sky.toml", sky_folder)
        words = ("run", path, "--workspace", disk / "w")
        _one_sentence(call(*words), "no space left")
        resize = ["mount", "-o", "remount,size=64m", str(disk)]
        subprocess.run(resize, check=True)
        done = call(*words)
        assert done.returncode == 0, done.stderr
        assert "sky r1: 240 objects" in done.stdout
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


MORE_BAD: dict[str, tuple[tuple[str, str], str]] = {
    "not finite": (("size = 32", "size = 32\nscale = { kind = 'fixed', width = nan }"), "width"),
    "bands twice": (('["i", "r", "g"]', '["r", "r", "g"]'), "name of its own"),
    "no columns": (("components = 3", "columns = []"), "none of them was measured"),
    "annulus too far": (('kind = "annulus"', 'kind = "annulus", inner = 20.0'), "inner"),
    "no name": (('name = "sky"', ""), "name must be given"),
    "no clusters": (("components = 3", "components = 0"), "cluster.components"),
}


@pytest.mark.parametrize("case", MORE_BAD)
def test_a_value_that_cannot_be_is_one_sentence(
    case: str, sky_folder: Path, tmp_path: Path
) -> None:
    (old, new), expected = MORE_BAD[case]
    path = sky.survey_file(tmp_path / "sky.toml", sky_folder)
    text = path.read_text()
    assert old in text
    path.write_text("\ufeff" + text.replace(old, new, 1))  # a byte-order mark is no fault
    with pytest.raises(InputError, match=expected):
        run_chain(path, tmp_path / "w", prune=20)


def test_damaged_releases_and_odd_targets_are_one_sentence(published: Path, tmp_path: Path) -> None:
    root = tmp_path / "w"
    shutil.copytree(published / "w", root)
    where = ("--workspace", root)
    export = ("labels", "export", "sky", "--format", "fits", *where)
    _one_sentence(call(*export, "--output", tmp_path), "is a folder")
    _one_sentence(call("run", published / "sky.toml", "--release", "x" * 300, *where), "no usable")
    (labels,) = root.glob("releases/sky/*/labels.parquet")
    labels.write_bytes(labels.read_bytes()[:100])
    _one_sentence(call(*export, "--output", tmp_path / "x.fits"), "cannot be read as labels")
    (record,) = root.glob("releases/sky/*/release.json")
    record.write_text("{")
    _one_sentence(call("status", *where), "is damaged")
    _one_sentence(call("run", published / "sky.toml", *where), "is damaged")
