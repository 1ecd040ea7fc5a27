"""What scores of strangeness are worth: whether they put objects of rare classes first.

A score that ranks rare classes no better than how much there is to draw, or how much light, says
nothing of rarity (Serra et al. 2020, ICLR): such baselines stand beside every score.
"""

from __future__ import annotations

import difflib
import io
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from galpipe.catalogue.heldout import HeldOut, per_row
from galpipe.catalogue.predictions import spearman
from galpipe.catalogue.reconstruction import images
from galpipe.catalogue.spec import Evaluation
from galpipe.classes.anew.network import view_of
from galpipe.errors import InputError
from galpipe.workspace import Ref, Workspace

FEWEST = 10  # strange objects, and others, for a figure of them
AT_ONCE = 2000  # stamps that are compressed before the next are read
RESAMPLED = 200  # bootstrap samples, for the error of an AUROC
SCORES = {  # in words; the last two are baselines
    "reconstruction_error": "how badly it is drawn",
    "latent_density": "-log p of the vector under the network's prior",
    "anomaly_score": "-log p of the vector under the clusters",
    "complexity": "size of the stamp as a PNG file",
    "flux": "flux",
}
BASELINES = ("complexity", "flux")

Floats = NDArray[np.float64]


def strangeness_figures(
    workspace: Workspace,
    spec: Evaluation,
    catalogue: Ref,
    stamps: Ref,
    model: Ref | None,
    embeddings: Ref | None,
    objects: HeldOut,
) -> dict[str, Any] | None:
    """AUROC of every score of the judged objects, strange classes against all others.

    0.5 is chance, below it the strange come last; `error` is the bootstrap's.  The rank
    correlations of each score with both baselines tell what it is a measure of.  None where no
    class is called strange; an undefined figure is null.  Raises InputError for a class that the
    column has not.
    """
    wanted = spec.truth.strange
    if not wanted or objects.classes is None:
        return None
    _check(workspace, catalogue, spec)
    known = np.array([name is not None for name in objects.classes])
    rows = objects.rows[known]
    strange = np.isin(objects.classes[known].astype(str), wanted)
    view = "image" if model is None else view_of(workspace, model)
    flux = objects.measured.get("flux")
    density = per_row(workspace, embeddings, "log_density", rows)
    told = {
        "reconstruction_error": per_row(workspace, embeddings, "reconstruction_error", rows),
        "latent_density": None if density is None else -density,
        "anomaly_score": objects.anomaly[known],
        "complexity": complexity(workspace, stamps, rows, view),
        "flux": None if flux is None else flux[known],
    }
    scores = {name: values for name, values in told.items() if values is not None}
    return {
        "column": spec.truth.classes,
        "classes": list(wanted),
        "n": len(rows),
        "strange": int(strange.sum()),
        "scores": {
            name: {
                "words": SCORES[name],
                "baseline": name in BASELINES,
                **auroc(values, strange, spec.seed),
                **{
                    f"correlation_{other}": _correlation(values, scores.get(other))
                    for other in BASELINES
                },
            }
            for name, values in scores.items()
        },
    }


def strangeness_headline(figures: dict[str, Any]) -> dict[str, float | int | None]:
    """The figures a reader asks for first, flat."""
    return {f"strange_{name}_auroc": told["auroc"] for name, told in figures["scores"].items()}


def auroc(score: Floats, strange: NDArray[np.bool_], seed: int) -> dict[str, float | int | None]:
    """How often a strange object scores higher than another one, ties counting half.

    Objects without a score are left out; null where too few are left of either.
    """
    from sklearn.metrics import roc_auc_score

    finite = np.isfinite(score)
    values, truth = score[finite], strange[finite]
    number = {"n": len(values), "strange": int(truth.sum())}
    if min(truth.sum(), (~truth).sum()) < FEWEST:
        return {**number, "auroc": None, "error": None}
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLED):
        rows = random.integers(len(truth), size=len(truth))
        if 0 < truth[rows].sum() < len(rows):
            drawn.append(roc_auc_score(truth[rows], values[rows]))
    whole = float(roc_auc_score(truth, values))
    return {**number, "auroc": whole, "error": float(np.std(drawn))}


def complexity(workspace: Workspace, stamps: Ref, rows: NDArray[np.int64], view: str) -> Floats:
    """Bytes of each stamp as PNG files of 8 bits, one per band, (object,)."""
    found = [np.zeros(0)]
    for start in range(0, len(rows), AT_ONCE):
        read = images(workspace, stamps, rows[start : start + AT_ONCE], view)
        planes = np.rint(np.clip(read, 0, 1) * 255).astype(np.uint8)
        found.append(np.array([sum(map(_bytes, image)) for image in planes], np.float64))
    return np.concatenate(found)


def _bytes(plane: NDArray[np.uint8]) -> int:
    file = io.BytesIO()
    Image.fromarray(plane).save(file, "PNG")
    return len(file.getvalue())


def _correlation(one: Floats, other: Floats | None) -> float | None:
    if other is None:
        return None
    both = np.isfinite(one) & np.isfinite(other)
    return spearman(one[both], other[both])


def _check(workspace: Workspace, catalogue: Ref, spec: Evaluation) -> None:
    """Raise InputError, naming the nearest class, where the column has not a class."""
    column = f"input_{spec.truth.classes}"
    table = pq.read_table(workspace.place(catalogue) / "catalogue.parquet", columns=[column])
    names = sorted({str(value) for value in table[column].to_pylist() if value is not None})
    for name in spec.truth.strange:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names[:20])}."
            raise InputError(
                f"[evaluate.truth] strange: the column {spec.truth.classes!r} has no class "
                f"{name!r}; {hint}"
            )
