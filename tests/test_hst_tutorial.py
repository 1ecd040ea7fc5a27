"""The tutorial on Hubble: its survey runs on the simulated field, its excerpts are of a survey."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from galpipe import survey
from galpipe.archives.spec import Hst, Mosaic
from galpipe.spec import load
from tests.test_docs import DOCS, _run, blocks

PAGE = DOCS / "tutorials" / "hst.md"


def text() -> str:
    (block,) = [one for one in blocks(PAGE) if one.title == "hst.toml"]
    return block.text


def excerpts() -> list[str]:
    return [one.text for one in blocks(PAGE) if one.language == "toml" and not one.title]


def test_one_line_leads_from_the_simulated_field_to_the_real_archive(tmp_path: Path) -> None:
    line = excerpts()[0]
    changed = re.sub(r'^kind = "hst-sky".*\nside.*\n', line, text(), count=1, flags=re.MULTILINE)
    (tmp_path / "hst.toml").write_text(changed)
    archive = survey.load(tmp_path / "hst.toml").archive
    assert archive.kind == "hst" and archive.mast == "https://mast.stsci.edu"
    assert archive.catalogue == "hap-segment" and archive.pixels.psf


def test_the_excerpts_are_parts_of_surveys() -> None:
    _, cosmos, redshifts = excerpts()
    archive = load(Hst, tomllib.loads(cosmos)["archive"])
    assert isinstance(archive.pixels, Mosaic) and len(archive.pixels.tiles) == 2
    assert set(tomllib.loads(redshifts)["sample"]) == {"table", "join", "redshift"}


@pytest.mark.slow  # draws a field of its own; without the network, which has too little to learn by
def test_the_tutorial_runs_on_the_simulated_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALPIPE_CACHE", str(tmp_path / "cache"))
    smaller = text().replace("side = 3000 ", "side = 2000 ")
    smaller = smaller.replace('[model]\nkind = "vade"\n', "").replace('"both"', '"columns"')
    assert "side = 2000" in smaller and "vade" not in smaller and '"columns"' in smaller
    (tmp_path / "hst.toml").write_text(smaller)
    _run("$ galpipe run hst.toml\nhst r1: ... objects\n  sample ...", tmp_path)
    labels = pq.read_table(tmp_path / "workspace/releases/hst/r1/labels.parquet")
    assert len(labels) > 40
    (ledger,) = tmp_path.glob("workspace/store/cutouts/*/ledger.parquet")
    urls = pq.read_table(ledger)["url"].to_pylist()
    assert all(url.startswith("mast:HST/product/hst_galpipe-field_acs_wfc_f") for url in urls)
