"""The networks a survey can have; each kind's settings lie beside the kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from galpipe.models.autoencoder.spec import Autoencoder
from galpipe.models.classifier.spec import Classifier
from galpipe.models.contrastive.spec import Contrastive
from galpipe.models.cvae.spec import Cvae, Cvae2, FancyCvae, Vae
from galpipe.models.engine.spec import Training
from galpipe.models.flow_vae.spec import FlowVae
from galpipe.models.regression.spec import Regression
from galpipe.models.vade.spec import Stack, VaDE
from galpipe.models.votes.spec import Votes
from galpipe.spec import spec

__all__ = ["VIEWS", "Classifier", "Embedding", "Model", "NoModel", "Stack", "Training", "VaDE"]


@spec
class NoModel:
    """No network: clusters are made on the measured columns."""

    kind: Literal["none"] = "none"


VIEWS = {"masked": "image", "unmasked": "image_unmasked"}  # their arrays in a stamp part

Model = Annotated[
    NoModel
    | VaDE
    | Autoencoder
    | FlowVae
    | Vae
    | Cvae
    | Cvae2
    | FancyCvae
    | Classifier
    | Contrastive
    | Votes
    | Regression,
    Field(discriminator="kind"),
]


@spec
class Embedding:
    """How vectors are computed; all of it changes their last bits."""

    micro_batch: int = Field(default=256, ge=1)  # fixed, the last one padded
    shard: int = Field(default=8192, ge=1)  # objects per unit of work, lost at most when killed
    threads: int = Field(default=2, ge=1)  # of the arithmetic
    device: Literal["cpu", "cuda"] = "cpu"  # where the arithmetic is done
