"""The training loop: epochs of steps, kept on the way, the same whatever happens in between."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from galpipe.errors import InputError
from galpipe.models.engine.arithmetic import as_brightness, seed_all
from galpipe.models.engine.augment import augmented, augmented_stored
from galpipe.models.engine.average import Average
from galpipe.models.engine.meter import Meter
from galpipe.models.engine.rates import rate_at
from galpipe.models.engine.spec import Training
from galpipe.models.engine.state import State, load_state, save_state
from galpipe.models.learner import Epoch, Learner
from galpipe.models.material import Material
from galpipe.models.network import Batch
from galpipe.stamps.batches import prefetched

Record = dict[str, Any]
Stored = tuple[Tensor, dict[str, Tensor]]  # images as stored, and their targets


class Fitting:
    """One training in progress, from the state that is kept in a folder."""

    def __init__(
        self,
        learner: Learner,
        material: Material,
        training: Training,
        folder: Path,
        say: Callable[[str], None],
    ) -> None:
        self.learner, self.material, self.training = learner, material, training
        self.network = learner.network
        self._folder, self._say = folder, say
        self.optimiser = _optimiser(learner, training)
        self.average = Average(self.network, training.average) if training.average else None
        self.epochs = learner.epochs()
        self.steps = math.ceil(material.objects("train") / training.batch)  # per epoch
        self.best: dict[str, Tensor] = {}
        self._module: nn.Module = learner
        if training.compile:
            self._module = torch.compile(learner)  # type: ignore[assignment]
        found = load_state(folder, self.network, self.optimiser, self.average)
        if found is None:
            self.state = State(accumulate=training.accumulate)
            learner.start(material)
            if self.average is not None:
                self.average.load(self.network.state_dict())
        else:
            self.state, self.best = found
        self._saved = time.monotonic()

    def run(self, tell: Callable[[Epoch, Record, dict[str, float]], None]) -> None:
        """All epochs that are left; `tell` hears of each its record and its speed."""
        for epoch in self.epochs[self.state.epochs :]:
            if self.state.stopped:
                break
            if self.state.step == 0:
                self.learner.before(epoch, self.material)
            meter = Meter()
            record = self._learn(epoch, meter)
            speed = meter.figures()
            record |= self._validated(epoch)
            _refuse_endless(record, epoch)
            record |= {"phase": epoch.phase, "weight": epoch.weight}
            record["learning_rate"] = self.optimiser.param_groups[0]["lr"]
            self._ended(record)
            tell(epoch, record, speed)
        if self.average is not None:
            self.network.load_state_dict(self.average.tensors)
        if self.best:
            self.network.load_state_dict(self.best)
        self.network.eval()

    def _learn(self, epoch: Epoch, meter: Meter) -> Record:
        """The steps of an epoch that are left; the means over its images."""
        state = self.state
        batches = itertools.islice(self.material.shuffled(epoch.number), state.step, None)
        self.network.train()
        totals: dict[str, Tensor] = {}  # on the device, so that no step waits for a number
        for stored, targets in meter.waiting(prefetched(batches)):
            meter.volume += stored.nbytes
            self._set_rate(epoch)
            for name, value in self._step(stored, targets, epoch).items():
                total = totals.get(name)
                totals[name] = value.double() if total is None else total + value
            state.step += 1
            state.count += len(stored)
            if time.monotonic() - self._saved >= self.training.save_every:
                totals = self._summed(totals)
                self._save()
        self._summed(totals)
        self.network.eval()
        return {f"train_{name}": value / state.count for name, value in state.sums.items()}

    def _summed(self, totals: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take what was summed since the last time over into the state."""
        for name, value in totals.items():
            self.state.sums[name] = self.state.sums.get(name, 0.0) + float(value)
        return {}

    def _step(self, stored: Tensor, targets: dict[str, Tensor], epoch: Epoch) -> dict[str, Tensor]:
        """One step of the optimiser; a batch that is too much for the memory comes in parts."""
        while True:
            try:
                return self._attempt(stored, targets, epoch)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
            pieces = 2 * self.state.accumulate
            if pieces > len(stored):
                raise InputError(
                    "training: there is not enough memory for one image at a time; take a smaller "
                    "network or smaller stamps."
                ) from None
            self.state.accumulate = pieces
            self._say(f"training: out of memory; every batch now comes in {pieces} parts")
            self.optimiser.zero_grad(set_to_none=True)
            if self.material.device.type == "cuda":
                torch.cuda.empty_cache()

    def _attempt(
        self, stored: Tensor, targets: dict[str, Tensor], epoch: Epoch
    ) -> dict[str, Tensor]:
        training, device = self.training, self.material.device
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        piece = math.ceil(len(stored) / self.state.accumulate)
        for number, start in enumerate(range(0, len(stored), piece)):
            seed_all(training.seed, epoch.number, self.state.step, number)
            part = slice(start, start + piece)
            mine = stored[part].to(device, non_blocking=True)
            images = as_brightness(
                augmented_stored(mine, training.augment), self.material.unit_scale
            )
            images = augmented(images, replace(training.augment, noise=0.0))
            shown = None
            if training.augment.noise:
                shown = images + training.augment.noise * torch.randn_like(images)
            there = {name: t[part].to(device, non_blocking=True) for name, t in targets.items()}
            low = training.precision == "bfloat16"
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                outcome = self._module(Batch(images, there, shown), epoch)
            loss = outcome.loss * (len(mine) / len(stored))
            if training.l2 and number == 0:
                loss = loss + training.l2 * sum(
                    (p**2).sum() for p in self.network.layer_parameters()
                )
            loss.backward()
            told = {"loss": outcome.loss.detach() * len(mine), **outcome.sums}
            for name, value in told.items():
                sums[name] = sums[name] + value if name in sums else value
        if epoch.clipped and training.clip is not None:
            nn.utils.clip_grad_value_(self.network.parameters(), training.clip)
        if epoch.clipped and training.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), training.clip_norm)
        self.optimiser.step()
        if self.average is not None:
            self.average.update(epoch.number * self.steps + self.state.step)
        return sums

    def _set_rate(self, epoch: Epoch) -> None:
        rate = rate_at(
            self.training,
            epoch.number * self.steps + self.state.step,
            self.steps,
            len(self.epochs),
            [r[self._watched] for r in self.state.history if self._watched in r],
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    @property
    def _watched(self) -> str:
        return f"validation_{self.learner.watched}"

    @torch.no_grad()
    def _validated(self, epoch: Epoch) -> Record:
        if not self.material.objects("validation"):
            return {}
        seed_all(self.training.seed, epoch.number, 2**31)  # what a judgement draws, it draws anew
        batches = self.material.ordered("validation")
        if self.average is not None:
            with self.average.worn():
                figures = self.learner.judge(batches, epoch)
        else:
            figures = self.learner.judge(batches, epoch)
        return {f"validation_{name}": value for name, value in figures.items()}

    def _ended(self, record: Record) -> None:
        """Take an epoch into the history, keep the best weights, and see whether to stop."""
        state, patience = self.state, self.training.patience
        state.history.append(record)
        state.epochs, state.step, state.count, state.sums = state.epochs + 1, 0, 0, {}
        figure = record.get(self._watched)
        if patience is not None and figure is not None:
            if state.best is None or figure < state.best:
                state.best = figure
                source = self.average.tensors if self.average else self.network.state_dict()
                self.best = {name: value.clone() for name, value in source.items()}
            figures = [r[self._watched] for r in state.history]
            state.stopped = len(figures) - 1 - figures.index(min(figures)) >= patience
        self._save()

    def _save(self) -> None:
        save_state(self._folder, self.state, self.network, self.optimiser, self.average, self.best)
        self._saved = time.monotonic()


def _optimiser(learner: Learner, training: Training) -> torch.optim.Optimizer:
    parameters = list(learner.network.parameters())
    if training.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=training.learning_rate)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=training.learning_rate)


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch is one of memory; on a CPU it has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _refuse_endless(record: Record, epoch: Epoch) -> None:
    if not all(math.isfinite(v) for v in record.values() if isinstance(v, float)):
        raise InputError(
            f"training: the loss is not finite in epoch {epoch.number + 1} ({epoch.phase}); "
            "lower [training] learning_rate, or set clip."
        )
