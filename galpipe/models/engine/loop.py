"""The training loop: epochs of steps, kept on the way, the same whatever happens in between."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from galpipe.errors import InputError
from galpipe.models.engine.arithmetic import seed_all
from galpipe.models.engine.group import Group
from galpipe.models.engine.meter import Meter, in_words
from galpipe.models.engine.rates import rate_at
from galpipe.models.engine.spec import Training
from galpipe.models.engine.state import CHECKPOINT, State, load_state, save_state
from galpipe.models.engine.step import OutOfMemory, Stepper, parts_after
from galpipe.models.learner import Epoch, Learner
from galpipe.models.material import Material
from galpipe.stamps.batches import prefetched

NOTE_EVERY = 2.0  # seconds between two words from within an epoch
# Beside the steps' own random numbers: what is drawn before an epoch, and when judging after it.
BEFORE, JUDGING = 2**31 + 1, 2**31

Record = dict[str, Any]


class Fitting:
    """One training in progress, from the state that is kept in a folder."""

    def __init__(
        self,
        learner: Learner,
        material: Material,
        training: Training,
        folder: Path,
        say: Callable[[str], None],
        group: Group | None = None,
    ) -> None:
        """`group` are the processes that share the training; None: it is this one alone."""
        self.learner, self.material, self.training = learner, material, training
        self.network, self.group = learner.network, group or Group()
        self._folder, self._say = folder, say
        self._steps = Stepper(learner, training, material.unit_scale, material.device, self.group)
        self.epochs = learner.epochs()
        self.best: dict[str, Tensor] = {}
        judged = "plateau" if training.rate.kind == "plateau" else None
        judged = "patience" if training.patience is not None else judged
        if judged and not material.objects("validation"):
            raise InputError(
                f"training: {judged} goes by the validation split, which has no usable stamp; give "
                f"a larger sample, or leave {judged} out."
            )
        found = load_state(folder, learner, self._steps.optimiser, self._steps.average)
        if found is None:
            if (folder / CHECKPOINT).exists():
                say("training: the state kept is damaged, or an earlier version's; beginning anew")
            self.state = State(accumulate=training.accumulate)
            if self.group.rank == 0:  # the others are given what it finds
                learner.start(material)
            self.group.alike(learner)
            if self._steps.average is not None:
                self._steps.average.load(self.network.state_dict())
        else:
            self.state, self.best = found
        self._steps.ready()
        self._saved = self._noted = time.monotonic()

    def facts(self) -> dict[str, Any]:
        """What is to be told before the first step: epochs done and to do, and the size."""
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        history = list(self.state.history)
        return {"history": history, "epochs": len(self.epochs), "parameters": parameters}

    def run(
        self,
        tell: Callable[[Epoch, Record, dict[str, float]], None],
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """All epochs that are left; `tell` hears of each its record and its speed.

        `note` hears from within long epochs.  Of several ranks, all hear the same.
        """
        for epoch in self.epochs[self.state.epochs :]:
            if self.state.stopped:
                break
            if self.state.step == 0:
                self._before(epoch)
            meter = Meter()
            record = self._learn(epoch, meter, note)
            speed = meter.figures()
            record |= self.group.told(self._validated(epoch) if self.group.rank == 0 else None)
            _refuse_endless(record, epoch)
            record |= {"phase": epoch.phase, "weight": epoch.weight}
            record["learning_rate"] = self._rate(epoch, self.material.steps - 1)
            self._ended(record)
            tell(epoch, record, speed)
        if self._steps.average is not None:
            self.network.load_state_dict(self._steps.average.tensors)
        if self.best:
            self.network.load_state_dict(self.best)
        self.network.eval()

    def _before(self, epoch: Epoch) -> None:
        average = self._steps.average
        self.group.alike(self.learner)
        seed_all(self.training.seed, epoch.number, BEFORE)
        with average.following() if average else contextlib.nullcontext():
            if self.group.rank == 0:
                self.learner.before(epoch, self.material)
            self.group.alike(self.learner)

    def _learn(self, epoch: Epoch, meter: Meter, note: Callable[[str], None]) -> Record:
        """The steps of an epoch that are left; the means over its images."""
        state, group = self.state, self.group
        batches = itertools.islice(self.material.shuffled(epoch.number), state.step, None)
        self.learner.train()
        # On the device, so that no step waits for a number; always added up in the same order.
        totals = {
            name: torch.tensor(sums[group.rank], dtype=torch.float64)
            for name, sums in state.sums.items()
        }
        for stored, targets in meter.waiting(prefetched(batches)):
            meter.volume += stored.nbytes
            rate = self._rate(epoch, state.step)
            for one in self._steps.optimiser.param_groups:
                one["lr"] = rate * one["share"]
            for name, value in self._take(stored, targets, epoch).items():
                there = totals.get(name)
                totals[name] = value.double() if there is None else there.to(value.device) + value
            if self._steps.average is not None:
                self._steps.average.update(epoch.number * self.material.steps + state.step)
            state.step += 1
            state.count += len(stored) * group.size
            now = time.monotonic()
            if group.agreed(now - self._saved >= self.training.save_every):
                self._sum(totals)
                self._save()
            if now - self._noted >= NOTE_EVERY:
                self._noted = now
                speed = in_words(meter.figures())
                note(f"step {state.step} of {self.material.steps}, {speed}")
        self._sum(totals)
        self.learner.eval()
        return {f"train_{name}": sum(v) / state.count for name, v in state.sums.items()}

    def _rate(self, epoch: Epoch, step: int) -> float:
        """The learning rate at a step of the epoch that is not whole."""
        steps = self.material.steps
        at = epoch.number * steps + step
        return rate_at(self.training, at, steps, len(self.epochs), self._watched())

    def _sum(self, totals: dict[str, Tensor]) -> None:
        """Take the sums of the epoch so far, rank by rank, into the state."""
        numbers = self.group.gathered([float(value) for value in totals.values()])
        columns = zip(*numbers, strict=True)
        self.state.sums = {name: list(of) for name, of in zip(totals, columns, strict=True)}

    def _take(self, stored: Tensor, targets: dict[str, Tensor], epoch: Epoch) -> dict[str, Tensor]:
        """One step; a batch that is too much for the memory comes in more parts."""
        while True:
            parts = self.state.accumulate
            try:
                return self._steps.take(stored, targets, epoch, self.state.step, parts)
            except OutOfMemory:
                if self.group.size > 1:  # the others wait for these gradients: all begin anew
                    raise
                self.state.accumulate = parts_after(parts, len(stored))
                self._say(out_of_memory(self.state.accumulate))

    def _watched(self) -> list[float]:
        """The figures that decide, epoch by epoch: those of the last phase alone are alike."""
        name, phase = f"validation_{self.learner.watched}", self.epochs[-1].phase
        return [r[name] for r in self.state.history if r["phase"] == phase and name in r]

    @torch.no_grad()
    def _validated(self, epoch: Epoch) -> Record:
        if not self.material.objects("validation"):
            return {}
        seed_all(self.training.seed, epoch.number, JUDGING)
        with self._worn():
            figures = self.learner.judge(self.material.ordered("validation"), epoch)
        return {f"validation_{name}": value for name, value in figures.items()}

    @contextlib.contextmanager
    def _worn(self) -> Iterator[None]:
        average = self._steps.average
        with average.worn() if average else contextlib.nullcontext():
            yield

    def _ended(self, record: Record) -> None:
        """Take an epoch into the history, keep the best weights, and see whether to stop."""
        state, average, patience = self.state, self._steps.average, self.training.patience
        state.history.append(record)
        state.epochs, state.step, state.count, state.sums = state.epochs + 1, 0, 0, {}
        figures = self._watched()
        if patience is not None and figures:
            if state.best is None or figures[-1] < state.best:
                state.best = figures[-1]
                source = average.tensors if average else self.network.state_dict()
                self.best = {name: value.clone() for name, value in source.items()}
            state.stopped = len(figures) - 1 - figures.index(min(figures)) >= patience
        self._save()

    def _save(self) -> None:
        if self.group.rank == 0:
            save_state(
                self._folder, self.state, self.learner,
                self._steps.optimiser, self._steps.average, self.best,
            )  # fmt: skip
        self._saved = time.monotonic()


def out_of_memory(parts: int) -> str:
    """What is said when a batch was too large."""
    return f"training: out of memory; every batch now comes in {parts} parts"


def _refuse_endless(record: Record, epoch: Epoch) -> None:
    if not all(math.isfinite(v) for v in record.values() if isinstance(v, float)):
        raise InputError(
            f"training: the loss is not finite in epoch {epoch.number + 1} ({epoch.phase}); "
            "lower [training] learning_rate, or set clip."
        )
