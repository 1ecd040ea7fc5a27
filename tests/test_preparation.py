"""Cutouts to stamps: background, masks, rotation, scaling, stretch, and the stage itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.nddata import Cutout2D
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from galpipe import spec as specs
from galpipe.stages import Context
from galpipe.stamps.background import level_and_scatter, masked_quantiles
from galpipe.stamps.cut import cut, cut_sky
from galpipe.stamps.fill import fill_masked
from galpipe.stamps.parts import ArrayLayout, Part, PartLayout, create
from galpipe.stamps.pixels import prepare_images
from galpipe.stamps.prepare import prepare
from galpipe.stamps.resample import resample
from galpipe.stamps.scaling import fit_scaling
from galpipe.stamps.spec import (
    Annulus,
    Asinh,
    FixedScale,
    Given,
    Linear,
    NoBackground,
    PetrosianScale,
    Preparation,
    Segmentation,
)
from galpipe.stamps.stretch import stored, stretched
from galpipe.status import Status
from galpipe.workspace import Ref, Workspace, address

BANDS = ("g", "r")
OK = int(Status.OK)


def galaxy(
    shape: tuple[int, int] = (64, 64),
    axis_ratio: float = 0.5,
    angle: float = 30.0,
    scale: float = 5.0,
    flux: float = 1e4,
    centre: tuple[float, float] | None = None,
    sigma: float = 0.0,
    seed: int = 0,
) -> np.ndarray:
    """An exponential disc, sampled 5 x 5 times per pixel; flux is its total."""
    ny, nx = shape
    x0, y0 = centre or ((nx - 1) / 2, (ny - 1) / 2)
    fine = (np.arange(5) - 2) / 5
    y = (np.arange(ny)[:, None] + fine).ravel() - y0
    x = (np.arange(nx)[:, None] + fine).ravel() - x0
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    u = x[None, :] * cos + y[:, None] * sin
    v = (y[:, None] * cos - x[None, :] * sin) / axis_ratio
    light = np.exp(-np.hypot(u, v) / scale) * flux / (2 * np.pi * scale**2 * axis_ratio)
    image = light.reshape(ny, 5, nx, 5).mean(axis=(1, 3))
    return image + sigma * np.random.default_rng(seed).standard_normal(shape)


def one(image: np.ndarray, spec: Preparation, status: int = OK) -> Any:
    """Prepare a single cutout, (band, y, x)."""
    ny, nx = image.shape[1:]
    bands = tuple("ugrizy"[: len(image)])
    sizes = np.array([ny], np.int32), np.array([nx], np.int32)
    return prepare_images(image[None], *sizes, np.array([status], np.int32), bands, spec)


PLAIN = Preparation(align=False, recentre=False, stretch=Given(scale=1.0))


# --- background -----------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.integers(0, 40))
def test_masked_quantiles_are_numpys(seed: int, masked: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(3, 41)).astype(np.float32)
    mask = np.ones(values.shape, np.bool_)
    for row in mask:
        row[rng.permutation(41)[:masked]] = False
    found = masked_quantiles(values, mask, (0.16, 0.5))
    for i in range(3):
        expected = np.quantile(values[i][mask[i]], (0.16, 0.5))
        np.testing.assert_allclose(found[:, i], expected, atol=1e-5)


def test_the_background_of_a_known_sky_is_found_and_recorded() -> None:
    image = np.stack([galaxy(sigma=0.5, seed=k) + 100 * (k + 1) for k in range(2)])
    prepared = one(image.astype(np.float32), specs_with(background=Annulus()))
    column = measured(prepared, ("u", "g"))
    assert column["background"] == pytest.approx(150, abs=0.3)
    assert column["background_sigma"] == pytest.approx(0.5 / np.sqrt(2), rel=0.2)
    assert column["flux"] == pytest.approx(1e4, rel=0.06)
    untouched = one(image.astype(np.float32), specs_with(background=NoBackground()))
    assert measured(untouched, ("u", "g"))["background"] == 0


def test_scatter_of_normal_noise_is_its_sigma() -> None:
    noise = np.random.default_rng(1).normal(7, 3, (4, 200, 200)).astype(np.float32)
    level, scatter = level_and_scatter(noise, np.ones(noise.shape, np.bool_), 0.5)
    np.testing.assert_allclose(level, 7, atol=0.1)
    np.testing.assert_allclose(scatter, 3, rtol=0.05)


def specs_with(**changes: Any) -> Preparation:
    return specs.load(
        Preparation,
        specs.dump(PLAIN)
        | {k: specs.dump(v) if hasattr(v, "__dict__") else v for k, v in changes.items()},
    )


def measured(prepared: Any, bands: tuple[str, ...] = BANDS, row: int = 0) -> dict[str, float]:
    from galpipe.stamps.morphology import columns

    return {c.name: float(v) for c, v in zip(columns(bands), prepared.measured[row], strict=True)}


# --- masks and filling ----------------------------------------------------------------------------


def test_a_neighbour_is_masked_filled_and_kept_in_the_other_view() -> None:
    alone = galaxy(sigma=0.2)
    companion = galaxy(axis_ratio=1.0, scale=1.5, flux=2e3, centre=(54, 12))
    prepared = one((alone + companion)[None].astype(np.float32), PLAIN)
    masked, unmasked = prepared.image[0, 0], prepared.image_unmasked[0, 0]
    np.testing.assert_allclose(unmasked, alone + companion, atol=1e-3)
    assert unmasked[12, 54] > 50
    assert abs(masked[12, 54]) < 2
    assert np.abs(masked - alone).max() < 3
    column = measured(prepared, ("u",))
    assert column["neighbours"] == 1
    assert column["neighbour_flux_ratio"] == pytest.approx(0.2, rel=0.25)


def test_filling_takes_the_opposite_pixel_or_the_background() -> None:
    image = np.arange(25, dtype=np.float32).reshape(1, 1, 5, 5)
    masked = np.zeros((1, 5, 5), np.bool_)
    masked[0, 1, 1] = True
    masked[0, 0, 4] = masked[0, 4, 0] = True  # opposite each other
    usable = np.ones((1, 5, 5), np.bool_)
    filled = fill_masked(image, masked, usable, np.array([2.0]), np.array([2.0]))[0, 0]
    assert filled[1, 1] == image[0, 0, 3, 3]
    assert filled[0, 4] == filled[4, 0] == 0


# --- resampling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 3])
def test_the_identity_resampling_changes_nothing(order: int) -> None:
    image = galaxy().astype(np.float32)[None]
    np.testing.assert_allclose(resample(image, 31.5, 31.5, 0, 1, 64, order), image, atol=2e-4)


def test_quarter_turns_are_exact() -> None:
    image = galaxy((32, 32)).astype(np.float32)[None]
    turned = resample(image, 15.5, 15.5, np.pi / 2, 1, 32, 1)
    # The stamp's +x axis is the cutout's +y axis.
    np.testing.assert_allclose(turned[0], np.rot90(image[0], 1), atol=1e-3)


@pytest.mark.parametrize("step", [0.5, 1.7, 4.0])
def test_surface_brightness_and_flux_are_conserved(step: float) -> None:
    image = galaxy((128, 128), flux=1000.0, scale=6).astype(np.float32)[None]
    size = int(128 / step)
    stamp = resample(image, 63.5, 63.5, 0.4, step, size, 1)
    assert stamp.sum() * step**2 == pytest.approx(1000, rel=0.01)
    spec = specs_with(size=size, conserve="flux", scale=FixedScale())
    assert one(image, spec).image.sum() == pytest.approx(image.sum(), rel=0.01)


def test_shrinking_does_not_alias() -> None:
    y, x = np.mgrid[:96, :96]
    stripes = ((x + y) % 2).astype(np.float32)[None]  # the highest frequency there is
    stamp = resample(stripes, 47.5, 47.5, 0, 3, 32, 1)
    np.testing.assert_allclose(stamp, 0.5, atol=0.07)


def test_shrinking_by_whole_numbers_is_the_block_mean() -> None:
    image = galaxy((96, 96)).astype(np.float32)
    stamp = resample(image[None], 47.5, 47.5, 0, 3, 32, 1)[0]
    np.testing.assert_allclose(stamp, image.reshape(32, 3, 32, 3).mean(axis=(1, 3)), rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 180), st.floats(0.2, 0.8))
def test_alignment_lays_the_major_axis_along_x(angle: float, axis_ratio: float) -> None:
    image = galaxy(axis_ratio=axis_ratio, angle=angle, sigma=0.3)[None].astype(np.float32)
    spec = specs_with(align=True, recentre=True)
    aligned = one(one(image, spec).image[0], PLAIN)
    found = measured(aligned, ("u",))["position_angle"]
    assert min(found, 180 - found) < 5


def test_petrosian_scale_makes_sizes_alike() -> None:
    spec = specs_with(scale=PetrosianScale(radii=4.0, smallest=16.0))
    sizes = []
    for scale in (4.0, 8.0):
        image = galaxy((160, 160), axis_ratio=0.9, scale=scale)[None].astype(np.float32)
        again = one(one(image, spec).image[0], PLAIN)
        sizes.append(measured(again, ("u",))["r50"])
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


# --- stretch --------------------------------------------------------------------------------------


def test_asinh_is_the_published_formula() -> None:
    values = np.array([[[-1.0, 0.0, 0.5, 10.0, 99.0]]], np.float32)
    found = stretched(values, np.array([10.0]), Asinh(softening=0.05))[0, 0]
    expected = np.arcsinh(0.5 / (0.05 * 10)) / np.arcsinh(1 / 0.05)
    np.testing.assert_allclose(found, [0, 0, expected, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(stretched(values, np.array([10.0]), Linear())[0, 0, 2], 0.05)


def test_storage_keeps_the_unit_interval() -> None:
    unit = np.linspace(0, 1, 256, dtype=np.float32)
    np.testing.assert_array_equal(stored(unit, "uint8"), np.arange(256))
    np.testing.assert_allclose(stored(unit, "float16"), unit, atol=1e-3)


# --- every cutout ends somewhere ------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 16), (17, 40), (64, 64), (212, 212), (1000, 900)])
@pytest.mark.parametrize("bands", [1, 3, 5])
def test_any_shape_is_prepared(shape: tuple[int, int], bands: int) -> None:
    if bands == 5 and shape[0] > 500:
        pytest.skip("slow, and no other case than with one band")
    base = galaxy(shape, scale=min(shape) / 16, sigma=0.5)
    image = np.repeat(base[None], bands, axis=0).astype(np.float32)
    prepared = one(image, Preparation(colour="bands"))
    assert prepared.image.shape == (1, bands, 64, 64)
    assert prepared.status[0] & Status.OK
    assert np.isfinite(prepared.image).all()


def test_blank_undefined_and_empty_images_have_their_bits() -> None:
    flat = np.full((1, 32, 32), 3.0, np.float32)
    assert one(flat, PLAIN).status[0] == Status.BLANK
    assert one(flat * np.nan, PLAIN).status[0] == Status.BLANK
    assert one(np.zeros((3, 32, 32), np.uint8), PLAIN).status[0] == Status.BLANK
    noise = np.random.default_rng(0).normal(0, 1, (1, 64, 64)).astype(np.float32)
    empty = one(noise, specs_with(segmentation=Segmentation(threshold=4.0)))
    assert empty.status[0] == Status.OK | Status.NO_SOURCE
    assert np.isnan(measured(empty, ("u",))["axis_ratio"])
    np.testing.assert_allclose(empty.image[0], noise, atol=1e-5)
    failed = one(flat, PLAIN, int(Status.CORRUPT))
    assert failed.status[0] == Status.CORRUPT and not failed.image.any()
    assert np.isnan(failed.measured).all()


def test_a_lost_band_and_a_cut_border_have_their_bits() -> None:
    image = np.stack([galaxy(sigma=0.1), np.full((64, 64), np.nan)]).astype(np.float32)
    lost = one(image, specs_with(colour="bands"))
    assert lost.status[0] == Status.OK | Status.MISSING_BAND
    assert not lost.image[0, 1].any()
    image = galaxy(sigma=0.1)[None].astype(np.float32)
    image[:, :, :20] = np.nan
    cut_off = one(image, PLAIN)
    assert cut_off.status[0] & Status.EDGE and cut_off.status[0] & Status.OK
    assert 0.5 < cut_off.coverage[0] < 0.85


@pytest.mark.parametrize("seed", range(40))
def test_no_pixels_whatever_break_the_preparation(seed: int) -> None:
    """Noise of any unit, holes, lost bands, infinities, thin strips: a bit, and finite pixels."""
    rng = np.random.default_rng(seed)
    bands, ny, nx = rng.integers(1, 6), *rng.integers(1, 70, 2)
    image = rng.normal(rng.uniform(-5, 5), 1, (bands, ny, nx)) * rng.choice([0, 1e-30, 1, 1e20])
    image[:, ny // 2, nx // 2] += 100 * np.abs(image).max() * (seed % 2)
    image = image.astype(np.float32)
    if seed % 3 == 0:
        image[rng.random(image.shape) < rng.uniform()] = rng.choice([np.nan, np.inf, -1e32])
    if seed % 5 == 0:
        image[0] = np.nan
    if seed % 4 == 0:
        image = rng.integers(0, rng.integers(1, 256), image.shape).astype(np.uint8)
    other = specs_with(background=Annulus(), scale=PetrosianScale(), colour="bands")
    for spec in (Preparation(), other):
        prepared = one(image, spec)
        assert np.isfinite(prepared.image).all() and np.isfinite(prepared.image_unmasked).all()
        assert not np.isinf(prepared.measured).any()
        assert bool(prepared.status[0] & Status.OK) != bool(prepared.status[0] & Status.BLANK)


def test_an_object_does_not_depend_on_its_company() -> None:
    rng = np.random.default_rng(3)
    count, bucket = 9, 80
    images = np.full((count, 2, bucket, bucket), np.nan, np.float32)
    ny = np.array([64, 64, 64, 40, 80, 64, 40, 64, 33], np.int32)
    nx = np.array([64, 64, 64, 40, 70, 64, 40, 64, 33], np.int32)
    for i in range(count):
        base = galaxy(
            (ny[i], nx[i]), rng.uniform(0.2, 1), rng.uniform(0, 180), 3.0, sigma=0.3, seed=i
        )
        images[i, :, : ny[i], : nx[i]] = base
    status = np.full(count, OK, np.int32)
    together = prepare_images(images, ny, nx, status, BANDS, Preparation())
    for i in range(count):
        some = slice(i, i + 1)
        alone = prepare_images(images[some], ny[some], nx[some], status[some], BANDS, Preparation())
        for name in ("image", "image_unmasked", "measured", "status", "coverage"):
            expected, found = getattr(together, name)[i], getattr(alone, name)[0]
            np.testing.assert_array_equal(found, expected, err_msg=name)


# --- the stage ------------------------------------------------------------------------------------


def make_cutouts(workspace: Workspace, images: np.ndarray, name: str) -> tuple[Ref, Ref]:
    """A catalogue and its cutouts as the earlier stages commit them; the last object has none."""
    count = len(images)
    ids = np.arange(count + 1) * 7 + 10**17
    split = ["train" if k % 4 else "test" for k in range(count + 1)]
    catalogue = address("sample", 1, {"name": name}, {})
    place = workspace.begin(catalogue)
    pq.write_table(pa.table({"object_id": ids, "split": split}), place / "catalogue.parquet")
    workspace.commit(catalogue, {"name": name}, {})
    part = address("cutout-part", 1, {"name": name}, {})
    place = workspace.begin(part)
    ny, nx = images.shape[2:]
    arrays = (
        ArrayLayout("image", images.dtype, images.shape[1:], ("band", "y", "x"), compress=True),
        *(ArrayLayout(k, "int32") for k in ("ny", "nx", "status")),
        *(ArrayLayout(k, "float64", fill=np.nan) for k in ("ra", "dec")),
        *(ArrayLayout(k, "float32", fill=np.nan) for k in ("pixel_scale", "coverage")),
    )
    create(place, PartLayout(count, 8, 4, arrays), ids[:count], {"bands": list(BANDS)})
    made = Part(place)
    for shard in range(made.shards):
        rows = made.rows(shard)
        n = rows.stop - rows.start
        made.write(
            shard,
            {
                "image": images[rows],
                "ny": np.full(n, ny),
                "nx": np.full(n, nx),
                "status": np.full(n, OK),
                "ra": np.full(n, 10.0),
                "dec": np.full(n, -5.0),
                "pixel_scale": np.full(n, 0.4),
                "coverage": np.ones(n),
            },
            {},
        )
    workspace.commit(part, {"name": name}, {})
    cutouts = address("cutouts", 1, {"name": name}, {"catalogue": catalogue})
    place = workspace.begin(cutouts)
    index = {
        "object_id": ids,
        "part": [part.digest] * count + [None],
        "row": pa.array([*range(count), -1], pa.int32()),
        "status": pa.array([OK] * count + [int(Status.MISSING_FILE)], pa.int32()),
    }
    pq.write_table(pa.table(index), place / "index.parquet")
    workspace.commit(cutouts, {"name": name}, {"catalogue": catalogue}, parts=[part.digest])
    return catalogue, cutouts


def sky(count: int) -> np.ndarray:
    images = [
        np.stack(
            [
                galaxy((48, 48), 0.4 + 0.02 * k, 9.0 * k, 3.0, 5e3 * (1 + b), None, 0.3, k)
                for b in (0, 1)
            ]
        )
        for k in range(count)
    ]
    images[3][:] = 1.0  # blank
    return np.stack(images).astype(np.float32)


SMALL = Preparation(size=32, shard=8, chunk=4, background=Annulus())


def run(tmp: Path, reverse: bool = False) -> tuple[Workspace, Ref]:
    workspace = Workspace.open(tmp)
    catalogue, cutouts = make_cutouts(workspace, sky(19), "a")

    def backwards(function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        return map(function, list(items)[::-1])

    context = Context(workspace, backwards) if reverse else Context(workspace)
    scaling = fit_scaling(context, SMALL, cutouts, catalogue)
    return workspace, prepare(context, SMALL, scaling, cutouts)


def test_the_stage_commits_parts_an_index_and_the_status_of_all(tmp_path: Path) -> None:
    workspace, stamps = run(tmp_path / "w")
    index = pq.read_table(workspace.place(stamps) / "index.parquet")
    assert index.column_names == ["object_id", "part", "row", "status"]
    status = index["status"].to_numpy()
    assert index.num_rows == 20 and status[3] == Status.BLANK and status[19] == Status.MISSING_FILE
    assert index["part"][19].as_py() is None
    manifest = workspace.manifest(stamps)
    assert manifest is not None and sum(manifest["by_status"].values()) == 20
    (record,) = manifest["parts"]
    assert record["objects"] == 19
    part = Part(workspace.place(Ref("stamp-part", record["part"])))
    image = part.read("image")
    assert image.shape == (19, 1, 32, 32) and image.dtype == np.uint8
    assert not image[3].any() and image[0].max() > 100
    names = part.read("column").tolist()
    measured_columns = part.read("measured")
    assert measured_columns.shape == (19, len(names)) and "colour_g_r" in names
    assert measured_columns[0, names.index("colour_g_r")] == pytest.approx(
        2.5 * np.log10(2), abs=0.02
    )
    assert dict(part.group.attrs)["unit_scale"] == 255.0


def test_the_order_of_the_shards_changes_no_byte(tmp_path: Path) -> None:
    first, stamps = run(tmp_path / "a")
    second, again = run(tmp_path / "b", reverse=True)
    assert stamps == again
    manifest = first.manifest(stamps)
    assert manifest is not None and manifest == second.manifest(again)
    digest = Ref("stamp-part", manifest["parts"][0]["part"])
    a, b = first.manifest(digest), second.manifest(digest)
    assert a is not None and b is not None and a["content"] == b["content"]


def test_a_second_run_and_an_interrupted_one_only_do_what_is_missing(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "w")
    catalogue, cutouts = make_cutouts(workspace, sky(19), "a")
    scaling = fit_scaling(Context(workspace), SMALL, cutouts, catalogue)
    done: list[int] = []

    def stops(function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        for item in items:
            if len(done) == 1:
                raise KeyboardInterrupt
            done.append(item.shard)
            yield function(item)

    with pytest.raises(KeyboardInterrupt):
        prepare(Context(workspace, stops), SMALL, scaling, cutouts)

    def counts(function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        for item in items:
            done.append(item.shard)
            yield function(item)

    stamps = prepare(Context(workspace, counts), SMALL, scaling, cutouts)
    assert sorted(done) == [0, 1, 2]
    assert prepare(Context(workspace, counts), SMALL, scaling, cutouts) == stamps
    assert len(done) == 3
    _, undisturbed = run(tmp_path / "u")
    assert undisturbed == stamps


def test_scaling_is_fitted_on_the_training_split_alone(tmp_path: Path) -> None:
    images = sky(16)
    images[::4] *= 100  # the rows of the test split
    workspace = Workspace.open(tmp_path / "w")
    catalogue, cutouts = make_cutouts(workspace, images, "a")
    scaling = fit_scaling(Context(workspace), SMALL, cutouts, catalogue)
    scale = json.loads((workspace.place(scaling) / "scaling.json").read_text())["scale"]
    brightest = images[1:3].mean(axis=1).max()
    assert len(scale) == 1 and 0.5 * brightest < scale[0] < 3 * brightest
    stated = specs_with(stretch=Given(scale=255.0), colour="bands")
    given_scale = fit_scaling(Context(workspace), stated, cutouts, catalogue)
    text = (workspace.place(given_scale) / "scaling.json").read_text()
    assert json.loads(text)["scale"] == [255.0, 255.0]


# --- cutting from frames --------------------------------------------------------------------------


def frame_wcs() -> tuple[WCS, np.ndarray]:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crpix = [100.0, 80.0]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.cd = np.array([[-1.1e-4, 1e-6], [1e-6, 1.1e-4]])
    eight = np.concatenate([wcs.wcs.crpix, wcs.wcs.crval, wcs.wcs.cd.ravel()])
    return wcs, eight


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), st.floats(-10, 130), st.floats(-10, 110))
def test_cuts_are_astropys_cutouts(size: int, x: float, y: float) -> None:
    frame = np.random.default_rng(0).normal(size=(100, 120)).astype(np.float32)
    wcs, eight = frame_wcs()
    cuts = cut(frame, np.array([x]), np.array([y]), size, eight)
    left, low = cuts.corner[0]
    if left + size <= 0 or low + size <= 0 or left >= 120 or low >= 100:
        assert np.isnan(cuts.image).all() and cuts.coverage[0] == 0
        return
    expected = Cutout2D(frame, (x, y), (size, size), wcs=wcs, mode="partial", fill_value=np.nan)
    np.testing.assert_array_equal(cuts.image[0, 0], expected.data)
    np.testing.assert_allclose(cuts.wcs[0, :2], expected.wcs.wcs.crpix)
    assert cuts.coverage[0] == pytest.approx(np.isfinite(expected.data).mean())


def test_cuts_by_sky_position_have_a_wcs_that_finds_the_object() -> None:
    frame = np.zeros((2, 160, 200), np.float32)
    frame[1, 10, 20] = np.nan
    wcs, eight = frame_wcs()
    ra, dec = wcs.all_pix2world([20.0, 100.0], [10.0, 90.0], 0)
    cuts = cut_sky(frame, lambda a, d: wcs.all_world2pix(a, d, 0), ra, dec, 15, eight)
    for k in range(2):
        stamp = WCS(naxis=2)
        stamp.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        stamp.wcs.crpix, stamp.wcs.crval = cuts.wcs[k, :2], cuts.wcs[k, 2:4]
        stamp.wcs.cd = cuts.wcs[k, 4:].reshape(2, 2)
        np.testing.assert_allclose(stamp.all_world2pix(ra[k], dec[k], 0), (7, 7), atol=1e-6)
    np.testing.assert_allclose(cuts.coverage, [1 - 1 / 225, 1])
    lost = cut(frame, np.array([np.nan]), np.array([3.0]), 5, eight)
    assert lost.coverage[0] == 0 and np.isnan(lost.wcs).all()
