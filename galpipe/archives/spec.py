"""Where the pixels of a survey come from."""

from __future__ import annotations

import math
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
Words = Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,200}$")]
Wavelength = Annotated[float, Field(gt=0, lt=10)]
Host = Annotated[str, Field(pattern=r"^[a-z0-9.-]{1,253}$")]

HIPS2FITS = "https://alasky.cds.unistra.fr/hips-image-services/hips2fits"
JPEG_BANDS = ("i", "r", "g")  # what the planes of an SDSS colour image show (Lupton et al. 2004)
LARGEST_HALF = 240.0  # arcsec: a stamp that fills a frame
LARGEST_STAMP = 2048  # pixels on a side of a stamp of Hubble


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
    north_up: bool = False  # every band resampled: north up, east left; else the frame's pixels
    variance: bool = False  # keep the variance of every pixel, of sky, light and read-out
    psf: bool = False  # keep the point-spread function at the object, per band, of psField files
    mask: bool = False  # keep the bits of every pixel, of fpM files: saturated, cosmic ray
    deredden: bool = False  # undo Galactic extinction, by extinction_{band} or ebv of the sample


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
class Remote:
    """How politely servers are asked, and whose the pixels are."""

    shard: int = Field(default=512, ge=1)  # objects per shard of the raw store
    rights: str = "public"  # whose the images are, kept with them
    connections: int = run_time(4, ge=1, le=16)  # at once, per worker
    requests_per_minute: float | None = run_time(60.0, gt=0)  # at most, of this machine
    timeout: float = run_time(30.0, gt=0)  # seconds without a byte
    tries: int = run_time(5, ge=1, le=20)  # of a request, before the object is FAILED
    patience: float = run_time(1.0, ge=0, le=60)  # seconds; the first wait at most, then doubled
    longest_wait: float = run_time(600.0, ge=0)  # seconds; who asks for more is left to a later run


@spec
class Served(Remote):
    """What is asked of servers that speak the protocols of SDSS."""

    bands: Bands = ("g", "r", "i")  # the order of the planes
    pixels: Pixels = Frames()
    imaging_release: int = Field(default=17, ge=8, le=99)  # the frames; imaging ended in 2009
    catalog_release: int = Field(default=17, ge=8, le=99)  # the tables
    rerun: int = Field(default=301, ge=0, le=2047)  # version of the photometric reduction
    skyserver: Address = run_time("")  # address of the tables and colour images
    sas: Address = run_time("")  # address of the frames
    files_per_minute: float | None = run_time(None, gt=0)  # frames at most, of this machine
    cache: int = run_time(2 * 2**30, ge=0)  # bytes on disk of frames that several tasks want

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


@spec
class Soda:
    """Cutouts of an archive's images in its own units, found by SIA2 and cut by SODA.

    Every band is brought onto the pixels of the reference band; `size` is what a stamp shows, and a
    cutout reaches sqrt(2) further, so that it can be turned.
    """

    kind: Literal["soda"] = "soda"
    pixel_scale: float = Field(gt=0.001, le=60)  # arcsec per pixel of the reference band's images
    collections: tuple[Words, ...] = ()  # COLLECTION of each band, or one for all; (): any
    wavelengths: tuple[Wavelength, ...] = ()  # metres, within each band's filter; (): any
    calibration: int = Field(default=2, ge=0, le=4)  # ObsCore calib_level that images must have
    size: Size = FixedSize()
    reference: str = ""  # the band whose pixels all others are brought to; empty: the first

    def asked(self, place: int) -> tuple[str, float]:
        """Collection and wavelength (metres) that are asked for a band; empty and 0: any."""
        collections, lengths = self.collections or ("",), self.wavelengths or (0.0,)
        return collections[place % len(collections)], lengths[place % len(lengths)]


@spec
class Hips:
    """Images resampled north up from HiPS, as hips2fits makes them: previews, not photometry."""

    kind: Literal["hips"] = "hips"
    maps: tuple[Words, ...] = Field(min_length=1)  # a HiPS per band; "jpeg": the one in colour
    format: Literal["fits", "jpeg"] = "fits"  # jpeg: red, green, blue of one HiPS, as bytes
    pixel_scale: float = Field(default=0.4, gt=0.001, le=60)  # arcsec per pixel asked for
    size: Size = FixedSize()


