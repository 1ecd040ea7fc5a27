"""What the simulated archive holds of its field: drizzled images and their catalogues, by name.

Every drizzled image in the field's folder is an observation of its own, as a visit is, and has a
catalogue of points and one of segments, as HAP makes them (Enhanced Character Separated Values).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astropy.io import fits
from astropy.table import Table

from galpipe.sky.mast_camera import pixel_of

OBSERVATION = 90_000_000  # obsid of the first
CATALOGUES = ("point", "segment")
EMPTY = ("ID", "RA", "DEC")  # the columns of a catalogue without objects


@dataclass(frozen=True)
class Visit:
    """One drizzled image: its file, its number as an observation, and what its headers say."""

    path: Path
    number: int
    filter: str
    exposure: float
    proposal: int

    @property
    def root(self) -> str:
        """The name that its products share."""
        return self.path.name[: -len("_drz.fits")]

    @property
    def catalogues(self) -> tuple[str, ...]:
        """The names of its catalogues."""
        return tuple(f"{self.root}_{kind}-cat.ecsv" for kind in CATALOGUES)


def visits(folder: Path) -> list[Visit]:
    """The drizzled images of a folder, by name."""
    found = []
    for number, path in enumerate(sorted(folder.glob("hst_*_drz.fits"))):
        header = fits.getheader(path)
        seconds, proposal = float(header["EXPTIME"]), int(header["PROPOSID"])
        found.append(Visit(path, OBSERVATION + number, str(header["FILTER"]), seconds, proposal))
    return found


def observation(visit: Visit) -> dict[str, Any]:
    """The row of an image in the table of observations."""
    header = fits.getheader(visit.path, "SCI")
    return {
        "dataproduct_type": "image", "obs_collection": "HST", "project": "HAP-SVM",
        "instrument_name": "ACS/WFC", "filters": visit.filter, "wavelength_region": "OPTICAL",
        "target_name": "GALPIPE-FIELD", "obs_id": visit.root, "s_ra": float(header["CRVAL1"]),
        "s_dec": float(header["CRVAL2"]), "proposal_id": str(visit.proposal), "calib_level": 3,
        "t_exptime": visit.exposure, "obsid": str(visit.number), "_selected_": None,
    }  # fmt: skip


def products(visit: Visit) -> list[dict[str, Any]]:
    """The rows of an image's files in the table of products."""
    rows = []
    for name in (visit.path.name, *visit.catalogues):
        image = name.endswith(".fits")
        size = visit.path.stat().st_size if image else len(catalogue(visit, name))
        rows.append(
            {
                "obsID": str(visit.number), "obs_collection": "HST", "dataproduct_type": "image",
                "obs_id": visit.root, "type": "D", "productType": "SCIENCE",
                "description": "HAP drizzled image" if image else "HAP catalogue",
                "dataURI": f"mast:HST/product/{name}", "productFilename": name,
                "productSubGroupDescription": "DRZ" if image else name.rpartition("_")[2][:-5],
                "project": "HAP-SVM", "size": size, "_selected_": None,
            }
        )  # fmt: skip
    return rows


def catalogue(visit: Visit, name: str) -> bytes:
    """The catalogue of an image by its name, with the truth of the field beside its columns."""
    header = fits.getheader(visit.path, "SCI")
    everything = json.loads((visit.path.parent / "objects.json").read_text())
    rows: list[dict[str, Any]] = []
    for one in everything:
        offset = pixel_of(1, one["MatchRA"], one["MatchDec"])  # from the reference pixel
        if offset is None:
            continue
        x, y = header["CRPIX1"] - 1 + offset[0], header["CRPIX2"] - 1 + offset[1]
        if -0.5 <= x < header["NAXIS1"] - 0.5 and -0.5 <= y < header["NAXIS2"] - 0.5:
            rows.append(_row(one, x, y, visit.filter, "point" in name, len(rows) + 1))
    content = io.StringIO()
    table = Table(rows=rows) if rows else Table(names=EMPTY, dtype=("i8", "f8", "f8"))
    table.write(content, format="ascii.ecsv")
    return content.getvalue().encode()


def _row(
    one: Mapping[str, Any], x: float, y: float, filter: str, point: bool, number: int
) -> dict[str, Any]:
    middle = "Center" if point else "Centroid"
    magnitude = float(one[f"A_{filter}"])
    row = {
        f"X-{middle}": x, f"Y-{middle}": y, "RA": one["MatchRA"], "DEC": one["MatchDec"],
        "ID": number, "MagAp1": magnitude + 0.4, "MagErrAp1": 0.02, "MagAp2": magnitude + 0.1,
        "MagErrAp2": 0.01, "CI": one["CI"], "Flags": 0 if one["kind"] == "star" else 1,
        "kind": one["kind"], "zphot": one["zphot"], "r_e": one["r_e"],
    }  # fmt: skip
    return row if point else {**row, "MagSegment": magnitude}


def fits_query(row: Mapping[str, Any], filters: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a row has the values that a query's filters ask for."""
    for one in filters:
        name = str(one["paramName"]).lower()
        value = next((str(value) for key, value in row.items() if key.lower() == name), None)
        wanted = [v for v in one["values"] if not isinstance(v, dict)]
        if wanted and value is not None and value not in map(str, wanted):
            return False
    return True
