"""The databases that trackers begin with: made by them, kept without rows, copied."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from flows import servers
from flows.servers import PrefectApi, answers, prefect_home
from galpipe import tracking
from galpipe.empty_database import Empty
from galpipe.tracking import MlflowTracker

EMPTY = Empty("prefect", ("alembic_version",), ("SOME_DATABASE_URL",))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GALPIPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made(path: Path, rows: int = 0) -> Path:
    """A database of two tables, the second with so many rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('a3')")
        database.execute("CREATE TABLE flow (name TEXT)")
        database.executemany("INSERT INTO flow VALUES (?)", [(f"secret {n}",) for n in range(rows)])
        database.commit()
    return path


def rows(path: Path) -> dict[str, int]:
    """How many rows the tables have."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
            for (name,) in found
        }


def test_what_is_kept_has_no_row_of_a_workspace(tmp_path: Path) -> None:
    used = made(tmp_path / "used.db", rows=9)
    EMPTY.keep(used)
    assert rows(used)["flow"] == 9
    assert rows(EMPTY.kept()) == {"alembic_version": 1, "flow": 0}
    assert b"secret" not in EMPTY.kept().read_bytes()
    EMPTY.give(tmp_path / "next" / "its.db")
    assert rows(tmp_path / "next" / "its.db") == {"alembic_version": 1, "flow": 0}
    before = used.read_bytes()
    EMPTY.give(used)  # which is there
    assert used.read_bytes() == before
    assert {path.name for path in EMPTY.kept().parent.iterdir()} == {EMPTY.kept().name}


@pytest.mark.parametrize("content", [b"", b"no database" * 999])
def test_what_is_no_sound_database_is_thrown_away(tmp_path: Path, content: bytes) -> None:
    EMPTY.kept().parent.mkdir(parents=True)
    EMPTY.kept().write_bytes(content)
    EMPTY.give(tmp_path / "its.db")
    assert not (tmp_path / "its.db").exists()
    assert not EMPTY.kept().exists()


def test_a_database_with_rows_is_no_empty_one(tmp_path: Path) -> None:
    made(EMPTY.kept(), rows=1)
    EMPTY.give(tmp_path / "its.db")
    assert not (tmp_path / "its.db").exists()


def test_a_database_elsewhere_and_a_cache_that_cannot_be_written(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = made(tmp_path / "own.db")
    cache.write_text("a file where the folder should be")
    EMPTY.keep(own)
    assert cache.is_file()
    cache.unlink()
    EMPTY.keep(own)
    monkeypatch.setenv("SOME_DATABASE_URL", "postgresql+asyncpg://there/db")
    EMPTY.give(tmp_path / "other.db")
    assert not (tmp_path / "other.db").exists()


def test_a_prefect_server_begins_with_what_another_left(tmp_path: Path) -> None:
    """The first workspace's server makes the tables, the second's has them before it starts."""
    for name in ("first", "second"):
        database = prefect_home(tmp_path / name) / servers.DATABASE
        api = PrefectApi(tmp_path / name)
        try:
            assert database.exists() == (name == "second")
            api.wait()
            assert answers(api.url + "/health")
        finally:
            api.stop()
        assert servers.EMPTY.kept().exists()
    assert len(rows(servers.EMPTY.kept())) > 20


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_an_mlflow_store_begins_with_what_another_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both stores hold the runs of their own workspace and no others."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("first", "second"):
        root = tmp_path / name
        root.mkdir()
        with MlflowTracker(root, "survey", "mark").run("training", name, "d1") as run:
            run.params({"a": 1})
        assert tracking.EMPTY.kept().exists()
        tables = rows(root / tracking.DATABASE)
        assert tables["runs"] == 1 and tables["experiments"] == 2
        assert rows(tracking.EMPTY.kept()) == {
            table: int(table in tracking.EMPTY.made) for table in tables
        }
