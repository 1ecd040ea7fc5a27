"""What a trained model sees of stamps, and what it gives of them when they are seen anew."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.classes import gather
from galpipe.workspace import Ref, Workspace


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
