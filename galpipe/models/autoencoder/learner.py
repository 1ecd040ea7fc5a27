"""How the autoencoder learns: the squared differences of image and drawing."""

from __future__ import annotations

from collections.abc import Iterable

from galpipe.models.autoencoder.network import AutoencoderNetwork
from galpipe.models.convolutions.drawings import Faithfulness, start_linear
from galpipe.models.convolutions.squared import mean_square
from galpipe.models.engine.spec import Training
from galpipe.models.learner import Epoch, Learner, Outcome
from galpipe.models.material import Material
from galpipe.models.network import Batch

SCALE = 1000.0  # x the mean squared difference of 0..1 images, so that the loss is about one


class AutoencoderLearner(Learner):
    """The mean squared difference per pixel, times SCALE."""

    network: AutoencoderNetwork

    def __init__(self, network: AutoencoderNetwork, training: Training) -> None:
        super().__init__(network, training)

    def start(self, material: Material) -> None:
        start_linear(self.network.body, material, self.network.spec.latent, self.training_spec.seed)

    def forward(self, batch: Batch, epoch: Epoch) -> Outcome:
        squared = mean_square(self.network.redraw(batch.shown), batch.images)
        return Outcome(SCALE * squared.mean(), {"mse": squared.detach().sum()})

    def judge(self, batches: Iterable[Batch], epoch: Epoch) -> dict[str, float]:
        like = Faithfulness()
        for batch in batches:
            like.add(self.network.redraw(batch.images), batch.images)
        figures = like.figures()
        return {"loss": SCALE * figures["mse"], **figures}
