"""What a training tells on its way: to who watches the terminal, and to the tracker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from galpipe import spec
from galpipe.models.engine.meter import in_words
from galpipe.models.engine.spec import Training
from galpipe.models.learner import Epoch
from galpipe.models.splits import Splits
from galpipe.stages import Context, TrackedRun

Record = Mapping[str, Any]


class Account:
    """The account of one training, whichever process takes its steps."""

    def __init__(
        self, context: Context, run: TrackedRun, model: Any, training: Training, splits: Splits
    ) -> None:
        self.run, self._progress = run, context.progress
        self._model, self._training, self._splits = model, training, splits
        self._begun = False

    def begin(self, history: Sequence[Record], epochs: int, parameters: int) -> None:
        """What a reader wants to know before the first epoch, and what was done; told once."""
        if self._begun:
            return
        self._begun = True
        model = {f"model.{k}": v for k, v in spec.identity(self._model).items()}
        settings = {f"training.{k}": v for k, v in spec.identity(self._training).items()}
        self.run.params({**model, **settings, "parameters": parameters})
        for name, digest in self._splits.digests.items():
            self.run.dataset(f"stamps {name}", digest, name, self._splits.objects[name])
        for number, record in enumerate(history):
            self.run.metrics(_numbers(record), step=number)
        self._progress.start("train", epochs, "epoch", done=len(history))

    def epoch(self, epoch: Epoch | int, record: Record, speed: Mapping[str, float]) -> None:
        """An epoch has ended: its figures, and how long it waited for its stamps."""
        number = epoch if isinstance(epoch, int) else epoch.number
        self.run.metrics({**_numbers(record), **speed}, step=number)
        figure = record.get("validation_elbo", record.get("validation_loss", float("nan")))
        name = "elbo" if "validation_elbo" in record else "loss"
        self._progress.advance(note=f"{name} {figure:.4g}, {in_words(speed)}")

    def note(self, text: str) -> None:
        """A word from within an epoch."""
        self._progress.advance(0, text)

    def say(self, text: str) -> None:
        """One line for the reader."""
        self._progress.say(text)

    def end(self) -> None:
        """The last epoch has ended."""
        self._progress.finish()


def _numbers(record: Record) -> dict[str, float]:
    return {key: value for key, value in record.items() if not isinstance(value, str)}
