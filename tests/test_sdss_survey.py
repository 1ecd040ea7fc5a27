"""The ready survey of Galaxy Zoo 2 from SDSS, against the stand-in for its servers."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from galpipe import survey
from galpipe.sky.cache import cached
from galpipe.sky.faults import parse
from galpipe.sky.server import application
from galpipe.sky.spec import SkySpec
from tests import failing_server
from tests.running import run_chain

FILE = Path(__file__).resolve().parents[1] / "deploy" / "surveys" / "gz2-sdss.toml"


def test_galaxy_zoo_2_is_fetched_from_sdss_with_its_votes(tmp_path: Path) -> None:
    folder = cached(SkySpec(galaxies=60))
    chosen = survey.load(FILE)
    assert chosen.archive.kind == "sdss" and chosen.archive.skyserver.startswith("https://sky")
    with failing_server.serve(folder, parse(""), application(folder)) as served:
        own = tmp_path / "gz2-sdss.toml"
        own.write_text(
            FILE.read_text().replace(
                'kind = "sdss"\n',
                f'kind = "sdss"\nskyserver = "{served.address}"\nsas = "{served.address}/sas"\n'
                "requests_per_minute = 6000\n",
            )
        )
        summary = run_chain(own, tmp_path / "w", prune=24, until="prepare")
        paths = served.paths()
    assert summary["objects"] == 24 and summary["stages"]["retrieve"]["done"] == 24
    [cutouts] = (tmp_path / "w" / "store" / "cutouts").glob("*/manifest.json")
    by_status = json.loads(cutouts.read_text())["by_status"]
    assert sum(n for name, n in by_status.items() if "OK" in name) == 24
    frames = [path for path in paths if path.endswith("-0100.fits.bz2")]  # one field
    assert len(frames) == len(set(frames)) == 3
    [catalogue] = (tmp_path / "w" / "store").glob("*/*/catalogue.parquet")
    table = pq.read_table(catalogue)
    truth = chosen.evaluate.truth
    for name in (*truth.votes, truth.vote_counts, *chosen.publish.carry, "rerun"):
        assert f"input_{name}" in table.column_names, name
    classes = set(table["input_clear_class"].to_pylist())
    assert {"smooth", "edge-on"} & classes and classes <= {"smooth", "edge-on", "spiral", None, ""}
    for name in ("g", "r", "i"):
        assert all(value > 0 for value in table[f"input_extinction_{name}"].to_pylist())
    shares = table[f"input_{truth.votes[0]}"].to_pylist()
    assert all(0 <= share <= 1 for share in shares) and len(set(shares)) > 10
