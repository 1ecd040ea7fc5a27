"""How networks are fitted, whatever they are: order, steps, rates, arithmetic."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from galpipe.spec import run_time, spec


@spec
class Exponential:
    """A rate that falls by the same factor each time, from `learning_rate` to `final`."""

    kind: Literal["exponential"] = "exponential"
    final: float = Field(default=1e-4, gt=0)  # learning rate after the last epoch
    every: int = Field(default=1, ge=1)  # epochs between two steps of the decay


@spec
class Cosine:
    """A linear rise, then half a cosine down to `final` (Loshchilov & Hutter 2017), by the step."""

    kind: Literal["cosine"] = "cosine"
    rise: float = Field(default=0.05, ge=0, lt=1)  # fraction of the training spent rising
    final: float = Field(default=0.0, ge=0)  # learning rate at the last step


@spec
class OneCycle:
    """Half a cosine up, half a cosine down (Smith & Topin 2019), by the step."""

    kind: Literal["one_cycle"] = "one_cycle"
    rise: float = Field(default=0.3, gt=0, lt=1)  # fraction of the training spent rising
    first: float = Field(default=0.04, gt=0, le=1)  # of `learning_rate`, at the first step
    final: float = Field(default=1e-5, ge=0, le=1)  # of `learning_rate`, at the last step


@spec
class Plateau:
    """A rate that falls where the validation figure has stopped getting better."""

    kind: Literal["plateau"] = "plateau"
    factor: float = Field(default=0.3, gt=0, lt=1)  # of the rate, at each fall
    patience: int = Field(default=3, ge=1)  # epochs without a better figure, before it falls


@spec
class Constant:
    """The same rate throughout."""

    kind: Literal["constant"] = "constant"


Rate = Annotated[Exponential | Cosine | OneCycle | Plateau | Constant, Field(discriminator="kind")]


@spec
class Augmentation:
    """What is done to a stamp before it is learnt from; the galaxy's kind does not change."""

    flips: bool = True  # each image mirrored in x and y at random
    rotations: Literal["none", "quarter", "any"] = "none"  # turned by 90 degrees, or any angle
    shift: float = Field(default=0.0, ge=0, le=0.5)  # largest, a fraction of the side, x and y
    zoom: float = Field(default=0.0, ge=0, lt=1)  # largest change of size, as a fraction
    brightness: float = Field(default=0.0, ge=0, lt=1)  # largest change of brightness, a fraction
    noise: float = Field(default=0.0, ge=0)  # standard deviation, images in 0..1


@spec
class Training:
    """How a network is fitted to the training split, step by step."""

    seed: int = Field(default=0, ge=0)  # of weights, order and noise
    epochs: int = Field(default=20, ge=1)  # passes; VaDE's own schedule counts instead of it
    pruned: int | None = run_time(None, ge=1)  # about so many epochs with --prune; None: all
    batch: int = Field(default=128, ge=1)  # images per step; the epoch's last batch may be smaller
    accumulate: int = Field(default=1, ge=1)  # parts of a batch, one after the other, per step
    buffer: int = Field(default=16, ge=1)  # inner chunks shuffled together, which bounds the memory
    augment: Augmentation = Augmentation()

    optimiser: Literal["adam", "adamw"] = "adam"  # the latter decouples the decay of weights
    learning_rate: float = Field(default=1e-3, gt=0)  # the highest
    rate: Rate = Exponential()  # how it changes
    weight_decay: float = Field(default=0.0, ge=0)  # AdamW's, of matrices and kernels only
    l2: float = Field(default=0.0, ge=0)  # x the sum of squared weights and biases, in the loss
    clip: float | None = Field(default=None, gt=0)  # |gradient| per element; None: free
    clip_norm: float | None = Field(default=None, gt=0)  # norm of the whole gradient; None: free
    average: float | None = Field(default=None, gt=0, lt=1)  # EMA of the weights per step, kept
    patience: int | None = Field(default=None, ge=1)  # epochs without a better figure; then stop

    device: Literal["cpu", "cuda"] = "cpu"  # where the arithmetic is done
    precision: Literal["float32", "bfloat16"] = "float32"  # of the arithmetic where it may be low
    compile: bool = False  # by torch.compile: faster after a first slow step
    threads: int = Field(default=2, ge=1)  # of the arithmetic; changes the last bits of the weights
    processes: int = Field(default=1, ge=1)  # that share every batch, one per GPU with cuda
    save_every: float = run_time(60.0, ge=0)  # seconds between two states kept within an epoch

    @model_validator(mode="after")
    def _decay_has_its_optimiser(self) -> Training:
        if self.weight_decay and self.optimiser != "adamw":
            raise ValueError('weight_decay is that of optimiser = "adamw"')
        return self
