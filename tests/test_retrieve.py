"""The stage retrieve: every object ends in the ledger, and nothing is read twice."""

from __future__ import annotations

import errno
import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from galpipe.archives import writing
from galpipe.archives.fingerprint import fingerprint
from galpipe.archives.folder import open_folder
from galpipe.archives.planning import BUCKETS, bucket
from galpipe.archives.retrieve import retrieve
from galpipe.archives.spec import Folder
from galpipe.archives.writing import ShardWork, write_shard
from galpipe.errors import InputError
from galpipe.sample.catalogue import sample
from galpipe.sample.spec import Sample
from galpipe.stages import Context, ShardMap, serial_map
from galpipe.stamps.parts import Part
from galpipe.status import Status
from galpipe.workspace import Ref, Workspace
from tests.test_folder import fits_bytes, pack, real_galaxies

SPEC = Sample(id="objid", id_type="int64", file="file")


def draw(folder: Path, ids: Iterable[int], side: int = 20) -> Path:
    """Noise images by id, and the table of all images that lie in the folder."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for id in ids:
        pixels = np.random.default_rng(id).integers(0, 255, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{id}.png")
    known = sorted(int(path.stem) for path in (folder / "images").glob("*.png"))
    table(folder, {id: f"images/{id}.png" for id in known})
    return folder


def table(folder: Path, files: dict[int, str]) -> None:
    lines = [f"{id},{file}" for id, file in files.items()]
    (folder / "objects.csv").write_text("\n".join(["objid,file", *lines, ""]))


def archive(path: Path, **settings: Any) -> Folder:
    return Folder(**{"path": str(path), "bands": ("g", "r", "i"), "shard": 4, **settings})


def run(
    workspace: Path,
    spec: Folder,
    base: Ref | None = None,
    map: ShardMap = serial_map,
    of: Sample = SPEC,
) -> tuple[Context, Ref]:
    context = Context(Workspace.open(workspace), map=map)
    catalogue = sample(
        context, of, lambda: open_folder(spec).table(of.id), fingerprint(spec, None), None
    )
    return context, retrieve(context, spec, catalogue, base)


def ledger(context: Context, ref: Ref) -> pa.Table:
    return pq.read_table(context.workspace.place(ref) / "index.parquet")


def part_of(context: Context, digest: str) -> Part:
    return Part(context.workspace.place(Ref("cutout-part", digest)))


def store_digest(workspace: Path) -> str:
    """All bytes of a workspace's store."""
    total = hashlib.sha256()
    for path in sorted((workspace / "store").rglob("*")):
        if path.is_file():
            total.update(str(path.relative_to(workspace)).encode() + path.read_bytes())
    return total.hexdigest()


def test_pixels_and_ledger(tmp_path: Path) -> None:
    folder = draw(tmp_path / "in", range(1, 11))
    context, ref = run(tmp_path / "w", archive(folder))
    lines = ledger(context, ref)
    assert lines["object_id"].to_pylist() == list(range(1, 11))
    assert set(lines["status"].to_pylist()) == {int(Status.OK)}
    [digest] = set(lines["part"].to_pylist())
    part = part_of(context, digest)
    images = part.read("image")
    assert images.shape == (10, 3, 24, 24) and images.dtype == np.uint8
    assert part.object_ids.tolist() == list(range(1, 11))
    for line in lines.to_pylist():
        content = (folder / line["source"]).read_bytes()
        assert line["sha256"] == hashlib.sha256(content).hexdigest()
        with Image.open(folder / line["source"]) as picture:
            expected = np.moveaxis(np.asarray(picture), -1, 0)
        assert (images[line["row"], :, :20, :20] == expected).all()
        assert not images[line["row"], :, 20:].any()
    manifest = context.workspace.manifest(ref)
    assert manifest is not None
    assert manifest["by_status"] == {"OK": 10}
    assert part.read("ny").tolist() == [20] * 10
    assert part.read("coverage").tolist() == [1.0] * 10


