"""A mosaic on S3, read in blocks without signing: what a stamp costs, and that it is right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from galpipe.archives.download import Downloader
from galpipe.archives.hst.mosaics import Files, open_tiles
from galpipe.archives.hst.pieces import piece_of
from galpipe.archives.spec import FixedSize, Tile
from galpipe.errors import InputError
from galpipe.sky.mast_camera import field_wcs, product, sky_of
from galpipe.status import Status
from tests.hubble import hst, mosaic, run, stored

moto = pytest.importorskip("moto.server", reason="the S3 server of the tests is not installed")
boto3 = pytest.importorskip("boto3")

SIDE = 2600
BUCKET, KEY = "stpubdata", "hst/public/j00a/j00a01010/j00a01010_drc.fits"
MIB = 2**20
Image = np.ndarray[tuple[int, int], np.dtype[np.float32]]


@pytest.fixture(scope="module")
def image() -> Image:
    return np.random.default_rng(1).normal(0, 0.01, (SIDE, SIDE)).astype(np.float32)


@pytest.fixture(scope="module")
def endpoint(
    image: Image,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """An S3 endpoint with a public bucket that holds a mosaic of 54 MB, and a private object."""
    path = tmp_path_factory.mktemp("s3") / "mosaic.fits"
    product("F814W", image, np.full_like(image, 2028), field_wcs(SIDE)).writeto(path)
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        client = boto3.client(
            "s3", endpoint_url=address, region_name="us-east-1",
            aws_access_key_id="test", aws_secret_access_key="test",
        )  # fmt: skip
        client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key=KEY, Body=path.read_bytes(), ACL="public-read")
        client.put_object(Bucket=BUCKET, Key="private.fits", Body=b"SIMPLE")
        client.close()
        yield address
    finally:
        server.stop()


def tiles(key: str = KEY) -> tuple[Tile, ...]:
    return (Tile(band="F814W", image=f"s3://{BUCKET}/{key}"),)


def test_one_stamp_costs_megabytes_and_not_the_mosaic(endpoint: str, image: Image) -> None:
    spec = hst(endpoint, pixels=mosaic(tiles=tiles()), bands=("F814W",), block=1024)
    ra, dec = sky_of(SIDE, 1000, 1500)
    with Downloader(spec, spec.s3) as downloader:
        opened = open_tiles(spec, downloader, tiles())
        files = Files(spec, opened, downloader)
        found = piece_of(spec, files, opened[0], ra, dec, 101)
        received = files[opened[0].tile.image].received
        np.testing.assert_array_equal(found.pixels, image[1447:1554, 947:1054])
        # 107 rows of the image and as many of its weight, each 1.1 MB in whole blocks.
        assert received % MIB == 0 and 2 * MIB <= received <= 6 * MIB
        piece_of(spec, files, opened[0], ra, dec, 101)
        assert files[opened[0].tile.image].received == received


def test_a_survey_reads_a_mosaic_on_s3_unsigned(
    endpoint: str,
    image: Image,
    tmp_path: Path,
) -> None:
    places = [(400.0, 700.0), (2000.0, 1800.0)]
    rows = []
    for id, (x, y) in enumerate(places):
        ra, dec = sky_of(SIDE, x, y)
        rows.append({"MatchID": id, "MatchRA": ra, "MatchDec": dec})
    pixels = mosaic(tiles=tiles(), size=FixedSize(half=0.6))
    spec = hst("http://127.0.0.1:9", s3=endpoint, pixels=pixels, bands=("F814W",), block=1024)
    context, lines = run(tmp_path, spec, pa.Table.from_pylist(rows))
    for line, (x, y) in zip(lines, places, strict=True):
        assert line["status"] == Status.OK
        assert line["source"] == f"s3://{BUCKET}/{KEY} (PROPOSID 99001)"
        found = stored(context, line, "image")[0]
        half = found.shape[0] // 2
        box = np.s_[int(y) - half : int(y) + half + 1, int(x) - half : int(x) + half + 1]
        np.testing.assert_array_equal(found, image[box])
        assert (stored(context, line, "exposure") == np.float32(2028)).all()


@pytest.mark.parametrize(("key", "said"), [("private.fits", "403"), ("none.fits", "404")])
def test_what_is_private_or_not_there_is_told(
    endpoint: str, tmp_path: Path, key: str, said: str
) -> None:
    spec = hst(endpoint, s3=endpoint, pixels=mosaic(tiles=tiles(key)), bands=("F814W",))
    table = pa.Table.from_pylist([{"MatchID": 1, "MatchRA": 150.1, "MatchDec": 2.2}])
    with pytest.raises(InputError, match=rf"s3://{BUCKET}/{key}: .*{said}.*mend the tile"):
        run(tmp_path, spec, table)
