"""The clustering stage: fit a mixture once, here, then give objects their cluster (`assign`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.classes import gather, predicted, steady
from galpipe.classes.assignment import assign
from galpipe.classes.features import (
    Vectors,
    chosen_columns,
    defined,
    fit_columns,
    fit_vectors,
    plain_vectors,
    stored,
)
from galpipe.classes.fitted import ARRAYS, FACTS, write_arrays
from galpipe.classes.mixture import Mixture, bhattacharyya, effective_components, fit_mixture
from galpipe.classes.rule import arrays_of
from galpipe.classes.scheme import label_name, label_scheme
from galpipe.classes.spec import Clustering
from galpipe.stages import Context
from galpipe.stamps.gather import column_names
from galpipe.workspace import Ref, address, write_json

__all__ = ["assign", "fit"]

VERSION = 1
FEWEST_JUDGES = 50  # validation objects that may choose between restarts; else the training ones
FIGURES = ("components", "effective_components", "fitted_on", "log_likelihood")  # for the summary

Floats = NDArray[np.float64]


def fit(
    context: Context, spec: Clustering, stamps: Ref, embeddings: Ref | None, catalogue: Ref
) -> Ref:
    """Fit the clusters on the training split; returns at once where that is done.

    With `on = "model"` the labels are the network's own, and nothing but their surroundings is
    fitted (`predicted.moments`).  Raises InputError where the model gives none.

    The output holds mixture.safetensors (float64) and clusters.json: what is clustered, the label
    scheme with its evidence, figures of the fit, and notes in words.
    """
    uses_embedding = spec.on != "columns"
    parents = {"stamps": stamps, "catalogue": catalogue}
    if uses_embedding and embeddings is not None:
        parents["embeddings"] = embeddings
    ref = address("clusters", VERSION, spec, parents)
    workspace = context.workspace
    if workspace.manifest(ref):
        return ref
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):  # sums in another order would change the last bits
        facts, arrays = _fitted(context, spec, stamps, embeddings, catalogue)
    place = workspace.begin(ref)
    write_arrays(place / ARRAYS, arrays)
    write_json(place / FACTS, facts)
    return workspace.commit(
        ref,
        spec,
        parents,
        figures={name: facts[name] for name in FIGURES},
        notes=facts["notes"],
    )


def _fitted(
    context: Context, spec: Clustering, stamps: Ref, embeddings: Ref | None, catalogue: Ref
) -> tuple[dict[str, Any], dict[str, Any]]:
    workspace = context.workspace
    where = gather.read_index(workspace, stamps)
    names = column_names(workspace, stamps)
    wanted = (
        [f.column for f in chosen_columns(spec.columns, names, spec.without)]
        if spec.on != "embedding" and where.parts
        else []
    )
    raw = embedding = None
    if wanted:
        columns = gather.measured(workspace, stamps, wanted)
        raw = np.stack([columns[name] for name in wanted], axis=1)
    if spec.on != "columns" and embeddings is not None and where.parts:
        found = gather.embedded(workspace, embeddings, "vector")
        embedding = None if found is None else found.astype(np.float64)
    notes: list[str] = []
    split = gather.splits(workspace, catalogue)
    usable = where.usable & _complete(spec, raw, embedding, len(where))
    train = usable & (split == "train")
    if not train.any():
        train = usable
        notes.append("the training split has no usable object: the clusters are fitted on all")
    if not train.any():
        notes.append("no object is usable: there are no clusters")
        return _record(spec, None, None, [], {}, 0, notes), {}
    train = _thinned(train, spec.largest)
    if spec.on == "model":
        own = predicted.given(workspace, embeddings)
        assert embedding is not None, "a network gives vectors of all it gives classes of"
        return _predicted(spec, own, (raw, wanted), embedding, train, notes)
    vectors = fit_vectors(spec, names, raw, embedding, train)
    z, _, _ = vectors.apply(raw, embedding)
    judges = usable & (split == "validation")
    fitted_on = int(train.sum())
    components = min(spec.components, max(fitted_on // spec.smallest, 1))
    if components < spec.components:
        notes.append(
            f"{components} clusters in place of {spec.components}: the training split has "
            f"{fitted_on} usable objects, and each cluster needs {spec.smallest}"
        )
    enough = int(judges.sum()) >= FEWEST_JUDGES
    mixture, restarts = fit_mixture(
        z[train],
        z[judges] if enough else z[train],
        components=components,
        regularisation=spec.regularisation,
        restarts=spec.restarts,
        iterations=spec.iterations,
        seed=spec.seed,
    )
    if restarts and not all(run.converged for run in restarts):
        unfinished = sum(not run.converged for run in restarts)
        notes.append(f"{unfinished} of {len(restarts)} restarts met the limit of iterations")
    memberships, rule, steadied = mixture.posterior(z[train])[0], None, None
    if spec.steady is not None:
        rule, memberships, steadied = steady.fit(
            context,
            spec,
            stamps,
            embeddings,
            catalogue,
            names,
            wanted,
            (raw, embedding),
            train,
            memberships,
        )
        notes.append(
            "labels are given by a rule that learnt those of the mixture "
            f"on {fitted_on:,} training objects, {steadied['objects']:,} of them degraded as well; "
            f"{steadied['as_mixture']:.0%} of them keep the mixture's label"
        )
    assigned = memberships.argmax(axis=1)
    natural = {} if raw is None else {n: raw[train, i] for i, n in enumerate(wanted)}
    labels = [label_name(k) for k in range(mixture.components)]
    dimensions, told = plain_vectors(vectors, raw, embedding)
    scheme = label_scheme(mixture, labels, dimensions, told[train], natural, assigned)
    facts = _record(spec, vectors, mixture, [asdict(r) for r in restarts], scheme, fitted_on, notes)
    facts |= {"judged_on": "validation" if enough else "train", "steady": steadied}
    return facts, _arrays(vectors, mixture) | ({} if rule is None else arrays_of(rule))


def _predicted(
    spec: Clustering,
    own: predicted.Given,
    measured: tuple[Floats | None, list[str]],
    embedding: Floats,
    train: NDArray[np.bool_],
    notes: list[str],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The network's own labels, read from the measured columns, with a Gaussian for each."""
    vectors = fit_vectors(spec, [], None, embedding, train)
    z, _, _ = vectors.apply(None, embedding[train])
    chances = own.probabilities[train]
    mixture = predicted.moments(z, chances, spec.regularisation)
    raw, columns = measured
    standing, natural = np.zeros((len(z), 0)), {}
    if raw is not None:
        features = chosen_columns(spec.columns, columns, spec.without)
        standing, _ = fit_columns(raw[train], features, spec.clip).apply(raw[train])
        natural = {name: raw[train, i] for i, name in enumerate(columns)}
    assigned = chances.argmax(axis=1)
    scheme = label_scheme(mixture, own.names, columns, standing, natural, assigned)
    facts = _record(spec, vectors, mixture, [], scheme, int(train.sum()), notes)
    facts |= {"own": own.facts(), "wanted_components": len(own.names), "judged_on": "train"}
    return facts, _arrays(vectors, mixture)


