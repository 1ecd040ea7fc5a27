"""The tree of questions in numbers: which votes belong together, and the leaves that are labels.

Shapes: B objects, R answers of all questions in order, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galpipe.models.votes.spec import Question, Votes


def answer_names(spec: Votes) -> tuple[str, ...]:
    """All answers, question by question."""
    return tuple(answer.name for question in spec.questions for answer in question.answers)


def spans(spec: Votes) -> list[slice]:
    """The places of every question's answers among all answers."""
    found, first = [], 0
    for question in spec.questions:
        found.append(slice(first, first + len(question.answers)))
        first += len(question.answers)
    return found


def counts(spec: Votes, given_BR: Tensor, asked_B: Tensor | None) -> Tensor:
    """Votes for every answer, (B, R); 0 where unknown or negative.

    Fractions are multiplied by the number of votes on their question: `asked_B` for the first, and
    the votes for the answers that lead to it for any other (Willett et al. 2013, section 3).  They
    need not be whole numbers, since volunteers may have weights.
    """
    known = torch.nan_to_num(given_BR, nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0)
    if spec.given == "counts":
        return known
    assert asked_B is not None, "fractions come with how many were asked"
    place = {name: number for number, name in enumerate(answer_names(spec))}
    made = torch.zeros_like(known)
    for question, span in zip(spec.questions, spans(spec), strict=True):
        if question.after:
            asked = made[:, [place[name] for name in question.after]].sum(1)
        else:
            asked = torch.nan_to_num(asked_B, nan=0.0).clamp(min=0)
        made[:, span] = known[:, span] * asked[:, None]
    return made


def first_votes(spec: Votes, values: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """How many votes objects have on the first question, of the targets `votes` and `asked`."""
    asked = torch.from_numpy(values["asked"][:, 0]) if spec.given == "fractions" else None
    votes = counts(spec, torch.from_numpy(values["votes"]), asked)
    found: NDArray[np.float64] = votes[:, spans(spec)[0]].double().sum(1).numpy()
    return found


def leaves(spec: Votes) -> list[tuple[str, ...]]:
    """The ways through the questions of the label, as the answers on each; they share no galaxy."""
    following = {
        answer: question
        for question in spec.questions
        if question.label
        for answer in question.after
    }

    def ways(question: Question) -> list[tuple[str, ...]]:
        found = []
        for answer in question.answers:
            deeper = following.get(answer.name)
            rest = [()] if deeper is None else ways(deeper)
            found += [(answer.name, *way) for way in rest]
        return found

    return ways(spec.questions[0])


def label_names(spec: Votes) -> tuple[str, ...]:
    """What the leaves are called: the answers on the way, such as "features, not edge on"."""
    return tuple(", ".join(way).replace("_", " ") for way in leaves(spec))


def leaf_probabilities(spec: Votes, fractions_BR: Tensor) -> Tensor:
    """Probability of every leaf, (B, L): the product of the fractions on the way; rows sum to 1."""
    place = {name: number for number, name in enumerate(answer_names(spec))}
    found = [fractions_BR[:, [place[name] for name in way]].prod(1) for way in leaves(spec)]
    return torch.stack(found, 1)
