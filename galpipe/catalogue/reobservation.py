"""Re-observation: do galaxies keep their label when they are observed under worse conditions?

Two seeds that agree measure the optimiser; the label is measured by the same galaxy seen again.
Held-out cutouts are degraded, and go through the preparation, the network and the clusters of the
release as they are: nothing is fitted anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe import spec as specs
from galpipe.catalogue.agreement import nuisance_figures
from galpipe.catalogue.degrading import Worse, degraded
from galpipe.catalogue.heldout import HeldOut, thinned
from galpipe.catalogue.redrawn import conditions_of, embedded_anew, view_of
from galpipe.catalogue.spec import Evaluation, Reobservation
from galpipe.classes import gather
from galpipe.classes.features import Reason
from galpipe.classes.fitted import Clusters
from galpipe.stamps.parts import Part
from galpipe.stamps.pixels import prepare_images
from galpipe.stamps.prepare import read_scale
from galpipe.stamps.spec import Preparation
from galpipe.stamps.stretch import stored, stretched, unit_scale
from galpipe.workspace import Ref, Workspace

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

SURE = 0.9  # probability of a label that is called sure
FEWEST = 20  # objects below which a rate says nothing
ALONG = {"snr": "S/N per pixel", "size": "R50 / FWHM of the PSF"}


@dataclass(frozen=True)
class Cutouts:
    """Cutouts of some catalogue rows, as the archive gave them."""

    images: NDArray[Any]  # (row, band, y, x)
    ny: NDArray[np.int32]
    nx: NDArray[np.int32]
    status: NDArray[np.int32]
    ids: list[Any]
    bands: tuple[str, ...]


@dataclass(frozen=True)
class Labelled:
    """What a release's own fits make of cutouts; -1 where there is no label."""

    cluster: Labels
    probability: Floats
    measured: dict[str, Floats]
    model_cluster: Labels | None = None


def conditions(asked: Reobservation, preparation: Preparation) -> list[tuple[Worse, Preparation]]:
    """The observations to be made, each with its preparation."""
    found = [
        (Worse("noisier", f"noise x {asked.noise:g}", noise=asked.noise), preparation),
        (Worse("dimmer", f"light x {asked.light:g}", light=asked.light), preparation),
        (Worse("blurred", f"PSF x {asked.psf:g}", psf=asked.psf), preparation),
        (
            Worse("all", "all three", psf=asked.psf, noise=asked.noise, light=asked.light),
            preparation,
        ),
        (Worse("turned", "turned by 90°", turned=True), preparation),
    ]
    if preparation.align:
        found.append((Worse("unaligned", "not aligned"), replace(preparation, align=False)))
    if preparation.segmentation.mask_neighbours:
        kept = replace(preparation.segmentation, mask_neighbours=False)
        found.append(
            (Worse("unmasked", "neighbours kept"), replace(preparation, segmentation=kept))
        )
    return found


