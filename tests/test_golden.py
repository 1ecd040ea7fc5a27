"""Golden values: a refactor keeps them; changing one is a reviewed line in a diff.

Digests are of specs and of stored integers, so they are the same on every machine; losses are
compared to four digits.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from galpipe import spec, survey
from galpipe.stamps.parts import ArrayLayout, Part, PartLayout, create
from galpipe.survey import sections
from tests import sky
from tests.running import run_chain
from tests.test_stop import MODEL

HERE = Path(__file__).resolve().parent
VALUES = HERE / "golden" / "values.json"
GOLDEN = json.loads(VALUES.read_text()) if VALUES.exists() else {}
SURVEYS = sorted((HERE.parent / "deploy" / "surveys").glob("*.toml"))


@pytest.mark.parametrize("path", SURVEYS, ids=lambda path: path.stem)
def test_ready_surveys_keep_their_digests(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new default in Python, or an edit of a survey file, shows here."""
    monkeypatch.setenv("GALPIPE_DATA", "anywhere")
    found = {name: spec.digest(value) for name, value in sections(survey.load(path)).items()}
    assert found == GOLDEN["surveys"][path.stem]


def tiny_part(path: Path) -> Part:
    """Three objects of known integers, in two shards."""
    layout = PartLayout(
        objects=3,
        shard=2,
        chunk=1,
        arrays=(
            ArrayLayout("image", "uint8", (1, 2, 2), ("band", "y", "x")),
            ArrayLayout("status", "int32"),
        ),
    )
    create(path, layout, np.array([3, 5, 2**62]), {"bands": ["r"]})
    part = Part(path)
    images = np.arange(12, dtype=np.uint8).reshape(3, 1, 2, 2) + 1
    for shard in part.missing():
        rows = part.rows(shard)
        part.write(shard, {"image": images[rows], "status": np.ones(3, np.int32)[rows]}, {})
    return part


def test_a_store_of_format_1_still_opens(tmp_path: Path) -> None:
    shutil.copytree(HERE / "golden" / "part-1", tmp_path / "part")
    part = Part(tmp_path / "part")
    assert part.object_ids.tolist() == [3, 5, 2**62]
    assert part.read("image").ravel().tolist() == list(range(1, 13))
    assert part.missing() == []
    assert part.content() == GOLDEN["part"] == tiny_part(tmp_path / "new").content()


def test_training_keeps_its_losses(tmp_path: Path) -> None:
    folder = sky.draw(tmp_path / "sky", objects=100)
    root = tmp_path / "w"
    run_chain(sky.survey_file(tmp_path / "sky.toml", folder, MODEL), root, until="train")
    (history,) = root.glob("store/model/*/history.json")
    losses = [epoch["validation_elbo"] for epoch in json.loads(history.read_text())]
    assert losses == pytest.approx(GOLDEN["losses"], rel=1e-4)


def measured() -> dict[str, object]:
    """Today's values, as `python -m tests.test_golden` writes them for review."""
    import os
    import tempfile

    os.environ["GALPIPE_DATA"] = "anywhere"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = sky.survey_file(folder / "sky.toml", sky.draw(folder / "sky", objects=100), MODEL)
        run_chain(path, folder / "w", until="train")
        (history,) = (folder / "w").glob("store/model/*/history.json")
        losses = [epoch["validation_elbo"] for epoch in json.loads(history.read_text())]
        part = tiny_part(folder / "part").content()
    surveys = {
        path.stem: {n: spec.digest(value) for n, value in sections(survey.load(path)).items()}
        for path in SURVEYS
    }
    return {"surveys": surveys, "part": part, "losses": losses}


if __name__ == "__main__":
    VALUES.write_text(json.dumps(measured(), indent=1) + "\n")
