"""Where the pixels of a survey come from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from galpipe.spec import run_time, spec


@spec
class Folder:
    """Images in a directory or a zip: FITS, JPEG, PNG or HDF5, or the GalSim RealGalaxy format."""

    kind: Literal["folder"] = "folder"
    path: str = run_time(...)  # directory or zip; $VARIABLES are resolved
    layout: Literal["files", "realgalaxy"] = "files"
    bands: tuple[str, ...] = ("r",)  # in the order of the image's planes
    hdu: int | None = None  # FITS: None takes the first HDU with an image
    pixel_scale: float | None = Field(default=None, gt=0)  # arcsec/pixel; None: the source's own
    shard: int = Field(default=512, ge=1)  # objects per shard of the raw store
    rights: str = "public"


Archive = Folder  # later kinds join here as a union told apart by `kind`
