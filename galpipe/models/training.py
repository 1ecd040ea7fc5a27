"""The training stage: a model fitted on the training split, epoch by epoch, resumable exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from galpipe import spec
from galpipe.errors import InputError
from galpipe.models import checkpoints, components, engine, initialisation
from galpipe.models.checkpoints import State
from galpipe.models.engine import Images, fixed_arithmetic
from galpipe.models.schedule import Epoch, epochs
from galpipe.models.spec import VIEWS, Training, VaDE
from galpipe.models.splits import Splits, read_splits, sampled
from galpipe.models.vade import Network
from galpipe.stages import Context, TrackedRun
from galpipe.stamps.batches import Selection, Stamps, prefetched
from galpipe.workspace import Ref, address, write_json

VERSION = 1
JUDGED_AT_ONCE = 256  # images per pass without gradients
PRINCIPAL_IMAGES = 4096  # of the training split, for the principal components


def train(context: Context, model: VaDE, training: Training, stamps: Ref, catalogue: Ref) -> Ref:
    """Fit VaDE on the training split of the stamps; the Ref holds weights, history and figures.

    Addressed by what it learns from (stamp parts and the rows of each split), so that the same
    stamps reuse it.  After every epoch the whole state is written: a run that is killed redoes at
    most one epoch and ends with the same bytes.  Raises InputError where the training split is
    too small, the network does not fit the stamps or the loss is not finite.
    """
    workspace = context.workspace
    splits = read_splits(workspace, stamps, catalogue)
    settings = {"model": spec.identity(model), "training": spec.identity(training)}
    ref = address("model", VERSION, settings, splits.digests)
    if workspace.manifest(ref) is not None:
        return ref
    if splits.objects["train"] < max(model.components, 2):
        raise InputError(
            f"training: {splits.objects['train']} usable stamps in the training split are too few "
            f"for {model.components} components; give a larger sample or fewer components."
        )
    place = workspace.begin(ref, clean=False)
    with fixed_arithmetic(training.threads):
        work = _Work(context, place, model, training, splits)
        with context.tracker.run("training", f"{model.kind} {ref.digest[:8]}", ref.digest) as run:
            figures, alarms = work.run(run)
            checkpoints.save_model(place, work.network)
            write_json(place / "history.json", work.state.history)
            run.metrics({f"test_{k}": v for k, v in figures.items()}, step=work.state.epochs)
            run.tags({"alarms": "; ".join(alarms) or "none"})
            run.file(place / "history.json")
            run.model(place, model.kind, "candidate")
    (place / checkpoints.CHECKPOINT).unlink(missing_ok=True)
    for alarm in alarms:
        context.progress.say(f"training: {alarm}")
    return workspace.commit(
        ref, settings, splits.digests, figures=figures, alarms=alarms, objects=splits.objects
    )


class _Work:
    """One training in progress."""

    def __init__(
        self, context: Context, place: Path, model: VaDE, training: Training, splits: Splits
    ) -> None:
        self.context, self.place, self.training, self.splits = context, place, training, splits
        self.view = VIEWS[model.view]
        self.data = self._stamps(splits.selections["train"])
        bands, size = self.data.shape[0], self.data.shape[-1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            self.network = Network(model, bands, size).eval()
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=training.learning_rate)
        self.epochs = epochs(training)
        found = checkpoints.load_state(place, self.network, self.optimiser)
        self.state = found or State(0, [])
        if found is None and model.linear:
            self._start_linear()

    def run(self, run: TrackedRun) -> tuple[dict[str, float], list[str]]:
        """All epochs that are left; the held-out figures and the alarms."""
        self._describe(run)
        progress = self.context.progress
        progress.start("train", len(self.epochs), "epoch", done=self.state.epochs)
        for epoch in self.epochs[self.state.epochs :]:
            if epoch.number == self.training.warm_up:
                self._start_mixture()
            record = self._epoch(epoch)
            self.state.history.append(record)
            self.state.epochs += 1
            checkpoints.save_state(self.place, self.network, self.optimiser, self.state)
            run.metrics(_numbers(record), step=epoch.number)
            progress.advance(note=f"elbo {record.get('validation_elbo', float('nan')):.2f}")
        progress.finish()
        if self.training.cycles * (self.training.annealing + self.training.static) == 0:
            self._start_mixture()
        return self._figures()

    def _epoch(self, epoch: Epoch) -> dict[str, float | str]:
        training = self.training
        batches = prefetched(self.data.shuffled(training.batch, training.seed, epoch.number))
        learnt = engine.run_epoch(
            self.network, self.optimiser, batches, self.data.unit_scale, training, epoch
        )
        record: dict[str, float] = {f"train_{key}": value for key, value in learnt.items()}
        if self.splits.objects["validation"]:
            judged = self._judge(self.splits.selections["validation"])
            figures = judged.figures(self.network, training, epoch.phase)
            record |= {f"validation_{key}": value for key, value in figures.items()}
        if not engine.is_finite(record):
            raise InputError(
                f"training: the loss is not finite in epoch {epoch.number + 1} ({epoch.phase}); "
                "lower [training] learning_rate, or set clip."
            )
        record |= {"learning_rate": epoch.learning_rate, "weight": epoch.weight}
        return {**record, "phase": epoch.phase}

    def _figures(self) -> tuple[dict[str, float], list[str]]:
        """Figures of the test split (of the validation split where there is none), and alarms."""
        training, network = self.training, self.network
        held = next((s for s in ("test", "validation", "train") if self.splits.objects[s]), "train")
        judged = self._judge(self.splits.selections[held])
        with torch.no_grad():
            responsibilities = network.mixture.responsibilities(judged.posterior.mean)
        health = components.health(
            network.mixture,
            responsibilities.double().numpy(),
            training.overlap_alarm,
            training.occupancy_alarm,
        )
        figures = judged.figures(network, training, "static")
        figures |= {
            "k_occupied": health.occupied,
            "k_effective": health.effective,
            "dead_components": float(len(health.dead)),
            "duplicate_pairs": float(len(health.duplicates)),
            "largest_overlap": float((health.overlap - np.eye(len(health.overlap))).max()),
        }
        return figures, health.alarms()

    def _start_linear(self) -> None:
        chosen = sampled(self.splits.selections["train"], PRINCIPAL_IMAGES, self.training.seed)
        pixels = [
            engine.as_brightness(torch.from_numpy(images), self.data.unit_scale).flatten(1).numpy()
            for images, _ in self._stamps(chosen).ordered(JUDGED_AT_ONCE)
        ]
        initialisation.start_linear(
            self.network, np.concatenate(pixels), self.training.reconstruction, self.training.seed
        )

    def _start_mixture(self) -> None:
        training, chosen = self.training, self.splits.selections["train"]
        if training.initialisation_images is not None:
            chosen = sampled(chosen, training.initialisation_images, training.seed)
        judged = self._judge(chosen)
        with threadpool_limits(1):
            initialisation.start_mixture(
                self.network.mixture,
                judged.posterior,
                training.initialisation_restarts,
                training.seed,
            )

    def _judge(self, selections: list[Selection]) -> engine.Judged:
        stamps = self._stamps(selections)
        return engine.judge(self.network, prefetched(_images(stamps)), stamps.unit_scale)

    def _stamps(self, selections: list[Selection]) -> Stamps:
        return Stamps(selections, self.view, self.training.buffer)

    def _describe(self, run: TrackedRun) -> None:
        """What a reader of the tracker wants to know before the first epoch, and what was done."""
        model = {f"model.{k}": v for k, v in spec.identity(self.network.spec).items()}
        settings = {f"training.{k}": v for k, v in spec.identity(self.training).items()}
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        run.params({**model, **settings, "parameters": parameters})
        for name, digest in self.splits.digests.items():
            run.dataset(f"stamps {name}", digest, name, self.splits.objects[name])
        for number, record in enumerate(self.state.history):
            run.metrics(_numbers(record), step=number)


def _images(stamps: Stamps) -> Iterator[Images]:
    for images, _ in stamps.ordered(JUDGED_AT_ONCE):
        yield images


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in record.items() if not isinstance(value, str)}
