"""Samples from the catalogues of HAP, which go on where the Hubble Source Catalog ended in 2017.

Each visit has, per filter, a catalogue of point sources and one of segments (ECSV).  Those of the
reference filter about a cone become one table: the deepest first, and of objects that several
visits saw the one in the deepest.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.spatial import KDTree

from galpipe.archives.download import Downloader
from galpipe.archives.hst.ecsv import read_ecsv
from galpipe.archives.hst.listed import SLACK, Listed, files_about
from galpipe.archives.hst.mosaics import address_of
from galpipe.archives.pace import pace_at
from galpipe.archives.spec import Hapcut, Hubble, Products, Zcut
from galpipe.archives.trouble import BadImageError
from galpipe.errors import InputError
from galpipe.sample.spec import Cone, Sample

Doubles = NDArray[np.float64]

KEY = "sample.cone"
ENDINGS = {"hap-point": "_point-cat.ecsv", "hap-segment": "_segment-cat.ecsv"}
SAME = 0.2  # arcsec between the places of one object in two catalogues
MOST_FILES = 500
ID, RA, DEC = "hap_id", "RA", "DEC"  # the first is made here; the others are HAP's


def query(spec: Hubble, sample: Sample) -> pa.Table:
    """The objects of the HAP catalogues in `sample.cone`, with a column `hap_id` of text.

    hap_id: the catalogue's name without its ending, and the object's ID in it.  Raises InputError
    where MAST gives no usable answer, or there is nothing in the cone.
    """
    cone = sample.cone
    assert cone is not None and spec.catalogue != "hubble-source-catalog"
    around = [(cone.ra, cone.dec, round(cone.radius / 60 + SLACK, 6))]
    camera = spec.pixels.camera if isinstance(spec.pixels, Hapcut | Zcut | Products) else "acs_wfc"
    with Downloader(spec, spec.mast, pace_at(spec.mast, spec.requests_per_minute)) as downloader:
        files = [
            file
            for file in files_about(spec, downloader, around, (spec.reference,), camera, (), KEY)
            if file.name.lower().endswith(ENDINGS[spec.catalogue])
            and spec.reference.lower() in file.words
        ]
        if len(files) > MOST_FILES:
            raise InputError(
                f"{KEY}: {len(files)} catalogues lie there, and at most {MOST_FILES} are read; "
                "take a smaller radius."
            )
        files.sort(key=lambda file: (-file.exposure, file.name))
        tables = [_read(spec, downloader, file) for file in files]
    found = _once(tables, cone) if tables else None
    if found is None or not len(found):
        raise InputError(
            f"{KEY}: the {spec.catalogue} catalogues of {camera} in {spec.reference} have nothing "
            "there; mend ra, dec and radius, or archive.reference."
        )
    return found


def _read(spec: Hubble, downloader: Downloader, file: Listed) -> pa.Table:
    """A catalogue in the order of its rows, with the column of ids; raises InputError."""
    try:
        found = downloader.fetch(address_of(spec, file.uri), read_ecsv)
    except BadImageError as error:
        raise InputError(
            f"{KEY}: the catalogue {file.name} is of no use ({error.reason}); run the survey again "
            "later, or name a table with sample.table."
        ) from None
    kinds = {name: found.schema.field(name).type for name in found.column_names}
    right = kinds.get("ID") == pa.int64() and {kinds.get(RA), kinds.get(DEC)} == {pa.float64()}
    if not right or ID in kinds:
        raise InputError(
            f"{KEY}: the catalogue {file.name} has no columns ID, RA and DEC of numbers; name a "
            "table with sample.table."
        )
    root = file.name[: -len("-cat.ecsv")]
    ids = [f"{root}-{number}" for number in found["ID"].to_pylist()]
    return found.add_column(0, ID, pa.array(ids, pa.string()))


def _once(tables: Sequence[pa.Table], cone: Cone) -> pa.Table:
    """The rows in a cone of some catalogues, each object once, of the first that has it."""
    try:
        whole = functools.reduce(
            lambda one, other: pa.concat_tables([one, other], promote_options="default"), tables
        )
    except pa.ArrowInvalid:
        raise InputError(
            f"{KEY}: the catalogues there have columns of differing types; take a smaller radius, "
            "or name a table with sample.table."
        ) from None
    number = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    ra, dec = (pc.fill_null(whole[name], math.nan).to_numpy() for name in (RA, DEC))
    places, known = _vectors(ra, dec), np.isfinite(ra) & np.isfinite(dec)
    (middle,) = _vectors(np.array([cone.ra]), np.array([cone.dec]))
    reach = 2 * math.sin(math.radians(cone.radius / 60) / 2)
    keep = known & (np.linalg.norm(places - middle, axis=1) <= reach)
    taken: list[int] = []
    for one in range(len(tables)):
        rows = np.flatnonzero(keep & (number == one))
        if taken and len(rows):
            near = 2 * math.sin(math.radians(SAME / 3600) / 2)
            apart, _ = KDTree(places[taken]).query(places[rows], distance_upper_bound=near)
            rows = rows[~np.isfinite(apart)]
        taken += rows.tolist()
    return whole.take(taken)


def _vectors(ra: Doubles, dec: Doubles) -> Doubles:
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)
