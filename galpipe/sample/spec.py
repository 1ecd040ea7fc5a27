"""Which objects a survey is about, and how they are divided for training and judging."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from galpipe.spec import run_time, spec


@spec
class Split:
    """Fractions by a salted hash of the sky cell (or of the id where there is no position)."""

    salt: str = "galpipe"  # of the hash: another one divides another way
    validation: float = Field(default=0.1, ge=0, lt=1)  # fraction that watches the training
    test: float = Field(default=0.1, ge=0, lt=1)  # fraction that only the judging sees
    nside: int = Field(default=64, ge=1, le=8192)  # HEALPix cells of 0.9 degrees


@spec
class Cone:
    """A circle on the sky."""

    ra: float = Field(ge=0, lt=360)  # degrees (ICRS), of its middle
    dec: float = Field(ge=-90, le=90)  # degrees (ICRS), of its middle
    radius: float = Field(gt=0, le=180)  # arcmin


@spec
class Sample:
    """A table of objects.  Columns not named here are carried along untouched."""

    table: str | None = run_time(None)  # None: the table that comes with the images
    # Instead of a table: a query for SkyServer, where {last} pages by the id.  As with a table, the
    # catalogue it gives decides what follows, and the text only whether to ask again.
    sql: str | None = run_time(None)
    cone: Cone | None = run_time(None)  # as `sql`, of the Hubble Source Catalog
    join: str | None = run_time(None)  # a further table with the same ids: photometric redshifts
    adql: str | None = run_time(None)  # as `sql`, for the TAP service of a VO archive
    id: str  # column that identifies an object, unique
    id_type: Literal["int64", "string"]  # declared, never sniffed
    file: str | None = None  # column naming the image; None: found by the object's id
    ra: str | None = None  # column, degrees (ICRS); None: the source has no coordinates
    dec: str | None = None  # column, degrees (ICRS)
    redshift: str | None = None  # column; published beside the labels
    split: Split = Split()
