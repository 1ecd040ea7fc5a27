"""The table of a survey's objects, wherever it is: a file, the images' own folder, a query."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from galpipe.archives.spec import Folder, Sdss, Sky
from galpipe.sample.spec import Sample
from galpipe.sample.table import read_table
from galpipe.stages import Context


def read_objects(context: Context, archive: Folder | Sdss | Sky, sample: Sample) -> pa.Table:
    """The table of the objects, with the identifier exact; raises InputError where there is none.

    A sky that galpipe serves itself is served while its query lasts.
    """
    if sample.table is not None:
        return read_table(Path(sample.table), id=sample.id)
    if isinstance(archive, Folder):
        from galpipe.archives.folder import open_folder

        return open_folder(archive).table(sample.id)
    from galpipe.archives.sky import answering
    from galpipe.archives.skyserver import query

    with answering(context, archive) as answered:
        return query(answered, sample)
