"""Hyrax's side of `benchmarks.hyrax`: its own training verb on the same module and images.

    hyrax-python -P hyrax_side.py IMAGES WORK EPOCHS THREADS BATCH

Runs in Hyrax's environment, with galpipe's folder in PYTHONPATH for the module.  Before each batch
it prints the processor time that it has taken so far, all threads together, and waits for a line on
standard input.  The images are uint8 in memory, the easiest that a data set of Hyrax can have.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hyrax import Hyrax
from hyrax.datasets.dataset_registry import HyraxDataset
from hyrax.models.model_registry import hyrax_model

from galpipe.models.vade.network import VadeNetwork, mixture_divergence
from galpipe.models.vade.spec import VaDE

CHANNEL = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # Hyrax's own words go to standard error


def turn() -> None:
    """Tell what was taken so far, and wait for one's turn."""
    CHANNEL.write(f"{time.process_time()}\n")
    sys.stdin.readline()


class Stamps(HyraxDataset):
    """Stamps in memory."""

    def __init__(self, config: dict[str, Any], data_location: str) -> None:
        self.images = np.load(data_location)
        super().__init__(config)

    def __len__(self) -> int:
        return len(self.images)

    def get_image(self, place: int) -> np.ndarray[Any, Any]:
        return self.images[place].astype(np.float32) / 255

    def get_object_id(self, place: int) -> str:
        return str(place)


@hyrax_model
class Same(torch.nn.Module):
    """galpipe's network with the loss of its last epochs."""

    def __init__(self, config: dict[str, Any], data_sample: Any = None) -> None:
        super().__init__()
        self.config = config
        torch.manual_seed(0)
        self.network = VadeNetwork(VaDE(), 1, 64)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=1e-6)
        self.scheduler = None
        self.criterion = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network.encode(x).mean

    def train_batch(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        turn()
        self.optimizer.zero_grad(set_to_none=True)
        posterior = self.network.encode(x)
        latent = posterior.sample(torch.randn_like(posterior.mean))
        squared = ((self.network.decode(latent) - x) ** 2).flatten(1).sum(1)
        divergence = mixture_divergence(self.network.mixture, posterior, None)
        loss = self.network.spec.reconstruction * squared.mean() + 0.3 * divergence.mean()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    @staticmethod
    def prepare_inputs(batch: dict[str, Any]) -> Any:
        return np.asarray(batch["data"]["image"], dtype=np.float32)


def main(images: str, work: str, epochs: int, threads: int, batch: int) -> None:
    torch.set_num_threads(threads)
    os.chdir(work)
    hyrax = Hyrax(setup_logging=False)
    request = {"dataset_class": "Stamps", "data_location": images, "primary_id_field": "object_id"}
    request["fields"] = ["image"]
    hyrax.set_config("data_request", {"train": {"data": request}})
    hyrax.set_config("general.results_dir", str(Path(work) / "results"))
    hyrax.set_config("model.name", "Same")
    hyrax.set_config("train.epochs", epochs)
    hyrax.set_config("data_loader.batch_size", batch)
    hyrax.train()
    turn()  # the last epoch, with the model saved


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(int(number) for number in sys.argv[3:]))
