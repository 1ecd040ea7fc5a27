"""How a classifier learns: cross-entropy, and a temperature on the validation split at the end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from galpipe.errors import InputError
from galpipe.models.classifier import calibration
from galpipe.models.classifier.network import ClassifierNetwork
from galpipe.models.classifier.reliability import calibration_error, reliability
from galpipe.models.classifier.spec import Classifier
from galpipe.models.engine.spec import Training
from galpipe.models.learner import Epoch, Learner, Outcome
from galpipe.models.material import Material
from galpipe.models.network import Batch
from galpipe.stages import Progress


class ClassifierLearner(Learner):
    """Cross-entropy with smoothed labels (Szegedy et al. 2016), weighted where a survey asks so."""

    network: ClassifierNetwork
    watched: ClassVar[str] = "loss"

    weights: Tensor  # of an error on each class, (C,)
    added: Tensor  # to the scores in training, (C,)

    def __init__(self, network: ClassifierNetwork, training: Training) -> None:
        super().__init__(network, training)
        self.model: Classifier = network.spec
        objects = torch.tensor(network.facts["class"]["objects"], dtype=torch.float64)
        share = objects.clamp(min=1) / objects.clamp(min=1).sum()
        weights, added = torch.ones_like(share), torch.zeros_like(share)
        if self.model.balance == "weights":
            weights = share**-self.model.strength
            weights = weights / (weights * share).sum()  # 1 on average over the training objects
        elif self.model.balance == "logits":
            added = self.model.strength * share.log()
        device = next(network.parameters()).device
        self.register_buffer("weights", weights.float().to(device), persistent=False)
        self.register_buffer("added", added.float().to(device), persistent=False)

    def start(self, material: Material) -> None:
        present = [number for number in self.network.facts["class"]["objects"] if number]
        if len(present) < 2:
            raise InputError(
                f"training: the objects of the training split are all of one class of the column "
                f"{self.model.classes!r}; a classifier needs two or more."
            )

    def forward(self, batch: Batch, epoch: Epoch) -> Outcome:
        labels = batch.targets["class"]
        scores = self.network.scores(batch.shown).float()
        each = functional.cross_entropy(
            scores + self.added, labels, reduction="none", label_smoothing=self.model.smoothing
        )
        loss = (each * self.weights[labels]).mean()
        return Outcome(loss, {"accuracy": (scores.argmax(1) == labels).sum().detach()})

    def judge(self, batches: Iterable[Batch], epoch: Epoch) -> dict[str, float]:
        """Mean cross-entropy (nats, labels not smoothed) and accuracy of single views."""
        scores, labels = [], []
        for batch in batches:
            scores.append(self.network.scores(batch.images).double())
            labels.append(batch.targets["class"])
        found, truth = torch.cat(scores), torch.cat(labels)
        return {
            "loss": float(functional.cross_entropy(found, truth)),
            "accuracy": float((found.argmax(1) == truth).double().mean()),
        }

    @torch.no_grad()
    def finish(self, material: Material, progress: Progress) -> tuple[dict[str, float], list[str]]:
        """Calibrate on the validation split, then judge the held-out one as it is published."""
        alarms = self._calibrate(material)
        scores, labels = self._averaged(material, material.held_out())
        chances = self.network.probabilities(scores).double()
        highest, best = chances.max(1)
        right = best == labels
        bins = reliability(highest.cpu().numpy(), right.cpu().numpy())
        found = {
            "loss": float(-chances.gather(1, labels[:, None]).clamp(min=1e-300).log().mean()),
            "accuracy": float(right.double().mean()),
            "calibration_error": calibration_error(bins) or 0.0,
            "temperature": float(self.network.temperature),
        }
        return found, alarms + self._unlearnt(best)

    def _calibrate(self, material: Material) -> list[str]:
        if self.model.calibration == "none":
            return []
        if material.objects("validation") < calibration.FEWEST:
            return [
                f"the validation split has fewer than {calibration.FEWEST} objects of known class: "
                "the probabilities are not calibrated"
            ]
        scores, labels = self._averaged(material, "validation")
        temperature, offsets = calibration.fitted(
            scores, labels, self.model.calibration == "offsets"
        )
        self.network.temperature.fill_(temperature)
        self.network.offsets.copy_(offsets)
        return []

    def _averaged(self, material: Material, split: str) -> tuple[Tensor, Tensor]:
        """Scores as at embedding, averaged over views, and the true classes."""
        scores, labels = [], []
        for batch in material.ordered(split):
            scores.append(self.network.score(self.network.averaged(batch.images)))
            labels.append(batch.targets["class"])
        return torch.cat(scores), torch.cat(labels)

    def _unlearnt(self, predicted_N: Tensor) -> list[str]:
        """What is said of classes that were not learnt."""
        found = []
        objects = self.network.facts["class"]["objects"]
        for number, name in enumerate(self.network.names):
            if not objects[number]:
                found.append(f"no object of the training split is of class {name!r}")
            elif not (predicted_N == number).any():
                found.append(f"no held-out object is labelled {name!r}")
        return found
