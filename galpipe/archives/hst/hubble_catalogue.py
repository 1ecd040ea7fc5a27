"""Samples from the Hubble Source Catalog (v3, images public by October 2017), by a cone."""

from __future__ import annotations

import pyarrow as pa

from galpipe.archives.download import Downloader
from galpipe.archives.hst.portal import MOST_ROWS, ask, table_of
from galpipe.archives.pace import pace_at
from galpipe.archives.spec import Hubble
from galpipe.errors import InputError
from galpipe.sample.spec import Sample

SERVICE = "Mast.Hsc.Db.v3"


def query(spec: Hubble, sample: Sample) -> pa.Table:
    """The rows of the Hubble Source Catalog in `sample.cone`, numbers exact.

    Raises InputError where the catalogue does not answer, or the cone holds more than one answer.
    """
    cone = sample.cone
    assert cone is not None
    with Downloader(spec, spec.mast, pace_at(spec.mast, spec.requests_per_minute)) as downloader:
        asked = {
            "ra": cone.ra, "dec": cone.dec, "radius": cone.radius / 60, "nr": MOST_ROWS,
            "ni": 1, "magtype": 1,
        }  # fmt: skip
        found = ask(spec, downloader, SERVICE, asked, "sample.cone")
    if not found["data"]:
        raise InputError(
            "sample.cone: the Hubble Source Catalog has nothing there; mend ra, dec and radius "
            "(images after October 2017 are not in it: take archive.catalogue = "
            '"hap-segment", or name a table with sample.table).'
        )
    return table_of(found)
