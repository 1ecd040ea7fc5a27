"""galpipe: from a galaxy archive to a published catalogue of morphological labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow
    import xarray

__version__ = "0.1.0"


def open_release(workspace: str, survey: str, release: str | None = None) -> xarray.Dataset:
    """The stamps of a published release (default: the newest) as one lazily joined xarray data set.

    >>> stamps = galpipe.open_release("workspace", "gz5")        # doctest: +SKIP
    >>> stamps.image.sel(band="r")[:10].compute()                # doctest: +SKIP
    """
    from galpipe.releases import record
    from galpipe.stamps.joined import open_joined
    from galpipe.workspace import Ref, Workspace

    opened = Workspace.open(workspace, create=False)
    return open_joined(opened, Ref("stamps", record(opened, survey, release)["refs"]["stamps"]))


def open_labels(workspace: str, survey: str, release: str | None = None) -> pyarrow.Table:
    """The labels of a published release (default: the newest) as an Arrow table."""
    import pyarrow.parquet

    from galpipe.releases import LABELS, record
    from galpipe.workspace import Workspace

    opened = Workspace.open(workspace, create=False)
    found = record(opened, survey, release)
    return pyarrow.parquet.read_table(opened.release(survey, found["release"]) / LABELS)