def reobservation(
    workspace: Workspace,
    spec: Evaluation,
    objects: HeldOut,
    fitted: Clusters,
    stamps: Ref,
    model: Ref | None,
    embeddings: Ref | None,
) -> dict[str, Any] | None:
    """Flip rates of the labels by condition, and along S/N and size; None where not asked for.

    A flip is another label, or none, than the archive's own cutout has.  Rates come with the half
    of their 68 % interval (Wilson 1927).
    """
    asked = spec.reobserve
    if asked is None or fitted.mixture is None or not len(objects):
        return None
    manifest = workspace.manifest(stamps)
    assert manifest is not None, "stamps are committed before they are judged"
    preparation = specs.load(Preparation, manifest["spec"], "the preparation of these stamps")
    chosen = thinned(np.arange(len(objects)), asked.objects)
    rows = objects.rows[chosen]
    cutouts = read_cutouts(workspace, Ref("cutouts", manifest["parents"]["cutouts"]), stamps, rows)
    scale = read_scale(
        workspace.place(Ref("scaling", manifest["parents"]["scaling"])) / "scaling.json"
    )
    labeller = Labeller(workspace, fitted, model, embeddings, rows, scale)
    before = objects.cluster[chosen]
    own = None if objects.model_cluster is None else objects.model_cluster[chosen]
    axes = {
        "snr": objects.measured["snr"][chosen],
        "size": objects.measured["r50"][chosen] / asked.fwhm,
    }
    sure = objects.probability[chosen] >= SURE
    found: list[dict[str, Any]] = []
    for worse, prepared in conditions(asked, preparation):
        again = labeller.labels(degrade(cutouts, worse, asked), prepared)
        flipped = again.cluster != before
        entry: dict[str, Any] = {
            "name": worse.name,
            "words": worse.words,
            **rate(flipped),
            "sure": rate(flipped[sure]),
            "unlabelled": int((again.cluster < 0).sum()),
            "snr_ratio": _median(again.measured["snr"] / axes["snr"]),
            "model": None,
            "along": {name: along(values, flipped, asked.bins) for name, values in axes.items()},
        }
        if own is not None and again.model_cluster is not None:
            entry["model"] = rate((again.model_cluster != own)[own >= 0])
        # The angle and the neighbours are those of the sky, whatever was done to the cutout.
        seen = replace(
            objects,
            rows=rows,
            measured={name: values[chosen] for name, values in objects.measured.items()},
        )
        told = nuisance_figures(again.cluster, seen, spec)
        entry["information"] = {
            name: told.get(name) for name in ("position_angle", "neighbour_flux_ratio")
        }
        found.append(entry)
    return {
        "n": len(rows),
        "judged_on": objects.judged_on,
        "fwhm": asked.fwhm,
        "sure": SURE,
        "conditions": found,
    }


def rate(flipped: NDArray[np.bool_]) -> dict[str, Any]:
    """Objects, flips, their rate and half its 68 % interval; None with too few objects."""
    n, flips = len(flipped), int(flipped.sum())
    if n < FEWEST:
        return {"n": n, "flips": flips, "rate": None, "error": None}
    p = flips / n
    error = float(np.sqrt(p * (1 - p) / n + 1 / (4 * n**2)) / (1 + 1 / n))
    return {"n": n, "flips": flips, "rate": p, "error": error}