def _arrays(vectors: Vectors, mixture: Mixture) -> dict[str, Any]:
    arrays = stored(vectors)[1]
    return arrays | {n: getattr(mixture, n) for n in ("weights", "means", "covariances")}


def _complete(
    spec: Clustering, raw: Floats | None, embedding: Floats | None, rows: int
) -> NDArray[np.bool_]:
    """Rows with enough of what is clustered to take part in the fit."""
    complete = np.ones(rows, bool)
    if raw is not None and spec.on != "model":  # which are read there, and label nobody
        complete &= (~np.isfinite(raw)).sum(axis=1) <= spec.imputed * raw.shape[1]
    if embedding is not None:
        complete &= defined(embedding)
    return complete


def _thinned(train: NDArray[np.bool_], largest: int) -> NDArray[np.bool_]:
    """At most `largest` of the training rows, evenly along the catalogue."""
    rows = np.flatnonzero(train)
    if len(rows) <= largest:
        return train
    thinned = np.zeros_like(train)
    thinned[rows[np.arange(largest) * len(rows) // largest]] = True
    return thinned


def _record(
    spec: Clustering,
    vectors: Vectors | None,
    mixture: Mixture | None,
    restarts: list[dict[str, Any]],
    scheme: Mapping[str, Any],
    fitted_on: int,
    notes: list[str],
) -> dict[str, Any]:
    """The content of clusters.json."""
    return {
        "format": 1,
        "on": spec.on,
        "vectors": None if vectors is None else stored(vectors)[0],
        "faintest": spec.faintest,
        "components": 0 if mixture is None else mixture.components,
        "wanted_components": spec.components,
        "effective_components": (
            None
            if mixture is None
            else effective_components(mixture.weights, bhattacharyya(mixture))
        ),
        "fitted_on": fitted_on,
        "log_likelihood": max((run["judged"] for run in restarts), default=None),
        "restarts": restarts,
        "scheme": dict(scheme),
        "notes": notes,
    }
