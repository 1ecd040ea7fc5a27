"""One step of the optimiser: a batch in parts, its gradients, and what memory has to say of it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from galpipe.errors import InputError
from galpipe.models.engine.arithmetic import as_brightness, seed_all
from galpipe.models.engine.augment import augmented, augmented_stored
from galpipe.models.engine.average import Average
from galpipe.models.engine.compiling import compiled, compiler_errors
from galpipe.models.engine.group import Group
from galpipe.models.engine.shortage import ERRORS, is_of_memory
from galpipe.models.engine.spec import Training
from galpipe.models.learner import Epoch, Learner, Outcome
from galpipe.models.network import Batch

Targets = Mapping[str, Tensor]


class OutOfMemory(Exception):
    """A part of a batch does not fit the memory."""


class Stepper:
    """Takes the steps of one training."""

    def __init__(
        self,
        learner: Learner,
        training: Training,
        unit_scale: float,
        device: torch.device,
        group: Group,
    ) -> None:
        self.learner, self.training, self.group = learner, training, group
        self.network = learner.network
        self.optimiser = _optimiser(learner, training)
        self.average = Average(self.network, training.average) if training.average else None
        self._unit_scale, self._device = unit_scale, device
        self._turned = dataclasses.replace(training.augment, noise=0.0)
        self._low = training.precision == "bfloat16"
        self._parameters = [p for one in self.optimiser.param_groups for p in one["params"]]
        self._module: nn.Module = _Loss(learner, training.l2)
        # A single image has no variance that batch norm could go by.
        normed = any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in learner.modules())
        self._least = 2 if normed else 1

    def ready(self) -> None:
        """Before the first step, once the weights are those to go on from."""
        if self.training.compile:
            self._module = compiled(self._module, self._device)
        self._module = self.group.wrapped(self._module)

    def take(
        self, stored: Tensor, targets: Targets, epoch: Epoch, step: int, parts: int
    ) -> dict[str, Tensor]:
        """Learn from a batch as it is stored, (B, A, Y, X), cut in `parts`; the sums over it.

        Raises OutOfMemory, with everything as it was before, where a part is too large.
        """
        before = [buffer.clone() for buffer in self.learner.buffers()]
        try:
            sums = self._gradients(stored, targets, epoch, step, parts)
        except ERRORS as error:
            if not is_of_memory(error):
                raise
            self.optimiser.zero_grad(set_to_none=True)
            for buffer, value in zip(self.learner.buffers(), before, strict=True):
                buffer.copy_(value)
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            raise OutOfMemory from None
        training = self.training
        if epoch.clipped and training.clip is not None:
            nn.utils.clip_grad_value_(self._parameters, training.clip)
        if epoch.clipped and training.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, training.clip_norm)
        self.optimiser.step()
        return sums

    def _gradients(
        self, stored: Tensor, targets: Targets, epoch: Epoch, step: int, parts: int
    ) -> dict[str, Tensor]:
        training, device = self.training, self._device
        own = (self.group.rank,) if self.group.rank else ()  # ranks draw noise of their own
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        cuts = pieces(len(stored), parts, self._least)
        for number, part in enumerate(cuts):
            seed_all(training.seed, epoch.number, step, number, *own)
            mine = stored[part].to(device, non_blocking=True)
            images = as_brightness(augmented_stored(mine, training.augment), self._unit_scale)
            images = augmented(images, self._turned)
            shown = None
            if training.augment.noise:
                shown = images + training.augment.noise * torch.randn_like(images)
            there = {name: t[part].to(device, non_blocking=True) for name, t in targets.items()}
            last = number == len(cuts) - 1
            with contextlib.nullcontext() if last else self.group.apart(self._module):
                with (
                    torch.autocast(device.type, torch.bfloat16, enabled=self._low),
                    compiler_errors(),
                ):
                    batch = Batch(images, there, shown)
                    share = len(mine) / len(stored)
                    outcome: Outcome = self._module(batch, epoch, share, number == 0)
                outcome.loss.backward()  # type: ignore[no-untyped-call]
            for name, value in outcome.sums.items():
                sums[name] = sums[name] + value if name in sums else value
        return sums


class _Loss(nn.Module):
    """What one part of a batch adds to the loss that is descended, in one module.

    Whatever makes gradients lies in its forward pass, where compilers and ranks look for it.
    """

    def __init__(self, learner: Learner, l2: float) -> None:
        super().__init__()
        self.learner, self.l2 = learner, l2

    def forward(self, batch: Batch, epoch: Epoch, share: float, first: bool) -> Outcome:
        outcome = self.learner(batch, epoch)
        loss = outcome.loss * share
        if self.l2 and first:
            layers = self.learner.network.layer_parameters()
            loss = loss + self.l2 * sum((parameter**2).sum() for parameter in layers)
        told = {"loss": outcome.loss.detach() * len(batch.images), **outcome.sums}
        return Outcome(loss, told)


def _optimiser(learner: Learner, training: Training) -> torch.optim.Optimizer:
    groups = []
    for share, parameters in _shares(learner):
        if training.optimiser == "adam":
            groups.append({"params": parameters, "share": share})
            continue
        wide, narrow = ([p for p in parameters if (p.ndim > 1) is many] for many in (True, False))
        groups.append({"params": wide, "share": share, "weight_decay": training.weight_decay})
        groups.append({"params": narrow, "share": share, "weight_decay": 0.0})
    kind = torch.optim.Adam if training.optimiser == "adam" else torch.optim.AdamW
    return kind(groups, lr=training.learning_rate)


def _shares(learner: Learner) -> list[tuple[float, list[nn.Parameter]]]:
    """Parameters by their share of the learning rate: 1, but in modules with a `learning_share`."""
    share = {id(parameter): 1.0 for parameter in learner.parameters()}
    for module in learner.modules():
        own = getattr(module, "learning_share", None)
        if isinstance(own, float):
            share |= {id(parameter): own for parameter in module.parameters()}
    found: dict[float, list[nn.Parameter]] = {1.0: []}
    for parameter in learner.parameters():
        if parameter.requires_grad:
            found.setdefault(share[id(parameter)], []).append(parameter)
    return list(found.items())


def pieces(images: int, parts: int, least: int = 1) -> list[slice]:
    """A batch cut into `parts` of about the same size, or fewer, of `least` images or more each.

    A batch of fewer images is one part.
    """
    count = min(parts, max(1, images // least))
    ends = [images * number // count for number in range(count + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def parts_after(parts: int, batch: int) -> int:
    """Into how many parts a batch is cut after `parts` were too few; raises InputError for none."""
    if parts >= batch:
        raise InputError(
            "training: there is not enough memory for one image at a time; take a smaller network "
            "or smaller stamps."
        )
    return min(2 * parts, batch)
