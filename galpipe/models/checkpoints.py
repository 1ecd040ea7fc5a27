"""A trained network on disk: safetensors and JSON, never pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from galpipe import spec
from galpipe.models import kinds
from galpipe.models.engine.state import plain
from galpipe.models.network import Network
from galpipe.workspace import write_bytes, write_json

WEIGHTS = "weights.safetensors"
DESCRIPTION = "model.json"


def save_model(folder: Path, network: Network) -> None:
    """Write the weights and what is needed to build the network again."""
    write_bytes(folder / WEIGHTS, safetensors.torch.save(plain(network.state_dict())))
    write_json(
        folder / DESCRIPTION,
        {
            "model": spec.identity(network.spec),
            "bands": network.bands,
            "size": network.size,
            "facts": dict(network.facts),
            **({"told": network.told()} if network.told() else {}),
            "abilities": sorted(network.abilities),
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
        },
    )


def load_model(folder: Path) -> Any:
    """A trained network in evaluation mode, from the folder of its output."""
    facts = description(folder)
    model = kinds.spec_of(facts["model"], str(folder))
    network: Network = kinds.network_of(model, facts["bands"], facts["size"], facts["facts"])
    network.load_state_dict(weights(folder))
    return network.requires_grad_(False).eval()


def weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a trained network by name."""
    found: dict[str, Tensor] = safetensors.torch.load_file(folder / WEIGHTS)
    return found


def description(folder: Path) -> Mapping[str, Any]:
    """What a trained network is and can do, in plain values."""
    facts: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text())
    return facts
