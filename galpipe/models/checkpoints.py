"""Weights and the state of a training on disk: safetensors and JSON, never pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from galpipe import spec
from galpipe.models.spec import VaDE
from galpipe.models.vade import Network
from galpipe.workspace import write_bytes, write_json

WEIGHTS = "weights.safetensors"
DESCRIPTION = "model.json"
CHECKPOINT = "checkpoint.safetensors"


def save_model(folder: Path, network: Network) -> None:
    """Write the weights and what is needed to build the network again."""
    write_bytes(folder / WEIGHTS, safetensors.torch.save(_plain(network.state_dict())))
    write_json(
        folder / DESCRIPTION,
        {
            "model": spec.identity(network.spec),
            "bands": network.bands,
            "size": network.size,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
        },
    )


def load_model(folder: Path) -> Network:
    """A trained network in evaluation mode, from the folder of its output."""
    facts = json.loads((folder / DESCRIPTION).read_text())
    network = Network(load_spec(folder), facts["bands"], facts["size"])
    network.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    return network.requires_grad_(False).eval()


def load_spec(folder: Path) -> VaDE:
    """What a trained network is, without its weights."""
    facts = json.loads((folder / DESCRIPTION).read_text())
    return spec.load(VaDE, facts["model"], str(folder))


@dataclass
class State:
    """What a training needs to go on: epochs done, and what each of them said."""

    epochs: int
    history: list[dict[str, float | str]]


def save_state(folder: Path, network: Network, optimiser: torch.optim.Adam, state: State) -> None:
    """Write the whole state after an epoch, in one file that is there whole or not at all."""
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for number, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{number}.{name}": value for name, value in moments.items()}
    metadata = {"state": json.dumps({"epochs": state.epochs, "history": state.history})}
    write_bytes(folder / CHECKPOINT, safetensors.torch.save(_plain(tensors), metadata))


def load_state(folder: Path, network: Network, optimiser: torch.optim.Adam) -> State | None:
    """Put a training back as it was after its last whole epoch; None: none is there."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        return None  # not one of ours, or damaged: the training begins anew
    network.load_state_dict(_under(tensors, "network."))
    parameters = list(network.parameters())
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in _under(tensors, "adam.").items():
        number, name = key.split(".", 1)
        if value.ndim:  # in the parameter's own memory order
            value = torch.empty_like(parameters[int(number)]).copy_(value)
        moments.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict(
        {"state": moments, "param_groups": optimiser.state_dict()["param_groups"]}
    )
    return State(facts["epochs"], facts["history"])


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}


def _plain(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Contiguous copies: safetensors knows no memory order, and no shared memory."""
    return {name: value.detach().contiguous().clone() for name, value in tensors.items()}
