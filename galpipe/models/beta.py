"""β: how much the divergence from the prior weighs against the drawing of the images.

Higgins et al. 2017 (ICLR): with β above 1 a dimension of the latent space is given up unless it
pays for itself; below 1 the drawings are more faithful, and the prior fits the posteriors less.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from galpipe.spec import spec


@spec
class Rise:
    """A β that rises in a straight line, once or in cycles (Fu et al. 2019), and then stays."""

    first: float = Field(default=0.0, ge=0)  # β in the first epoch of a cycle
    last: float = Field(default=1.0, ge=0)  # β once it has risen
    epochs: int = Field(default=10, ge=1)  # that a rise takes
    cycles: int = Field(default=1, ge=1)  # rises, one after the other over the whole training


Weight = Annotated[float, Field(ge=0)]
Beta = Weight | Annotated[tuple[Weight, ...], Field(min_length=1)] | Rise


def beta_at(beta: Beta, epoch: int, epochs: int) -> float | tuple[float, ...]:
    """β of an epoch (from 0) of a training of `epochs`: a number, or one per latent dimension."""
    if not isinstance(beta, Rise):
        return beta
    cycle = -(-epochs // beta.cycles)
    done = min((epoch % cycle) / beta.epochs, 1.0)
    return beta.first + (beta.last - beta.first) * done


def last_beta(beta: Beta) -> float | tuple[float, ...]:
    """β that a training ends with: what its held-out bound is judged by."""
    return beta.last if isinstance(beta, Rise) else beta
