"""What decides the bytes of a simulated sky."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from galpipe.spec import spec

Kind = Literal[
    "elliptical", "spiral", "barred", "edge_on", "irregular", "merger", "star", "artefact"
]


@spec
class SkySpec:
    """A sky of `galaxies` galaxies, with stars and artefacts among them in proportion."""

    galaxies: int = Field(default=2000, ge=1, le=100_000)
    seed: int = Field(default=1, ge=0, le=2**32 - 1)
    edition: Literal[3] = 3  # of the drawing: raised here and in the archive with every change
    per_field: int = Field(default=100, ge=4, le=108)  # catalogued objects in a field
