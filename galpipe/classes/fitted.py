"""A fitted clustering on disk and in memory: how it is kept, and how vectors are made for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.classes import gather
from galpipe.classes.features import Vectors, restored_vectors
from galpipe.classes.mixture import Mixture
from galpipe.classes.rule import Rule, restored
from galpipe.workspace import Ref, Workspace, write_bytes

Floats = NDArray[np.float64]
ARRAYS = "mixture.safetensors"
FACTS = "clusters.json"


@dataclass(frozen=True)
class Memberships:
    """What clusters say of objects, row by row."""

    posterior: Floats  # (row, cluster)
    log_density: Floats  # (row), of the mixture
    reason: NDArray[np.uint8]  # (row) why one has no cluster
    filled: NDArray[np.int64]  # (row) columns that were filled in


@dataclass(frozen=True)
class Clusters:
    """A fitted clustering, as it is applied."""

    mixture: Mixture | None  # None: there was nothing to fit to, and nobody is assigned
    vectors: Vectors | None
    faintest: float
    facts: Mapping[str, Any]  # the whole of clusters.json
    rule: Rule | None = None  # gives the posterior in place of the mixture

    def memberships(
        self, columns: Callable[[Sequence[str]], Floats], embedding: Floats | None
    ) -> Memberships:
        """Memberships by what was measured: `columns` of their names, (row, name), raw values."""
        assert self.mixture is not None and self.vectors is not None
        z, reason, filled = self.vectors.apply(*given(self.vectors, columns, embedding))
        posterior, log_density = self.mixture.posterior(z)
        if self.rule is not None:
            u, _, _ = self.rule.vectors.apply(*given(self.rule.vectors, columns, embedding))
            posterior = self.rule.posterior(u)
        return Memberships(posterior, log_density, reason, filled)

    @property
    def uses_embedding(self) -> bool:
        """Whether a model's vectors have a part in the memberships."""
        return self.vectors is not None and self.vectors.axes is not None

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
    rule = None if facts.get("steady") is None else restored(facts["steady"], arrays)
    vectors = restored_vectors(facts["vectors"], arrays)
    return Clusters(mixture, vectors, facts["faintest"], facts, rule)


def part_vectors(
    workspace: Workspace, vectors: Vectors, stamp_part: str, embedding_part: str | None
) -> tuple[Floats, NDArray[np.uint8], NDArray[np.int64]]:
    """Vectors (row, dimension) of a whole part, reasons against them, counts of filled columns."""
    return vectors.apply(*given(vectors, *part_inputs(workspace, stamp_part, embedding_part)))


def part_inputs(
    workspace: Workspace, stamp_part: str, embedding_part: str | None
) -> tuple[Callable[[Sequence[str]], Floats], Floats | None]:
    """What was measured of a whole part, by the columns' names, and its vectors if it has any."""
    part = gather.stamp_part(workspace, stamp_part)

    def columns(wanted: Sequence[str]) -> Floats:
        names = gather.column_names(part)
        places = [names.index(name) for name in wanted]
        return part.read("measured")[:, places].astype(np.float64)

    if embedding_part is None:
        return columns, None
    found = gather.embedding_part(workspace, embedding_part)
    return columns, found.read("vector").astype(np.float64)


def given(
    vectors: Vectors, columns: Callable[[Sequence[str]], Floats], embedding: Floats | None
) -> tuple[Floats | None, Floats | None]:
    """What `vectors` are made of: raw columns and embedding, each None where it has no part."""
    raw = None
    if vectors.columns is not None:
        raw = columns([feature.column for feature in vectors.columns.features])
    assert vectors.axes is None or embedding is not None, "embeddings are clustered where given"
    return raw, embedding if vectors.axes is not None else None


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Arrays by name as safetensors, whole or not at all; equal arrays are equal bytes."""
    from safetensors.numpy import save

    content = save({name: np.ascontiguousarray(values) for name, values in arrays.items()})
    write_bytes(path, content)


def read_arrays(path: Path) -> dict[str, Any]:
    """Arrays as `write_arrays` kept them."""
    from safetensors.numpy import load

    return dict(load(path.read_bytes()))
