"""What MAST lists about places on the sky: observations of Hubble, and the files of each.

HAP names its files hst_{proposal}_{visit}_{instrument}_{detector}_{filter}_{ipppss}_drc.fits, and
those of many visits hst_skycell-{cell}_{instrument}_{detector}_{filter}_all_drc.fits.  Files are
told by these names, as the archive's own labels of the projects have changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy_healpix import HEALPix

from galpipe.archives.download import Downloader
from galpipe.archives.hst.portal import ask
from galpipe.archives.spec import Hubble
from galpipe.errors import InputError

OBSERVATIONS, PRODUCTS = "Mast.Caom.Filtered.Position", "Mast.Caom.Products"
COLUMNS = "obsid,obs_id,obs_collection,instrument_name,filters,proposal_id,t_exptime"
NSIDE = 128  # of the cells of half a degree that are asked for at once
MOST_CELLS = 400
BATCH = 50  # observations whose files are asked for at once
CAMERAS = {"acs_wfc": "ACS/WFC", "wfc3_uvis": "WFC3/UVIS", "wfc3_ir": "WFC3/IR"}
SLACK = 0.005  # degrees around the objects: what is cut out of them, and more


@dataclass(frozen=True)
class Listed:
    """A file of an observation; `exposure` in seconds, of all the observation."""

    name: str
    uri: str  # mast:HST/product/...
    exposure: float

    @property
    def words(self) -> list[str]:
        """The parts of its name, in lower case, without its ending."""
        return self.name.lower().partition(".")[0].split("_")


def circles(places: Iterable[tuple[float, float]]) -> list[tuple[float, float, float]]:
    """Few circles (ra, dec, radius, degrees) that hold all places; raises InputError."""
    where = np.array([place for place in places if all(map(math.isfinite, place))])
    if not len(where):
        return []
    cells = HEALPix(NSIDE, order="nested").lonlat_to_healpix(*_radians(where))
    found = []
    for cell in np.unique(cells):
        members = _vectors(where[cells == cell])
        middle = members.mean(axis=0)
        middle /= np.linalg.norm(middle)
        apart = 2 * np.arcsin(np.linalg.norm(members - middle, axis=1).max() / 2)
        ra, dec = np.degrees([math.atan2(middle[1], middle[0]), math.asin(middle[2])])
        radius = math.degrees(apart) + SLACK
        found.append((round(float(ra) % 360, 6), round(float(dec), 6), round(radius, 6)))
    if len(found) > MOST_CELLS:
        raise InputError(
            f"archive.pixels: the objects lie in {len(found)} places half a degree wide, and at "
            f"most {MOST_CELLS} are asked for; divide the sample, or take pixels of kind hapcut."
        )
    return found


def _radians(where: Any) -> tuple[Any, Any]:
    from astropy import units

    return where[:, 0] * units.deg, where[:, 1] * units.deg


def _vectors(where: Any) -> Any:
    ra, dec = np.radians(where[:, 0]), np.radians(where[:, 1])
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)


def files_about(
    spec: Hubble, downloader: Downloader, around: Sequence[tuple[float, float, float]],
    bands: Sequence[str], camera: str, proposals: Sequence[int], key: str,
) -> list[Listed]:  # fmt: skip
    """The files that HAP made of observations in some circles, each once, by name.

    Raises InputError, naming `key`, where the portal gives no usable answer.
    """
    filters: list[dict[str, Any]] = [
        {"paramName": "obs_collection", "values": ["HST"]},
        {"paramName": "dataproduct_type", "values": ["image"]},
        {"paramName": "instrument_name", "values": [CAMERAS[camera]]},
        {"paramName": "filters", "values": list(bands)},
    ]
    if proposals:
        filters.append({"paramName": "proposal_id", "values": [str(n) for n in proposals]})
    seconds: dict[str, float] = {}
    for ra, dec, radius in around:
        params = {"columns": COLUMNS, "filters": filters, "position": f"{ra}, {dec}, {radius}"}
        for row in ask(spec, downloader, OBSERVATIONS, params, key)["data"]:
            if str(row.get("obs_id", "")).lower().startswith("hst_"):
                value = row.get("t_exptime")
                seconds[str(row["obsid"])] = float(value) if isinstance(value, int | float) else 0.0
    ids = sorted(seconds, key=lambda text: (len(text), text))
    found: dict[str, Listed] = {}
    for at in range(0, len(ids), BATCH):
        params = {"obsid": ",".join(ids[at : at + BATCH])}
        for row in ask(spec, downloader, PRODUCTS, params, key)["data"]:
            name, uri = str(row.get("productFilename") or ""), str(row.get("dataURI") or "")
            if uri.startswith("mast:HST/product/") and uri.endswith(f"/{name}"):
                found[name] = Listed(name, uri, seconds.get(str(row.get("obsID")), 0.0))
    return [found[name] for name in sorted(found)]
