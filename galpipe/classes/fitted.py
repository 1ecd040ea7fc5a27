"""A fitted clustering on disk and in memory: how it is kept, and how vectors are made for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.classes import gather
from galpipe.classes.features import Vectors, restored
from galpipe.classes.mixture import Mixture
from galpipe.workspace import Ref, Workspace, write_bytes

Floats = NDArray[np.float64]
ARRAYS = "mixture.safetensors"
FACTS = "clusters.json"


@dataclass(frozen=True)
class Clusters:
    """A fitted clustering, as it is applied."""

    mixture: Mixture | None  # None: there was nothing to fit to, and nobody is assigned
    vectors: Vectors | None
    faintest: float
    facts: Mapping[str, Any]  # the whole of clusters.json

    @property
    def components(self) -> int:
        return 0 if self.mixture is None else self.mixture.components

    @property
    def names(self) -> list[str]:
        """The labels, in the order of the clusters' numbers."""
        scheme = self.facts["scheme"]
        return sorted(scheme, key=lambda name: int(scheme[name]["cluster"]))

    @property
    def own(self) -> Mapping[str, Any] | None:
        """Where the labels are the network's own: `array` of the embeddings, `names`, `column`."""
        found: Mapping[str, Any] | None = self.facts.get("own")
        return found

    @property
    def origin(self) -> str:
        """What gave the labels: "classifier" or "cluster"."""
        return "classifier" if self.own and self.own["column"] is not None else "cluster"


def load_clusters(workspace: Workspace, clusters: Ref) -> Clusters:
    """A committed clustering."""
    place = workspace.place(clusters)
    facts = json.loads((place / FACTS).read_text())
    if not facts["components"]:
        return Clusters(None, None, facts["faintest"], facts)
    arrays = read_arrays(place / ARRAYS)
    mixture = Mixture(arrays["weights"], arrays["means"], arrays["covariances"])
    return Clusters(mixture, restored(facts["vectors"], arrays), facts["faintest"], facts)


def part_vectors(
    workspace: Workspace, vectors: Vectors, stamp_part: str, embedding_part: str | None
) -> tuple[Floats, NDArray[np.uint8], NDArray[np.int64]]:
    """Vectors (row, dimension) of a whole part, reasons against them, counts of filled columns."""
    part = gather.stamp_part(workspace, stamp_part)
    raw = embedding = None
    if vectors.columns is not None:
        names = gather.column_names(part)
        places = [names.index(feature.column) for feature in vectors.columns.features]
        raw = part.read("measured")[:, places].astype(np.float64)
    if vectors.axes is not None:
        assert embedding_part is not None, "a clustering of embeddings is given embeddings"
        found = gather.embedding_part(workspace, embedding_part)
        embedding = found.read("vector").astype(np.float64)
    return vectors.apply(raw, embedding)


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Arrays by name as safetensors, whole or not at all; equal arrays are equal bytes."""
    from safetensors.numpy import save

    content = save({name: np.ascontiguousarray(values) for name, values in arrays.items()})
    write_bytes(path, content)


def read_arrays(path: Path) -> dict[str, Any]:
    """Arrays as `write_arrays` kept them."""
    from safetensors.numpy import load

    return dict(load(path.read_bytes()))
