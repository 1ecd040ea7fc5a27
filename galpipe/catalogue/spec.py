"""What the labels are compared with, and how they are published."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from galpipe.catalogue.credit import DATA
from galpipe.models.autoencoder.spec import Autoencoder
from galpipe.models.engine.spec import Training
from galpipe.spec import run_time, spec


@spec
class Truth:
    """Columns of the input table that the clusters are compared with; never trained on."""

    classes: str | None = None  # a column of class names; empty cells are left out
    votes: tuple[str, ...] = ()  # vote fractions, each histogrammed per cluster
    vote_counts: str | None = None  # a column of how many votes an object has; None: all count
    fewest_votes: int = Field(default=20, ge=0)  # objects with fewer are left out of `votes`
    # Classes of the column `classes` that are strange: scores of strangeness are judged by whether
    # they put these first, beside the stamps' complexity and flux.
    strange: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _strange_ones_have_a_column(self) -> Truth:
        if self.strange and self.classes is None:
            raise ValueError("strange names classes of a column; give `classes` as well")
        return self


@spec
class Reobservation:
    """Held-out galaxies observed again under worse conditions: whether they keep their label."""

    objects: int = Field(default=400, ge=20)  # held-out objects observed again, evenly along ids
    fwhm: float = Field(default=3.0, gt=0)  # of the archive's PSF, in cutout pixels
    psf: float = Field(default=1.5, ge=1)  # x the FWHM, where it is widened
    noise: float = Field(default=2.0, ge=1)  # x the sky's scatter, where noise is added
    light: float = Field(default=0.5, gt=0, le=1)  # x the galaxy's light, where it is dimmed
    bins: int = Field(default=5, ge=2)  # of S/N and of R50 / FWHM, of equal numbers
    seed: int = Field(default=0, ge=0)  # of the noise


@spec
class Stability:
    """Clusters fitted on two disjoint halves of the training objects, and how they agree."""

    splits: int = Field(default=3, ge=1)  # ways of cutting the training objects into halves
    seed: int = Field(default=0, ge=0)  # of the halves


@spec
class Comparison:
    """Plainer clusters of the same stamps, which those of the network are to be ahead of."""

    axes: int = Field(default=20, ge=1)  # principal axes of the stamps that are clustered
    autoencoder: Autoencoder | None = None  # whose embedding is clustered; its view is the survey's
    training: Training = Training()  # of the autoencoder
    seed: int = Field(default=0, ge=0)  # of the principal axes


@spec
class Evaluation:
    """Figures of the held-out split."""

    truth: Truth = Truth()
    permutations: int = Field(default=100, ge=2)  # of the labels, for the chance level
    fewest: int = Field(default=50, ge=1)  # held-out objects; with fewer all objects are judged
    largest: int = Field(default=20_000, ge=100)  # objects judged at most, evenly along the ids
    silhouettes: int = Field(default=2000, ge=10)  # objects whose silhouette is computed
    reobserve: Reobservation | None = None  # the same galaxies degraded; None: not done
    stability: Stability | None = None  # fits on halves of the training split; None: not done
    compare: Comparison | None = None  # with plainer clusters; None: not done
    gallery: int = Field(default=12, ge=1, le=45)  # stamps shown of each cluster
    seed: int = Field(default=0, ge=0)  # of permutations and random members


def _known_source(key: str) -> str:
    if key not in DATA:
        raise ValueError(f"name a known source: {', '.join(sorted(DATA))}")
    return key


Source = Annotated[str, AfterValidator(_known_source)]


@spec
class Publication:
    """The published table, and whom the report beside it credits."""

    carry: tuple[str, ...] = ()  # input columns copied into the labels, with the prefix `input_`
    # Sources of the data, by name, in place of those of the archive; shown, never in a label.
    credit: tuple[Source, ...] | None = run_time(None)
