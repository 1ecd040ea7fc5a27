"""The table of a survey's objects, wherever it is: a file, the images' own folder, a query."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from galpipe.archives.spec import Archive, Folder, Hst, HstSky, Vo
from galpipe.errors import InputError
from galpipe.sample.spec import Sample
from galpipe.sample.table import read_table
from galpipe.stages import Context


def read_objects(context: Context, archive: Archive, sample: Sample) -> pa.Table:
    """The table of the objects, with the identifier exact; raises InputError where there is none.

    A sky that galpipe serves itself is served while its query lasts.
    """
    table = _objects(context, archive, sample)
    return table if sample.join is None else joined(table, sample)


def _objects(context: Context, archive: Archive, sample: Sample) -> pa.Table:
    if sample.table is not None:
        return read_table(Path(sample.table), id=sample.id)
    if isinstance(archive, Folder):
        from galpipe.archives.folder import open_folder

        return open_folder(archive).table(sample.id)
    if isinstance(archive, Vo):
        from galpipe.archives.vo import standing, tap

        with standing.answering(context, archive) as named:
            return tap.query(named, sample)
    if isinstance(archive, Hst | HstSky):
        from galpipe.archives.hst import cone, serving

        with serving.answering(context, archive) as hubble:
            return cone.query(hubble, sample)
    from galpipe.archives.sky import answering
    from galpipe.archives.skyserver import query

    with answering(context, archive) as answered:
        return query(answered, sample)


def joined(table: pa.Table, sample: Sample) -> pa.Table:
    """A table with the columns of `sample.join` for the same identifiers; null where it has none.

    Raises InputError where the identifier is not in it, stands in it twice, or a column is in both.
    """
    assert sample.join is not None
    other = read_table(Path(sample.join), id=sample.id)
    mine, theirs = (_named(one, sample.id) for one in (table, other))
    if theirs is None:
        raise InputError(
            f"sample.join: the table has no column {sample.id!r}; rename its column of ids."
        )
    if mine is None:
        return table  # the catalogue says what is missing
    both = {name.lower() for name in table.column_names}
    clash = [name for name in other.column_names if name.lower() in both and name != theirs]
    if clash:
        raise InputError(
            f"sample.join: the column {clash[0]!r} is in the table of objects too; rename one."
        )
    keys = pc.cast(other[theirs], pa.string()).combine_chunks()
    if pc.count_distinct(keys, mode="all").as_py() < len(keys):
        raise InputError(f"sample.join: {theirs!r} stands in it twice for some object; mend it.")
    rows = pc.index_in(pc.cast(table[mine], pa.string()), value_set=keys)
    found = other.take(rows)
    for name in other.column_names:
        if name != theirs:
            table = table.append_column(name, found[name])
    return table


def _named(table: pa.Table, name: str) -> str | None:
    """A column by its name, whatever its case."""
    alike = [one for one in table.column_names if one.lower() == name.lower()]
    return name if name in alike else alike[0] if len(alike) == 1 else None
