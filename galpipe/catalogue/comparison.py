"""Plainer clusters of the same stamps, which a network's clusters are to be ahead of.

The same mixture, with as many clusters and the survey's own settings, is fitted to the leading
principal components of the stamps, and to the embedding of an autoencoder trained on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.catalogue.agreement import class_figures, nuisance_figures
from galpipe.catalogue.heldout import HeldOut, thinned
from galpipe.catalogue.reconstruction import images
from galpipe.catalogue.spec import Comparison, Evaluation
from galpipe.classes import gather
from galpipe.classes.anew.network import view_of
from galpipe.classes.features import fit_axes
from galpipe.classes.mixture import fit_mixture
from galpipe.classes.spec import Clustering
from galpipe.models.spec import VIEWS, Embedding
from galpipe.stages import Context
from galpipe.workspace import Ref

Floats = NDArray[np.float64]

MOST_STAMPS = 4096  # of the training split, that the principal axes are fitted on
BLOCK = 1024  # stamps read at once
WORDS = {
    "principal_components": "mixture on principal components of the stamps",
    "autoencoder": "mixture on an autoencoder's embedding",
}


def comparison_figures(
    context: Context,
    spec: Evaluation,
    clustering: Clustering,
    objects: HeldOut,
    catalogue: Ref,
    stamps: Ref,
    model: Ref | None,
) -> dict[str, Any] | None:
    """Agreement of the plainer clusters with the classes, on the judged objects.

    Fitted on the training split alone, on the view of the stamps that the survey's network sees.
    The autoencoder is an output of its own, trained once.  None where not asked for, or with too
    few training objects for the survey's number of clusters.
    """
    asked = spec.compare
    count = clustering.components
    if asked is None or len(objects.train) < clustering.smallest * count:
        return None
    view = "image" if model is None else view_of(context.workspace, model)
    spaces = {"principal_components": _principal(context, asked, objects, stamps, view)}
    if asked.autoencoder is not None:
        spaces["autoencoder"] = _autoencoder(context, asked, objects, catalogue, stamps, view)
    found: dict[str, Any] = {}
    for name, (train, judged) in spaces.items():
        axes = fit_axes(train, train.shape[1], 1.0)
        vectors = axes.apply(train)
        mixture, _ = fit_mixture(
            vectors, vectors, components=count, regularisation=clustering.regularisation,
            restarts=clustering.restarts, iterations=clustering.iterations, seed=clustering.seed,
        )  # fmt: skip
        labels = mixture.posterior(axes.apply(judged))[0].argmax(axis=1)
        classes = class_figures(labels, objects, spec, count)
        found[name] = {
            "dimensions": vectors.shape[1],
            "clusters": count,
            "classes": None
            if classes is None
            else {key: value for key, value in classes.items() if key != "confusion"},
            "position_angle": nuisance_figures(labels, objects, spec)["position_angle"],
        }
    return found


def comparison_headline(figures: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures a reader asks for first, flat."""
    flat: dict[str, float | None] = {}
    for name, found in figures.items():
        classes = found["classes"] or {}
        beyond = classes.get("beyond_inclination")
        flat[f"compared_{name}_nmi"] = classes.get("nmi")
        flat[f"compared_{name}_beyond_inclination"] = beyond["corrected"] if beyond else None
    return flat


def _principal(
    context: Context, asked: Comparison, objects: HeldOut, stamps: Ref, view: str
) -> tuple[Floats, Floats]:
    """Scores of training and judged stamps along the training split's leading axes."""
    from galpipe.models.vade.initialisation import principal_axes

    def pixels(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        stamps_read = images(context.workspace, stamps, rows, view)
        return stamps_read.reshape(len(stamps_read), -1)

    average, axes, _ = principal_axes(
        pixels(thinned(objects.train, MOST_STAMPS)), asked.axes, asked.seed
    )
    weights, mean = axes.double().numpy(), average.double().numpy()

    def scores(rows: NDArray[np.int64]) -> Floats:
        blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
        return np.concatenate([(pixels(block) - mean) @ weights.T for block in blocks])

    return scores(objects.train), scores(objects.rows)


def _autoencoder(
    context: Context, asked: Comparison, objects: HeldOut, catalogue: Ref, stamps: Ref, view: str
) -> tuple[Floats, Floats]:
    """Vectors of training and judged stamps by an autoencoder trained on the training split."""
    from galpipe.classes.embedding import embed
    from galpipe.models.training import train

    assert asked.autoencoder is not None
    network = replace(asked.autoencoder, view="masked" if view == VIEWS["masked"] else "unmasked")
    model = train(context, network, asked.training, stamps, catalogue)
    embeddings = embed(context, Embedding(), model, stamps, catalogue)
    vectors = gather.embedded(context.workspace, embeddings, "vector")
    assert vectors is not None, "an autoencoder gives vectors"
    values = np.asarray(vectors, np.float64)
    return values[objects.train], values[objects.rows]
