"""The sections of the page, one function each: from a release to the values of the template."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from galpipe.catalogue import comparison, plots
from galpipe.catalogue.galleries import random_members, typical_members
from galpipe.catalogue.heldout import NUISANCES
from galpipe.catalogue.report import drawings, fractions, latent
from galpipe.catalogue.report.charts import Chart, chart, loss_curves, sky_map, status_bars
from galpipe.catalogue.report.classification import (
    classification,
    network_words,
    what_it_learnt,
)
from galpipe.catalogue.report.conditioned import conditioned
from galpipe.catalogue.report.pictures import Pictures, draw_pictures
from galpipe.catalogue.report.predictions import predictions
from galpipe.catalogue.report.probe import probe
from galpipe.catalogue.report.release import (
    About,
    Inputs,
    Labels,
    Release,
    clustered_vectors,
)
from galpipe.catalogue.report.reobserved import reobserved
from galpipe.catalogue.spec import Evaluation
from galpipe.status import count
from galpipe.workspace import Workspace

MOST_PICTURES = 1600  # of members, on the whole page: about 4 MB
FEWEST_PICTURES = 4  # of each cluster in each row
STRANGEST = 24
REASONS = 8  # reasons for missing stamps told, the most frequent ones
QUESTIONS = 5  # vote fractions in a figure, and
MOST_QUESTIONS = 15  # on the page; all are in figures.json
WHO = {  # labellings in the figures, in words
    "published": "Published labels",
    "model": "Network's own components",
    "k_means": "k-means on the same vectors",
    "gaussian_mixture": "Plain mixture on the same vectors",
}


@dataclass(frozen=True)
class Member:
    """One object in a row of pictures."""

    id: str
    picture: str | None  # None: no pixels to show
    note: str


@dataclass(frozen=True)
class Cluster:
    """One cluster: what it is called, how large it is, and how its members look."""

    name: str
    reading: str
    members: int
    random: list[Member]
    typical: list[Member]


def gathered(
    workspace: Workspace, about: About, spec: Evaluation, release: Release, inputs: Inputs
) -> dict[str, Any]:
    """Everything the template needs, section by section."""
    chosen = _chosen(release, spec)
    rows = np.unique(np.concatenate([*chosen["random"], *chosen["typical"], chosen["strangest"]]))
    pictures = draw_pictures(workspace, inputs.cutouts, release, about.bands, rows)
    return {
        "about": about,
        "release": release,
        "pictures": pictures,
        "head": _head(release),
        "status": _status(release),
        "clusters": _clusters(release, chosen, pictures),
        "against": _against(release),
        "classification": classification(release),
        "predictions": predictions(release),
        "agreement": _agreement(release, spec),
        "probe": probe(release),
        "reobserved": reobserved(release),
        "map": _map(workspace, release, inputs, spec.seed),
        "strangest": [_member(release, pictures, row, "score") for row in chosen["strangest"]],
        "strangeness": release.figures.get("strangeness"),
        "reconstructions": drawings.reconstructions(
            workspace, release, inputs, spec.fewest, spec.seed
        ),
        "components": drawings.components(workspace, inputs.model, spec.seed),
        "conditions": conditioned(workspace, release, inputs),
        "history": _history(release),
    }


def _chosen(release: Release, spec: Evaluation) -> dict[str, Any]:
    """Catalogue rows whose pictures are shown: random and typical members, and the strangest."""
    components = len(release.names)
    each = MOST_PICTURES // (2 * max(components, 1))
    each = min(spec.gallery, max(each, FEWEST_PICTURES))
    strangest = np.where(release.cluster >= 0, release.anomaly, -np.inf)
    order = np.argsort(-np.nan_to_num(strangest, nan=-np.inf), kind="stable")[:STRANGEST]
    return {
        "random": random_members(release.cluster, components, each, spec.seed),
        "typical": typical_members(
            release.cluster, release.anomaly, release.probability, components, each
        ),
        "strangest": order[release.cluster[order] >= 0].astype(np.int64),
    }


def _head(release: Release) -> dict[str, Any]:
    """The figures a reader asks for first, each with what it was judged on."""
    figures = release.figures
    classes = figures["published"]["classes"]
    split = Counter(release.split[release.usable].tolist())
    vectors = release.clusters.vectors
    return {
        "objects": len(release),
        "usable": int(release.usable.sum()),
        "assigned": int((release.cluster >= 0).sum()),
        "train": split.get("train", 0),
        "trained": release.trained if release.trained is not None else split.get("train", 0),
        "dimensions": 0 if vectors is None else len(vectors.names),
        "fitted_on": release.clusters.facts["fitted_on"],
        "on": release.clusters.facts["on"],
        "effective": figures["components"]["effective"],
        "judged": figures["n"],
        "judged_on": "held-out" if figures["judged_on"] == "test" else "all",
        "classes": classes,
        "reconstruction": figures["reconstruction"],
        "alarms": figures["alarms"],
        "notes": figures["notes"],
        "network": None if release.network is None else network_words(release.network),
        "learnt": None if release.network is None else what_it_learnt(release.network),
        "own": release.clusters.own,
    }


def _status(release: Release) -> dict[str, Any]:
    by_status = count(release.status.tolist())
    known = int((np.isfinite(release.ra) & np.isfinite(release.dec)).sum())
    figure = sky_map(release)
    reasons = Counter(
        (text, _without_numbers(reason or "no reason given"))
        for text, reason, usable in zip(
            release.status_text, release.reason, release.usable, strict=True
        )
        if not usable
    )
    failed = int((~release.usable).sum())
    bars = ", ".join(f"{name} {number:,}" for name, number in by_status.items())
    where = (
        f"Map of {known:,} positions: {failed:,} objects without a usable stamp are crosses."
        if failed
        else f"Map of {known:,} positions; every object has a usable stamp."
    )
    return {
        "counts": by_status,
        "bars": chart(status_bars(by_status), f"Bars of objects by status: {bars}."),
        "sky": None if figure is None else chart(figure, where),
        "positions": known,
        "failed": failed,
        "unassigned": int((release.usable & (release.cluster < 0)).sum()),
        "reasons": [
            (status, reason, number)
            for (status, reason), number in sorted(
                reasons.items(), key=lambda item: (-item[1], str(item[0]))
            )[:REASONS]
        ],
        "more_reasons": max(len(reasons) - REASONS, 0),
    }


def _without_numbers(reason: str) -> str:
    """The same reason for objects that differ in an id or a file's name alone."""
    return re.sub(r"\S*\d{3,}\S*", "…", reason)


