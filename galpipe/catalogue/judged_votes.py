"""Predicted vote fractions against the votes that were cast."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from galpipe.catalogue.predictions import FEWEST, Judged, boosted, within
from galpipe.models.votes.spec import Votes
from galpipe.models.votes.tree import answer_names, counts, spans

Floats = NDArray[np.float64]


def figures(
    spec: Votes,
    judged: Judged,
    targets: Mapping[str, Any],
    array: Callable[[str], Floats],
    fewest: int,
) -> dict[str, Any]:
    """Root mean square errors of every answer, on objects with `fewest` votes on its question.

    A fraction of N votes scatters by m (1 - m) (A + N) / (N (A + 1)) about the mean m of a
    Dirichlet distribution of concentration A: `within_1_sigma` counts by that.
    """
    given = torch.from_numpy(targets["votes"])
    asked = torch.from_numpy(targets["asked"][:, 0]) if spec.given == "fractions" else None
    votes = counts(spec, given, asked).numpy().astype(np.float64)
    fraction, strength = array("vote_fraction"), array("vote_concentration")
    names, answers = answer_names(spec), []
    first: dict[str, Any] = {}
    for number, (question, span) in enumerate(zip(spec.questions, spans(spec), strict=True)):
        total = votes[:, span].sum(axis=1)
        rows = judged.rows[total[judged.rows] >= max(fewest, 1)]
        train = judged.train[total[judged.train] >= max(fewest, 1)]
        seen = votes[:, span] / np.maximum(total, 1e-9)[:, None]
        away = (fraction[:, span] - seen)[rows]
        mean, all_of, cast = fraction[rows, span], strength[rows, span].sum(1), total[rows]
        spread = (all_of + cast) / (np.maximum(cast, 1e-9) * (all_of + 1))
        scatter = np.sqrt(mean * (1 - mean) * spread[:, None])
        based: list[Floats | None] = [None] * len(question.answers)
        for k in range(len(question.answers)):
            if len(rows) >= FEWEST:
                based[k] = boosted(judged, seen[:, k], train, rows, "squared_error")
            answers.append(
                {
                    "question": question.name,
                    "answer": names[span][k],
                    "n": len(rows),
                    "learnt": len(train),
                    "rmse": _rms(away[:, k]),
                    "baseline_rmse": _rms(_less(based[k], seen[rows, k])),
                    "constant_rmse": _constant(seen[:, k], train, rows),
                    "bias": float(away[:, k].mean()) if len(rows) >= FEWEST else None,
                    **within(away[:, k], scatter[:, k]),
                }
            )
        if number == 0:
            trees = [_less(b, seen[rows, k]) for k, b in enumerate(based)]
            known = [one for one in trees if one is not None]
            first = {
                "question": question.name,
                "rmse": _rms(away.ravel()),
                "rmse_error": _bootstrapped(away),
                "baseline_rmse": _rms(np.concatenate(known)) if known else None,
                **within(away.ravel(), scatter.ravel()),
                "answers": list(names[span]),
                "seen": np.round(seen[rows], 4).tolist(),
                "predicted": np.round(fraction[rows, span], 4).tolist(),
            }
    return {"n": len(judged.rows), "fewest_votes": fewest, "first": first, "answers": answers}


def _less(values: Floats | None, seen: Floats) -> Floats | None:
    return None if values is None else values - seen


def _rms(away: Floats | None) -> float | None:
    if away is None or len(away) < FEWEST:
        return None
    return float(np.sqrt((away**2).mean()))


def _constant(seen: Floats, train: NDArray[np.int64], rows: NDArray[np.int64]) -> float | None:
    """The error of the training objects' mean."""
    return _rms(seen[rows] - seen[train].mean()) if len(train) else None


def _bootstrapped(away: Floats) -> float | None:
    """The scatter of the root mean square over as many objects drawn anew."""
    if len(away) < FEWEST:
        return None
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(away), (200, len(away)))
    return float(np.std(np.sqrt((away[drawn] ** 2).mean(axis=(1, 2)))))
