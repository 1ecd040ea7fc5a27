"""The database that a Prefect server begins with: made by Prefect, kept empty, copied."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from flows import empty_database
from flows.servers import PrefectApi, answers, prefect_home


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GALPIPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made(path: Path, rows: int = 0) -> Path:
    """A database of two tables, the second with so many rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('a3')")
        database.execute("CREATE TABLE flow (name TEXT)")
        database.executemany("INSERT INTO flow VALUES (?)", [(str(n),) for n in range(rows)])
        database.commit()
    return path


def tables(path: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return {name for (name,) in found}


def test_only_an_empty_database_is_kept(tmp_path: Path) -> None:
    used = made(tmp_path / "used" / "prefect.db", rows=1).parent
    empty_database.keep(used)
    assert not empty_database.kept().exists()
    empty_database.keep(made(tmp_path / "fresh" / "prefect.db").parent)
    assert tables(empty_database.kept()) == {"alembic_version", "flow"}
    empty_database.give(tmp_path / "next")
    assert tables(tmp_path / "next" / "prefect.db") == {"alembic_version", "flow"}
    before = (used / "prefect.db").read_bytes()
    empty_database.give(used)  # which has one
    assert (used / "prefect.db").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"no database" * 999])
def test_what_is_no_sound_database_is_thrown_away(tmp_path: Path, content: bytes) -> None:
    empty_database.kept().parent.mkdir(parents=True)
    empty_database.kept().write_bytes(content)
    empty_database.give(tmp_path / "home")
    assert not (tmp_path / "home" / "prefect.db").exists()
    assert not empty_database.kept().exists()


def test_a_database_elsewhere_and_a_cache_that_cannot_be_written(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = made(tmp_path / "home" / "prefect.db").parent
    cache.write_text("a file where the folder should be")
    empty_database.keep(home)
    assert cache.is_file()
    cache.unlink()
    empty_database.keep(home)
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "postgresql+asyncpg://there/db")
    empty_database.give(tmp_path / "other")
    assert not (tmp_path / "other" / "prefect.db").exists()


def test_a_server_begins_with_what_another_left(tmp_path: Path) -> None:
    """The first workspace's server makes the tables, the second's has them before it starts."""
    for name in ("first", "second"):
        home = prefect_home(tmp_path / name)
        api = PrefectApi(tmp_path / name)
        try:
            assert (home / "prefect.db").exists() == (name == "second")
            api.wait()
            assert answers(api.url + "/health")
        finally:
            api.stop()
        assert empty_database.kept().exists()
    assert len(tables(empty_database.kept())) > 20
