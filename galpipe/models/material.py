"""What a training learns from: the stamps of each split with their targets, as tensors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galpipe.models.engine.arithmetic import as_brightness
from galpipe.models.engine.spec import Training
from galpipe.models.network import Batch
from galpipe.models.splits import Splits, sampled
from galpipe.stamps.batches import Selection, Stamps, prefetched

JUDGED_AT_ONCE = 256  # images per pass without gradients

Array = NDArray[Any]


class Material:
    """Stamps and targets of the splits; images come as float32 in 0..1 on the training's device."""

    def __init__(
        self,
        splits: Splits,
        values: Mapping[str, Array],
        view: str,
        training: Training,
        device: torch.device,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """`values` are the targets by name, one row per catalogue row.

        `share` is (which, of how many) where several processes divide every batch and epoch.
        """
        self.splits, self.values, self.training, self.device = splits, values, training, device
        self._share = share
        self._view = view
        self.learnt = Stamps(splits.selections["train"], view, training.buffer)
        self.bands, self.size = self.learnt.shape[0], self.learnt.shape[-1]
        self.unit_scale = self.learnt.unit_scale

    def objects(self, split: str) -> int:
        """How many objects a split has."""
        return self.splits.objects[split]

    def held_out(self) -> str:
        """The split that judges: test, or the next best that has objects."""
        return next(s for s in ("test", "validation", "train") if self.objects(s))

    def target(self, split: str, name: str) -> Array:
        """A target of a split's objects, in the order of `ordered`."""
        found: Array = self.values[name][self.splits.rows[split]]
        return found

    @property
    def steps(self) -> int:
        """Batches per epoch.  A last one of a single image, which has no variance, is left out."""
        each, batch = self.objects("train") // self._share[1], self._batch
        return max(1, math.ceil(each / batch) - (each % batch == 1))

    @property
    def _batch(self) -> int:
        return math.ceil(self.training.batch / self._share[1])

    def shuffled(self, epoch: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The batches of an epoch as they are stored, with their targets; in host memory.

        Of several processes each has its own objects, and all have as many.
        """
        rows = self.splits.rows["train"]
        batches = self.learnt.shuffled(self._batch, self.training.seed, epoch, self._share)
        for images, places in itertools.islice(batches, self.steps):
            targets = self._targets(rows[places])
            stored = torch.from_numpy(images)
            if self.device.type == "cuda":  # locked pages, so that no step waits for the copy
                stored = stored.pin_memory()
                targets = {name: value.pin_memory() for name, value in targets.items()}
            yield stored, targets

    def ordered(self, split: str, most: int | None = None) -> Iterator[Batch]:
        """A split's objects in order, or `most` of them drawn once and for all."""
        selections, places = self.splits.selections[split], self.splits.rows[split]
        if most is not None:
            selections, chosen = sampled(selections, most, self.training.seed)
            places = places[chosen]
        stamps = Stamps(selections, self._view, self.training.buffer)
        for images, where in prefetched(stamps.ordered(JUDGED_AT_ONCE)):
            stored = torch.from_numpy(images).to(self.device)
            targets = self._targets(places[where])
            yield Batch(
                as_brightness(stored, self.unit_scale),
                {name: value.to(self.device) for name, value in targets.items()},
            )

    def _targets(self, rows: Array) -> dict[str, Tensor]:
        return {name: torch.from_numpy(values[rows]) for name, values in self.values.items()}


def only(splits: Splits, usable: NDArray[np.bool_]) -> Splits:
    """The splits without the objects whose catalogue row is not usable."""
    selections: dict[str, list[Selection]] = {}
    rows: dict[str, Array] = {}
    for name, old in splits.selections.items():
        keep = usable[splits.rows[name]]
        rows[name] = splits.rows[name][keep]
        ends = np.cumsum([len(selection.rows) for selection in old])
        pieces = np.split(keep, ends)[:-1]  # the last one is empty
        selections[name] = [
            Selection(selection.part, selection.rows[mine])
            for selection, mine in zip(old, pieces, strict=True)
        ]
    return Splits.of(selections, rows)
