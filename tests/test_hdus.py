"""The HDUs of a FITS file found by hand: what astropy finds, and nothing of what is damaged."""

from __future__ import annotations

import bz2
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from galpipe.archives.frames import FieldName, decode_frame
from galpipe.archives.hdus import hdus_of, image
from galpipe.archives.linear_wcs import linear_wcs
from galpipe.archives.trouble import BadImageError
from galpipe.status import Status
from tests.test_sdss import CAMCOL, RUN, path, planted

NAME = FieldName(301, RUN, CAMCOL, 100)
Change = Callable[[Any], None]


def written(*hdus: Any) -> bytes:
    out = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(out)
    return out.getvalue()


def without(number: int) -> Change:
    """Takes an HDU out of a file."""
    return lambda hdus: hdus.pop(number)


def frame(change: Change) -> bytes:
    """A frame as served, after a change to its HDUs."""
    with fits.open(io.BytesIO(bz2.decompress(planted()[1][path(100)]))) as hdus:
        change(hdus)
        out = io.BytesIO()
        hdus.writeto(out)
    return bz2.compress(out.getvalue())


def test_a_frame_is_read_as_astropy_reads_it() -> None:
    content = planted()[1][path(100)]
    raw = bz2.decompress(content)
    found, ours = hdus_of(raw, 9), decode_frame(content, NAME, "r")
    with fits.open(io.BytesIO(raw)) as theirs:
        assert len(found) == len(theirs)
        for number, (one, other) in enumerate(zip(found, theirs, strict=True)):
            place = theirs.fileinfo(number)
            assert (one.header, one.data) == (place["hdrLoc"], place["datLoc"])
            for key in other.header:
                assert one.cards[key] == other.header[key], (number, key)
        sky = theirs[2].data[0]
        assert (ours.pixels == theirs[0].data).all()
        assert ours.pixels.dtype == np.float32 and ours.pixels.dtype.isnative
        assert (ours.calibration == theirs[1].data).all()
        assert (ours.sky == sky["ALLSKY"].reshape(ours.sky.shape)).all()
        assert (ours.sky_x == sky["XINTERP"]).all() and (ours.sky_y == sky["YINTERP"]).all()
        assert (ours.wcs == linear_wcs(theirs[0].header)).all()


def test_values_of_cards_are_those_astropy_wrote() -> None:
    header = fits.Header()
    values = {
        "TEXT": "it's 'so' / here", "EMPTY": "", "SPACES": "  x  ", "TRUE": True, "FALSE": False,
        "WHOLE": -12, "LARGE": 2**62, "REAL": -1.25e-30, "POINT": 3.0,
    }  # fmt: skip
    for key, value in values.items():
        header[key] = (value, "a comment / with a slash = and a sign")
    header["NOTHING"] = None
    header.add_comment("RUN     = 7")
    header.append(fits.Card.fromstring("DOUBLE  =             -1.5D+03 / as FORTRAN writes"))
    (found,) = hdus_of(written(fits.PrimaryHDU(header=header)), 4)
    for key, value in values.items():
        wanted = value.rstrip() if isinstance(value, str) else value
        assert found.cards[key] == wanted and type(found.cards[key]) is type(wanted), key
    assert "NOTHING" not in found.cards and "RUN" not in found.cards
    assert found.cards["DOUBLE"] == -1500.0


@pytest.mark.parametrize("dtype", [">f4", ">f8"])
def test_images_of_floating_point(dtype: str) -> None:
    values = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    content = written(fits.PrimaryHDU(), fits.ImageHDU(values))
    first, second = hdus_of(content, 9)
    found = image(content, second, np.float64)
    assert first.size == 0 and (found == values).all() and found.dtype == np.float64
    assert found.flags.writeable


def test_what_is_no_plain_image_is_refused() -> None:
    whole = written(fits.PrimaryHDU(np.ones((4, 4), np.int16)))
    with pytest.raises(ValueError, match="floating point"):
        image(whole, hdus_of(whole, 1)[0], np.float32)
    scaled = fits.PrimaryHDU(np.ones((4, 4), np.float32))
    scaled.header["BZERO"] = 32768.0
    content = written(scaled)
    with pytest.raises(ValueError, match="scaled"):
        image(content, hdus_of(content, 1)[0], np.float32)


def swapped(hdus: Any) -> None:
    hdus[3] = fits.ImageHDU(np.zeros(3, np.float32))


def unnamed(hdus: Any) -> None:
    hdus[2].header["TTYPE2"] = "OTHER"


def two_rows(hdus: Any) -> None:
    hdus[3] = fits.BinTableHDU(np.concatenate([hdus[3].data, hdus[3].data]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without(3), "no asTrans table"),
        (lambda hdus: [hdus.pop(), hdus.pop()], "no sky table"),
        (lambda hdus: [hdus.pop() for _ in range(3)], "no calibration of the columns"),
        (swapped, "no asTrans table"),
        (unnamed, "a header or table lacks XINTERP"),
        (two_rows, "an asTrans table of 2 rows"),
    ],
)
def test_a_frame_that_lacks_a_part_says_which(change: Change, said: str) -> None:
    with pytest.raises(BadImageError) as error:
        decode_frame(frame(change), NAME, "r")
    assert error.value.status == Status.CORRUPT and error.value.reason == said


@pytest.mark.parametrize("kept", [100, 2880, 4000, 300_000])
def test_a_frame_that_is_cut_off_is_corrupt(kept: int) -> None:
    raw = bz2.decompress(planted()[1][path(100)])
    assert len(raw) > 300_000
    with pytest.raises(BadImageError) as error:
        decode_frame(bz2.compress(raw[:kept]), NAME, "r")
    assert error.value.status == Status.CORRUPT and error.value.reason
