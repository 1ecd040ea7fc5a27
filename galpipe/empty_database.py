"""The empty database that a tracker begins with, made by the tracker once and then copied.

Prefect and MLflow make theirs by running all migrations of their history, which takes seconds.
What is kept of one holds its tables, and of their rows only those that the migrations made.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from galpipe.workspace import cache_folder


@dataclass(frozen=True)
class Empty:
    """The empty SQLite database of a program."""

    program: str  # its package
    made: tuple[str, ...]  # the tables whose rows come from its migrations
    elsewhere: tuple[str, ...] = ()  # environment variables that name another database

    def kept(self) -> Path:
        """Where it is kept for this version of the program, or would be."""
        return cache_folder() / f"{self.program}-{version(self.program)}.db"

    def give(self, place: Path) -> None:
        """Put it where there is no database yet, if a sound one is kept."""
        if (
            place.exists()
            or not self.kept().exists()
            or any(n in os.environ for n in self.elsewhere)
        ):
            return
        if not self._sound(self.kept()):
            with contextlib.suppress(OSError):
                self.kept().unlink()
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f"{place.name}.{os.getpid()}.part")
        shutil.copyfile(self.kept(), partial)
        partial.replace(place)

    def keep(self, place: Path) -> None:
        """Keep what another workspace can begin with, if nothing is kept yet.

        The database is up to date.  A cache that cannot be written is no fault of the run, which
        goes on without.
        """
        if self.kept().exists() or not place.exists():
            return
        with contextlib.suppress(OSError, sqlite3.Error):
            self.kept().parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.kept().parent) as folder:
                copy = Path(folder) / "empty.db"
                self._emptied(place, copy)
                if self._sound(copy):
                    copy.replace(self.kept())

    def _emptied(self, place: Path, copy: Path) -> None:
        """Copy a database without its rows, in one file."""
        with (
            contextlib.closing(sqlite3.connect(place)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
            for name in set(_tables(target)) - set(self.made):
                target.execute(f'DELETE FROM "{name}"')  # noqa: S608 a table of the program's
            target.commit()
            target.execute("PRAGMA journal_mode = DELETE")
            target.execute("VACUUM")

    def _sound(self, place: Path) -> bool:
        """Whether a database is whole and has rows in the tables that have to have some alone."""
        try:
            with contextlib.closing(
                sqlite3.connect(f"file:{place}?immutable=1", uri=True)
            ) as database:
                if database.execute("PRAGMA quick_check").fetchone() != ("ok",):
                    return False
                filled = {
                    name
                    for name in _tables(database)
                    if database.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()  # noqa: S608
                }
        except sqlite3.Error:
            return False
        return filled == set(self.made)


def _tables(database: sqlite3.Connection) -> list[str]:
    found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return [name for (name,) in found if not name.startswith("sqlite_")]
