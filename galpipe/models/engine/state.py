"""The state of a training on disk: one safetensors file, from which it goes on exactly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from galpipe.models.engine.average import Average
from galpipe.workspace import write_bytes

CHECKPOINT = "checkpoint.safetensors"
FORMAT = "2"


@dataclass
class State:
    """Where a training is; random numbers follow from the seed, the epoch and the step alone."""

    epochs: int = 0  # that are whole
    step: int = 0  # within the epoch that is not
    accumulate: int = 1  # parts that a batch is cut into
    sums: dict[str, list[float]] = field(default_factory=dict)  # of the epoch so far, by rank
    count: int = 0  # images of the epoch so far, of all ranks
    history: list[dict[str, Any]] = field(default_factory=list)  # what each epoch said
    best: float | None = None  # the best validation figure, where the best weights are kept
    stopped: bool = False  # early, as the figure got no better


def save_state(
    folder: Path,
    state: State,
    learner: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: Average | None,
    best: Mapping[str, Tensor],
) -> None:
    """Write the whole state in one file that is there whole or not at all."""
    tensors = {f"learner.{name}": value for name, value in learner.state_dict().items()}
    for number, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": value for name, value in moments.items()}
    for kind, kept in (("average", average.tensors if average else {}), ("best", best)):
        tensors |= {f"{kind}.{name}": value for name, value in kept.items()}
    metadata = {"state": json.dumps(asdict(state)), "format": FORMAT}
    write_bytes(folder / CHECKPOINT, safetensors.torch.save(plain(tensors), metadata))


def kept_state(folder: Path) -> State | None:
    """Where the training in a folder is; None where nothing is kept that could be gone on with."""
    try:
        # "pt" would open the file a second time, when another one may have taken its place.
        with safe_open(folder / CHECKPOINT, framework="numpy") as file:
            facts: dict[str, str] = file.metadata() or {}
    except (FileNotFoundError, SafetensorError):
        return None
    return State(**json.loads(facts["state"])) if facts.get("format") == FORMAT else None


def load_state(
    folder: Path,
    learner: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: Average | None,
) -> tuple[State, dict[str, Tensor]] | None:
    """Put a training back as it was when it was last kept, with the best weights so far.

    None where nothing is kept, or what is kept is damaged or of an earlier galpipe.
    """
    state = kept_state(folder)
    if state is None:
        return None
    tensors = safetensors.torch.load_file(folder / CHECKPOINT)
    learner.load_state_dict(_under(tensors, "learner."))
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in _under(tensors, "optimiser.").items():
        number, name = key.split(".", 1)
        if value.ndim:  # in the parameter's own memory order
            value = torch.empty_like(parameters[int(number)]).copy_(value)
        moments.setdefault(int(number), {})[name] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": moments, "param_groups": groups})
    if average is not None:
        average.load(_under(tensors, "average."))
    return state, _under(tensors, "best.")


def plain(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Contiguous copies in host memory: safetensors knows no memory order, no shared memory."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
