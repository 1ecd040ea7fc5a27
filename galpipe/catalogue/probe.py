"""What the vectors know of the classes: a linear probe, beside what plainer descriptions know.

A linear rule is learnt from the classes of the training split and judged on the test split
(Alain & Bengio 2016, arXiv 1610.01644); the vectors themselves may have met no class at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe.catalogue.heldout import thinned
from galpipe.catalogue.logistic import chosen_by, chosen_by_folds, predictions
from galpipe.catalogue.reconstruction import images
from galpipe.catalogue.spec import Evaluation
from galpipe.catalogue.supervised import macro_f1
from galpipe.classes import gather
from galpipe.classes.features import chosen_columns, defined, fit_axes, fit_columns
from galpipe.classes.spec import Clustering
from galpipe.stamps import gather as stores
from galpipe.workspace import Ref, Workspace

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

MOST = 10_000  # training objects that the rule is learnt from, evenly along the catalogue
FEWEST = 20  # objects of a split, below which there is no probe
FEW_LABELS = 250  # of which a rule is learnt as well, in
DRAWS = 5  # draws from the training split
AXES = 20  # principal components of the stamps
FINEST = 32  # pixels on a side of the stamps they are taken of, at most
MOST_STAMPS = 4000  # of the training split, that the components are fitted on
BLOCK = 1024  # stamps read at once
WORDS = {
    "embedding": "Embedding",
    "columns": "Measured columns",
    "embedding_and_columns": "Embedding and measured columns",
    "principal_components": f"{AXES} principal components of the stamps",
}


def probe_figures(
    workspace: Workspace, spec: Evaluation, catalogue: Ref, stamps: Ref, embeddings: Ref | None
) -> dict[str, Any] | None:
    """Accuracy and macro-F1 of a linear probe of every description of the galaxies in `WORDS`.

    None without a column of classes, without an embedding, or where the training or the test split
    has fewer than FEWEST objects of known class, or the training split one class alone.  Plain
    JSON; `strength` is scikit-learn's C, chosen on the validation split (by folds of the training
    split where that is too small).
    """
    column = spec.truth.classes
    vectors = None if embeddings is None else gather.embedded(workspace, embeddings, "vector")
    if column is None or vectors is None:
        return None
    cells = pq.read_table(
        workspace.place(catalogue) / "catalogue.parquet", columns=[f"input_{column}"]
    )[f"input_{column}"].to_pylist()
    named = [None if v is None or v != v or not str(v).strip() else str(v) for v in cells]
    names = sorted({name for name in named if name is not None})
    place = {name: number for number, name in enumerate(names)}
    truth = np.array([-1 if name is None else place[name] for name in named], np.int64)
    usable = gather.read_index(workspace, stamps).usable & defined(vectors) & (truth >= 0)
    split = gather.splits(workspace, catalogue)
    rows = {
        name: thinned(np.flatnonzero(usable & (split == name)), most)
        for name, most in (("train", MOST), ("validation", MOST), ("test", spec.largest))
    }
    if min(len(rows["train"]), len(rows["test"])) < FEWEST:
        return None
    if len(np.unique(truth[rows["train"]])) < 2:
        return None
    return {
        "column": column,
        "names": names,
        "n": len(rows["test"]),
        "learnt_from": len(rows["train"]),
        "largest_class": float(np.bincount(truth[rows["test"]]).max() / len(rows["test"])),
        "few_labels": FEW_LABELS if len(rows["train"]) >= 2 * FEW_LABELS else None,
        "draws": DRAWS,
        "descriptions": {
            name: {"dimensions": found["train"].shape[1], **_judged(found, rows, truth, spec.seed)}
            for name, found in _descriptions(workspace, stamps, vectors, rows).items()
        },
    }


def probe_headline(figures: Mapping[str, Any]) -> dict[str, float | int | None]:
    """The figures a reader asks for first, flat."""
    flat: dict[str, float | int | None] = {"probe_n": figures["n"]}
    for name, found in figures["descriptions"].items():
        flat[f"probe_{name}_accuracy"] = found["accuracy"]
        flat[f"probe_{name}_macro_f1"] = found["macro_f1"]
        if found["few"] is not None:
            flat[f"probe_{name}_few_labels_accuracy"] = found["few"]["accuracy"]
    return flat


def _descriptions(
    workspace: Workspace, stamps: Ref, vectors: NDArray[Any], rows: Mapping[str, Labels]
) -> dict[str, dict[str, Floats]]:
    """Vectors (object, dimension) by description and split, fitted on the training split alone."""
    embedding = {s: np.asarray(vectors[mine], np.float64) for s, mine in rows.items()}
    found = {"embedding": embedding}
    columns = _columns(workspace, stamps, rows)
    if columns is not None:
        both = {s: np.concatenate([embedding[s], columns[s]], axis=1) for s in rows}
        found |= {"columns": columns, "embedding_and_columns": both}
    return found | {"principal_components": _components(workspace, stamps, rows)}


def _columns(
    workspace: Workspace, stamps: Ref, rows: Mapping[str, Labels]
) -> dict[str, Floats] | None:
    """The columns that are clustered by default, as they are clustered; None: none is there."""
    present = stores.column_names(workspace, stamps)
    usual = Clustering()
    wanted = [f for f in usual.columns if "*" in f.column or f.column in present]
    features = chosen_columns(wanted, present, usual.without)
    if not features:
        return None
    values = gather.measured(workspace, stamps, [feature.column for feature in features])
    raw = np.stack([values[feature.column] for feature in features], axis=1)
    fitted = fit_columns(raw[rows["train"]], features, usual.clip)
    return {split: fitted.apply(raw[mine])[0] for split, mine in rows.items()}


def _components(workspace: Workspace, stamps: Ref, rows: Mapping[str, Labels]) -> dict[str, Floats]:
    """Principal components of grey stamps of at most FINEST pixels on a side, block means."""
    coarse = {split: _coarse(workspace, stamps, mine) for split, mine in rows.items()}
    few = thinned(np.arange(len(rows["train"])), MOST_STAMPS)
    axes = fit_axes(coarse["train"][few].astype(np.float64), AXES, 1.0)
    return {split: axes.apply(values.astype(np.float64)) for split, values in coarse.items()}


def _coarse(workspace: Workspace, stamps: Ref, rows: Labels) -> NDArray[np.float32]:
    blocks = []
    for start in range(0, max(len(rows), 1), BLOCK):
        grey = images(workspace, stamps, rows[start : start + BLOCK]).mean(axis=1)
        step = -(-grey.shape[1] // FINEST)
        size = grey.shape[1] // step
        cut = grey[:, : size * step, : size * step].reshape(len(grey), size, step, size, step)
        blocks.append(cut.mean(axis=(2, 4)).reshape(len(grey), size * size))
    return np.concatenate(blocks)


def _judged(
    found: Mapping[str, Floats], rows: Mapping[str, Labels], truth: Labels, seed: int
) -> dict[str, Any]:
    train, test = truth[rows["train"]], truth[rows["test"]]
    judges = truth[rows["validation"]]
    random = np.random.default_rng(seed)
    if len(judges) >= FEWEST:
        strength = chosen_by(found["train"], train, found["validation"], judges)
    else:
        shuffled = random.permutation(len(train))
        strength = chosen_by_folds(found["train"][shuffled], train[shuffled])
    (told,) = predictions(found["train"], train, found["test"], (strength,))
    accuracy, score = _scores(told, test)
    few = None
    if len(train) >= 2 * FEW_LABELS:
        draws = []
        for _ in range(DRAWS):
            drawn = random.choice(len(train), FEW_LABELS, replace=False)
            vectors, labels = found["train"][drawn], train[drawn]
            best = chosen_by_folds(vectors, labels)
            (answer,) = predictions(vectors, labels, found["test"], (best,))
            draws.append(_scores(answer, test))
        mean, scatter = np.mean(draws, axis=0), np.std(draws, axis=0, ddof=1)
        few = {
            "accuracy": float(mean[0]), "accuracy_scatter": float(scatter[0]),
            "macro_f1": float(mean[1]), "macro_f1_scatter": float(scatter[1]),
        }  # fmt: skip
    error = float(np.sqrt(accuracy * (1 - accuracy) / len(test)))
    return {
        "accuracy": accuracy,
        "accuracy_error": error,
        "macro_f1": score,
        "strength": strength,
        "few": few,
    }


def _scores(told: Labels, truth: Labels) -> tuple[float, float]:
    """Accuracy and macro-F1."""
    classes = int(max(told.max(), truth.max())) + 1
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (truth, told), 1)
    score = macro_f1(counts)
    assert score is not None, "there are objects to judge"
    return float(np.trace(counts) / len(truth)), score
