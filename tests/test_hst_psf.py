"""The point-spread function of a field by its own stars, against the simulated camera's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import galsim
import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits

from galpipe.archives.hst.field_psf import on_stamp, stacked, strips
from galpipe.archives.hst.stars import APERTURE, SIDE, candidates, stars_of
from galpipe.archives.psf import psf_fwhm
from galpipe.archives.spec import FixedSize, Hapcut, Mosaic, Products, Tile
from galpipe.sky.galaxies import COARSE
from galpipe.sky.mast import Mast
from galpipe.sky.mast_camera import FILTERS, NATIVE, PIXEL, field_wcs, name_of, product, sky_of
from galpipe.sky.mast_field import drizzled
from galpipe.sky.mast_spec import FieldSpec
from galpipe.status import Status
from tests.hubble import hst, run, serving, stored

FIELD = FieldSpec(side=1500, seed=3)
STARS, GALAXIES = 24, 60
FILTER = "F814W"


def true_psf() -> np.ndarray[Any, Any]:
    """What a star of the simulated camera looks like in its mosaics, averaged over where it falls.

    The telescope, then squares: of a pixel of the light that is drawn (twice, as it is drawn and as
    it is then taken for flat), of the camera (twice, as it is seen and as it is dropped), and of
    the mosaic (by drawImage, once more).
    """
    spread = galsim.Moffat(beta=3.0, fwhm=FILTERS[FILTER][1], gsparams=COARSE)
    squares = [galsim.Pixel(size) for size in (PIXEL, PIXEL, NATIVE, NATIVE)]
    drawn = galsim.Convolve([spread, *squares]).drawImage(
        nx=SIDE, ny=SIDE, scale=PIXEL, method="fft"
    )
    image: np.ndarray[Any, Any] = drawn.array / drawn.array.sum()
    return image


def light(seed: int, stars: int) -> tuple[np.ndarray[Any, Any], list[tuple[float, float]]]:
    """The light of a field with stars and galaxies on a jittered grid; the stars' places."""
    rng = np.random.default_rng(seed)
    image = galsim.ImageF(FIELD.side, FIELD.side, scale=PIXEL)
    spread = galsim.Moffat(beta=3.0, fwhm=FILTERS[FILTER][1], gsparams=COARSE)
    cells = [(x, y) for y in range(10) for x in range(10)]
    places = []
    for number, n in enumerate(rng.permutation(len(cells))[: stars + GALAXIES]):
        x, y = (np.array(cells[n]) + 0.5 + rng.uniform(-0.2, 0.2, 2)) * FIELD.side / 10
        whole = spread.withFlux(10 ** rng.uniform(1.2, 2.8))
        if number >= stars:
            form = galsim.Sersic(
                n=float(rng.uniform(0.7, 3)), half_light_radius=rng.uniform(0.1, 0.6)
            )
            form = form.shear(q=float(rng.uniform(0.4, 1)), beta=rng.uniform(0, 3) * galsim.radians)
            whole = galsim.Convolve(form.withFlux(10 ** rng.uniform(0.8, 2.2)), spread)
        else:
            places.append((float(x), float(y)))
        stamp = whole.drawImage(
            bounds=galsim.BoundsI(round(x) - 60, round(x) + 60, round(y) - 60, round(y) + 60)
            & image.bounds,
            scale=PIXEL, center=galsim.PositionD(x + 1, y + 1), dtype=np.float32,
        )  # fmt: skip
        image[stamp.bounds] += stamp
    return image.array.astype(np.float64), places


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[float, float]]]:
    """The folder of a drawn field, three stars of which were saturated, and the stars' places."""
    folder = tmp_path_factory.mktemp("field")
    image, places = light(1, STARS)
    science, weight = drizzled(image, FILTER, (1, 2, 3))
    for x, y in places[:3]:  # the full well cuts them off
        box = np.s_[round(y) - 20 : round(y) + 21, round(x) - 20 : round(x) + 21]
        science[box] = np.minimum(science[box], 0.15 * science[box].max())
    product(FILTER, science, weight, field_wcs(FIELD.side)).writeto(folder / name_of(FILTER))
    (folder / "objects.json").write_text("[]")
    return folder, places


def test_the_stars_are_told_from_galaxies_and_saturated_ones(
    field: tuple[Path, list[tuple[float, float]]],
) -> None:
    folder, places = field
    science = fits.getdata(folder / name_of(FILTER), "SCI").astype(np.float32)
    found = candidates(science, PIXEL)
    stars = stars_of(found)
    assert len(found) > len(stars) + 5
    lights = {round(one.light, 4) for one in stars}
    assert len(lights) == len(stars)
    true = 0
    for one in stars:  # by where their brightest pixel lies
        y, x = np.argwhere(science == _brightest(science, one.pixels))[0]
        near = [n for n, place in enumerate(places) if np.hypot(place[0] - x, place[1] - y) < 2]
        true += bool(near)
        assert not near or near[0] >= 3, "a saturated star"
    assert true == len(stars) >= 12


