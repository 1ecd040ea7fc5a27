"""How a regression learns: the distribution of a known value, by cross-entropy and distance."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from galpipe.errors import InputError
from galpipe.models.classifier import calibration
from galpipe.models.engine.spec import Training
from galpipe.models.learner import Epoch, Learner, Outcome
from galpipe.models.material import Material
from galpipe.models.network import Batch
from galpipe.models.regression.network import RegressionNetwork
from galpipe.models.regression.scale import apart_of, distribution, summary
from galpipe.models.regression.spec import Regression
from galpipe.stages import Progress


class RegressionLearner(Learner):
    """Cross-entropy with a label distribution (Geng 2016, DLDL: Gao et al. 2017), and the distance
    of its mean from the value for objects on the scale (DLDL-v2: Gao et al. 2018)."""

    network: RegressionNetwork

    def __init__(self, network: RegressionNetwork, training: Training) -> None:
        super().__init__(network, training)
        self.model: Regression = network.spec

    def start(self, material: Material) -> None:
        for split in ("train", "validation", "test"):
            if material.objects(split):
                _refuse_beyond(self.model, material.target(split, "value")[:, 0])
        if self.model.columns:
            self.network.members.fit(material.target("train", "condition"))

    def forward(self, batch: Batch, epoch: Epoch) -> Outcome:
        scores_MBT = self.network.members(batch.shown, batch.targets.get("condition"))
        values, wanted = self._wanted(batch)
        on_scale = apart_of(self.model, values) < 0

        def away(scores_BT: Tensor) -> Tensor:
            told = summary(self.network.scale, torch.softmax(scores_BT, 1)).value
            return torch.where(on_scale, (told - values).abs(), 0.0)

        crossed = -(wanted * torch.log_softmax(scores_MBT, 2)).sum(2)
        each = crossed + self.model.distance * torch.stack([away(one) for one in scores_MBT])
        told = away(scores_MBT.detach().mean(0))
        return Outcome(each.mean(), {"absolute_error": told.sum()})

    @torch.no_grad()
    def finish(self, material: Material, progress: Progress) -> tuple[dict[str, float], list[str]]:
        """Calibrate on the validation split; then judge the held-out one as it is published."""
        alarms = []
        if material.objects("validation") >= calibration.FEWEST:
            scores, values = self._averaged(material, "validation")
            found, _ = calibration.fitted(scores, self._nearest(values), offsets=False)
            self.network.temperature.fill_(found)
        else:
            alarms.append(
                f"the validation split has fewer than {calibration.FEWEST} objects of known value: "
                "the distributions are not calibrated"
            )
        scores, values = self._averaged(material, material.held_out())
        chances = self.network.probabilities(scores)
        away = (summary(self.network.scale, chances).value - values).abs().double()
        away = away[apart_of(self.model, values) < 0]
        right = chances.gather(1, self._nearest(values)[:, None])
        figures = {
            "loss": float(-right.clamp(min=1e-30).log().mean()),
            "temperature": float(self.network.temperature),
        }
        if len(away):
            figures["absolute_error"] = float(away.mean())
        return figures, alarms

    def _wanted(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The known values of a batch, (B,), and their distributions, (B, T)."""
        values = batch.targets["value"][:, 0]
        limits = batch.targets.get("limits")
        return values, distribution(self.model, self.network.scale, values, limits)

    def _nearest(self, values_B: Tensor) -> Tensor:
        """The scale's value next to each known one, or the kind that stands apart, (B,) int64."""
        apart = apart_of(self.model, values_B)
        nearest = (self.network.scale - values_B[:, None]).abs().argmin(1)
        return torch.where(apart < 0, nearest, len(self.model.scale) + apart)

    def _averaged(self, material: Material, split: str) -> tuple[Tensor, Tensor]:
        """Scores as at embedding, averaged over views, and the known values."""
        scores, values = [], []
        for batch in material.ordered(split):
            vector = self.network.averaged(batch.images, batch.targets.get("condition"))
            scores.append(self.network.members.score(vector))
            values.append(batch.targets["value"][:, 0])
        return torch.cat(scores), torch.cat(values)


def _refuse_beyond(spec: Regression, values: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
    """Raise InputError for a value beyond the scale's ends, by more than half a step there."""
    on = apart_of(spec, torch.from_numpy(values)).numpy() < 0
    low = spec.scale[0] - (spec.scale[1] - spec.scale[0]) / 2
    high = spec.scale[-1] + (spec.scale[-1] - spec.scale[-2]) / 2
    beyond = values[on & ((values < low) | (values > high))]
    if len(beyond):
        raise InputError(
            f"[model] scale: the column {spec.value!r} holds {beyond[0]:g}, beyond the scale "
            f"({spec.scale[0]:g} to {spec.scale[-1]:g}); widen it, or name the value in `apart`."
        )
