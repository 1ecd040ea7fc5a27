"""What every network of galpipe is: how it is built again, and what it makes of images.

Shapes: B images, A bands, Y and X pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn


@dataclass(frozen=True)
class Output:
    """One array that a network gives of every object: its name, shape and dimensions."""

    name: str
    shape: tuple[int, ...] = ()
    dims: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """A column of the labels that a network's array holds."""

    column: str
    array: str  # of `outputs`
    index: int | None  # which of the array's numbers; None: it has one per object
    description: str
    ucd: str = ""
    unit: str = ""

    def plain(self) -> dict[str, Any]:
        """As it is kept in model.json."""
        return dict(vars(self))


class Network(nn.Module, ABC):
    """A network for images of (bands, size, size) in 0..1.

    `facts` is plain JSON that the training split decided: names of classes, means of conditions.
    It is kept beside the weights, and the same spec, bands, size and facts build the network again.
    """

    # What else it can do: "redraw" images, "generate" new ones, tell its own "mixture".
    abilities: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, spec: Any, bands: int, size: int, facts: Mapping[str, Any]) -> None:
        super().__init__()
        self.spec: Any = spec
        self.bands, self.size, self.facts = bands, size, facts

    @property
    @abstractmethod
    def latent(self) -> int:
        """Dimensions of the embedding."""

    @abstractmethod
    def outputs(self) -> tuple[Output, ...]:
        """The arrays that `embed` gives; `vector`, (latent,), is one of them."""

    @abstractmethod
    def embed(self, images_BAYX: Tensor, conditions_BK: Tensor | None) -> dict[str, Tensor]:
        """The arrays of `outputs` for a batch, float32 (B, ...): no row depends on another."""

    def told(self) -> dict[str, Any]:
        """What labels need to know of its arrays, in plain JSON, kept beside the weights.

        `labels` are the names of what `class_probability` holds, `column` where they are from;
        `published` the columns of the labels, each a `Published.plain()`.
        """
        return {}

    def layer_parameters(self) -> list[nn.Parameter]:
        """The weights and biases of layers, which `l2` keeps small."""
        return list(self.parameters())

    def redraw(self, images_BAYX: Tensor, conditions_BK: Tensor | None = None) -> Tensor:
        """The network's drawings of images, (B, A, Y, X), in 0..1."""
        raise NotImplementedError(f"{self.spec.kind} draws no images")

    def generate(
        self,
        count: int,
        component: int | None = None,
        conditions_BK: Tensor | None = None,
    ) -> Tensor:
        """`count` new images, (B, A, Y, X) about 0..1, from torch's own random numbers.

        `component` is one of a mixture's; `conditions_BK` are raw values of the columns in
        `facts["condition"]`, for networks that are given some.
        """
        raise NotImplementedError(f"{self.spec.kind} makes no new images")


@dataclass(frozen=True)
class Batch:
    """Images with what is to be learnt of them."""

    images: Tensor  # (B, A, Y, X) float32 in 0..1
    targets: Mapping[str, Tensor] = field(default_factory=dict)  # (B, ...) by name
    noisy: Tensor | None = None  # the images with noise, where the training adds it

    @property
    def shown(self) -> Tensor:
        """What the network is shown: with noise, where there is some."""
        return self.images if self.noisy is None else self.noisy
