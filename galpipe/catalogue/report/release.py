"""What the report reads of a release: its objects in the catalogue's order, and its figures."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe.catalogue.heldout import floats
from galpipe.catalogue.labels import FILE
from galpipe.catalogue.spec import Truth
from galpipe.classes import gather
from galpipe.classes.fitted import Clusters, load_clusters, part_vectors
from galpipe.stamps.gather import read_index
from galpipe.status import Status
from galpipe.workspace import Ref, Workspace

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Array = NDArray[Any]

# Magnitudes as tables call them, the best first; r is what SDSS selects galaxies by.
MAGNITUDES = (
    r"(petro|cmodel|model|auto)_?mag_?r", r"mag_?(auto_?)?r", r"r_?mag", r"petromag_mr",
    r"(petro|cmodel|model|auto)_?mag_?i", r"mag_?(auto_?)?i", r"i_?mag",
    r"mag_?auto", r"mag", r"magnitude", r".*(?<![a-z])mag(?![a-z]).*",
)  # fmt: skip
BRIGHTEST, FAINTEST = 0.0, 40.0  # what a magnitude of a galaxy can be; sentinels lie outside


@dataclass(frozen=True)
class About:
    """What the page says of the survey beside what its outputs say."""

    survey: str
    title: str
    release: str
    archive: str  # the kind of archive
    bands: tuple[str, ...]
    start: str | None = None  # the survey whose network this one's began with


@dataclass(frozen=True)
class Inputs:
    """The outputs that a report is made of; None where the survey has no network."""

    catalogue: Ref
    cutouts: Ref
    stamps: Ref
    model: Ref | None
    embeddings: Ref | None
    clusters: Ref
    assignments: Ref
    evaluation: Ref
    labels: Ref

    def given(self) -> dict[str, Ref]:
        """Those that are there, by name."""
        return {name: ref for name, ref in vars(self).items() if ref is not None}


@dataclass(frozen=True)
class Quantity:
    """A number per object, NaN where undefined, with its name and unit in words."""

    name: str
    unit: str  # "" without one
    values: Floats
    logarithmic: bool = False

    @property
    def axis(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclass(frozen=True)
class Release:
    """Everything of a release that the page speaks of; arrays have one entry per input object."""

    ids: list[str]
    ra: Floats
    dec: Floats
    status: Labels
    status_text: list[str]
    reason: list[str | None]  # why there is no image
    split: Array
    cluster: Labels  # -1 unassigned
    probability: Floats
    anomaly: Floats
    classes: Array | None  # true classes, None in cells without one; None without truth
    against: dict[str, Quantity]  # size, magnitude, snr, redshift, as far as they are known
    nuisances: dict[str, Quantity]  # position_angle, snr, size, neighbour flux, likewise
    axis_ratio: Floats
    radius: Floats  # Petrosian radius in cutout pixels
    pixel_scale: Floats  # arcsec per cutout pixel
    names: list[str]  # of the clusters
    readings: list[str]
    clusters: Clusters
    figures: dict[str, Any]  # figures.json of the evaluation
    history: list[dict[str, Any]]  # of the training, epoch by epoch; empty without a network
    network: dict[str, Any] | None  # model.json
    trained: int | None  # objects that the network learnt from

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Objects with a usable stamp."""
        return np.asarray((self.status & int(Status.OK)) != 0, np.bool_)

    @property
    def members(self) -> list[int]:
        """How many objects each cluster has."""
        counts: list[int] = np.bincount(
            self.cluster[self.cluster >= 0], minlength=len(self.names)
        ).tolist()
        return counts


