"""How well a model draws held-out galaxies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.catalogue.heldout import HeldOut, per_row, thinned
from galpipe.classes import gather
from galpipe.classes.anew.network import view_of
from galpipe.workspace import Ref, Workspace

Images = NDArray[np.float32]
MOST_IMAGES = 2000  # stamps read for the variance


def reconstruction_figures(
    workspace: Workspace,
    stamps: Ref,
    model: Ref | None,
    embeddings: Ref | None,
    objects: HeldOut,
) -> dict[str, Any] | None:
    """Mean squared error of the judged objects (stamps in 0..1) and the variance it explains.

    variance_explained = 1 - mse / (mean squared difference of the same stamps from the mean
    training stamp), at most 1.  None without a model or without judged objects.
    """
    error = per_row(workspace, embeddings, "reconstruction_error", objects.rows)
    if error is None or not np.isfinite(error).any():
        return None
    finite = np.isfinite(error)
    some = thinned(np.flatnonzero(finite), MOST_IMAGES)
    view = "image" if model is None else view_of(workspace, model)
    judged = images(workspace, stamps, objects.rows[some], view)
    reference = thinned(objects.train if len(objects.train) else objects.rows, MOST_IMAGES)
    mean = images(workspace, stamps, reference, view).mean(axis=0)
    variance = float(((judged - mean) ** 2).mean())
    mse = float(error[finite].mean())
    shares = {f"{q}%": float(np.quantile(error[finite], q / 100)) for q in (5, 50, 95)}
    return {
        "n": int(finite.sum()),
        "mse": mse,
        "mse_quantiles": shares,
        "variance": variance,
        "variance_explained": 1 - float(error[some].mean()) / variance if variance > 0 else None,
        "variance_n": len(some),
    }


def images(
    workspace: Workspace, stamps: Ref, rows: NDArray[np.int64], view: str = "image"
) -> Images:
    """Stamps of some catalogue rows, all with a stamp, as float32 in 0..1: (row, band, y, x).

    `view` is `image` (neighbours filled) or `image_unmasked`.
    """
    where = gather.read_index(workspace, stamps)
    found: Any = None
    for i, digest in enumerate(where.parts):
        mine = np.flatnonzero(where.part[rows] == i)
        if not len(mine):
            continue
        part = gather.stamp_part(workspace, digest)
        scale = float(part.group.attrs.asdict().get("unit_scale", 1.0))  # type: ignore[arg-type]
        array = part.array(view)
        wanted = where.row[rows[mine]]
        if found is None:
            found = np.zeros((len(rows), *array.shape[1:]), np.float32)
        for chunk in np.unique(wanted // part.chunk):  # a chunk is read once
            start = int(chunk) * part.chunk
            block = np.asarray(array[start : min(start + part.chunk, len(part))])
            inside = wanted // part.chunk == chunk
            found[mine[inside]] = block[wanted[inside] - start].astype(np.float32) / scale
    return np.zeros((0, 1, 1, 1), np.float32) if found is None else found
