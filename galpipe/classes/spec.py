"""What is clustered, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from galpipe.spec import spec


@spec
class Clustering:
    """A full-covariance Gaussian mixture on vectors of the training split."""

    on: Literal["embedding", "columns", "both"] = "columns"
    components: int = Field(12, ge=1)
