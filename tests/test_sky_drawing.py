"""The drawn sky: frames as the survey has them, tables that agree with the pixels, same bytes."""

from __future__ import annotations

import bz2
import functools
import hashlib
import io
import json
import multiprocessing
import os
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from galpipe.archives.spec import Sky
from galpipe.errors import InputError
from galpipe.sky import cache, drawing, frames, population, scene
from galpipe.sky.galaxies import FORMS, fluxes, form
from galpipe.sky.instrument import BANDS, DARK_VARIANCE, GAIN, object_id, survey_field
from galpipe.sky.spec import SkySpec

SKY = SkySpec(galaxies=56, seed=11, per_field=32)  # 61 objects in two fields


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    drawing.draw(SKY, folder, processes=1)
    return folder


@functools.cache
def unpacked(path: Path) -> bytes:
    return bz2.decompress(path.read_bytes())


def opened(path: Path) -> fits.HDUList:
    return fits.open(io.BytesIO(unpacked(path)))


def world(header: fits.Header) -> WCS:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # astropy remarks on every SDSS frame's DATE-OBS
        return WCS(header)


def frame_of(folder: Path, index: int, band: str) -> Path:
    return folder / "sas" / frames.name_of(survey_field(SKY.seed, index), band)


def table(folder: Path, name: str) -> dict[str, Any]:
    columns = pq.read_table(folder / "tables" / f"{name}.parquet")
    return {key: np.array(columns[key].to_pylist()) for key in columns.column_names}


