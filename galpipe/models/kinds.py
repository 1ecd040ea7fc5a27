"""Which classes make up each kind of network; a kind's code is imported when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from galpipe import spec as specs
from galpipe.models.engine.spec import Training
from galpipe.models.learner import Learner
from galpipe.models.network import Network
from galpipe.models.spec import Model, VaDE
from galpipe.models.targets import Wanted


def wanted(model: Any) -> tuple[Wanted, ...]:
    """What a model learns beside pixels."""
    return ()


def network_of(model: Any, bands: int, size: int, facts: Mapping[str, Any]) -> Network:
    """A network with fresh weights.  Raises InputError where it does not fit the stamps."""
    match model:
        case VaDE():
            from galpipe.models.vade.network import VadeNetwork

            return VadeNetwork(model, bands, size, facts)
    raise TypeError(f"{model!r} is no network")


def learner_of(network: Network, training: Training) -> Learner:
    """How a network learns."""
    match network.spec:
        case VaDE():
            from galpipe.models.vade.learner import VadeLearner

            return VadeLearner(network, training)  # type: ignore[arg-type]
    raise TypeError(f"{network.spec!r} is no network")


def spec_of(values: Mapping[str, Any], where: str) -> Any:
    """The spec of a network, from its plain values."""
    return specs.load(_Kept, {"model": values}, where).model


@specs.spec
class _Kept:
    model: Model
