"""Columns of the labels that a network predicts: vote fractions, values, and their scatters."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.classes import gather
from galpipe.workspace import Ref, Workspace

Floats = NDArray[np.float32]


def told(workspace: Workspace, model: Ref | None) -> dict[str, Any]:
    """What a network says of its own arrays (`Network.told`); empty without one."""
    if model is None:
        return {}
    found: dict[str, Any] = json.loads((workspace.place(model) / "model.json").read_text())
    return dict(found.get("told", {}))


def predicted_columns(
    workspace: Workspace, model: Ref | None, embeddings: Ref | None
) -> dict[str, tuple[Floats, dict[str, str]]]:
    """Values (catalogue row), NaN without a stamp, and what they mean, by column.

    The meaning has `description`, `unit` and `ucd`, as in `galpipe.catalogue.labels.Meaning`.
    """
    columns: dict[str, tuple[Floats, dict[str, str]]] = {}
    if embeddings is None:
        return columns
    arrays: dict[str, Any] = {}
    for one in told(workspace, model).get("published", []):
        name = one["array"]
        if name not in arrays:
            arrays[name] = gather.embedded(workspace, embeddings, name)
        if arrays[name] is None:  # no object has a stamp
            continue
        values = arrays[name] if one["index"] is None else arrays[name][:, one["index"]]
        meaning = {key: str(one[key]) for key in ("description", "unit", "ucd")}
        columns[one["column"]] = (np.asarray(values, np.float32), meaning)
    return columns
