"""Re-observation: do galaxies keep their label when they are observed under worse conditions?

Two seeds that agree measure the optimiser; the label is measured by the same galaxy seen again.
Held-out cutouts are degraded, and go through the preparation, the network and the clusters of the
release as they are: nothing is fitted anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.catalogue.agreement import nuisance_figures
from galpipe.catalogue.heldout import HeldOut, thinned
from galpipe.catalogue.spec import Evaluation, Reobservation
from galpipe.classes.anew.degrading import Worse
from galpipe.classes.anew.network import told_of
from galpipe.classes.anew.observing import Cutouts, Observer, degrade
from galpipe.classes.features import Reason
from galpipe.classes.fitted import Clusters
from galpipe.stamps.spec import Preparation
from galpipe.workspace import Ref, Workspace

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

SURE = 0.9  # probability of a label that is called sure
FEWEST = 20  # objects below which a rate says nothing
ALONG = {"snr": "S/N per pixel", "size": "R50 / FWHM of the PSF"}


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
    catalogue: Ref,
    stamps: Ref,
    embeddings: Ref | None,
) -> dict[str, Any] | None:
    """Flip rates of the labels by condition, and along S/N and size; None where not asked for.

    A flip is another label, or none, than the archive's own cutout has.  Rates come with the half
    of their 68 % interval (Wilson 1927).
    """
    asked = spec.reobserve
    if asked is None or fitted.mixture is None or not len(objects):
        return None
    chosen = thinned(np.arange(len(objects)), asked.objects)
    rows = objects.rows[chosen]
    beside = told_of(workspace, embeddings, stamps, catalogue, rows)
    observer = Observer(workspace, stamps, embeddings, rows, beside)
    before = objects.cluster[chosen]
    own = None if objects.model_cluster is None else objects.model_cluster[chosen]
    axes = {
        "snr": objects.measured["snr"][chosen],
        "size": objects.measured["r50"][chosen] / asked.fwhm,
    }
    sure = objects.probability[chosen] >= SURE
    found: list[dict[str, Any]] = []
    for worse, preparation in conditions(asked, observer.preparation):
        seen_so = degrade(observer.cutouts, [worse] * len(rows), asked.fwhm, asked.seed)
        again = labelled(fitted, observer, seen_so, preparation)
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


def labelled(
    fitted: Clusters, observer: Observer, cutouts: Cutouts, preparation: Preparation
) -> Labelled:
    """Prepare cutouts, embed their stamps, and give each its cluster."""
    seen = observer.see(cutouts, preparation)
    found = fitted.memberships(seen.columns, seen.arrays.get("vector"))
    posterior = found.posterior if fitted.own is None else seen.arrays[fitted.own["array"]]
    highest = posterior.max(axis=1)
    usable = seen.usable & (found.reason == Reason.ASSIGNED) & (highest >= fitted.faintest)
    own = None
    if "responsibility" in seen.arrays:
        own = np.where(seen.usable, seen.arrays["responsibility"].argmax(axis=1), -1)
    return Labelled(
        np.where(usable, posterior.argmax(axis=1), -1),
        highest,
        {"snr": seen.columns(["snr"])[:, 0]},
        own,
    )


def _median(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None