def along(values: Floats, flipped: NDArray[np.bool_], bins: int) -> list[dict[str, Any]]:
    """Rates in bins of equal numbers of a quantity, each at the bin's median."""
    finite = np.flatnonzero(np.isfinite(values))
    order = finite[np.argsort(values[finite], kind="stable")]
    found = []
    for mine in np.array_split(order, min(bins, max(len(order) // FEWEST, 1))):
        if len(mine):
            found.append({"median": float(np.median(values[mine])), **rate(flipped[mine])})
    return found


def degrade(cutouts: Cutouts, worse: Worse, asked: Reobservation) -> Cutouts:
    """All cutouts under worse conditions, each by itself."""
    count, bands, *shape = cutouts.images.shape
    ny, nx = cutouts.ny, cutouts.nx
    if worse.turned:  # a side comes to stand where the other lay
        shape, ny, nx = shape[::-1], nx, ny
    images = np.zeros((count, bands, *shape), cutouts.images.dtype)
    for i, image in enumerate(cutouts.images):
        own = image[:, : cutouts.ny[i], : cutouts.nx[i]]
        made = degraded(own, worse, asked.fwhm, asked.seed, cutouts.ids[i])
        images[i, :, : ny[i], : nx[i]] = made
    return replace(cutouts, images=images, ny=ny, nx=nx)


def read_cutouts(workspace: Workspace, cutouts: Ref, stamps: Ref, rows: Labels) -> Cutouts:
    """The cutouts of catalogue rows that have a stamp, in the order of the rows."""
    where = gather.read_index(workspace, stamps)
    manifest = workspace.manifest(stamps)
    assert manifest is not None, "stamps are committed before they are judged"
    source = {str(entry["part"]): str(entry["cutouts"]) for entry in manifest["parts"]}
    parts = [Part(workspace.place(Ref("cutout-part", source[digest]))) for digest in where.parts]
    used = np.unique(where.part[rows])
    shape = np.max([parts[i].array("image").shape[1:] for i in used], axis=0)
    kind = parts[used[0]].array("image").dtype
    kind = np.result_type(kind, *(parts[i].array("image").dtype for i in used))
    images = np.zeros((len(rows), *shape), kind)
    small = {name: np.zeros(len(rows), np.int32) for name in ("ny", "nx", "status")}
    for i in used:
        part, mine = parts[i], np.flatnonzero(where.part[rows] == i)
        place = where.row[rows[mine]]
        for name, values in small.items():
            values[mine] = part.read(name)[place]
        array = part.array("image")
        for one, row in zip(mine, place, strict=True):
            image = np.asarray(array[int(row)])
            images[one, :, : image.shape[1], : image.shape[2]] = image
    bands = tuple(str(b) for b in parts[used[0]].group.attrs["bands"])
    ids = where.object_id.take(rows).to_pylist()
    return Cutouts(images, small["ny"], small["nx"], small["status"], ids, bands)


class Labeller:
    """The fits of a release, for cutouts of given catalogue rows."""

    def __init__(
        self,
        workspace: Workspace,
        fitted: Clusters,
        model: Ref | None,
        embeddings: Ref | None,
        rows: Labels,
        scale: tuple[float, ...],
    ) -> None:
        self._workspace, self._fitted, self._scale = workspace, fitted, scale
        self._model, self._embeddings = model, embeddings
        self._conditions = conditions_of(workspace, embeddings, rows)
        self._view = "image" if model is None else view_of(workspace, model)

    def labels(self, cutouts: Cutouts, preparation: Preparation) -> Labelled:
        """Prepare the cutouts, embed their stamps, and give each its cluster."""
        prepared = prepare_images(
            cutouts.images, cutouts.ny, cutouts.nx, cutouts.status, cutouts.bands, preparation
        )
        unit = stretched(
            getattr(prepared, self._view), np.asarray(self._scale, np.float64), preparation.stretch
        )
        arrays: Mapping[str, Floats] = {}
        if self._model is not None and self._embeddings is not None:
            arrays = embedded_anew(
                self._workspace,
                self._model,
                self._embeddings,
                stored(unit, preparation.dtype),
                unit_scale(preparation.dtype),
                self._conditions,
            )
        return self._assigned(prepared, cutouts.bands, arrays)

    def _assigned(
        self, prepared: Any, bands: tuple[str, ...], arrays: Mapping[str, Floats]
    ) -> Labelled:
        from galpipe.stamps.morphology import columns

        fitted = self._fitted
        assert fitted.mixture is not None and fitted.vectors is not None
        names = [column.name for column in columns(bands)]
        everything = prepared.measured.astype(np.float64)
        raw = None
        if fitted.vectors.columns is not None:
            wanted = [names.index(f.column) for f in fitted.vectors.columns.features]
            raw = everything[:, wanted]
        vector = arrays["vector"] if fitted.vectors.axes is not None else None
        z, reason, _ = fitted.vectors.apply(raw, vector)
        posterior = fitted.mixture.posterior(z)[0]
        if fitted.own is not None:
            posterior = arrays[fitted.own["array"]]
        usable = ((prepared.status & 1) > 0) & (reason == Reason.ASSIGNED)
        highest = posterior.max(axis=1)
        usable &= highest >= fitted.faintest
        own = None
        if "responsibility" in arrays:
            own = np.where((prepared.status & 1) > 0, arrays["responsibility"].argmax(axis=1), -1)
        return Labelled(
            np.where(usable, posterior.argmax(axis=1), -1),
            highest,
            {"snr": everything[:, names.index("snr")]},
            own,
        )


def _median(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None
