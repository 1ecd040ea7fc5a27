"""What a trained model sees of stamps, and what it gives of them when they are seen anew."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.classes import gather
from galpipe.workspace import Ref, Workspace

Floats = NDArray[np.float64]


def view_of(workspace: Workspace, model: Ref) -> str:
    """The array of stamps that a model sees: `image` or `image_unmasked`."""
    facts = json.loads((workspace.place(model) / "model.json").read_text())
    return "image_unmasked" if facts["model"]["view"] == "unmasked" else "image"


def conditions_of(
    workspace: Workspace, embeddings: Ref | None, rows: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """What the vectors of some catalogue rows were conditioned on, (row, condition), raw values.

    NaN where it is not known; None where the network is told no conditions.
    """
    given = None if embeddings is None else gather.embedded(workspace, embeddings, "condition")
    return None if given is None else given[rows].astype(np.float64)


@dataclass(frozen=True)
class Told:
    """The columns that a network is told of objects beside their images."""

    names: tuple[str, ...]
    values: Floats  # (object, column), raw; NaN where unknown
    measured: tuple[bool, ...]  # which are measured on the stamp, and anew on another one

    def some(self, places: NDArray[np.int64]) -> Told:
        """Those of some of the objects."""
        return replace(self, values=self.values[places])

    def anew(self, names: Sequence[str], measured: Floats) -> Floats:
        """What it is told of other stamps of the objects, on which `names` were `measured`."""
        values = self.values.copy()
        for place, name in enumerate(self.names):
            if self.measured[place]:
                values[:, place] = measured[:, names.index(name)]
        return values


def told_of(
    workspace: Workspace,
    embeddings: Ref | None,
    stamps: Ref,
    catalogue: Ref,
    rows: NDArray[np.int64],
) -> Told | None:
    """What the network of some embeddings is told of catalogue rows; None where nothing."""
    if embeddings is None:
        return None
    from galpipe.classes.embedding import columns_told
    from galpipe.models.targets import of_stamps

    made = workspace.manifest(embeddings)
    assert made is not None, "embeddings are committed before they are repeated"
    found = columns_told(workspace, Ref("model", made["parents"]["model"]), stamps, catalogue)
    if found is None:
        return None
    names, values = found
    return Told(names, values[rows].astype(np.float64), of_stamps(workspace, catalogue, names))


def embedded_anew(
    workspace: Workspace,
    model: Ref,
    embeddings: Ref,
    images: NDArray[Any],
    unit_scale: float,
    conditions: NDArray[np.float64] | None,
) -> dict[str, NDArray[np.float64]]:
    """What a model gives of stamps (object, band, y, x) as they are stored, array by array.

    The arithmetic is that of the `embeddings`: the same stamps give the same bits.
    """
    from galpipe.classes.embedding import embed_images
    from galpipe.models.checkpoints import load_model
    from galpipe.models.engine.arithmetic import fixed_arithmetic

    manifest = workspace.manifest(embeddings)
    assert manifest is not None, "embeddings are committed before they are repeated"
    step, threads = int(manifest["spec"]["micro_batch"]), int(manifest["spec"]["threads"])
    network = load_model(workspace.place(model))
    told = None if conditions is None else conditions.astype(np.float32)
    found: dict[str, list[NDArray[np.float32]]] = {}
    with fixed_arithmetic(threads):
        for start in range(0, len(images), step):
            some = slice(start, start + step)
            given = None if told is None else told[some]
            for name, values in embed_images(
                network, images[some], unit_scale, step, given
            ).items():
                found.setdefault(name, []).append(values)
    return {name: np.concatenate(blocks).astype(np.float64) for name, blocks in found.items()}