def _member(release: Release, pictures: Pictures, row: int, note: str) -> Member:
    if note == "score":
        text = f"{release.anomaly[row]:.1f}"
    else:
        text = f"p = {release.probability[row]:.2f}"
    return Member(release.ids[row], pictures.sources.get(int(row)), text)


def _clusters(
    release: Release, chosen: Mapping[str, list[Labels]], pictures: Pictures
) -> list[Cluster]:
    return [
        Cluster(
            name,
            release.readings[k],
            release.members[k],
            [_member(release, pictures, row, "p") for row in chosen["random"][k]],
            [_member(release, pictures, row, "p") for row in chosen["typical"][k]],
        )
        for k, name in enumerate(release.names)
    ]


def _against(release: Release) -> dict[str, Any] | None:
    found = (
        fractions.fractions(release.against, release.cluster, release.names)
        if release.names
        else None
    )
    if found is None:
        return None
    figure, columns = found
    words = "; ".join(
        f"{quantity.axis}: {int(bins.count.sum()):,} objects in {len(bins.count)} bins"
        for quantity, bins in columns
    )
    return {
        "chart": chart(figure, f"Fraction of the objects in each cluster against {words}."),
        "words": words,
    }


def _agreement(release: Release, spec: Evaluation) -> dict[str, Any]:
    figures = release.figures
    published = figures["published"]
    everybody = figures.get("all_objects")
    questions = list(published["votes"].items())[:MOST_QUESTIONS]
    votes = []
    each = -(-len(questions) // max(-(-len(questions) // QUESTIONS), 1))  # figures of one width
    for first in range(0, len(questions) if release.names else 0, max(each, 1)):
        some = dict(questions[first : first + each])
        figure = plots.votes(some, release.names)
        figure.suptitle("")  # the caption says it
        votes.append(
            chart(figure, f"Histograms per cluster of the vote fractions {', '.join(some)}.")
        )
    nuisances = None
    if any(value is not None for value in published["nuisances"].values()):
        bars = plots.nuisances(figures)
        bars.axes[0].set_title("", loc="left")  # the page has a heading for it
        nuisances = chart(bars, _nuisance_words(published["nuisances"]))
    return {
        "truth": spec.truth.classes,
        "learnt": _learns(release, spec.truth.classes),
        "classes": published["classes"],
        "confusion": _confusion(published["classes"], release),
        "rows": _labellings(figures),
        "everybody": None if everybody is None else everybody["classes"],
        "votes": votes,
        "fewest_votes": spec.truth.fewest_votes if spec.truth.vote_counts else None,
        "nuisances": nuisances,
    }


def _learns(release: Release, column: str | None) -> bool:
    """Whether the network learnt the very classes that the labels are compared with."""
    own = release.clusters.own
    return own is not None and column is not None and own["column"] == column


def _nuisance_words(nuisances: Mapping[str, Any]) -> str:
    told = [
        f"{NUISANCES[name]} {found['corrected']:.3f}"
        for name, found in nuisances.items()
        if found is not None
    ]
    return f"Information of the published labels less chance, in nats: {', '.join(told)}."


def _confusion(
    classes: Mapping[str, Any] | None, release: Release
) -> list[tuple[str, str, int, list[tuple[int, float]]]] | None:
    """Name, reading, number and (count, fraction of the cluster) per class, cluster by cluster."""
    if classes is None:
        return None
    found = []
    for k, counts in enumerate(classes["confusion"]["counts"]):
        total = sum(counts)
        cells = [(int(n), n / total if total else 0.0) for n in counts]
        found.append((release.names[k], release.readings[k], total, cells))
    return found


def _labellings(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The published labels beside others, where there is truth."""
    found = []
    for who in ("published", "model"):
        if figures[who] is not None and figures[who]["classes"] is not None:
            found.append({"who": WHO[who], **figures[who]["classes"]})
    others = figures["separation"].get("clustered", {})
    for who in ("k_means", "gaussian_mixture"):
        if who in others and others[who]["classes"] is not None:
            found.append({"who": WHO[who], **others[who]["classes"]})
    for who, compared in (figures.get("comparison") or {}).items():
        if compared["classes"] is not None:
            found.append({"who": comparison.WORDS[who], **compared["classes"]})
    return found


def _map(
    workspace: Workspace, release: Release, inputs: Inputs, seed: int
) -> dict[str, Any] | None:
    rows = drawings.map_rows(release, latent.POINTS)
    vectors = clustered_vectors(workspace, release, inputs, rows)
    if vectors is None or len(rows) < 3:
        return None
    whole = np.isfinite(vectors).all(axis=1)
    rows, vectors = rows[whole], vectors[whole]
    if len(rows) < 3:
        return None
    places, how = latent.flattened(vectors, seed)
    figure = latent.latent_map(
        places, release.cluster[rows], release.names, release.classes, release.nuisances, rows
    )
    shown = ["clusters", *(["true classes"] if release.classes is not None else [])]
    shown += [quantity.name for quantity in release.nuisances.values()]
    alt = f"Map of {len(rows):,} objects by {how}, coloured by {', '.join(shown)}."
    picture: Chart = chart(figure, alt)
    return {"chart": picture, "n": len(rows), "how": how, "dimensions": vectors.shape[1]}


def _history(release: Release) -> Chart | None:
    if not release.history:
        return None
    last = release.history[-1].get("validation_elbo")
    told = "" if last is None else f"; the last validation bound is {last:.2f} nats"
    alt = f"Training curves of {len(release.history)} epochs{told}."
    assert release.network is not None, "what was trained is kept with its history"
    pixels = release.network["bands"] * release.network["size"] ** 2
    return chart(loss_curves(release.history, pixels), alt)
