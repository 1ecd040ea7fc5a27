"""What the archive did not answer: told per band, and gone back for alone, as if never lost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from galpipe import releases, survey
from galpipe import spec as specs
from galpipe.archives.hst.ranged import HEADER_PIECE
from galpipe.archives.retrieve import retrieve
from galpipe.archives.spec import (
    Archive,
    FixedSize,
    Frames,
    Hapcut,
    Hips,
    Hst,
    HstSky,
    Jpeg,
    Mosaic,
    PetrosianSize,
    Sdss,
    Sky,
    Soda,
    Tile,
    Vo,
)
from galpipe.cli import main
from galpipe.sample.catalogue import sample
from galpipe.sample.spec import Sample
from galpipe.sky.mast import Mast
from galpipe.sky.mast_cache import cached_field
from galpipe.sky.mast_camera import FILTERS, name_of, sky_of
from galpipe.sky.mast_spec import FieldSpec
from galpipe.sky.server import Settings, _AnyCase, application
from galpipe.stages import Context, Silent
from galpipe.stamps.parts import Part
from galpipe.status import Status
from galpipe.workspace import Ref, Workspace
from tests import test_sdss
from tests.refusing import Refusing, refusing
from tests.running import labels, run_chain
from tests.test_sky_server import plant

FIELD = FieldSpec(side=900, seed=4)
SMALL = FixedSize(half=1.0)
POLITE: dict[str, Any] = {
    "shard": 4, "patience": 0.01, "timeout": 10.0, "tries": 2, "requests_per_minute": None,
    "connections": 2,
}  # fmt: skip


@dataclass
class Standing:
    """An archive with objects to fetch, one of which it will not give."""

    server: Refusing
    spec: Archive
    sample: Sample
    table: pa.Table
    refused: Callable[[str], bool]  # of a request, as the server tells it
    wanted: Callable[[str], bool]  # whether a request is for what failed
    failed: Sequence[int | str]  # ids
    bands: Sequence[str]  # that fail


# The archives.


def sdss_application() -> ASGIApp:
    """Planted frames and colour images, as SDSS serves them."""
    files = test_sdss.planted()[1]

    def file(request: Request) -> Response:
        content = files.get(request.url.path)
        return Response(b"not here", 404) if content is None else Response(content)

    def image(request: Request) -> Response:
        return Response(test_sdss.jpeg(dict(request.query_params)).body)

    cutout = "/dr17/SkyServerWS/ImgCutout/getjpeg"
    return Starlette(routes=[Route(cutout, image), Route("/{path:path}", file)])


@contextmanager
def fields(kind: str) -> Iterator[Standing]:
    table = test_sdss.planted()[0]
    lost = test_sdss.path(100)
    field = lost.split("-")[-1]
    failed = [id for id in table["objID"].to_pylist() if (id >> 16) & 0xFFF == 100]
    with refusing(sdss_application()) as server:
        known = {**POLITE, "skyserver": server.address, "sas": f"{server.address}/sas"}
        pixels = Frames(size=FixedSize(half=8.0))
        spec = Sky(pixels=pixels, **known) if kind == "sky" else Sdss(pixels=pixels, **known)
        yield Standing(
            server, spec, test_sdss.SAMPLE, table, lambda asked: lost in asked,
            lambda asked: field in asked, failed, ["r"],
        )  # fmt: skip


@contextmanager
def images(kind: str) -> Iterator[Standing]:
    table = test_sdss.planted()[0]
    row = table.to_pylist()[7]
    place = f"ra={row['ra']!r}&dec={row['dec']!r}"
    with refusing(sdss_application()) as server:
        spec = Sdss(
            bands=("i", "r", "g"), pixels=Jpeg(side=64, size=PetrosianSize(smallest=4.0)),
            skyserver=server.address, **POLITE,
        )  # fmt: skip
        yield Standing(
            server, spec, test_sdss.SAMPLE, table, lambda asked: place in asked,
            lambda asked: place in asked, [row["objID"]], spec.bands,
        )  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("planted-retry"))


def scattered(ra: Any, dec: Any, count: int, apart: float) -> pa.Table:
    """Objects on a lattice about a place."""
    step = np.arange(count) - count // 2
    east, north = (grid.ravel() * apart for grid in np.meshgrid(step, step))
    ids = np.arange(len(east)) + 2**60
    places = {"ra": ra + east / np.cos(np.deg2rad(dec)), "dec": dec + north}
    return pa.table({"objID": ids, **places})


@contextmanager
def observatory(kind: str, planted: Path) -> Iterator[Standing]:
    table = scattered(0.02, -0.4, 4, 0.003)
    row = table.to_pylist()[5]
    with refusing(application(planted, Settings())) as server:
        at = server.address
        known = {
            **POLITE, "service": "ivo://galpipe/sky", "tap": f"{at}/tap", "sia": f"{at}/sia2",
            "hips2fits": f"{at}/hips2fits",
        }  # fmt: skip
        if kind == "soda":
            pixels: Any = Soda(
                pixel_scale=0.396, wavelengths=(4.7e-7, 6.2e-7, 7.6e-7), size=SMALL, reference="r"
            )
            about = f"CIRCLE={row['ra']!r} {row['dec']!r}"

            def refused(asked: str) -> bool:
                return asked.startswith("/soda") and about in asked and "frame-r" in asked

            def wanted(asked: str) -> bool:
                found = (
                    asked.startswith("/sia2") and f"CIRCLE {row['ra']!r} {row['dec']!r}" in asked
                )
                return about in asked or found or asked.startswith("/datalink")
        else:
            pixels = Hips(maps=tuple(f"galpipe/P/sky/{band}" for band in "gri"), size=SMALL)
            about = f"ra={row['ra']!r}&dec={row['dec']!r}"

            def refused(asked: str) -> bool:
                return about in asked and "sky/r" in asked

            def wanted(asked: str) -> bool:
                return about in asked

        spec = Vo(pixels=pixels, **known)
        yield Standing(
            server, spec, test_sdss.SAMPLE, table, refused, wanted, [row["objID"]], ["r"]
        )


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GALPIPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield cached_field(FIELD)


@contextmanager
def hubble(kind: str, field: Path) -> Iterator[Standing]:
    mast = Mast(FIELD)
    mast._folder = field
    app = Starlette(routes=mast.routes(), middleware=[Middleware(_AnyCase)])
    table = scattered(*sky_of(FIELD.side, 450.0, 450.0), 4, 0.0012)
    row = table.to_pylist()[5]
    with refusing(app) as server:
        plain: dict[str, Any] = {
            **POLITE, "bands": ("F606W", "F814W"), "pixel_scale": 0.03, "mast": server.address,
            "files": f"{server.address}/hst", "block": 16,
        }  # fmt: skip
        failed, bands = [row["objID"]], ["F606W", "F814W"]

        def refused(asked: str) -> bool:
            return f"{row['ra']!r}" in asked and f"{row['dec']!r}" in asked

        wanted = refused
        if kind == "mosaic":
            tiles = tuple(Tile(band=band, image=name_of(band)) for band in FILTERS)
            plain["pixels"] = Mosaic(size=SMALL, tiles=tiles)
            middle_row = 2880 * 4 + 4 * 900 * 400
            lost = range(middle_row, middle_row + 100_000)  # bytes of some rows

            def refused(asked: str) -> bool:
                return name_of("F814W") in asked and _overlaps(asked, lost)

            def wanted(asked: str) -> bool:
                near = range(lost.start - 10**5, lost.stop + 10**5)
                weight = range(near.start + 3245760, near.stop + 3245760)  # the HDU after it
                return _overlaps(asked, near) or _overlaps(asked, weight)

            failed, bands = [], ["F606W", "F814W"]
        else:
            plain["pixels"] = Hapcut(size=SMALL)
        spec = HstSky(**plain) if kind == "sky" else Hst(**plain)
        yield Standing(server, spec, test_sdss.SAMPLE, table, refused, wanted, failed, bands)


def _span(asked: str) -> tuple[int, int]:
    """The bytes of a file that are asked for, from the first to the one after the last."""
    first, _, last = asked.rpartition("bytes=")[2].partition("-")
    return (int(first), int(last) + 1) if first.isdecimal() else (0, 0)


def _overlaps(asked: str, lost: range) -> bool:
    first, last = _span(asked)
    return first < lost.stop and last > lost.start


KINDS = (
    "sdss frames", "sky frames", "sdss images", "vo soda", "vo hips", "hst hapcut",
    "hst mosaic", "hst sky",
)  # fmt: skip


@pytest.fixture(params=KINDS)
def standing(request: pytest.FixtureRequest) -> Iterator[Standing]:
    kind, way = request.param.split()
    if way in ("frames", "images"):
        made = fields(kind) if way == "frames" else images(kind)
    elif kind == "vo":
        made = observatory(way, request.getfixturevalue("planted"))
    else:
        made = hubble(way, request.getfixturevalue("field"))
    with made as one:
        yield one


class Listening(Silent):
    """Progress that keeps what was said, and when."""

    def __init__(self, server: Refusing) -> None:
        self.server = server
        self.said: list[tuple[str, int]] = []

    def say(self, text: str) -> None:
        self.said.append((text, len(self.server.asked)))


def run(root: Path, one: Standing, table: pa.Table | None = None) -> tuple[Context, Ref]:
    context = Context(Workspace.open(root), progress=Listening(one.server))
    rows = one.table if table is None else table
    name = hashlib.sha256(repr(rows.to_pylist()).encode()).hexdigest()
    catalogue = sample(context, one.sample, lambda: rows, name, None)
    return context, retrieve(context, one.spec, catalogue, None)


def rows_of(context: Context, ref: Ref, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(context.workspace.place(ref) / name).to_pylist()
    return found


def pixels_of(context: Context, line: dict[str, Any]) -> bytes:
    part = Part(context.workspace.place(Ref("cutout-part", line["part"])))
    row = slice(line["row"], line["row"] + 1)
    return b"".join(part.read(name, row).tobytes() for name in ("image", "wcs", "status"))


def test_what_failed_is_gone_back_for_alone(standing: Standing, tmp_path: Path) -> None:
    whole, ref = run(tmp_path / "whole", standing)
    asked = len(standing.server.asked)
    standing.server.refuses = standing.refused
    context, first = run(tmp_path / "w", standing)
    lines = {line["object_id"]: line for line in rows_of(context, first, "index.parquet")}
    failed = {id for id, line in lines.items() if line["status"] & Status.FAILED}
    assert failed and len(failed) < len(lines) / 2
    assert failed == set(standing.failed) or not standing.failed
    assert all(lines[id]["reason"] and lines[id]["part"] is None for id in failed)
    bands = rows_of(context, first, "ledger.parquet")
    ends = [row for row in bands if row["outcome"] == "failed"]
    assert {row["object_id"] for row in ends} == failed
    assert {row["band"] for row in ends} == set(standing.bands)
    assert all(row["reason"] and row["url"] and row["sha256"] is None for row in ends)
    assert not any("127.0.0.1" in str(row) for row in bands)

    standing.server.asked.clear()
    again, same = run(tmp_path / "w", standing)  # the archive is still down
    assert same == first
    assert rows_of(again, same, "ledger.parquet") == bands
    assert standing.server.asked and all(map(standing.wanted, _pixels(standing)))

    standing.server.refuses = lambda asked: False
    standing.server.asked.clear()
    context, second = run(tmp_path / "w", standing)
    assert standing.server.asked and all(map(standing.wanted, _pixels(standing)))
    assert len(standing.server.asked) < asked / 1.5
    assert second == ref
    for name in ("ledger.parquet", "index.parquet"):
        found, truth = rows_of(context, second, name), rows_of(whole, ref, name)
        for mine, theirs in zip(found, truth, strict=True):
            places = ("part", "row")
            assert all(mine[key] == theirs[key] for key in theirs if key not in places)
            if name == "index.parquet" and theirs["part"] is not None:
                assert pixels_of(context, mine) == pixels_of(whole, theirs)

    standing.server.asked.clear()
    assert run(tmp_path / "w", standing)[1] == ref and not standing.server.asked


def _pixels(standing: Standing) -> list[str]:
    """What was asked for pixels: not the headers of a mosaic's tiles."""
    asked = standing.server.asked
    if isinstance(getattr(standing.spec, "pixels", None), Mosaic):
        return [one for one in asked if _span(one)[1] - _span(one)[0] != HEADER_PIECE]
    return asked


