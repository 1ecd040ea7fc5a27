"""Where the pixels of a survey come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from galpipe.spec import run_time, spec


def _each_once(bands: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(bands)) < len(bands):
        raise ValueError("each band has a name of its own")
    return bands


Band = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,20}$")]
Bands = Annotated[tuple[Band, ...], Field(min_length=1, max_length=32), AfterValidator(_each_once)]
Address = Annotated[str, Field(pattern=r"^(https?://[^\s?#]+)?$")]

JPEG_BANDS = ("i", "r", "g")  # what the planes of an SDSS colour image show (Lupton et al. 2004)
LARGEST_HALF = 240.0  # arcsec: a stamp that fills a frame


@spec
class Folder:
    """Images in a directory or a zip: FITS, JPEG, PNG or HDF5, or the GalSim RealGalaxy format."""

    kind: Literal["folder"] = "folder"
    path: str = run_time(...)  # directory or zip; $VARIABLES are resolved
    layout: Literal["files", "realgalaxy"] = "files"  # realgalaxy: as GalSim keeps COSMOS
    bands: Bands = ("r",)  # in the order of the image's planes
    hdu: int | None = None  # FITS: None takes the first HDU with an image
    pixel_scale: float | None = Field(default=None, gt=0)  # arcsec/pixel; None: the source's own
    shard: int = Field(default=512, ge=1)  # objects per shard of the raw store
    rights: str = "public"  # whose the images are, kept with them


@spec
class FixedSize:
    """The same piece of sky for every object."""

    kind: Literal["fixed"] = "fixed"
    half: float = Field(default=25.0, gt=0, le=LARGEST_HALF)  # arcsec, half a side


@spec
class PetrosianSize:
    """As many Petrosian radii for every object; without a positive radius it takes `smallest`."""

    kind: Literal["petrosian"] = "petrosian"
    column: str = "petroR90_r"  # of the sample, in arcsec
    radii: float = Field(default=3.0, gt=0)  # half a side in these radii
    smallest: float = Field(default=10.0, gt=0, le=LARGEST_HALF)  # arcsec, half a side
    largest: float = Field(default=60.0, gt=0, le=LARGEST_HALF)  # larger objects are cut to it

    @model_validator(mode="after")
    def _in_order(self) -> PetrosianSize:
        if self.smallest > self.largest:
            raise ValueError("smallest must not exceed largest")
        return self


Size = Annotated[FixedSize | PetrosianSize, Field(discriminator="kind")]


@spec
class Frames:
    """Cutouts of the calibrated frames, in nanomaggies, every band on the reference band's pixels.

    `size` is what a stamp shows; a cutout reaches sqrt(2) further, so that it can be turned.
    """

    kind: Literal["frames"] = "frames"
    size: Size = FixedSize()
    reference: Band = "r"  # the band whose pixels all others are brought to


@spec
class Jpeg:
    """Colour images of SkyServer's ImgCutout, `side` pixels square, showing just `size`.

    Galaxy Zoo 2 (Willett et al. 2013): 424 pixels of 0.02 Petrosian R90, that is 4.24 radii.
    """

    kind: Literal["jpeg"] = "jpeg"
    size: Size = PetrosianSize(radii=4.24, smallest=4.0, largest=LARGEST_HALF)
    side: int = Field(default=424, ge=64, le=2048)  # outside, the server silently takes the limit


Pixels = Annotated[Frames | Jpeg, Field(discriminator="kind")]


@spec
class Served:
    """What is asked of servers that speak the protocols of SDSS, and how politely."""

    bands: Bands = ("g", "r", "i")  # the order of the planes
    pixels: Pixels = Frames()
    imaging_release: int = Field(default=17, ge=8, le=99)  # the frames; imaging ended in 2009
    catalog_release: int = Field(default=17, ge=8, le=99)  # the tables
    rerun: int = Field(default=301, ge=0, le=2047)  # version of the photometric reduction
    shard: int = Field(default=512, ge=1)  # objects per shard of the raw store
    rights: str = "public"  # whose the images are, kept with them
    skyserver: Address = run_time("")  # address of the tables and colour images
    sas: Address = run_time("")  # address of the frames
    connections: int = run_time(4, ge=1, le=16)  # at once, per worker
    requests_per_minute: float | None = run_time(60.0, gt=0)  # to SkyServer, per worker process
    timeout: float = run_time(30.0, gt=0)  # seconds without a byte
    tries: int = run_time(5, ge=1, le=20)  # of a request, before the object is FAILED
    patience: float = run_time(1.0, ge=0, le=60)  # seconds; the first wait at most, then doubled

    @model_validator(mode="after")
    def _bands_there(self) -> Served:
        if isinstance(self.pixels, Jpeg):
            if self.bands != JPEG_BANDS:
                raise ValueError('the colour images show bands = ["i", "r", "g"], in this order')
            return self
        unknown = [band for band in self.bands if band not in "ugriz" or len(band) != 1]
        if unknown:
            raise ValueError(f"SDSS has the bands u, g, r, i and z, and no {unknown[0]!r}")
        if self.pixels.reference not in self.bands:
            raise ValueError(
                f"pixels.reference {self.pixels.reference!r} must be one of bands "
                f"({', '.join(self.bands)})"
            )
        return self


@spec
class Sdss(Served):
    """The Sloan Digital Sky Survey, by SkyServer and the Science Archive Server."""

    kind: Literal["sdss"] = "sdss"
    skyserver: Address = run_time("https://skyserver.sdss.org")
    sas: Address = run_time("https://data.sdss.org/sas")


@spec
class Sky(Served):
    """The sky that comes with galpipe: simulated galaxies of known truth, served as SDSS is.

    Without addresses the run starts the server itself, and ends it.
    """

    kind: Literal["sky"] = "sky"
    galaxies: int = Field(default=2000, ge=1, le=100_000)  # of the whole sky
    seed: int = Field(default=1, ge=0, le=2**32 - 1)  # the same seed draws the same sky
    edition: Literal[3] = 3  # of the drawing, as in galpipe.sky.spec
    imaging_release: Literal[17] = 17
    catalog_release: Literal[17] = 17
    rerun: Literal[301] = 301
    requests_per_minute: float | None = run_time(None, gt=0)


Archive = Annotated[Folder | Sdss | Sky, Field(discriminator="kind")]
