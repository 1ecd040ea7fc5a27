"""The published table: one row per input object, with units, UCDs and a description per column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from galpipe.catalogue.predicted_columns import predicted_columns
from galpipe.catalogue.spec import Publication
from galpipe.classes.fitted import load_clusters
from galpipe.stages import Context
from galpipe.stamps.gather import column_names, gather, read_index
from galpipe.stamps.morphology import columns as measured_columns
from galpipe.status import Status, names
from galpipe.workspace import Ref, address

VERSION = 1
FILE = "labels.parquet"


@dataclass(frozen=True)
class Meaning:
    """What a column of the labels is, in the words of a FITS or VOTable header."""

    description: str
    unit: str = ""
    ucd: str = ""


MEANINGS: dict[str, Meaning] = {
    "object_id": Meaning("Identifier as the input table gives it", ucd="meta.id;meta.main"),
    "ra": Meaning(
        "Right ascension (ICRS); null where the source has none", "deg", "pos.eq.ra;meta.main"
    ),
    "dec": Meaning(
        "Declination (ICRS); null where the source has none", "deg", "pos.eq.dec;meta.main"
    ),
    "survey": Meaning("Survey", ucd="meta.dataset"),
    "release": Meaning("Release that these labels belong to", ucd="meta.version"),
    "status": Meaning(
        "Bits: " + ", ".join(f"{flag.value}={flag.name}" for flag in Status), ucd="meta.code.status"
    ),
    "status_text": Meaning("The bits of `status` in words", ucd="meta.code.status"),
    "label": Meaning("Morphological label; null where unassigned", ucd="src.morph.type"),
    "cluster": Meaning("Cluster number; -1 unassigned", ucd="src.morph.type"),
    "probability": Meaning("Probability of the label", ucd="stat.probability"),
    "probabilities": Meaning(
        "Probability of each cluster, in the order of their numbers", ucd="stat.probability"
    ),
    "entropy": Meaning("Shannon entropy of the probabilities, in nats", ucd="stat.value"),
    "anomaly_score": Meaning(
        "-log p of the object's vector under the fitted density", ucd="stat.likelihood"
    ),
    "model_cluster": Meaning("The network's own component; -1 without one", ucd="src.morph.type"),
    "label_origin": Meaning("What gave the label: cluster, classifier or human", ucd="meta.note"),
    "label_scheme": Meaning(
        "Digest of the dictionary of labels (label_scheme.json)", ucd="meta.ref"
    ),
    "model": Meaning("Digest of the model; null without one", ucd="meta.ref"),
    "stamps": Meaning("Digest of the preparation and its scaling", ucd="meta.ref"),
    "source": Meaning("Digest (sha256) of the image's bytes", ucd="meta.ref"),
    "split": Meaning("train, validation or test", ucd="meta.code"),
    "bands": Meaning("Bands of the stamp, in order", ucd="instr.bandpass"),
    "pixel_scale": Meaning("Pixel scale of the cutout", "arcsec/pixel", "instr.pixel"),
    "coverage": Meaning("Fraction of the stamp with pixels", ucd="stat.fill"),
    "psf_fwhm": Meaning("FWHM of the point-spread function", "pixel", "instr.det.psf"),
    "resolution": Meaning(
        "Half-light radius over the FWHM of the point-spread function", ucd="arith.ratio"
    ),
    "redshift": Meaning("Redshift as the input table gives it", ucd="src.redshift"),
    "redshift_source": Meaning(
        "Column of the input table that the redshift is from", ucd="meta.note"
    ),
}


def publish(
    context: Context,
    spec: Publication,
    survey: str,
    release: str,
    bands: tuple[str, ...],
    redshift_source: str | None,
    *,
    catalogue: Ref,
    cutouts: Ref,
    preparation: str,
    stamps: Ref,
    model: Ref | None,
    clusters: Ref,
    assignments: Ref,
    embeddings: Ref | None = None,
) -> Ref:
    """Join everything known of each object into the labels of a release; returns their Ref.

    `preparation` is the digest of the preparation and its scaling.
    """
    parents: dict[str, Any] = {
        "catalogue": catalogue, "cutouts": cutouts, "stamps": stamps,
        "model": model.digest if model else None, "clusters": clusters, "assignments": assignments,
    }  # fmt: skip
    predicted = predicted_columns(context.workspace, model, embeddings)
    if predicted:
        parents["embeddings"] = embeddings
    settings = {"publish": spec, "survey": survey, "release": release}
    ref = address("labels", VERSION, settings, parents)
    if context.workspace.manifest(ref) is not None:
        return ref
    place = context.workspace.begin(ref)
    sources = {
        "sample": pq.read_table(context.workspace.place(catalogue) / "catalogue.parquet"),
        "cutouts": read_index(context.workspace, cutouts),
        "stamps": read_index(context.workspace, stamps),
        "assignments": pq.read_table(context.workspace.place(assignments) / "assignments.parquet"),
    }
    ids = sources["sample"]["object_id"]
    for name, table in sources.items():
        if not table["object_id"].combine_chunks().equals(ids.combine_chunks()):
            raise AssertionError(f"{name} has other objects, or another order, than the catalogue")
    count = len(ids)
    catalogue_row, assigned = sources["sample"], sources["assignments"]
    status = (
        sources["stamps"]["status"].to_numpy()
        | (catalogue_row["status"].to_numpy() & ~np.int32(Status.OK))
    ).astype(np.int32)

    def constant(value: str | None) -> pa.Array:
        return pa.array([value] * count, pa.string())

    small = gather(context.workspace, cutouts, ["pixel_scale", "coverage", "psf_fwhm"])
    measured = gather(context.workspace, stamps, ["measured"]).get("measured")
    measured_names = column_names(context.workspace, stamps)
    radius = _column(measured, measured_names, "r50", count)
    psf_fwhm = small.get("psf_fwhm", np.full(count, np.nan, np.float32))
    columns: dict[str, Any] = {
        "object_id": ids,
        "ra": catalogue_row["ra"],
        "dec": catalogue_row["dec"],
        "survey": constant(survey),
        "release": constant(release),
        "status": pa.array(status, pa.int32()),
        "status_text": pa.array([names(int(bits)) for bits in status], pa.string()),
        **{
            name: assigned[name]
            for name in (
                "label", "cluster", "probability", "probabilities", "entropy", "anomaly_score",
                "model_cluster",
            )
        },
        "label_origin": constant(load_clusters(context.workspace, clusters).origin),
        "label_scheme": constant(clusters.digest),
        "model": constant(model.digest if model else None),
        "stamps": constant(preparation),
        "source": sources["cutouts"]["sha256"],
        "split": catalogue_row["split"],
        "bands": constant(",".join(bands)),
        "pixel_scale": _nullable(small.get("pixel_scale", psf_fwhm)),
        "coverage": _nullable(small.get("coverage", psf_fwhm)),
        "psf_fwhm": _nullable(psf_fwhm),
        "resolution": _nullable(radius / psf_fwhm),
        "redshift": catalogue_row["redshift"],
        "redshift_source": constant(redshift_source),
    }  # fmt: skip
    for name in measured_names:
        columns[name] = _nullable(_column(measured, measured_names, name, count))
    for name, (values, _) in predicted.items():
        columns[name] = _nullable(values)
    for name in spec.carry:
        columns[f"input_{name}"] = catalogue_row[f"input_{name}"]
    meanings = {name: Meaning(**meaning) for name, (_, meaning) in predicted.items()}
    table = with_meanings(pa.table(columns), bands, meanings)
    write_table(table, place / FILE)
    by_status = {
        names(int(bits)): int(n)
        for bits, n in zip(*np.unique(status, return_counts=True), strict=True)
    }
    return context.workspace.commit(ref, settings, parents, objects=count, by_status=by_status)


def with_meanings(
    table: pa.Table, bands: tuple[str, ...] = (), further: Mapping[str, Meaning] | None = None
) -> pa.Table:
    """The same table with unit, UCD and description in each field's metadata."""
    morphology = {
        c.name: Meaning(c.description, c.unit or "", c.ucd) for c in measured_columns(bands)
    }
    fields = []
    for field in table.schema:
        meaning = MEANINGS.get(field.name) or morphology.get(field.name)
        meaning = meaning or (further or {}).get(field.name)
        if meaning is None and field.name.startswith("input_"):
            meaning = Meaning(f"Column {field.name.removeprefix('input_')!r} of the input table")
        described: Mapping[str, str] = meaning.__dict__ if meaning else {}
        fields.append(field.with_metadata({k: v for k, v in described.items() if v}))
    return table.cast(pa.schema(fields))


def write_table(table: pa.Table, path: Any) -> None:
    """Parquet with fixed settings, so that equal tables are equal bytes."""
    pq.write_table(table, path, compression="zstd", row_group_size=65536, store_schema=True)


def _column(measured: Any, names_: tuple[str, ...], name: str, count: int) -> Any:
    if measured is None or name not in names_:
        return np.full(count, np.nan, np.float32)
    return measured[:, names_.index(name)]


def _nullable(values: Any) -> pa.Array:
    """Float values with NaN as null: undefined is absent, not a number."""
    return pa.array(values, mask=~np.isfinite(values))
