"""Which classes make up each kind of network; a kind's code is imported when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe import spec as specs
from galpipe.models.autoencoder.spec import Autoencoder
from galpipe.models.contrastive.spec import Contrastive
from galpipe.models.cvae.spec import Conditioned, Convolved
from galpipe.models.engine.spec import Training
from galpipe.models.flow_vae.spec import FlowVae
from galpipe.models.learner import Learner
from galpipe.models.network import Network
from galpipe.models.regression.spec import Regression
from galpipe.models.spec import Classifier, Model, VaDE
from galpipe.models.targets import Targets, Wanted
from galpipe.models.votes.spec import Votes


def wanted(model: Any) -> tuple[Wanted, ...]:
    """What a model learns beside pixels."""
    match model:
        case Classifier(classes=column):
            return (Wanted("class", (column,), "class"),)
        case Contrastive(measured=columns) if columns:
            return (Wanted("measured", columns, "numbers", required=False),)
        case FlowVae(conditions=columns) if columns:
            return (Wanted("condition", columns, "numbers"),)
        case Conditioned(conditions=columns):
            return (Wanted("condition", columns, "numbers"),)
        case Votes():
            return (*_votes_wanted(model), *_beside(model.columns))
        case Regression(value=column, limits=limits):
            told = () if limits is None else (Wanted("limits", limits, "numbers", required=False),)
            return (Wanted("value", (column,), "numbers"), *told, *_beside(model.columns))
    return ()


def learnable(model: Any, targets: Targets) -> NDArray[np.bool_]:
    """Which catalogue rows have what is learnt of them; of votes, some on the first question."""
    if not isinstance(model, Votes):
        return targets.usable
    from galpipe.models.votes.tree import first_votes

    cast: NDArray[np.float64] = first_votes(model, targets.values)
    return targets.usable & (cast > 0)


def _beside(columns: tuple[str, ...]) -> tuple[Wanted, ...]:
    """Columns that are seen beside the image, known or not."""
    return (Wanted("condition", columns, "numbers", required=False),) if columns else ()


def _votes_wanted(model: Votes) -> tuple[Wanted, ...]:
    """Votes on every answer, and what tells how many were asked the first question."""
    columns = tuple(one.column for question in model.questions for one in question.answers)
    first = tuple(one.column for one in model.questions[0].answers)
    asked = first if model.votes is None else (model.votes,)
    return (
        Wanted("votes", columns, "numbers", required=False),
        Wanted("asked", asked, "numbers"),
    )


def network_of(model: Any, bands: int, size: int, facts: Mapping[str, Any]) -> Network:
    """A network with fresh weights.  Raises InputError where it does not fit the stamps."""
    match model:
        case VaDE():
            from galpipe.models.vade.network import VadeNetwork

            return VadeNetwork(model, bands, size, facts)
        case Autoencoder():
            from galpipe.models.autoencoder.network import AutoencoderNetwork

            return AutoencoderNetwork(model, bands, size, facts)
        case FlowVae():
            from galpipe.models.flow_vae.network import FlowVaeNetwork

            return FlowVaeNetwork(model, bands, size, facts)
        case Convolved():
            from galpipe.models.cvae.network import CvaeNetwork

            return CvaeNetwork(model, bands, size, facts)
        case Classifier():
            from galpipe.models.classifier.network import ClassifierNetwork

            return ClassifierNetwork(model, bands, size, facts)
        case Votes():
            from galpipe.models.votes.network import VotesNetwork

            return VotesNetwork(model, bands, size, facts)
        case Regression():
            from galpipe.models.regression.network import RegressionNetwork

            return RegressionNetwork(model, bands, size, facts)
        case Contrastive():
            from galpipe.models.contrastive.network import ContrastiveNetwork

            return ContrastiveNetwork(model, bands, size, facts)
    raise TypeError(f"{model!r} is no network")


def learner_of(network: Network, training: Training) -> Learner:
    """How a network learns."""
    match network.spec:
        case VaDE():
            from galpipe.models.vade.learner import VadeLearner

            return VadeLearner(network, training)  # type: ignore[arg-type]
        case Autoencoder():
            from galpipe.models.autoencoder.learner import AutoencoderLearner

            return AutoencoderLearner(network, training)  # type: ignore[arg-type]
        case FlowVae():
            from galpipe.models.flow_vae.learner import FlowVaeLearner

            return FlowVaeLearner(network, training)  # type: ignore[arg-type]
        case Convolved():
            from galpipe.models.cvae.learner import CvaeLearner

            return CvaeLearner(network, training)  # type: ignore[arg-type]
        case Classifier():
            from galpipe.models.classifier.learner import ClassifierLearner

            return ClassifierLearner(network, training)  # type: ignore[arg-type]
        case Votes():
            from galpipe.models.votes.learner import VotesLearner

            return VotesLearner(network, training)  # type: ignore[arg-type]
        case Regression():
            from galpipe.models.regression.learner import RegressionLearner

            return RegressionLearner(network, training)  # type: ignore[arg-type]
        case Contrastive():
            from galpipe.models.contrastive.learner import ContrastiveLearner

            return ContrastiveLearner(network, training)  # type: ignore[arg-type]
    raise TypeError(f"{network.spec!r} is no network")


def spec_of(values: Mapping[str, Any], where: str) -> Any:
    """The spec of a network, from its plain values."""
    return specs.load(_Kept, {"model": values}, where).model


@specs.spec
class _Kept:
    model: Model