def _brightest(science: np.ndarray[Any, Any], cut: np.ndarray[Any, Any]) -> float:
    """The value in the image of the brightest pixel of a cut, whose sky was taken off."""
    y, x = np.unravel_index(cut.argmax(), cut.shape)
    differs = np.abs(science - cut[y, x])
    return float(science.ravel()[differs.argmin()])


def test_the_width_is_that_of_the_camera(field: tuple[Path, list[tuple[float, float]]]) -> None:
    folder, _ = field
    science = fits.getdata(folder / name_of(FILTER), "SCI").astype(np.float32)
    made = stacked(stars_of(candidates(science, PIXEL)), APERTURE / PIXEL)
    assert made is not None and made.shape == (SIDE, SIDE)
    assert made.sum() == pytest.approx(1, abs=1e-5)
    truth = true_psf()
    assert psf_fwhm(made) == pytest.approx(psf_fwhm(truth), rel=0.05)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    assert np.abs((made * x).sum()) < 0.2 and np.abs((made * y).sum()) < 0.2
    for radius in (0.1, 0.2, 0.4):
        inside = np.hypot(x, y) * PIXEL < radius
        assert made[inside].sum() == pytest.approx(truth[inside].sum(), abs=0.03)


@pytest.mark.parametrize("listed", [True, False])
def test_the_psf_is_kept_with_the_part(
    field: tuple[Path, list[tuple[float, float]]], tmp_path: Path, listed: bool
) -> None:
    folder, places = field
    rows = []
    for id, (x, y) in enumerate(places[:4]):
        ra, dec = sky_of(FIELD.side, x, y)
        rows.append({"MatchID": id, "MatchRA": ra, "MatchDec": dec})
    mast = Mast(FIELD)
    mast._folder = folder
    tiles = (Tile(band=FILTER, image=name_of(FILTER)),)
    size = FixedSize(half=0.6)
    pixels = Products(size=size, psf=True) if listed else Mosaic(size=size, tiles=tiles, psf=True)
    with serving(mast) as address:
        spec = hst(address, pixels=pixels, bands=(FILTER,))
        context, lines = run(tmp_path, spec, pa.Table.from_pylist(rows))
    truth = psf_fwhm(true_psf())
    for line in lines:
        assert line["status"] == Status.OK
        psf = stored(context, line, "psf")
        assert psf.shape == (1, SIDE, SIDE) and psf.sum() == pytest.approx(1, abs=1e-5)
        assert stored(context, line, "psf_fwhm") == pytest.approx(truth, rel=0.05)
    assert not list(tmp_path.rglob("frames"))


def test_too_few_stars_leave_the_stamp_without_a_psf(tmp_path: Path) -> None:
    folder = tmp_path / "field"
    folder.mkdir()
    image, _ = light(5, 2)
    science, weight = drizzled(image, FILTER, (1, 2, 3))
    product(FILTER, science, weight, field_wcs(FIELD.side)).writeto(folder / name_of(FILTER))
    (folder / "objects.json").write_text("[]")
    mast = Mast(FIELD)
    mast._folder = folder
    table = pa.Table.from_pylist([{"MatchID": 1, "MatchRA": 150.1, "MatchDec": 2.2}])
    with serving(mast) as address:
        pixels = Products(size=FixedSize(half=0.6), psf=True)
        context, (line,) = run(tmp_path / "w", hst(address, pixels=pixels, bands=(FILTER,)), table)
    assert line["status"] == Status.OK | Status.NO_PSF
    assert line["reason"] == "fewer than 5 stars tell the PSF of F814W"
    assert not stored(context, line, "psf").any() and np.isnan(stored(context, line, "psf_fwhm"))


def test_a_psf_on_other_pixels_keeps_its_width_on_the_sky() -> None:
    truth = true_psf().astype(np.float32)
    tile, stamp = field_wcs(900), field_wcs(900)
    np.testing.assert_array_equal(on_stamp(truth, tile, stamp, 101), truth)
    turn = np.deg2rad(30)
    turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    stamp[4:] = (1.25 * stamp[4:].reshape(2, 2) @ turned).ravel()
    seen = on_stamp(truth, tile, stamp, 101)
    assert seen.sum() == pytest.approx(1, abs=1e-5)
    assert 1.25 * psf_fwhm(seen) == pytest.approx(psf_fwhm(truth), rel=0.02)


@pytest.mark.parametrize(("nx", "ny"), [(100, 90), (4000, 4000), (20_000, 30_000), (9, 300_000)])
def test_strips_go_from_the_middle_outwards_and_end(nx: int, ny: int) -> None:
    found = list(strips(nx, ny))
    assert sum(map(len, found)) * nx <= 32_000_000 or len(found) == 1
    middles = [abs((one.start + one.stop) / 2 - ny / 2) for one in found]
    assert middles[0] <= len(found[0])
    taken = [row for one in found for row in one]
    assert len(set(taken)) == len(taken) and set(taken) <= set(range(ny))
    if nx * ny <= 16_000_000:
        assert len(taken) == ny


def test_cutout_services_have_no_field_to_tell_a_psf_by() -> None:
    with pytest.raises(ValueError, match="psf"):
        Hapcut(psf=True)  # type: ignore[call-arg]
