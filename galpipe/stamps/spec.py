"""How cutouts become stamps: background, neighbours, orientation, scale, stretch, storage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from galpipe.spec import spec


@spec
class NoBackground:
    """The source is sky-subtracted already."""

    kind: Literal["none"] = "none"


@spec
class Annulus:
    """The median of the pixels beyond the galaxy (and off the neighbours) is subtracted."""

    kind: Literal["annulus"] = "annulus"
    inner: float = Field(
        default=0.75, gt=0, lt=1
    )  # half-widths of the cutout; grown with the galaxy


Background = Annotated[NoBackground | Annulus, Field(discriminator="kind")]


@spec
class Segmentation:
    """Detection on the smoothed detection image (the mean of the bands), by sep."""

    threshold: float = Field(default=1.5, gt=0)  # in units of the background scatter
    minimum_pixels: int = Field(default=5, ge=1)  # of a detection
    deblend_levels: int = Field(default=16, ge=1, le=64)  # of brightness, between which to part
    deblend_contrast: float = Field(
        default=0.02, ge=0, le=1
    )  # fraction of the light; below: part of it
    reach: float = Field(
        default=0.15, gt=0, le=1
    )  # half-widths from the centre where the galaxy may lie
    grow: int = Field(default=2, ge=0)  # neighbours' masks grow by this many detection pixels
    detect_at: int = Field(default=128, ge=16)  # pixels; larger cutouts are detected on block means
    mask_neighbours: bool = True  # the stamps' first view has them filled; the other never


@spec
class FixedScale:
    """The centre of the cutout, `width` cutout pixels wide, resampled to the stamp's size."""

    kind: Literal["fixed"] = "fixed"
    width: float | None = Field(default=None, gt=0, le=8192)  # None: the whole cutout


@spec
class PetrosianScale:
    """`radii` Petrosian radii (of the object itself) across, resampled to the stamp's size."""

    kind: Literal["petrosian"] = "petrosian"
    radii: float = Field(default=4.0, ge=0.1, le=20)  # Petrosian radii across the stamp
    smallest: float = Field(
        default=16.0, ge=1, le=4096
    )  # never narrower than this many cutout pixels


Scale = Annotated[FixedScale | PetrosianScale, Field(discriminator="kind")]


@spec
class Asinh:
    """y = asinh(x / (softening s)) / asinh(1 / softening); s per band, from the training split."""

    kind: Literal["asinh"] = "asinh"
    softening: float = Field(default=0.05, ge=1e-6, le=1e3)  # of s; below it y is linear
    percentile: float = Field(
        default=99.5, gt=0, le=100
    )  # of the stamps' brightest pixel defines s


@spec
class Linear:
    """y = x / s; s is fitted per band on the training split."""

    kind: Literal["linear"] = "linear"
    percentile: float = Field(default=99.5, gt=0, le=100)  # as for asinh


@spec
class Given:
    """y = x / s with a stated s: for images that come stretched (255 for JPEG)."""

    kind: Literal["given"] = "given"
    scale: float = Field(default=255.0, ge=1e-30, le=1e30)  # s: the value that becomes 1


@spec
class OwnRange:
    """Every image between its own darkest and brightest pixel, as AstroVaDEr has it.

    Loses flux and surface brightness, and hangs on single pixels: to repeat published work, or for
    labels that a galaxy is to keep where it is dimmer.
    """

    kind: Literal["own_range"] = "own_range"


Stretch = Annotated[Asinh | Linear | Given | OwnRange, Field(discriminator="kind")]


@spec
class Preparation:
    """Everything between a cutout and a stamp."""

    size: int = Field(default=64, ge=8, le=1024)  # stamp pixels on a side
    background: Background = NoBackground()
    segmentation: Segmentation = Segmentation()
    recentre: bool = True  # the galaxy's centroid becomes the stamp's centre
    align: bool = True  # rotate the major axis to the x axis, by second moments
    scale: Scale = FixedScale()
    conserve: Literal["surface_brightness", "flux"] = "surface_brightness"  # when resampling
    # grey: the mean of the bands; luminance: 0.2125, 0.7154, 0.0721 of red, green, blue (Rec. 709)
    colour: Literal["grey", "luminance", "bands"] = "grey"
    window: Literal["square", "disc"] = "square"  # disc: background beyond the inscribed circle
    interpolation: Literal["linear", "cubic"] = "linear"  # of the one resampling pass
    stretch: Stretch = Asinh()
    dtype: Literal["uint8", "float16"] = "uint8"  # of the stored stamps
    shard: int = Field(default=512, ge=1)  # objects per shard, written whole by one task
    chunk: int = Field(default=256, ge=1)  # objects per inner chunk, read at once