def test_what_is_wrong_with_one_object_becomes_its_status(tmp_path: Path) -> None:
    folder = draw(tmp_path / "in", range(1, 4))
    images = folder / "images"
    whole = (images / "1.png").read_bytes()
    (images / "10.png").write_bytes(whole[: len(whole) // 2])
    (images / "11.png").write_bytes(b"")
    (images / "12.png").write_bytes(b"<html>not found</html>")
    Image.fromarray(np.full((20, 20, 3), 7, np.uint8)).save(images / "13.png")
    Image.fromarray(np.eye(20, dtype=np.uint8)).save(images / "14.png")
    (images / "15.fits").write_bytes(fits_bytes(np.full((3, 9, 9), np.nan)))
    half = np.random.default_rng(0).normal(size=(3, 9, 9))
    half[:, :3] = np.nan
    (images / "16.fits").write_bytes(fits_bytes(half))
    half[1] = np.nan
    (images / "17.fits").write_bytes(fits_bytes(half))
    Image.new("RGB", (5000, 2)).save(images / "18.png")
    names = {i: f"images/{i}.png" for i in (1, 2, 3, 10, 11, 12, 13, 14, 18, 19)}
    names |= {i: f"images/{i}.fits" for i in (15, 16, 17)}
    table(folder, {**names, 20: "", 21: "../../secret.png"})
    context, ref = run(tmp_path / "w", archive(folder))
    lines = {line["object_id"]: line for line in ledger(context, ref).to_pylist()}
    expected = {
        1: Status.OK, 2: Status.OK, 3: Status.OK, 10: Status.CORRUPT, 11: Status.CORRUPT,
        12: Status.CORRUPT, 13: Status.BLANK, 14: Status.MISSING_BAND, 15: Status.BLANK,
        16: Status.OK | Status.EDGE, 17: Status.MISSING_BAND, 18: Status.CORRUPT,
        19: Status.MISSING_FILE, 20: Status.MISSING_FILE, 21: Status.MISSING_FILE,
    }  # fmt: skip
    assert {id: line["status"] for id, line in lines.items()} == {
        id: int(status) for id, status in expected.items()
    }
    for line in lines.values():
        usable = bool(line["status"] & Status.OK)
        assert (line["part"] is not None) == usable == (line["row"] >= 0)
        assert (line["reason"] is None) == usable
    sixteen = lines[16]
    part = part_of(context, sixteen["part"])
    assert part.read("coverage")[sixteen["row"]] == pytest.approx(2 / 3)
    assert np.isnan(part.read("image")[sixteen["row"], :, :3]).all()


def test_sizes_and_types_have_parts_of_their_own(tmp_path: Path) -> None:
    folder = draw(tmp_path / "in", (1, 2), side=16)
    draw(folder, (3,), side=17)
    (folder / "images" / "4.fits").write_bytes(
        fits_bytes(np.random.default_rng(4).normal(size=(3, 30, 9)))
    )
    table(folder, {i: f"images/{i}.{'fits' if i == 4 else 'png'}" for i in (4, 3, 2, 1)})
    context, ref = run(tmp_path / "w", archive(folder))
    lines = ledger(context, ref)
    digests = lines["part"].to_pylist()
    shapes = [part_of(context, digest).array("image").shape for digest in digests]
    assert [shape[-1] for shape in shapes] == [16, 16, 24, 32]
    assert digests[0] == digests[1]
    four = part_of(context, digests[3])
    assert (four.read("ny")[0], four.read("nx")[0]) == (30, 9)
    assert np.isnan(four.read("image")[0, :, :, 9:]).all()


def test_buckets_are_powers_and_half_powers() -> None:
    assert BUCKETS[:7] == (16, 24, 32, 48, 64, 96, 128)
    assert [bucket(side) for side in (1, 16, 17, 424, 4096)] == [16, 16, 24, 512, 4096]


def test_zip_directory_and_copy_are_the_same_to_the_digest(tmp_path: Path) -> None:
    folder = draw(tmp_path / "in", range(1, 8))
    first = run(tmp_path / "w1", archive(folder))[1]
    shutil.copytree(folder, tmp_path / "elsewhere")
    packed = pack(folder, tmp_path / "in.zip")
    assert run(tmp_path / "w2", archive(tmp_path / "elsewhere"))[1] == first
    assert run(tmp_path / "w3", archive(packed))[1] == first
    # Only the record of which source was looked at may differ.
    for workspace in ("w1", "w2", "w3"):
        shutil.rmtree(tmp_path / workspace / "store" / "sample-source")
    assert len({store_digest(tmp_path / w) for w in ("w1", "w2", "w3")}) == 1


def backwards(function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
    return map(function, reversed(list(items)))


def threads(function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
    with ThreadPoolExecutor(4) as pool:
        yield from pool.map(function, items)


@pytest.mark.parametrize("map", [backwards, threads])
def test_order_and_number_of_workers_change_no_byte(tmp_path: Path, map: ShardMap) -> None:
    folder = draw(tmp_path / "in", range(1, 30))
    run(tmp_path / "w1", archive(folder))
    run(tmp_path / "w2", archive(folder), map=map)
    assert store_digest(tmp_path / "w1") == store_digest(tmp_path / "w2")


class Killed(Exception):
    """The run was stopped here."""


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = draw(tmp_path / "in", range(1, 30))
    run(tmp_path / "whole", archive(folder))
    written: list[int] = []

    def until(limit: int) -> ShardMap:
        def stopping(function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
            for item in items:
                if isinstance(item, ShardWork):
                    if len(written) == limit:
                        raise Killed
                    written.append(item.shard)
                yield function(item)

        return stopping

    for limit in (0, 1, 3, 6):
        with pytest.raises(Killed):
            run(tmp_path / "w", archive(folder), map=until(limit))
    run(tmp_path / "w", archive(folder), map=until(10**6))
    assert sorted(written) == list(range(8))  # each shard once
    assert store_digest(tmp_path / "w") == store_digest(tmp_path / "whole")


def test_a_second_run_reads_nothing(tmp_path: Path) -> None:
    folder = draw(tmp_path / "in", range(1, 10))
    packed = archive(pack(folder, tmp_path / "in.zip"))
    first = run(tmp_path / "w", packed)[1]

    def idle(function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        assert not list(items)
        return iter(())

    assert run(tmp_path / "w", packed, map=idle)[1] == first


def test_the_next_release_reads_only_what_is_new(tmp_path: Path) -> None:
    folder = draw(tmp_path / "in", range(10, 20))
    (folder / "images" / "5.png").write_bytes(b"damaged")
    draw(folder, ())
    context, first = run(tmp_path / "w", archive(folder))
    draw(folder, (1, 15, 30))
    pixels = np.random.default_rng(99).integers(0, 255, (20, 20, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "images" / "12.png")  # made anew
    (folder / "images" / "19.png").unlink()
    draw(folder, ())
    seen: list[int] = []

    def counting(function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        for item in items:
            if isinstance(item, ShardWork):
                seen.append(len(item.sources))
            yield function(item)

    context, second = run(tmp_path / "w", archive(folder), first, counting)
    assert sum(seen) == 3  # 1, 30 and the image made anew; the damaged one is not tried again
    old = {line["object_id"]: line for line in ledger(context, first).to_pylist()}
    new = {line["object_id"]: line for line in ledger(context, second).to_pylist()}
    assert list(new) == [1, 5, *range(10, 19), 30]
    for id in set(old) & set(new) - {12}:
        assert new[id] == old[id]
    assert new[12]["part"] == new[1]["part"] == new[30]["part"] != old[12]["part"]
    before, after = (context.workspace.manifest(ref) for ref in (first, second))
    assert before is not None and after is not None
    assert after["parts"] == [*before["parts"], new[1]["part"]]


def test_another_spec_takes_nothing_over(tmp_path: Path) -> None:
    folder = draw(tmp_path / "in", range(1, 5))
    context, first = run(tmp_path / "w", archive(folder))
    _, second = run(tmp_path / "w", archive(folder, pixel_scale=0.4), first)
    parts = [set(ledger(context, ref)["part"].to_pylist()) for ref in (first, second)]
    assert not parts[0] & parts[1]


def test_a_run_without_any_image_says_why(tmp_path: Path) -> None:
    folder = draw(tmp_path / "in", range(1, 5))
    with pytest.raises(InputError, match=r"none of the 4 .* 4 are MISSING_BAND \(3 planes where"):
        run(tmp_path / "w", archive(folder, bands=("r",)))
    table(folder, {1: "elsewhere/1.png", 2: "elsewhere/7.png"})
    (folder / "images" / "1.png").unlink()
    with pytest.raises(InputError, match=r"none of the 2 .* MISSING_FILE \(no image elsewhere"):
        run(tmp_path / "w", archive(folder))


def test_a_full_disk_is_an_error_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = draw(tmp_path / "in", range(1, 5))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing.Part, "write", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "w", archive(folder))


def test_realgalaxy_sets_with_and_without_psf(tmp_path: Path) -> None:
    real_galaxies(tmp_path / "in", 10, 3, names="alpha")
    real_galaxies(tmp_path / "in" / "sub", 50, 2, psf=False, names="beta")
    of = Sample(id="IDENT", id_type="int64", ra="RA", dec="DEC", redshift="ZPHOT")
    spec = archive(tmp_path / "in", layout="realgalaxy", bands=("F814W",))
    context, ref = run(tmp_path / "w", spec, of=of)
    lines = ledger(context, ref)
    ok, bare = int(Status.OK), int(Status.OK | Status.NO_PSF)
    assert lines["status"].to_pylist() == [ok, ok, ok, bare, bare]
    with_psf = part_of(context, lines["part"][0].as_py())
    assert with_psf.array("psf").shape[1:] == (16, 16)
    assert with_psf.read("psf").sum(axis=(1, 2)) == pytest.approx(4 * np.pi, rel=0.01)
    assert with_psf.read("noise") == pytest.approx(0.002)
    assert np.isfinite(with_psf.read("ra")).all()
    without = part_of(context, lines["part"][3].as_py())
    assert "psf" not in dict(without.group.arrays())
    # The same galaxies under other names of files are the same galaxies.
    for digest in set(lines["version"].to_pylist()):
        assert digest.startswith("crc32:")


def test_the_work_of_a_shard_is_small_and_says_how_much_it_did(tmp_path: Path) -> None:
    import pickle

    folder = draw(tmp_path / "in", range(1, 6))
    sizes = []

    def pickled(function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        for item in items:
            text = pickle.dumps((function, item))
            sizes.append(len(text))
            again, work = pickle.loads(text)
            result = again(work)
            assert again is not write_shard or result == len(work.sources)
            yield result

    run(tmp_path / "w", archive(folder), map=pickled)
    assert max(sizes) < 10_000


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "id", "id_type", "bands", "side"),
    [
        ("s82_sdss.zip", "objid", "int64", ("i", "r", "g"), 256),
        ("goods_hst.zip", "UID_MOSAIC", "int64", ("i", "v", "b"), 256),
        ("cl1216_hst.zip", "file", "string", ("F814W",), 256),
    ],
)
def test_real_archives(
    tmp_path: Path,
    real_data: Path,
    name: str,
    id: str,
    id_type: Any,
    bands: tuple[str, ...],
    side: int,
) -> None:
    of = Sample(id=id, id_type=id_type, file="file")
    context, ref = run(tmp_path / "w", archive(real_data / name, bands=bands, shard=512), of=of)
    manifest = context.workspace.manifest(ref)
    assert manifest is not None
    assert manifest["by_status"] == {"OK": manifest["objects"]}
    assert part_of(context, manifest["parts"][0]).array("image").shape[1:] == (
        len(bands),
        side,
        side,
    )


@pytest.mark.real
def test_real_hst_stamps_with_photometric_redshifts(tmp_path: Path, real_data: Path) -> None:
    of = Sample(id="IDENT", id_type="int64", ra="RA", dec="DEC", redshift="ZPHOT")
    spec = archive(real_data / "cosmos_hst.zip", layout="realgalaxy", bands=("F814W",))
    begin = time.perf_counter()
    context, ref = run(tmp_path / "w", spec, of=of)
    assert time.perf_counter() - begin < 60
    lines = ledger(context, ref)
    assert lines["status"].to_pylist().count(int(Status.OK | Status.NO_PSF)) < len(lines)
    assert all(status & Status.OK for status in lines["status"].to_pylist())
    for digest in set(lines["part"].to_pylist()):
        part = part_of(context, digest)
        widths = part.read("psf_fwhm")
        assert part.read("pixel_scale") == pytest.approx(0.03, rel=1e-4)
        # ACS F814W: about 0.1 arcsec (Koekemoer et al. 2007)
        assert np.isnan(widths).all() or (np.abs(widths * 0.03 - 0.1) < 0.02).all()