def described(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, calibration and sky of the first r frame, from what the file itself says."""
    with opened(frame_of(folder, 0, "r")) as hdus:
        pixels, calibration = hdus[0].data.astype(float), hdus[1].data.astype(float)
        row = hdus[2].data[0]
        allsky, x, y = row["ALLSKY"], row["XINTERP"], row["YINTERP"]
    wide = np.array([np.interp(x, np.arange(256), line) for line in allsky])
    sky = np.array([np.interp(y, np.arange(192), column) for column in wide.T]).T
    return pixels / calibration + sky, calibration, sky


def check_structure(hdus: fits.HDUList, real: fits.HDUList) -> None:
    """Everything a reader of real frames touches is there, of the same shape and type."""
    assert len(hdus) == len(real)
    for ours, theirs in zip(hdus, real, strict=True):
        assert type(ours) is type(theirs)
        if isinstance(ours, fits.BinTableHDU):
            assert ours.columns.names == theirs.columns.names
            assert [c.format for c in ours.columns] == [
                {"A": "1A"}.get(c.format, c.format) for c in theirs.columns
            ]
        else:
            assert ours.shape == theirs.shape
            assert ours.header["BITPIX"] == theirs.header["BITPIX"]
    assert hdus[2].data["ALLSKY"].shape == real[2].data["ALLSKY"].shape
    for name in ("XINTERP", "YINTERP"):
        np.testing.assert_array_equal(hdus[2].data[name], real[2].data[name])


def test_layout_and_header(drawn: Path) -> None:
    manifest = json.loads((drawn / "manifest.json").read_text())
    assert manifest["frames"] == 6
    assert manifest["spec"] == {"edition": 3, "galaxies": 56, "per_field": 32, "seed": 11}
    for index in (0, 1):
        field = survey_field(SKY.seed, index)
        for band in BANDS:
            path = frame_of(drawn, index, band)
            assert path.parent.relative_to(drawn / "sas").as_posix() == (
                f"dr17/eboss/photoObj/frames/301/{field.run}/{field.camcol}"
            )
            assert path.name == f"frame-{band}-{field.run:06d}-{field.camcol}-0100.fits.bz2"
            with opened(path) as hdus:
                header = hdus[0].header
                assert hdus[0].data.shape == (1489, 2048)
                assert hdus[0].data.dtype == ">f4"
                assert hdus[1].data.shape == (2048,)
                assert hdus[2].data["ALLSKY"].shape == (1, 192, 256)
                assert (header["RUN"], header["CAMCOL"], header["FRAME"], header["FILTER"]) == (
                    field.run,
                    field.camcol,
                    field.field,
                    band,
                )
                assert header["RERUN"] == "301"
                assert header["NMGY"] == pytest.approx(hdus[1].data[1024], rel=1e-5)
                assert float(header["EXPTIME"]) == 53.907456


@pytest.mark.real
def test_structure_is_that_of_a_real_frame(drawn: Path, real_data: Path) -> None:
    real = real_data / "sdss_frames" / "frame-r-005112-4-0345.fits.bz2"
    with opened(frame_of(drawn, 0, "r")) as hdus, opened(real) as theirs:
        check_structure(hdus, theirs)
        missing = set(theirs[0].header) - set(hdus[0].header)
        assert not missing & {"RUN", "FRAME", "CAMCOL", "FILTER", "RERUN", "NMGY", "BUNIT", "CD1_1"}
        steps = [np.hypot(h[0].header["CD1_1"], h[0].header["CD2_1"]) for h in (hdus, theirs)]
        assert steps[0] == pytest.approx(steps[1], rel=1e-3)
    packed = frame_of(drawn, 0, "r").stat().st_size
    assert 0.6 < packed / real.stat().st_size < 1.4


def test_world_coordinates_are_those_astropy_reads(drawn: Path) -> None:
    photo = table(drawn, "PhotoObjAll")
    for index in (0, 1):
        field = survey_field(SKY.seed, index)
        mine = (photo["run"] == field.run) & (photo["camcol"] == field.camcol)
        assert mine.any()
        for band in BANDS:
            with opened(frame_of(drawn, index, band)) as hdus:
                wcs = world(hdus[0].header)
            x, y = wcs.all_world2pix(photo["ra"][mine], photo["dec"][mine], 0)
            np.testing.assert_allclose(x + 0.5, photo[f"colc_{band}"][mine], atol=1e-4)
            np.testing.assert_allclose(y + 0.5, photo[f"rowc_{band}"][mine], atol=1e-4)
            ra, dec = field.wcs[band].sky(x, y)
            np.testing.assert_allclose(ra, photo["ra"][mine], atol=1e-8)
            np.testing.assert_allclose(dec, photo["dec"][mine], atol=1e-8)
    offsets = photo["colc_g"] - photo["colc_r"]
    assert 1 < np.abs(offsets).min() < np.abs(offsets).max() < 6


def test_the_astrometric_row_agrees_with_the_header(drawn: Path) -> None:
    from galpipe.sky.instrument import great_circle

    with opened(frame_of(drawn, 0, "r")) as hdus:
        row, wcs = hdus[3].data[0], world(hdus[0].header)
    for x, y in ((0.0, 0.0), (2047.0, 1488.0), (300.0, 1200.0)):
        mu = row["A"] + row["B"] * (y + 0.5) + row["C"] * (x + 0.5)
        nu = row["D"] + row["E"] * (y + 0.5) + row["F"] * (x + 0.5)
        ra, dec = great_circle(mu, nu, row["INCL"])
        there = wcs.all_world2pix(ra, dec, 0)
        assert np.hypot(there[0] - x, there[1] - y) < 0.3  # it has no turn, and is no tangent plane


def test_stars_lie_where_the_catalogue_says_and_shine_as_much(drawn: Path) -> None:
    truth, photo = table(drawn, "SkyTruth"), table(drawn, "PhotoObjAll")
    bright = np.flatnonzero((truth["kind"] == "star") & (truth["mag_r"] < 17.5))
    assert len(bright)
    for k in bright:
        index = (0, 1)[int(photo["camcol"][k] != survey_field(SKY.seed, 0).camcol)]
        for band in BANDS:
            with opened(frame_of(drawn, index, band)) as hdus:
                pixels = hdus[0].data.astype(float)
            x, y = photo[f"colc_{band}"][k] - 0.5, photo[f"rowc_{band}"][k] - 0.5
            rows, columns = np.indices(pixels.shape)
            near = np.hypot(columns - x, rows - y) < 16
            weight = np.exp(-((columns[near] - x) ** 2 + (rows[near] - y) ** 2) / (2 * 1.8**2))
            light = pixels[near] * weight
            # the weight is centred on the catalogue's place and halves the offset
            assert abs(2 * (light * (columns[near] - x)).sum() / light.sum()) < 0.05
            assert abs(2 * (light * (rows[near] - y)).sum() / light.sum()) < 0.05
            flux = 10 ** (-0.4 * (truth[f"mag_{band}"][k] - 22.5))
            assert pixels[near].sum() == pytest.approx(flux, rel=0.04)


def test_all_of_a_galaxy_is_drawn() -> None:
    field = survey_field(SKY.seed, 0)
    members = population.members(SkySpec(galaxies=100, seed=3), field)
    spreads = {band: scene.point_spread(field, band) for band in BANDS}
    seen = set()
    for member in members:
        if member.kind == "artefact":
            continue
        seen.add(member.kind)
        for band, (stamp, _, _) in scene._stamps(member, field, spreads).items():
            magnitude = dict(zip(BANDS, member.magnitudes, strict=True))[band]
            assert stamp.sum() == pytest.approx(10 ** (-0.4 * (magnitude - 22.5)), rel=0.03)
    assert seen == set(FORMS)


def test_counts_are_whole_and_noise_is_as_described(drawn: Path) -> None:
    counts, calibration, sky = described(drawn)
    assert np.abs(counts - np.rint(counts))[counts < 300].std() < 0.05  # floats of ten digits
    field = survey_field(SKY.seed, 0)
    steps = np.diff(counts, axis=1) / np.sqrt(2)
    clear = np.abs(counts - sky)[:, 1:] < 4 * np.sqrt(sky[:, 1:])
    measured = 1.4826 * np.median(np.abs(steps[clear]))
    gain, dark = GAIN["r"][field.camcol - 1], DARK_VARIANCE["r"][field.camcol - 1]
    assert measured == pytest.approx(np.sqrt(np.median(sky) / gain + dark), rel=0.1)
    assert abs(np.median(counts - sky)) < 0.5
    assert calibration.min() > 0


def test_photons_scatter_by_their_number() -> None:
    field = survey_field(SKY.seed, 0)
    for level in (100.0, 5000.0):
        counts = frames.expose(np.full((400, 400), level, np.float32), field, "i", 1)
        expected = level / GAIN["i"][field.camcol - 1] + DARK_VARIANCE["i"][field.camcol - 1]
        assert counts.var() == pytest.approx(expected + 1 / 12, rel=0.03)
        assert counts.mean() == pytest.approx(level, abs=5 * np.sqrt(expected / counts.size))


def test_identifiers_decode_to_their_frames(drawn: Path) -> None:
    photo = table(drawn, "PhotoObjAll")
    ids = photo["objID"]
    assert ids.dtype == np.int64
    assert len(set(ids.tolist())) == len(ids) == 61
    assert (((ids >> 48) & 0x7FF) == photo["rerun"]).all()
    assert (((ids >> 32) & 0xFFFF) == photo["run"]).all()
    assert (((ids >> 29) & 7) == photo["camcol"]).all()
    assert (((ids >> 16) & 0xFFF) == photo["field"]).all()
    assert object_id(756, 3, 124, 251) == 1237648721210769659  # of the survey itself
    joined = table(drawn, "zoo2MainSpecz")
    assert (joined["dr8objid"] == ids).all()
    assert (table(drawn, "SpecObjAll")["bestObjID"] == ids).all()
    assert ((joined["dr7objid"] >> 48) & 0x7FF == 40).all()


def test_votes_follow_the_truth(drawn: Path) -> None:
    zoo, truth = table(drawn, "zoo2MainSpecz"), table(drawn, "SkyTruth")
    edge = truth["kind"] == "edge_on"
    asked = zoo["t01_smooth_or_features_a02_features_or_disk_count"] > 5
    yes = zoo["t02_edgeon_a04_yes_debiased"]
    assert yes[edge & asked].min() > yes[~edge & asked].max()
    smooth = zoo["t01_smooth_or_features_a01_smooth_debiased"]
    assert smooth[truth["kind"] == "elliptical"].mean() > 0.8
    first = sum(
        zoo[f"t01_smooth_or_features_{a}_count"]
        for a in ("a01_smooth", "a02_features_or_disk", "a03_star_or_artifact")
    )
    assert (first == zoo["total_classifications"]).all()


def test_some_objects_lie_off_their_frame_and_near_its_edge() -> None:
    spec = SkySpec(galaxies=2000)
    off = near = 0
    for index in range(population.fields_of(spec)):
        for member in population.members(spec, survey_field(spec.seed, index)):
            inset = min(member.x, member.y, 2047 - member.x, 1488 - member.y)
            off += inset < -1
            near += 0 <= inset <= 30
    assert off == 2
    assert 8 <= near <= 60


def test_the_population_is_as_published() -> None:
    spec = SkySpec(galaxies=2000)
    everyone = [
        member
        for index in range(population.fields_of(spec))
        for member in population.members(spec, survey_field(spec.seed, index))
    ]
    galaxies = [m for m in everyone if m.kind in population.RED_SHARE]
    assert len(galaxies) == 2000
    assert {m.kind for m in everyone} == set(population.KINDS)
    for kind, share in population.GALAXY_SHARES.items():
        assert sum(m.kind == kind for m in galaxies) == pytest.approx(2000 * share, abs=1)
    magnitudes = np.array([m.magnitude for m in galaxies])
    assert np.median(magnitudes) == pytest.approx(16.74, abs=0.1)  # SDSS spectroscopic galaxies
    assert np.mean([m.companion for m in galaxies]) == pytest.approx(0.12, abs=0.03)
    early = [m.axis_ratio for m in galaxies if m.kind == "elliptical"]
    assert np.median(early) == pytest.approx(0.786, abs=0.03)  # Nair & Abraham (2010), T < -3
    cosines = np.cos(np.radians([m.inclination for m in galaxies if m.kind == "spiral"]))
    assert cosines.min() > 0.33
    assert np.median(cosines) == pytest.approx(0.67, abs=0.03)  # discs turned at random
    places = {(m.ra, m.dec) for m in everyone}
    assert len(places) == len(everyone)


def test_parts_add_up_to_the_magnitudes() -> None:
    for member in population.members(SkySpec(galaxies=100, seed=3), survey_field(3, 0)):
        if member.kind in FORMS:
            total = fluxes(form(member), member.magnitudes).sum(axis=1)
            np.testing.assert_allclose(22.5 - 2.5 * np.log10(total), member.magnitudes, rtol=1e-9)


def test_petrosian_radii_of_a_gaussian() -> None:
    rows, columns = np.indices((161, 161))
    sigma, x, y = 6.0, 80.3, 79.6
    squared = (columns - x) ** 2 + (rows - y) ** 2
    image = np.exp(-0.5 * squared / sigma**2) / (2 * np.pi * sigma**2)
    flux, r50, r90 = scene.petrosian(image, x, y)
    assert flux == pytest.approx(1, abs=2e-3)
    assert r50 == pytest.approx(sigma * np.sqrt(2 * np.log(2)), rel=0.01)
    assert r90 == pytest.approx(sigma * np.sqrt(2 * np.log(10)), rel=0.02)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".bz2", ".parquet")
    }


def test_the_same_bytes_from_any_number_of_processes(drawn: Path, tmp_path: Path) -> None:
    drawing.draw(SKY, tmp_path, processes=2)
    assert digests(tmp_path) == digests(drawn)
    assert len(digests(tmp_path)) == 10


def test_another_seed_is_another_sky(drawn: Path) -> None:
    ours = population.members(SKY, survey_field(SKY.seed, 0))
    other = population.members(SkySpec(galaxies=56, seed=12, per_field=32), survey_field(12, 0))
    assert [m.kind for m in ours] != [m.kind for m in other]
    assert {m.magnitude for m in ours}.isdisjoint(m.magnitude for m in other)


def cache_at(folder: str, spec: SkySpec) -> None:
    os.environ["GALPIPE_CACHE"] = folder
    cache.cached(spec, processes=1)


def test_a_killed_drawing_does_not_count_and_is_taken_up(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALPIPE_CACHE", str(tmp_path))
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=cache_at, args=(str(tmp_path), SKY))
    process.start()
    assert process.pid is not None
    folder = cache.sky_folder(SKY)
    record = folder.with_suffix(".part") / drawing.FIELDS / "00000.json"
    deadline = time.monotonic() + 120
    while not record.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    process.close()
    assert record.exists()
    assert not folder.exists()
    before = record.stat().st_mtime_ns

    reused: list[int] = []
    draw_field = drawing.draw_field

    def watched(spec: SkySpec, place: Path, index: int) -> None:
        reused.append(index)
        assert record.stat().st_mtime_ns == before
        draw_field(spec, place, index)

    monkeypatch.setattr(drawing, "draw_field", watched)
    assert cache.cached(SKY, processes=1) == folder
    assert reused == [1]
    assert digests(folder) == digests(drawn)
    assert not folder.with_suffix(".part").exists()
    assert cache.cached(SKY) == folder
    assert reused == [1]


def test_two_that_ask_at_once_get_one_sky(drawn: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    two = [context.Process(target=cache_at, args=(str(tmp_path), SKY)) for _ in range(2)]
    for process in two:
        process.start()
    for process in two:
        process.join(180)
        assert process.exitcode == 0
        process.close()
    (folder,) = [path for path in (tmp_path / "sky").iterdir() if path.is_dir()]
    assert digests(folder) == digests(drawn)


def test_a_cache_that_cannot_be_written_is_said_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GALPIPE_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="GALPIPE_CACHE"):
        cache.cached(SKY)


def test_archive_and_drawing_agree_on_the_edition() -> None:
    """What was retrieved from an earlier drawing must not stand for a later one."""
    assert Sky().edition == SkySpec().edition
