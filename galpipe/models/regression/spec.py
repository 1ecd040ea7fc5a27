"""A number per object, such as the Hubble type, with the probability of every value."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from galpipe.models.backbones.spec import Encoder, Residual
from galpipe.spec import spec


@spec
class Apart:
    """A value that stands for a kind of its own and has no place on the scale."""

    name: str = Field(min_length=1)  # the label of such objects
    value: float  # that marks them in the column


@spec
class Range:
    """The label of a part of the scale."""

    name: str = Field(min_length=1)  # of objects whose value lies there
    upto: float  # the largest value of the range; it begins where the one before it ends


@spec
class Regression:
    """A network that learns the numbers of a column as a distribution over a scale of values.

    Objects whose cell is empty are never learnt from; they are given a value like the others.
    """

    kind: Literal["regression"] = "regression"
    view: Literal["masked", "unmasked"] = "masked"  # stamps with neighbours filled, or as observed
    value: str  # column of the input table that holds the numbers
    # Columns with the lowest and highest value that may be true (68 %), which soften what is
    # learnt; none: all values are equally sure.
    limits: tuple[str, str] | None = None
    scale: tuple[float, ...] = Field(min_length=2)  # rising values that probabilities are told of
    apart: tuple[Apart, ...] = ()  # values off the scale: classes beside it
    ranges: tuple[Range, ...] = ()  # labels of the scale's parts, rising; none: no label
    width: float = Field(default=0.5, gt=0)  # sigma of a known value on the scale, in its units
    # x |expected value - true value|, beside the cross-entropy of the distribution (Gao et al.
    # 2018, arXiv 1807.06708).
    distance: float = Field(default=0.3, ge=0)
    encoders: tuple[Encoder, ...] = Field(
        default=(Residual(),), min_length=1
    )  # images to features; several are networks side by side, whose answers are averaged
    columns: tuple[str, ...] = ()  # columns of the table or the stamps, seen beside the image
    features: int = Field(default=96, ge=1)  # dimensions of every network's joined vector
    dropout: float = Field(default=0.3, ge=0, lt=1)  # of features, before and after the joining
    views: Literal[1, 2, 4, 8] = 8  # turns and mirrors of each image whose features are averaged

    @model_validator(mode="after")
    def _fits_together(self) -> Regression:
        if any(low >= high for low, high in pairwise(self.scale)):
            raise ValueError("the values of `scale` must rise")
        if any(low.upto >= high.upto for low, high in pairwise(self.ranges)):
            raise ValueError("the `upto` of the ranges must rise")
        if self.ranges and self.ranges[-1].upto < self.scale[-1]:
            raise ValueError(f"the last of the ranges must reach the scale's end, {self.scale[-1]}")
        names = [*(one.name for one in self.ranges), *(one.name for one in self.apart)]
        if len(set(names)) < len(names):
            raise ValueError("two labels have the same name")
        if len({one.value for one in self.apart}) < len(self.apart):
            raise ValueError("two kinds that stand apart have the same value")
        return self
