"""One of the processes of a shared training of the small network; started by torchrun in a test.

`rank_of_two.py FOLDER PART`: writes what this rank saw and where its weights ended.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import safetensors.torch
import torch

from galpipe.models.engine.arithmetic import fixed_arithmetic
from galpipe.models.engine.group import Ranks
from galpipe.models.engine.spec import Augmentation, Training
from galpipe.models.engine.state import plain
from galpipe.models.learner import Epoch
from galpipe.models.network import Batch
from tests import small_network

TRAINING = Training(
    batch=16, buffer=2, threads=1, epochs=4, learning_rate=5e-3, accumulate=2, average=0.9,
    augment=Augmentation(noise=0.01), processes=2,
)  # fmt: skip


def main(folder: Path, part: Path) -> None:
    rows: list[list[int]] = [[] for _ in range(TRAINING.epochs)]

    def seen(batch: Batch, epoch: Epoch) -> None:
        rows[epoch.number] += batch.targets["row"].tolist()

    with fixed_arithmetic(1):
        group = Ranks(torch.device("cpu"))
        fitting = small_network.fitting(folder, part, TRAINING, objects=91, seen=seen, group=group)
        fitting.run(lambda epoch, record, speed: None)
        group.leave(fitting.learner)
    parameters = dict(fitting.learner.named_parameters())
    safetensors.torch.save_file(plain(parameters), folder / f"{group.rank}.safetensors")
    told = {"rows": rows, "history": fitting.state.history}
    (folder / f"{group.rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
