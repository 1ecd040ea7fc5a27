"""Shared fixtures: small skies with planted truth, and the folder of real galaxies where it is."""

from __future__ import annotations

import os
from pathlib import Path

# Several test processes share the cores: threads of each that wait for work in a loop would take
# half of them.  What they start has no such limit (`tests.running.environment`).
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from hypothesis import settings

from tests import sky

# An example that takes long on a busy machine is no failure; what takes long is measured elsewhere.
settings.register_profile("galpipe", deadline=None)
settings.load_profile("galpipe")

# The files that take longest, which several processes at once had better begin with; those that
# wait for servers and those that compute in turns.
LONGEST = (
    "test_deploy", "test_generate", "test_processes", "test_chain", "test_stop", "test_steady",
    "test_docs", "test_sky_drawing", "test_cli", "test_faults", "test_vo", "test_ranks",
    "test_retry", "test_sdss_fields", "test_sdss", "test_stress",
)  # fmt: skip


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


def data_folder() -> Path | None:
    """The folder of real galaxies: GALPIPE_DATA, or ../shared/data beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("GALPIPE_DATA") or default)
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = data_folder()
    if folder is None:
        pytest.skip("the folder of real galaxies is not here; set GALPIPE_DATA")
    return folder


@pytest.fixture(scope="session")
def sky_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 planted galaxies as PNG images with their table: read-only, shared by the session."""
    return sky.draw(tmp_path_factory.mktemp("sky"), objects=240)