@spec
class EmbeddedSky:
    """The sky that comes with galpipe, behind VO protocols."""

    galaxies: int = Field(default=2000, ge=1, le=100_000)  # of the whole sky
    seed: int = Field(default=1, ge=0, le=2**32 - 1)  # the same seed draws the same sky
    edition: Literal[3] = 3  # of the drawing, as in galpipe.sky.spec


@spec
class Vo(Remote):
    """An archive that speaks the protocols of the Virtual Observatory.

    Addresses are no part of a digest, since an archive moves and has mirrors: `service` stands for
    it.  Requests go to the hosts of the addresses, and to `hosts`, alone.
    """

    kind: Literal["vo"] = "vo"
    service: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9:/._~+-]{2,199}$")  # its name, ivo://...
    bands: Bands = ("g", "r", "i")  # the order of the planes
    pixels: Annotated[Soda | Hips, Field(discriminator="kind")]
    embedded: EmbeddedSky | None = (
        None  # the simulated sky, served by the run, instead of addresses
    )
    tap: Address = run_time("")  # base of the TAP service, without /sync
    sia: Address = run_time("")  # query address of the SIA2 service
    soda: Address = run_time("")  # SODA; empty: as each image's DataLink says
    hips2fits: Address = run_time(HIPS2FITS)  # makes images of HiPS
    hosts: tuple[Host, ...] = run_time(())  # further hosts that images may come from
    token_env: str = run_time("", pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,63})?$")  # variable with it

    @model_validator(mode="after")
    def _each_band_told(self) -> Vo:
        pixels, count = self.pixels, len(self.bands)
        if isinstance(pixels, Soda):
            if pixels.reference and pixels.reference not in self.bands:
                raise ValueError(f"pixels.reference {pixels.reference!r} must be one of bands")
            for name, given in (
                ("collections", pixels.collections), ("wavelengths", pixels.wavelengths)
            ):  # fmt: skip
                if len(given) not in (0, 1, count):
                    raise ValueError(f"pixels.{name} has {len(given)} for {count} bands")
            told = {pixels.asked(place) for place in range(count)}
            if len(told) < count:
                raise ValueError(
                    "pixels.collections and pixels.wavelengths do not tell the bands apart"
                )
        elif pixels.format == "jpeg" and (len(pixels.maps), count) != (1, 3):
            raise ValueError("a colour HiPS is one of pixels.maps, and shows three bands")
        elif pixels.format == "fits" and len(pixels.maps) != count:
            raise ValueError(f"pixels.maps has {len(pixels.maps)} for {count} bands")
        return self


@spec
class Hapcut:
    """Cutouts of the Hubble Advanced Products, one request per object, in electrons per second.

    `size` is what a stamp shows; a cutout reaches sqrt(2) further, so that it can be turned.
    """

    kind: Literal["hapcut"] = "hapcut"
    size: Size = FixedSize(half=3.0)
    camera: Literal["acs_wfc", "wfc3_uvis", "wfc3_ir"] = "acs_wfc"  # the detector whose product
    coarse: bool = False  # WFC3/IR also comes with coarse pixels: take those


@spec
class Zcut:
    """Cutouts of a deep field's own mosaics, by the service Zcut, one request per object."""

    kind: Literal["zcut"] = "zcut"
    size: Size = FixedSize(half=3.0)
    survey: str = Field(pattern=r"^[A-Za-z0-9_-]{1,60}$")  # as Zcut names it: candels_gn_30mas
    camera: Literal["acs_wfc", "wfc3_uvis", "wfc3_ir"] = "acs_wfc"  # the detector whose product


Proposal = Annotated[int, Field(ge=1, le=99999)]
Place = Annotated[str, Field(pattern=r"^(mast:|s3://)?[A-Za-z0-9_+-][A-Za-z0-9_.+/-]*$")]


@spec
class Tile:
    """One drizzled image of a mosaic, uncompressed FITS."""

    band: Band  # the filter
    image: Place  # a file below archive.files, mast:HST/product/..., or s3://bucket/key
    weight: Place | None = None  # file of exposure times; None: the HDU WHT of the image's file


@spec
class Mosaic:
    """Cutouts of mosaics, of which just the pieces are read that hold the object."""

    kind: Literal["mosaic"] = "mosaic"
    size: Size = FixedSize(half=3.0)
    tiles: Annotated[tuple[Tile, ...], Field(min_length=1, max_length=2000)]  # of all bands
    psf: bool = False  # keep the point-spread function of each tile's own stars, per band


