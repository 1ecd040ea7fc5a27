"""The tables behind the frames: photometry, spectra, votes and the truth, by their SDSS names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from galpipe.sky.instrument import (
    BANDS,
    CALIBRATION,
    DARK_VARIANCE,
    EXTINCTION,
    GAIN,
    PIXEL,
    RERUN,
    Field,
    object_id,
)
from galpipe.sky.population import Member
from galpipe.sky.scene import Seen
from galpipe.sky.votes import VOTES, votes

Row = dict[str, Any]

PHOTO = {
    "objID": pa.int64(),
    "skyVersion": pa.int16(),
    "run": pa.int32(),
    "rerun": pa.int32(),
    "camcol": pa.int32(),
    "field": pa.int32(),
    "obj": pa.int32(),
    "mode": pa.int16(),
    "type": pa.int32(),
    "clean": pa.int32(),
    "flags": pa.int64(),
    "insideMask": pa.int16(),
    "ra": pa.float64(),
    "dec": pa.float64(),
    **{f"{axis}_{band}": pa.float64() for axis in ("rowc", "colc") for band in BANDS},
    "petroRad_r": pa.float64(),
    "petroR50_r": pa.float64(),
    "petroR90_r": pa.float64(),
    **{
        f"{name}_{band}": pa.float64()
        for name in ("petroMag", "petroMagErr", "modelMag", "modelMagErr", "psfMag", "extinction")
        for band in BANDS
    },
    "expAB_r": pa.float64(),
    "deVAB_r": pa.float64(),
    "expRad_r": pa.float64(),
    "deVRad_r": pa.float64(),
    "fracDeV_r": pa.float64(),
    "specObjID": pa.int64(),
}
SPECTRA = {
    "specObjID": pa.int64(),
    "bestObjID": pa.int64(),
    "plate": pa.int32(),
    "mjd": pa.int32(),
    "fiberID": pa.int32(),
    "ra": pa.float64(),
    "dec": pa.float64(),
    "class": pa.string(),
    "z": pa.float64(),
    "zErr": pa.float64(),
    "zWarning": pa.int32(),
}
ZOO = {
    "specobjid": pa.int64(),
    "dr8objid": pa.int64(),
    "dr7objid": pa.int64(),
    "ra": pa.float64(),
    "dec": pa.float64(),
    "gz2class": pa.string(),
    "total_classifications": pa.int32(),
    "total_votes": pa.int32(),
    **VOTES,
}
TRUTH = {
    "objID": pa.int64(),
    "kind": pa.string(),
    "ra": pa.float64(),
    "dec": pa.float64(),
    "x": pa.float64(),
    "y": pa.float64(),
    "mag_g": pa.float64(),
    "mag_r": pa.float64(),
    "mag_i": pa.float64(),
    "r_e": pa.float64(),
    "axis_ratio": pa.float64(),
    "inclination": pa.float64(),
    "position_angle": pa.float64(),
    "companion": pa.int32(),
    "snr": pa.float64(),
    "z": pa.float64(),
}
TABLES = {"PhotoObjAll": PHOTO, "SpecObjAll": SPECTRA, "zoo2MainSpecz": ZOO, "SkyTruth": TRUTH}

CATALOGUE = 3  # an object's stream of random numbers for its measurements
SYSTEMATIC = 0.01  # mag, scatter of the calibration
GALAXY, STAR = 3, 6  # PhotoObjAll.type
SATURATED = 0x40000  # PhotoObjAll.flags


def rows_of(member: Member, seen: Seen, field: Field) -> dict[str, Row]:
    """The rows of one object in every table; positions without error, magnitudes with."""
    rng = np.random.default_rng((*member.seed, CATALOGUE))
    identifier = object_id(field.run, field.camcol, field.field, member.number)
    snr = signal_to_noise(member, seen, field)
    plate, fibre = 7000 - field.index % 6000, member.number
    mjd = int(field.mjd) + 20
    spectrum = (plate << 50) | (fibre << 38) | ((mjd - 50000) << 24) | (103 << 10)
    place = {"ra": member.ra, "dec": member.dec}
    spectrum_row = place | {
        "specObjID": spectrum,
        "bestObjID": identifier,
        "plate": plate,
        "mjd": mjd,
        "fiberID": fibre,
        "class": "STAR" if member.kind == "star" else "GALAXY",
        "z": member.redshift + float(rng.normal(0, 2e-5)),
        "zErr": 2e-5,
        "zWarning": 4 if member.kind == "artefact" else 0,
    }
    zoo_row = place | {
        "specobjid": spectrum,
        "dr8objid": identifier,
        "dr7objid": identifier - (RERUN - 40 << 48) - (1 << 59),
        **votes(member, snr, rng),
    }
    truth = place | {
        "objID": identifier,
        "kind": member.kind,
        "x": member.x,
        "y": member.y,
        **{f"mag_{band}": m for band, m in zip(BANDS, member.magnitudes, strict=True)},
        "r_e": member.r_e,
        "axis_ratio": member.axis_ratio,
        "inclination": None if math.isnan(member.inclination) else member.inclination,
        "position_angle": member.position_angle,
        "companion": int(member.companion),
        "snr": snr,
        "z": member.redshift,
    }
    photo = _photometry(member, seen, field, identifier, spectrum, snr, rng)
    return {
        "PhotoObjAll": photo,
        "SpecObjAll": spectrum_row,
        "zoo2MainSpecz": zoo_row,
        "SkyTruth": truth,
    }


def signal_to_noise(member: Member, seen: Seen, field: Field) -> float:
    """Of the light within the half-light radius in r, against sky and its own photons."""
    calibration, gain = field.calibration["r"], GAIN["r"][field.camcol - 1]
    counts = 0.5 * max(seen.petrosian_flux, 1e-6) / calibration
    pixels = math.pi * max(seen.r50 / PIXEL, 1.0) ** 2
    dark = DARK_VARIANCE["r"][field.camcol - 1]
    return counts / math.sqrt(counts / gain + pixels * (field.sky["r"] / gain + dark))


def _photometry(
    member: Member,
    seen: Seen,
    field: Field,
    identifier: int,
    spectrum: int,
    snr: float,
    rng: np.random.Generator,
) -> Row:
    row: Row = {
        "objID": identifier,
        "skyVersion": 2,
        "run": field.run,
        "rerun": RERUN,
        "camcol": field.camcol,
        "field": field.field,
        "obj": member.number,
        "mode": 1,
        "type": STAR if member.kind == "star" else GALAXY,
        "clean": int(member.kind != "artefact"),
        "flags": SATURATED if member.kind == "artefact" else 0,
        "insideMask": 0,
        "ra": member.ra,
        "dec": member.dec,
        "specObjID": spectrum,
    }
    for band in BANDS:
        x, y = field.wcs[band].pixels(member.ra, member.dec)
        row |= {f"rowc_{band}": float(y) + 0.5, f"colc_{band}": float(x) + 0.5}
        row[f"extinction_{band}"] = EXTINCTION[band] * field.reddening
    error = math.hypot(1.0857 / snr, SYSTEMATIC)
    lost = -2.5 * math.log10(max(seen.petrosian_flux, 1e-3)) + 22.5 - member.magnitude
    pointlike = -2.5 * math.log10(max(seen.psf_flux, 1e-3)) + 22.5 - member.magnitude
    for band, magnitude in zip(BANDS, member.magnitudes, strict=True):
        own = error * (CALIBRATION[band] / CALIBRATION["r"]) ** 0.5
        row[f"petroMag_{band}"] = magnitude + lost + float(rng.normal(0, own))
        row[f"modelMag_{band}"] = magnitude + float(rng.normal(0, 0.6 * own))
        row[f"psfMag_{band}"] = magnitude + pointlike + float(rng.normal(0, own))
        row |= {f"petroMagErr_{band}": own, f"modelMagErr_{band}": 0.6 * own}
    scatter = min(2.0 / snr, 0.3)
    row["petroR50_r"] = seen.r50 * math.exp(rng.normal(0, scatter))
    row["petroR90_r"] = max(seen.r90 * math.exp(rng.normal(0, 1.5 * scatter)), row["petroR50_r"])
    row["petroRad_r"] = 0.75 * seen.r90 * math.exp(rng.normal(0, 2 * scatter))
    for name, offset in (("expAB_r", 0.0), ("deVAB_r", -0.02)):
        row[name] = float(np.clip(seen.axis_ratio + offset + rng.normal(0, 0.02), 0.05, 1.0))
    row["expRad_r"] = max(member.r_e, 0.1) * math.exp(rng.normal(0, 0.05))
    row["deVRad_r"] = 1.4 * row["expRad_r"]
    steep = {"elliptical": 0.95, "edge_on": 0.25, "barred": 0.3, "spiral": 0.2}
    typical = steep.get(member.kind, 0.3)
    row["fracDeV_r"] = float(np.clip(typical + rng.normal(0, 0.12), 0, 1))
    return row


def write(folder: Path, rows: list[dict[str, Row]]) -> None:
    """Write every table as Parquet, rows in the order of their fields; ids are exact int64."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in TABLES.items():
        schema = pa.schema(list(columns.items()))
        table = pa.Table.from_pylist([row[name] for row in rows], schema=schema)
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
