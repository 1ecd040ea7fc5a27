"""How much of a field is its own mirror image: arms and rings are more than noise is.

Every field is the sum of four parts, even or odd under the mirror in y and that in x.  Each has a
quarter of a stationary field's variance.

Shapes: N images, A bands, Y and X pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

SIGNS = ((1, 1), (1, -1), (-1, 1), (-1, -1))  # under the mirror in y and that in x


def shares(field_NAYX: Tensor, weight_N1YX: Tensor) -> Tensor:
    """The four parts' shares of the variance where the field has weight, (4,), of sum 4."""
    squares = torch.stack(
        [(weight_N1YX * part**2).sum(dtype=torch.float64) for part in _parts(field_NAYX)]
    )
    total = squares.sum()
    found: Tensor = torch.where(total > 0, 4 * squares / total.clamp_min(1e-12), 1.0).float()
    return found


def shaped(field_NAYX: Tensor, shares_4: Tensor) -> Tensor:
    """A stationary field whose parts are scaled to these shares of the variance."""
    found = torch.zeros_like(field_NAYX)
    for part, share in zip(_parts(field_NAYX), shares_4, strict=True):
        found = found + torch.sqrt(share) * part
    return found


def _parts(field_NAYX: Tensor) -> list[Tensor]:
    y, x, both = (field_NAYX.flip(axes) for axes in ((2,), (3,), (2, 3)))
    return [(field_NAYX + a * y + b * x + a * b * both) / 4 for a, b in SIGNS]
