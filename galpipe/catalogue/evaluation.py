"""The evaluation stage: what the labels are worth on galaxies kept out of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe import spec as specs
from galpipe.catalogue.agreement import agreement
from galpipe.catalogue.comparison import comparison_figures, comparison_headline
from galpipe.catalogue.conditions import condition_figures, condition_headline
from galpipe.catalogue.heldout import HeldOut, held_out, per_row
from galpipe.catalogue.occupancy import alarms, effective_numbers, occupancy, soft_overlap
from galpipe.catalogue.predictions import prediction_figures, prediction_headline
from galpipe.catalogue.probe import probe_figures, probe_headline
from galpipe.catalogue.reconstruction import reconstruction_figures
from galpipe.catalogue.redrawn import merged_components, own_overlap
from galpipe.catalogue.reobservation import reobservation
from galpipe.catalogue.separation import baselines, separation
from galpipe.catalogue.spec import Evaluation
from galpipe.catalogue.stability import stability
from galpipe.catalogue.strangeness import strangeness_figures, strangeness_headline
from galpipe.catalogue.supervised import classification_figures, classification_headline
from galpipe.classes import gather
from galpipe.classes.fitted import Clusters, load_clusters, part_vectors
from galpipe.classes.mixture import bhattacharyya
from galpipe.classes.spec import Clustering
from galpipe.stages import Context
from galpipe.workspace import Ref, Workspace, address, write_json

VERSION = 5
EVERYBODY = 2**62  # more objects than there are: the held-out split never has enough

Floats = NDArray[np.float64]


def evaluate(
    context: Context,
    spec: Evaluation,
    catalogue: Ref,
    stamps: Ref,
    model: Ref | None,
    embeddings: Ref | None,
    clusters: Ref,
    assignments: Ref,
) -> Ref:
    """Figures and plots of a release; returns at once where they are done.

    The output holds figures.json (plain JSON, an undefined figure is null, `n` beside each) and
    plots/*.png.  One run of the tracker holds both.  Raises InputError for a truth column that the
    table has not.
    """
    given = {
        "catalogue": catalogue,
        "stamps": stamps,
        "model": model,
        "embeddings": embeddings,
        "clusters": clusters,
        "assignments": assignments,
    }
    parents = {name: ref for name, ref in given.items() if ref is not None}
    ref = address("evaluation", VERSION, spec, parents)
    workspace = context.workspace
    if workspace.manifest(ref):
        return ref
    from threadpoolctl import threadpool_limits

    objects = held_out(context, spec, catalogue, stamps, assignments)
    everybody = held_out(context, replace(spec, fewest=EVERYBODY), catalogue, stamps, assignments)
    fitted = load_clusters(workspace, clusters)
    place = workspace.begin(ref)
    with threadpool_limits(limits=1):
        figures = _figures(context, spec, objects, fitted, stamps, model, embeddings)
        # Clusters are made without truth, so those of the training galaxies may be judged as well:
        # a figure of more objects, beside the held-out one.
        figures["all_objects"] = None
        if fitted.origin == "cluster":
            components = fitted.components
            figures["all_objects"] = agreement(everybody.cluster, everybody, spec, components)
        figures["classification"] = classification_figures(
            workspace, spec, catalogue, stamps, model, embeddings
        )
        figures["conditions"] = condition_figures(
            workspace, catalogue, stamps, model, embeddings, spec.seed
        )
        figures["probe"] = probe_figures(workspace, spec, catalogue, stamps, embeddings)
        figures["predictions"] = prediction_figures(
            workspace, spec, catalogue, stamps, model, embeddings
        )
        clustering = _clustering(workspace, clusters)
        figures["stability"] = None
        if spec.stability is not None and fitted.vectors is not None:
            vectors = _spaces(workspace, objects, fitted, stamps, embeddings)["clustered"]
            figures["stability"] = stability(spec.stability, clustering, fitted, *vectors)
        figures["comparison"] = comparison_figures(
            context, spec, clustering, objects, catalogue, stamps, model
        )
        figures["reobservation"] = reobservation(
            workspace, spec, objects, fitted, catalogue, stamps, embeddings
        )
        figures["strangeness"] = strangeness_figures(
            workspace, spec, catalogue, stamps, model, embeddings, objects
        )
        flat = headline(figures)
        figures["headline"] = flat
        write_json(place / "figures.json", figures)
        from galpipe.catalogue import interpolation, reobservation_plots
        from galpipe.catalogue.plots import draw

        folder = place / "plots"
        plots = draw(workspace, spec, objects, figures, stamps, model, embeddings, folder)
        plots += interpolation.draw(
            workspace, catalogue, stamps, model, embeddings, figures["conditions"], folder
        )
        plots += reobservation_plots.draw(figures["reobservation"], folder)
    with context.tracker.run("evaluation", f"evaluation {ref.digest[:8]}", ref.digest) as run:
        run.params({"permutations": spec.permutations, "judged_on": objects.judged_on})
        run.tags({name: parent.digest for name, parent in parents.items()})
        run.dataset("catalogue", catalogue.digest, objects.judged_on, len(objects))
        run.dataset("stamps", stamps.digest, objects.judged_on, len(objects))
        run.metrics({name: float(value) for name, value in flat.items() if value is not None})
        run.file(place / "figures.json")
        for plot in plots:
            run.file(plot, "plots")
    return workspace.commit(ref, spec, parents, figures=flat, alarms=figures["alarms"])


def _figures(
    context: Context,
    spec: Evaluation,
    objects: HeldOut,
    fitted: Clusters,
    stamps: Ref,
    model: Ref | None,
    embeddings: Ref | None,
) -> dict[str, Any]:
    workspace = context.workspace
    names = fitted.names
    counts = occupancy(objects.cluster, fitted.components)
    overlap = None if fitted.mixture is None else bhattacharyya(fitted.mixture)
    classes = fitted.origin == "classifier"  # which may be rare, and alike
    notes = list(fitted.facts["notes"])
    if objects.judged_on == "all":
        notes.append(
            f"the held-out split has fewer than {spec.fewest} assigned objects: the figures are "
            "of all objects, those of the training among them"
        )
    figures: dict[str, Any] = {
        "format": 1,
        "judged_on": objects.judged_on,
        "n": len(objects),
        "labels": names,
        "scheme": {name: fitted.facts["scheme"][name]["reading"] for name in names},
        "published": agreement(objects.cluster, objects, spec, fitted.components),
        "components": {
            "n": len(objects),
            "occupancy": counts,
            **effective_numbers(np.array(counts, np.float64), overlap),
            "overlap": None if overlap is None else overlap.tolist(),
            **(alarms(counts, None, names, 0.0) if classes else alarms(counts, overlap, names)),
        },
        "model": None,
        "separation": {},
        "reconstruction": reconstruction_figures(workspace, stamps, model, embeddings, objects),
        "notes": notes,
    }
    memberships = per_row(workspace, embeddings, "responsibility", objects.rows)
    if objects.model_cluster is not None and memberships is not None:
        figures["model"] = _model_figures(workspace, spec, objects, memberships, model)
    spaces = _spaces(workspace, objects, fitted, stamps, embeddings)
    for space, (train, judged) in spaces.items():
        figures["separation"][space] = _separation(spec, objects, fitted, train, judged)
    own = figures["model"]["components"]["alarms"] if figures["model"] else []
    figures["alarms"] = [*figures["components"]["alarms"], *(f"model: {text}" for text in own)]
    return figures


def _model_figures(
    workspace: Workspace,
    spec: Evaluation,
    objects: HeldOut,
    memberships: Floats,
    model: Ref | None,
) -> dict[str, Any]:
    """The same figures for the model's own components, by its argmax."""
    assert objects.model_cluster is not None
    components = memberships.shape[1]
    defined = np.isfinite(memberships).all(axis=1)
    counts = occupancy(objects.model_cluster, components)
    if model is not None:
        overlap = own_overlap(workspace, model)
    else:
        overlap = soft_overlap(memberships[defined])
    names = [f"m{k:02d}" for k in range(components)]
    merged = merged_components(workspace, model)
    own = [k for k, name in enumerate(names) if name not in merged]
    return {
        **agreement(objects.model_cluster, objects, spec, components),
        "components": {
            "n": int(defined.sum()),
            "occupancy": counts,
            **effective_numbers(memberships[defined].sum(axis=0), overlap),
            "overlap": overlap.tolist(),
            **alarms([counts[k] for k in own], overlap[np.ix_(own, own)], [names[k] for k in own]),
            "merged": merged,
        },
    }


def _spaces(
    workspace: Workspace, objects: HeldOut, fitted: Clusters, stamps: Ref, embeddings: Ref | None
) -> dict[str, tuple[Floats, Floats]]:
    """Vectors of training and judged objects: those clustered, and the model's latent ones."""
    found: dict[str, tuple[Floats, Floats]] = {}
    if fitted.vectors is not None:
        where = gather.read_index(workspace, stamps)
        embedded = {} if embeddings is None else gather.embedding_parts(workspace, embeddings)
        vectors = np.full((len(where), len(fitted.vectors.names)), np.nan)
        for i, digest in enumerate(where.parts):
            z, _, _ = part_vectors(workspace, fitted.vectors, digest, embedded.get(digest))
            rows = np.flatnonzero(where.part == i)
            vectors[rows] = z[where.row[rows]]
        found["clustered"] = (vectors[objects.train], vectors[objects.rows])
    latent = None if embeddings is None else gather.embedded(workspace, embeddings, "vector")
    if latent is not None:
        values = np.asarray(latent, np.float64)
        found["latent"] = (values[objects.train], values[objects.rows])
    return found


def _separation(
    spec: Evaluation, objects: HeldOut, fitted: Clusters, train: Floats, judged: Floats
) -> dict[str, Any]:
    """The published labels, the model's own and two baselines, on the same vectors."""
    usable = np.isfinite(judged).all(axis=1)
    judged = judged[usable]
    labellings = {"published": objects.cluster[usable]}
    components = max(fitted.components, 1)
    if objects.model_cluster is not None:
        labellings["model"] = objects.model_cluster[usable]
    labellings |= baselines(train[np.isfinite(train).all(axis=1)], judged, components, spec.seed)
    found: dict[str, Any] = {}
    for name, labels in labellings.items():
        everywhere = np.full(len(objects), -1, np.int64)
        everywhere[usable] = labels
        whole = agreement(everywhere, objects, spec, max(int(labels.max(initial=0)) + 1, 1))
        found[name] = {
            **separation(
                judged[labels >= 0], labels[labels >= 0], most=spec.silhouettes, seed=spec.seed
            ),
            "classes": _without_confusion(whole["classes"]),
            "position_angle": whole["nuisances"]["position_angle"],
        }
    return found


def _clustering(workspace: Workspace, clusters: Ref) -> Clustering:
    """The settings that clusters were fitted with."""
    manifest = workspace.manifest(clusters)
    assert manifest is not None, "clusters are committed before they are judged"
    return specs.load(Clustering, manifest["spec"], "the settings of these clusters")


def _without_confusion(classes: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if classes is None else {k: v for k, v in classes.items() if k != "confusion"}


def headline(figures: Mapping[str, Any]) -> dict[str, float | int | None]:
    """The figures a reader asks for first, flat: for the summary, the report and the tracker."""
    flat: dict[str, float | int | None] = {"judged": figures["n"]}
    for who in ("published", "model", "all_objects"):
        labelling = figures[who]
        if labelling is None:
            continue
        classes = labelling["classes"]
        if classes is not None:
            for name in ("nmi", "nmi_bound", "ari", "purity"):
                flat[f"{who}_{name}"] = classes[name]
            beyond = classes["beyond_inclination"]
            flat[f"{who}_beyond_inclination"] = None if beyond is None else beyond["corrected"]
        for name, found in labelling["nuisances"].items():
            flat[f"{who}_{name}_information"] = None if found is None else found["corrected"]
            flat[f"{who}_{name}_z"] = None if found is None else found["z"]
        if who == "all_objects":
            continue
        components = figures["components"] if who == "published" else labelling["components"]
        flat[f"{who}_effective_components"] = components["effective"]
        flat[f"{who}_alarms"] = len(components["dead"]) + len(components["duplicates"])
    for space, labellings in figures["separation"].items():
        for name, found in labellings.items():
            for figure in ("calinski_harabasz", "silhouette"):
                flat[f"{space}_{name}_{figure}"] = found[figure]
    if figures["classification"] is not None:
        flat |= classification_headline(figures["classification"])
    if figures["conditions"] is not None:
        flat |= condition_headline(figures["conditions"])
    if figures["probe"] is not None:
        flat |= probe_headline(figures["probe"])
    if figures["predictions"] is not None:
        flat |= prediction_headline(figures["predictions"])
    if figures["comparison"] is not None:
        flat |= comparison_headline(figures["comparison"])
    if figures["stability"] is not None:
        for name in ("seeded", "published", "afresh"):
            flat[f"halves_{name}_ari"] = figures["stability"][name]["mean"]
    if figures["reobservation"] is not None:
        for worse in figures["reobservation"]["conditions"]:
            flat[f"flips_{worse['name']}"] = worse["rate"]
            flat[f"flips_{worse['name']}_sure"] = worse["sure"]["rate"]
    if figures["strangeness"] is not None:
        flat |= strangeness_headline(figures["strangeness"])
    if figures["reconstruction"] is not None:
        for name in ("mse", "variance_explained"):
            flat[f"reconstruction_{name}"] = figures["reconstruction"][name]
    return flat


def figures_path(workspace: Workspace, evaluation: Ref) -> Path:
    """Where the figures of a committed evaluation lie."""
    return workspace.place(evaluation) / "figures.json"
