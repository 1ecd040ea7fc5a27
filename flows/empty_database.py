"""The empty database that a Prefect server begins with, made by Prefect once and then copied.

Prefect makes it by running all migrations of its history, which takes a first start three times as
long as a later one.  What is kept holds tables and no row but the version of the tables.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from importlib.metadata import version
from pathlib import Path

from galpipe.workspace import cache_folder

DATABASE = "prefect.db"  # in Prefect's home
VERSIONS = "alembic_version"
ELSEWHERE = "PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL"


def kept() -> Path:
    """Where the empty database of this version of Prefect is kept, or would be."""
    return cache_folder() / f"prefect-{version('prefect')}.db"


def give(home: Path) -> None:
    """Put the empty database into a home that has none, where a sound one is kept."""
    place = home / DATABASE
    if place.exists() or not kept().exists() or any(name in os.environ for name in ELSEWHERE):
        return
    if not _empty(kept()):
        with contextlib.suppress(OSError):
            kept().unlink()
        return
    home.mkdir(parents=True, exist_ok=True)
    partial = home / f"{DATABASE}.{os.getpid()}.part"
    shutil.copyfile(kept(), partial)
    partial.replace(place)


def keep(home: Path) -> None:
    """Keep a copy of the home's database for other workspaces, if it is empty and none is kept.

    A cache that cannot be written is no fault of the run: it goes on without.
    """
    place = home / DATABASE
    if kept().exists() or not place.exists() or not _empty(place):
        return
    with contextlib.suppress(OSError, sqlite3.Error):
        kept().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept().parent) as folder:
            copy = Path(folder) / DATABASE
            with (
                contextlib.closing(sqlite3.connect(place)) as source,
                contextlib.closing(sqlite3.connect(copy)) as target,
            ):
                source.backup(target)
            if _empty(copy):
                copy.replace(kept())


def _empty(place: Path) -> bool:
    """Whether a database is sound and holds nothing but the version of its tables."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{place}?mode=ro", uri=True)) as database:
            if database.execute("PRAGMA quick_check").fetchone() != ("ok",):
                return False
            names = [
                name
                for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'")
                if not name.startswith("sqlite_")
            ]
            rows = {
                name: database.execute(f'SELECT EXISTS (SELECT 1 FROM "{name}")').fetchone()[0]  # noqa: S608
                for name in names
            }
    except sqlite3.Error:
        return False
    return bool(rows.pop(VERSIONS, 0)) and not any(rows.values())
