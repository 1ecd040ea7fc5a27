"""The objects in a circle on the sky, by the catalogue of Hubble that the archive names."""

from __future__ import annotations

import pyarrow as pa

from galpipe.archives.hst import hap_catalogue, hubble_catalogue
from galpipe.archives.spec import Hubble
from galpipe.sample.spec import Sample


def query(spec: Hubble, sample: Sample) -> pa.Table:
    """The rows of `archive.catalogue` in `sample.cone`; raises InputError without an answer."""
    if spec.catalogue == "hubble-source-catalog":
        return hubble_catalogue.query(spec, sample)
    return hap_catalogue.query(spec, sample)
