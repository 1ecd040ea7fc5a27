"""Labels that are the network's own: its classes or components, with the probabilities it gives.

A Gaussian per class stands beside them, whose moments are taken with those probabilities on the
training split: it says how far an object is from all that was learnt, and labels nobody.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.classes import gather
from galpipe.classes.features import defined
from galpipe.classes.mixture import Mixture
from galpipe.errors import InputError
from galpipe.workspace import Ref, Workspace

Floats = NDArray[np.float64]
ARRAYS = ("class_probability", "responsibility")  # of the embeddings; the first that is there


@dataclass(frozen=True)
class Given:
    """What a network says of the objects of a release."""

    array: str  # of the embeddings
    names: tuple[str, ...]  # of its classes or components, in the array's order
    column: str | None  # of the input table, that the classes were learnt from
    probabilities: Floats  # (catalogue row, class), NaN without a stamp

    def facts(self) -> dict[str, Any]:
        """What is kept in clusters.json."""
        return {"array": self.array, "names": list(self.names), "column": self.column}


def given(workspace: Workspace, embeddings: Ref | None) -> Given:
    """The network's own labels.  Raises InputError where there are none."""
    if embeddings is None:
        raise InputError(
            "[cluster] on = 'model' needs a model, and [model] kind is 'none'; "
            "choose a model, or on = 'columns'."
        )
    manifest = workspace.manifest(embeddings)
    assert manifest is not None, "embeddings are committed before they are read"
    place = workspace.place(Ref("model", manifest["parents"]["model"]))
    model = json.loads((place / "model.json").read_text())
    for array in ARRAYS:
        found = gather.embedded(workspace, embeddings, array)
        if found is None:
            continue
        if array == "class_probability" and "told" in model:
            told = model["told"]
            return Given(array, tuple(told["labels"]), told["column"], found.astype(np.float64))
        facts = model["facts"].get("class") if array == "class_probability" else None
        count = found.shape[1]
        names = tuple(f"m{k:02d}" for k in range(count)) if facts is None else facts["names"]
        column = None if facts is None else str(model["model"]["classes"])
        return Given(array, tuple(names), column, found.astype(np.float64))
    raise InputError(
        f"[cluster] on = 'model' needs a network that tells classes or components, and "
        f"{model['model']['kind']!r} tells none; cluster its vectors: on = 'embedding'."
    )


def part_probabilities(workspace: Workspace, embedding_part: str, array: str) -> Floats:
    """The network's probabilities for the rows of one part, (row, class); alike where undefined."""
    found = gather.embedding_part(workspace, embedding_part).read(array).astype(np.float64)
    known = defined(found)[:, None]
    filled = np.where(known, found, 1.0)
    return np.asarray(filled / filled.sum(axis=1, keepdims=True), np.float64)


def moments(z: Floats, probabilities: Floats, regularisation: float) -> Mixture:
    """A Gaussian per class from vectors z (object, dimension) and their classes' probabilities.

    The classes keep their order.  Covariances are drawn towards their common one as though that had
    as many objects as there are dimensions (Friedman 1989), so that a class of a few objects has
    one; `regularisation` is added to every variance.
    """
    objects, dimensions = z.shape
    classes = probabilities.shape[1]
    weight = probabilities.sum(axis=0)
    centre = z.mean(axis=0)
    means = np.empty((classes, dimensions))
    scatter = np.empty((classes, dimensions, dimensions))
    for k in range(classes):
        p = probabilities[:, k]
        means[k] = (p @ z + centre) / (weight[k] + 1)
        apart = z - means[k]
        scatter[k] = (apart * p[:, None]).T @ apart
    common = scatter.sum(axis=0) / objects
    covariances = (scatter + dimensions * common) / (weight + dimensions)[:, None, None]
    covariances += regularisation * np.eye(dimensions)
    return Mixture((weight + 1) / (objects + classes), means, covariances)
