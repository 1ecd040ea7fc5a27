"""Where the pixels of a survey come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from galpipe.spec import run_time, spec


def _each_once(bands: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(bands)) < len(bands):
        raise ValueError("each band has a name of its own")
    return bands


Band = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,20}$")]
Bands = Annotated[tuple[Band, ...], Field(min_length=1, max_length=32), AfterValidator(_each_once)]


@spec
class Folder:
    """Images in a directory or a zip: FITS, JPEG, PNG or HDF5, or the GalSim RealGalaxy format."""

    kind: Literal["folder"] = "folder"
    path: str = run_time(...)  # directory or zip; $VARIABLES are resolved
    layout: Literal["files", "realgalaxy"] = "files"
    bands: Bands = ("r",)  # in the order of the image's planes
    hdu: int | None = None  # FITS: None takes the first HDU with an image
    pixel_scale: float | None = Field(default=None, gt=0)  # arcsec/pixel; None: the source's own
    shard: int = Field(default=512, ge=1)  # objects per shard of the raw store
    rights: str = "public"


Archive = Folder  # later kinds join here as a union told apart by `kind`