def read_release(workspace: Workspace, inputs: Inputs, truth: Truth) -> Release:
    """Read a release from its committed outputs."""
    labels = pq.read_table(workspace.place(inputs.labels) / FILE)
    catalogue = pq.read_table(workspace.place(inputs.catalogue) / "catalogue.parquet")
    fitted = load_clusters(workspace, inputs.clusters)
    names = fitted.names
    evaluation = workspace.place(inputs.evaluation) / "figures.json"
    history: list[dict[str, Any]] = []
    network = trained = None
    if inputs.model is not None:
        manifest = workspace.manifest(inputs.model)
        trained = None if manifest is None else int(manifest["objects"]["train"])
        place = workspace.place(inputs.model)
        history = json.loads((place / "history.json").read_text())
        network = json.loads((place / "model.json").read_text())
    pixel_scale = column(labels, "pixel_scale")
    angle = column(labels, "position_angle")
    axis_ratio = column(labels, "axis_ratio")
    size = _size(column(labels, "r50"), pixel_scale)
    snr = Quantity("signal to noise per pixel", "", column(labels, "snr"), True)
    return Release(
        ids=[str(value) for value in labels["object_id"].to_pylist()],
        ra=column(labels, "ra"),
        dec=column(labels, "dec"),
        status=labels["status"].to_numpy().astype(np.int64),
        status_text=labels["status_text"].to_pylist(),
        reason=read_index(workspace, inputs.cutouts)["reason"].to_pylist(),
        split=np.array(labels["split"].to_pylist(), dtype="U10"),
        cluster=gather.integers(labels["cluster"], -1),
        probability=column(labels, "probability"),
        anomaly=column(labels, "anomaly_score"),
        classes=_classes(catalogue, truth),
        against=_known(
            {
                "size": size,
                "magnitude": _magnitude(catalogue),
                "snr": snr,
                "redshift": Quantity("redshift", "", column(labels, "redshift")),
            }
        ),
        nuisances=_known(
            {
                # A round galaxy has no angle.
                "position_angle": Quantity(
                    "position angle", "deg", np.where(axis_ratio < 0.75, angle, np.nan)
                ),
                "snr": snr,
                "size": size,
                "neighbours": Quantity(
                    "neighbours' flux over its own", "", column(labels, "neighbour_flux_ratio")
                ),
            }
        ),
        axis_ratio=axis_ratio,
        radius=column(labels, "petrosian_radius"),
        pixel_scale=pixel_scale,
        names=names,
        readings=[str(fitted.facts["scheme"][name]["reading"]) for name in names],
        clusters=fitted,
        figures=json.loads(evaluation.read_text()),
        history=history,
        network=network,
        trained=trained,
    )


def clustered_vectors(
    workspace: Workspace, release: Release, inputs: Inputs, rows: Labels
) -> Floats | None:
    """The vectors that were clustered, of some catalogue rows; None where nothing was."""
    fitted = release.clusters
    if fitted.vectors is None:
        return None
    where = gather.read_index(workspace, inputs.stamps)
    embedded = (
        {} if inputs.embeddings is None else gather.embedding_parts(workspace, inputs.embeddings)
    )
    found = np.full((len(rows), len(fitted.vectors.names)), np.nan)
    for i, digest in enumerate(where.parts):
        mine = np.flatnonzero(where.part[rows] == i)
        z, _, _ = part_vectors(workspace, fitted.vectors, digest, embedded.get(digest))
        found[mine] = z[where.row[rows[mine]]]
    return found


def column(table: pa.Table, name: str) -> Floats:
    """A numeric column as float64, NaN where null; all NaN where the table has none."""
    return floats(table[name]) if name in table.column_names else np.full(len(table), np.nan)


def _known(quantities: dict[str, Quantity | None]) -> dict[str, Quantity]:
    """Those with two or more defined values."""
    return {
        key: found
        for key, found in quantities.items()
        if found is not None and len(np.unique(found.values[np.isfinite(found.values)])) > 1
    }


def _size(radius: Floats, pixel_scale: Floats) -> Quantity:
    """The half-light radius, in arcsec where the archive knows its pixels."""
    if np.isfinite(pixel_scale).any():
        return Quantity("half-light radius", "arcsec", radius * pixel_scale, True)
    return Quantity("half-light radius", "cutout pixels", radius, True)


def _magnitude(catalogue: pa.Table) -> Quantity | None:
    """The magnitude column of the input table that says most of what was selected by."""
    numeric = {
        name.removeprefix("input_"): name
        for name, kind in zip(catalogue.column_names, catalogue.schema.types, strict=True)
        if name.startswith("input_") and (pa.types.is_floating(kind) or pa.types.is_integer(kind))
    }
    for pattern in MAGNITUDES:
        for name, full in numeric.items():
            if not re.fullmatch(pattern, name.lower()) or "err" in name.lower():
                continue
            values = floats(catalogue[full])
            values = np.where((values > BRIGHTEST) & (values < FAINTEST), values, np.nan)
            if np.isfinite(values).sum() > len(values) / 2:
                return Quantity(name, "mag", values)
    return None


def _classes(catalogue: pa.Table, truth: Truth) -> Array | None:
    name = f"input_{truth.classes}"
    if truth.classes is None or name not in catalogue.column_names:
        return None
    values = catalogue[name].to_pylist()
    names = [None if v is None or v != v or str(v).strip() == "" else str(v) for v in values]
    return np.array(names, dtype=object)