@spec
class Products:
    """Cutouts of the drizzled products that MAST lists about the objects, read as a mosaic is.

    In each filter the one with the longest exposure that saw the object; where several have the
    same, the first by name.  A file that the archive gives only whole is fetched whole, once.
    """

    kind: Literal["products"] = "products"
    size: Size = FixedSize(half=3.0)
    camera: Literal["acs_wfc", "wfc3_uvis", "wfc3_ir"] = "acs_wfc"  # the detector whose product
    mosaics: Literal["visit", "skycell"] = "visit"  # of single visits, or of all that saw a place
    coarse: bool = False  # WFC3/IR skycells also come with coarse pixels: take those
    proposals: tuple[Proposal, ...] = ()  # PROPOSID of those that may be taken; (): any
    psf: bool = False  # keep the point-spread function of each product's own stars, per band


HubblePixels = Annotated[Hapcut | Zcut | Mosaic | Products, Field(discriminator="kind")]


@spec
class Hubble(Remote):
    """What is asked of servers that hold images of the Hubble Space Telescope."""

    bands: Bands = ("F814W",)  # filters, the order of the planes
    pixels: HubblePixels = Hapcut()
    catalogue: Literal["hubble-source-catalog", "hap-point", "hap-segment"] = (
        "hubble-source-catalog"  # what sample.cone asks: the first ends in 2017, HAP's go on
    )
    reference: Band = "F814W"  # the filter whose pixels all others are brought to
    pixel_scale: float = Field(default=0.04, gt=0, le=1)  # arcsec/pixel, as the images must have
    camera_pixel: float = Field(default=0.05, gt=0, le=1)  # arcsec/pixel of the camera itself
    pixfrac: float = Field(default=1.0, gt=0, le=1)  # of the drizzling: side of a drop in pixels
    variance: bool = True  # keep the variance of every pixel
    mast: Address = run_time("")  # address of the services of MAST
    files: Address = run_time("")  # address of plain files
    s3: Address = run_time("https://s3.amazonaws.com")  # where s3://bucket/key is read, unsigned
    block: int = run_time(1024, ge=16, le=16384)  # KiB of a mosaic that are read at least

    @model_validator(mode="after")
    def _consistent(self) -> Hubble:
        if self.reference not in self.bands:
            raise ValueError(
                f"reference {self.reference!r} must be one of bands ({', '.join(self.bands)})"
            )
        if isinstance(self.pixels, Mosaic):
            tiled = {tile.band for tile in self.pixels.tiles}
            absent = [band for band in self.bands if band not in tiled]
            if absent:
                raise ValueError(f"pixels.tiles has no image of {absent[0]}")
        size = self.pixels.size
        half = size.half if isinstance(size, FixedSize) else size.largest
        if 2 * math.sqrt(2) * half / self.pixel_scale > LARGEST_STAMP:
            raise ValueError(
                f"pixels.size of {half:g} arcsec is too large for stamps of {self.pixel_scale:g} "
                f"arcsec per pixel; at most {LARGEST_STAMP * self.pixel_scale / 2.83:.3g}"
            )
        return self


@spec
class Hst(Hubble):
    """The Hubble Space Telescope, by MAST's services or by its mosaics."""

    kind: Literal["hst"] = "hst"
    mast: Address = run_time("https://mast.stsci.edu")
    files: Address = run_time("https://archive.stsci.edu")


@spec
class HstSky(Hubble):
    """A simulated field of Hubble of known truth, served as MAST serves its own.

    Without addresses the run starts the server itself, and ends it.
    """

    kind: Literal["hst-sky"] = "hst-sky"
    side: int = Field(default=4000, ge=600, le=8000)  # pixels of 0.03 arcsec, of the field
    seed: int = Field(default=1, ge=0, le=2**32 - 1)  # the same seed draws the same field
    edition: Literal[1] = 1  # of the drawing, as in galpipe.sky.mast_spec
    pixel_scale: float = Field(default=0.03, ge=0.03, le=0.03)  # arcsec/pixel, of the field
    requests_per_minute: float | None = run_time(None, gt=0)


Archive = Annotated[Folder | Sdss | Sky | Vo | Hst | HstSky, Field(discriminator="kind")]
