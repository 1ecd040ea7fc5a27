"""What decides the bytes of the simulated field of the Hubble Space Telescope."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from galpipe.spec import spec


@spec
class FieldSpec:
    """A square ACS/WFC mosaic in F606W and F814W, 0.03 arcsec per pixel, with stars in it."""

    side: int = Field(default=4000, ge=600, le=8000)  # pixels of 0.03 arcsec
    seed: int = Field(default=1, ge=0, le=2**32 - 1)  # the same seed draws the same field
    edition: Literal[1] = 1  # of the drawing: raised here and in the archive with every change
