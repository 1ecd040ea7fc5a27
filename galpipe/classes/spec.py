"""What is clustered, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from galpipe.spec import spec


@spec
class Feature:
    """A measured column as the clustering sees it."""

    column: str  # its name, or a pattern such as "colour_*" that takes every column it fits
    # asinh: of value / median size; log: of the positive values; rank: normal scores of training
    transform: Literal["linear", "asinh", "log", "rank"] = "linear"
    weight: float = Field(default=1.0, gt=0)  # its spread where that of others is 1


def _ranked(*names: str) -> tuple[Feature, ...]:
    return tuple(Feature(column=name, transform="rank") for name in names)


# Shape, light profile, structure and colour; no nuisance (position angle, neighbours, background,
# S/N, apparent size and brightness), nor structure, isophote twist and colour gradients, which know
# the pixel grid (of a JPEG's colours, say) and so the position angle.  Ranks make every survey's
# units alike and hold outliers in.  Colours are taken where there are bands.
COLUMNS = (
    Feature(column="axis_ratio"),
    *_ranked(
        "concentration_elliptical",
        "asymmetry",
        "smoothness",
        "gini",
        "m20",
        "bisymmetry_inner",
        "bisymmetry_middle",
        "bisymmetry_outer",
        "surface_brightness",
        "colour_*",
    ),
)


@spec
class Neighbours:
    """Vectors replaced by where they lie among the others: diffusion coordinates.

    The axes run across the gaps of the population, whatever the shape of its groups.
    """

    axes: int = Field(default=6, ge=1)  # coordinates, which the mixture is fitted to
    nearest: int = Field(default=20, ge=2)  # neighbours of an object
    landmarks: int = Field(default=6000, ge=100)  # training objects that are neighbours, at most


@spec
class Steady:
    """Labels by a rule that learns the mixture's of training objects, as they are and seen worse.

    How much worse is drawn object by object, from as it is to the limits here.
    """

    objects: int = Field(default=6000, ge=20)  # training objects that are seen worse, at most
    times: int = Field(default=3, ge=1)  # how often each of them
    noise: float = Field(default=2.5, ge=1)  # x the sky's scatter, at most
    light: float = Field(default=0.4, gt=0, le=1)  # x what is above the sky, at least
    psf: float = Field(default=1.7, ge=1)  # x the FWHM, at most
    fwhm: float = Field(default=3.0, gt=0)  # of the archive's PSF, in cutout pixels
    axes: int = Field(default=60, ge=1)  # principal axes of the embedding that the rule sees
    rounds: int = Field(default=8, ge=0)  # of learning anew what the views of an object agree on
    networks: int = Field(default=4, ge=1)  # whose memberships are averaged
    hidden: int = Field(default=64, ge=1)  # numbers of each of their two inner layers
    dropout: float = Field(default=0.2, ge=0, lt=1)  # of these, in learning
    epochs: int = Field(default=40, ge=1)  # of the learning
    learning_rate: float = Field(default=2e-3, gt=0)  # the highest of a cycle
    weight_decay: float = Field(default=0.01, ge=0)  # of AdamW
    seed: int = Field(default=0, ge=0)  # of the conditions, the noise and the learning


@spec
class Clustering:
    """A full-covariance Gaussian mixture on vectors of the training split.

    Vectors have unit variance in every measured column, times its weight.
    """

    # What is clustered; model: nothing, the labels are those that the network itself gives.
    on: Literal["embedding", "columns", "both", "model"] = "columns"
    components: int = Field(default=12, ge=1)  # fewer, with a note, where training is too small
    columns: tuple[Feature, ...] = COLUMNS
    without: tuple[str, ...] = ("colour_gradient_*",)  # columns that no pattern takes
    clip: float = Field(default=3.0, gt=0)  # sigma; beyond it values grow by their logarithm only
    imputed: float = Field(default=0.25, ge=0, le=1)  # most undefined columns, a fraction, filled
    # Principal axes of the embedding; None: 8 beside columns, 64 at most where it stands alone.
    embedding_axes: int | None = Field(default=None, ge=1)
    embedding_weight: float = Field(default=0.3, gt=0)  # their spread where columns have 1
    neighbours: Neighbours | None = None  # diffusion coordinates; None: the vectors themselves
    steady: Steady | None = None  # labels learnt of degraded galaxies; None: the mixture's own
    regularisation: float = Field(default=0.05, gt=0)  # added to every variance
    restarts: int = Field(default=8, ge=1)  # the likeliest on the validation split is kept
    iterations: int = Field(default=500, ge=1)  # of expectation-maximisation, at most
    smallest: int = Field(default=20, ge=2)  # training objects needed for each component
    largest: int = Field(default=200_000, ge=100)  # training objects used at most
    faintest: float = Field(default=0.0, ge=0, le=1)  # below this probability: unassigned
    seed: int = Field(default=0, ge=0)  # of the restarts

    @model_validator(mode="after")
    def _of_clusters(self) -> Clustering:
        if self.on == "model" and self.neighbours is not None:
            raise ValueError("neighbours are of clustered vectors; with on = 'model' none are")
        if self.on == "model" and self.steady is not None:
            raise ValueError("steady is of clusters; with on = 'model' there are none")
        return self