def test_the_bill_is_told_before_it_starts(standing: Standing, tmp_path: Path) -> None:
    context, _ = run(tmp_path, standing)
    assert isinstance(context.progress, Listening)
    [(said, after)] = [one for one in context.progress.said if one[0].startswith("retrieve: ")]
    words = [word.replace(",", "") for word in said.split()]
    objects, requests = [int(word) for word in words if word.isdecimal()][:2]
    assert objects == len(standing.table)
    taken = _pixels(standing)
    if isinstance(getattr(standing.spec, "pixels", None), Mosaic):
        assert after == len(standing.server.asked) - len(taken)  # the headers of the tiles
        assert requests / 2 <= len(taken) <= 2 * requests
    else:
        assert after == 0 and requests == len(taken)
    assert "B and less than a minute from " in said


def section(spec: Archive) -> str:
    """The archive of a survey file."""
    values = {**specs.dump(spec), "requests_per_minute": 1e6}
    pixels = ", ".join(f"{key} = {_toml(value)}" for key, value in values.pop("pixels").items())
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
    return "\n".join(["[archive]", *lines, f"pixels = {{ {pixels} }}"])


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


@pytest.mark.parametrize("standing", ["vo hips", "hst hapcut"], indirect=True)
def test_the_labels_end_as_those_of_an_undisturbed_run(
    standing: Standing, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pyarrow.csv.write_csv(standing.table, tmp_path / "objects.csv")
    file = tmp_path / "survey.toml"
    file.write_text(
        f"""name = "sky"
[sample]
id = "objID"
id_type = "int64"
ra = "ra"
dec = "dec"
table = {json.dumps(str(tmp_path / "objects.csv"))}
{section(standing.spec)}
[prepare]
size = 32
[cluster]
components = 2
[evaluate]
permutations = 5
"""
    )
    run_chain(file, tmp_path / "whole")
    standing.server.refuses = standing.refused
    run_chain(file, tmp_path / "w")
    assert labels(tmp_path / "w") != labels(tmp_path / "whole")
    capsys.readouterr()
    assert main(["status", "--workspace", str(tmp_path / "w")]) == 0
    shown = capsys.readouterr().out
    assert f"{standing.bands[0]}: 15 ok, 1 failed" in shown, shown
    standing.server.refuses = lambda asked: False
    chosen, workspace = survey.load(file), Workspace.open(tmp_path / "w")
    key = releases.run_key(chosen, "r1", None)
    assert releases.published(workspace, chosen, "r1", key) is not None
    assert releases.published(workspace, chosen, "r1", key, "failed") is None
    standing.server.asked.clear()
    run_chain(file, tmp_path / "w")  # what `--retry failed` then runs
    assert standing.server.asked and all(map(standing.wanted, standing.server.asked))
    assert labels(tmp_path / "w") == labels(tmp_path / "whole")
    assert releases.published(workspace, chosen, "r1", key, "failed") is not None
