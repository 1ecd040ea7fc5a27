"""A classifier: its encoder, its last layers, and how rare classes are treated."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from galpipe.models.backbones.spec import Encoder, Residual
from galpipe.spec import spec


@spec
class Classifier:
    """A network that learns the classes of a column, and gives every object their probabilities.

    Objects whose cell is empty are never learnt from; they are labelled like the others.
    """

    kind: Literal["classifier"] = "classifier"
    view: Literal["masked", "unmasked"] = "masked"  # stamps with neighbours filled, or as observed
    classes: str  # column of the input table that names each object's class; empty: unknown
    encoder: Encoder = Residual()  # images to features
    dense: int | None = Field(default=None, ge=1)  # width of a layer before the classes; None: none
    dropout: float = Field(default=0.2, ge=0, lt=1)  # of features, before and after that layer
    smoothing: float = Field(default=0.05, ge=0, lt=1)  # of the true class, given to all classes
    # weights: an error on a class weighs as 1 / (its training objects)^strength.
    # logits: strength x log(share) is added to the scores in training alone (Menon et al. 2021).
    # Both lead to more objects of rare classes, right and wrong ones.
    balance: Literal["none", "weights", "logits"] = "none"
    strength: float = Field(default=0.5, ge=0, le=2)  # of the balance; 1: all classes count alike
    # Turns and mirrors of each image whose features are averaged: half a turn (2), quarter turns
    # (4), these mirrored too (8); mirrors: in x, in y and in both, for aligned stamps.
    views: Literal[1, 2, 4, 8, "mirrors"] = 8
    # temperature: scores / T (Guo et al. 2017); offsets: also one number per class, which undoes
    # what a balance did to the probabilities (Alexandari et al. 2020).  On the validation split.
    calibration: Literal["none", "temperature", "offsets"] = "temperature"
