"""What volunteers are asked of a galaxy, and a network that foresees their answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from galpipe.models.backbones.spec import Encoder, Residual
from galpipe.spec import spec


@spec
class Answer:
    """One answer to a question."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")  # of its columns in the labels
    column: str  # of the input table: its votes, or its fraction of the question's votes


@spec
class Question:
    """A question of a decision tree, such as Galaxy Zoo's."""

    name: str = Field(min_length=1)  # for people
    answers: tuple[Answer, ...] = Field(min_length=2)
    after: tuple[str, ...] = ()  # answers that lead to it, of questions above; none: all are asked
    label: bool = True  # its answer is part of an object's label


@spec
class Votes:
    """A network that learns raw votes on a tree of questions (Walmsley et al. 2022).

    Debiased fractions are no votes and are never learnt: they depend on the redshift, which no
    image shows.  What is predicted is debiased afterwards, by `galpipe labels debias`.
    """

    kind: Literal["votes"] = "votes"
    view: Literal["masked", "unmasked"] = "masked"  # stamps with neighbours filled, or as observed
    questions: tuple[Question, ...] = Field(min_length=1)  # the first one is asked of every galaxy
    # counts: the columns hold how many votes an answer got.  fractions: of the question's votes;
    # how many those are follows from `votes` and the answers that lead to the question.
    given: Literal["counts", "fractions"] = "counts"
    votes: str | None = None  # with fractions: column of how many people were asked
    encoders: tuple[Encoder, ...] = Field(
        default=(Residual(),), min_length=1
    )  # images to features; several are networks side by side, whose answers are averaged
    columns: tuple[str, ...] = ()  # columns of the table or the stamps, seen beside the image
    features: int = Field(default=96, ge=1)  # dimensions of every network's joined vector
    dropout: float = Field(default=0.3, ge=0, lt=1)  # of features, before and after the joining
    strongest: float = Field(default=100.0, gt=0)  # largest concentration of an answer, above 1
    views: Literal[1, 2, 4, 8] = 8  # turns and mirrors of each image whose features are averaged

    @model_validator(mode="after")
    def _is_a_tree(self) -> Votes:
        if (self.votes is None) == (self.given == "fractions"):
            raise ValueError('`votes` is given with given = "fractions", and only then')
        known: set[str] = set()
        named: set[str] = set()  # answers that a question of the label hangs on
        for question in self.questions:
            if bool(question.after) == (question is self.questions[0]):
                raise ValueError(
                    f"the first question is asked of all galaxies and the others after some "
                    f"answers; see `after` of {question.name!r}"
                )
            for answer in question.after:
                if answer not in known:
                    raise ValueError(f"{question.name!r}: no question above it answers {answer!r}")
            if question.label and named & set(question.after):
                raise ValueError(
                    f"two questions of the label follow the same answer; give {question.name!r} "
                    "label = false"
                )
            named |= set(question.after) if question.label else set()
            for one in question.answers:
                if one.name in known:
                    raise ValueError(f"two answers are called {one.name!r}")
                if "debias" in one.column.lower():
                    raise ValueError(
                        f"the column {one.column!r} is debiased: name the one of raw votes"
                    )
                known.add(one.name)
        return self
