"""The networks and how they are trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from galpipe.spec import spec


@spec
class NoModel:
    """No network: clusters are made on the measured columns."""

    kind: Literal["none"] = "none"


@spec
class VaDE:
    """Variational deep embedding (Jiang et al. 2017; AstroVaDEr, Spindler et al. 2021)."""

    kind: Literal["vade"] = "vade"


Model = Annotated[NoModel | VaDE, Field(discriminator="kind")]


@spec
class Embedding:
    """How vectors are computed; all of it changes their last bits."""

    micro_batch: int = Field(256, ge=1)  # fixed, the last one padded
    threads: int = Field(2, ge=1)
