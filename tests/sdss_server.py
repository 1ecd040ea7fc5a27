"""A small SDSS on loopback: planted frames at their real paths, answers made to fail."""

from __future__ import annotations

import bz2
import gzip
import io
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

NY, NX = 300, 400  # a real frame has 1489 x 2048
SKY = 120.0  # counts
CALIBRATION = 0.005  # nanomaggies per count
SIGMA = 1.6  # pixels
AHEAD = {"r": 0, "i": 2, "u": 4, "z": 6, "g": 8}  # frames by which a CCD's count is ahead
OFFSETS = {"g": (3.37, -2.61), "r": (0.0, 0.0), "i": (-2.24, 1.73), "z": (1.0, 4.0)}


@dataclass
class Answer:
    """What is sent once for a path, in place of the file."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    reset: bool = False  # the connection is cut before anything is said
    promised: int | None = None  # Content-Length; None: that of the body


@dataclass
class Archive:
    """Files and answers of the server, and what was asked."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    next: dict[str, list[Answer]] = field(default_factory=dict)  # by path, before the file
    always: dict[str, Answer] = field(default_factory=dict)
    ask: dict[str, Callable[[dict[str, str]], Answer]] = field(default_factory=dict)
    hits: Counter[str] = field(default_factory=Counter)
    agents: set[str] = field(default_factory=set)

    def answer(self, path: str, values: dict[str, str]) -> Answer:
        self.hits[path] += 1
        if self.next.get(path):
            return self.next[path].pop(0)
        if path in self.always:
            return self.always[path]
        if path.lower() in self.ask:
            return self.ask[path.lower()](values)
        if path in self.files:
            return Answer(body=self.files[path])
        return Answer(404, b"not here")


@contextmanager
def serve() -> Iterator[Archive]:
    """Serve an archive on a free port while the context lasts."""
    archive = Archive()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            values = {key: found[0] for key, found in parse_qs(parts.query).items()}
            archive.agents.add(self.headers["User-Agent"])
            answer = archive.answer(parts.path, values)
            if answer.reset:
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.promised != -1:
                length = len(answer.body) if answer.promised is None else answer.promised
                self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None: ...

    with Server(("127.0.0.1", 0), Handler) as server:
        archive.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield archive
        finally:
            server.shutdown()
            thread.join()


def wcs_of(run: int, camcol: int, number: int, band: str) -> WCS:
    """The frame's WCS: rotated by 100 degrees and mirrored as SDSS's; bands shifted and turned."""
    turn = np.deg2rad(100 + {"g": 0.02, "r": 0.0, "i": -0.015, "z": 0.01}[band])
    scale = 0.396 / 3600 * {"g": 1.0001, "r": 1.0, "i": 0.9999, "z": 1.0}[band]
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0 + 0.2 * number + run / 1000, 25.0 + camcol]
    shift = OFFSETS[band]
    wcs.wcs.crpix = [NX / 2 + 1 + shift[0], NY / 2 + 1 + shift[1]]
    wcs.wcs.cd = scale * np.array([[np.cos(turn), np.sin(turn)], [np.sin(turn), -np.cos(turn)]])
    wcs.wcs.set()
    return wcs


def stars(wcs: WCS, ra: Any, dec: Any, flux: Any, sky_noise: float = 0.0) -> np.ndarray[Any, Any]:
    """Gaussians of given flux at sky positions, on the pixels of a frame."""
    x, y = wcs.all_world2pix(ra, dec, 0)
    rows, columns = np.mgrid[:NY, :NX]
    image = np.random.default_rng(1).normal(0, sky_noise, (NY, NX)) if sky_noise else 0.0
    image = image + np.zeros((NY, NX))
    for px, py, light in zip(np.atleast_1d(x), np.atleast_1d(y), np.atleast_1d(flux), strict=True):
        radius2 = (columns - px) ** 2 + (rows - py) ** 2
        image += light * np.exp(-radius2 / (2 * SIGMA**2)) / (2 * np.pi * SIGMA**2)
    return image


def frame_bytes(
    pixels: np.ndarray[Any, Any], wcs: WCS, run: int, camcol: int, number: int, band: str
) -> bytes:
    """A `.fits.bz2` frame with the HDUs of SDSS."""
    header = wcs.to_header()
    for key in ("CDELT1", "CDELT2", "PC1_1", "PC1_2", "PC2_1", "PC2_2"):
        header.pop(key, None)
    for i in (0, 1):
        for j in (0, 1):
            header[f"CD{i + 1}_{j + 1}"] = wcs.wcs.cd[i, j]
    header.update({"RUN": run, "CAMCOL": camcol, "FILTER": band, "RERUN": "301"})
    header["FRAME"] = number + AHEAD[band]  # counts the frames of the CCD
    coarse = np.full((192, 256), SKY, np.float32)
    columns = [
        fits.Column("ALLSKY", f"{coarse.size}E", dim="(256, 192)", array=coarse[None]),
        fits.Column("XINTERP", f"{NX}E", array=np.linspace(0, 255, NX, dtype=np.float32)[None]),
        fits.Column("YINTERP", f"{NY}E", array=np.linspace(0, 191, NY, dtype=np.float32)[None]),
    ]
    hdus = fits.HDUList(
        [
            fits.PrimaryHDU(pixels.astype(np.float32), header),
            fits.ImageHDU(np.full(NX, CALIBRATION, np.float32)),
            fits.BinTableHDU.from_columns(columns),
            fits.BinTableHDU.from_columns(
                [
                    fits.Column("RUN", "J", array=[run]),
                    fits.Column("RERUN", "3A", array=["301"]),
                    fits.Column("CAMCOL", "J", array=[camcol]),
                    fits.Column("FILTER", "1A", array=[band]),
                    fits.Column("FIELD", "J", array=[number]),
                ]
            ),
        ]
    )
    file = io.BytesIO()
    hdus.writeto(file)
    return bz2.compress(file.getvalue(), 1)


MASKS = (
    "INTERP", "SATUR", "NOTCHECKED", "OBJECT", "BRIGHTOBJECT",
    "BINOBJECT", "CATOBJECT", "SUBTRACTED", "GHOST", "CR",
)  # fmt: skip


def mask_bytes(
    spans: dict[str, list[list[tuple[int, int, int]]]], run: int, camcol: int, number: int,
    band: str, shape: tuple[int, int] = (NY, NX),
) -> bytes:  # fmt: skip
    """An fpM file as SDSS has it: by plane, objects of spans (row, first column, last column)."""
    header = fits.Header({"RUN": run, "CAMCOL": camcol, "FIELD": number, "FILTER": band})
    header["MASKROWS"], header["MASKCOLS"] = shape
    header["NPLANE"], header["NFILTER"] = 10, 5
    hdus: list[Any] = [fits.PrimaryHDU(header=header)]
    for plane in MASKS:
        objects = [np.array(one).reshape(-1, 3) for one in spans.get(plane, [])]
        heap = np.empty(len(objects), dtype=object)
        for place, one in enumerate(objects):
            heap[place] = np.frombuffer(one.astype(">i2").tobytes(), np.uint8)
        facts = {
            "refcntr": [1 for _ in objects], "nspan": [len(one) for one in objects],
            "row0": [0 for _ in objects], "col0": [0 for _ in objects],
            "rmin": [one[:, 0].min() for one in objects],
            "rmax": [one[:, 0].max() for one in objects],
            "cmin": [one[:, 1].min() for one in objects],
            "cmax": [one[:, 2].max() for one in objects],
            "npix": [(one[:, 2] - one[:, 1] + 1).sum() for one in objects],
        }  # fmt: skip
        columns = [
            fits.Column(key, "J", array=np.array(values, np.int32)) for key, values in facts.items()
        ]
        columns.append(fits.Column("s", "1PB()", array=heap))
        hdus.append(fits.BinTableHDU.from_columns(columns))
    names = [*(f"S_MASK_{plane}" for plane in MASKS), "S_NMASK_TYPES"]
    hdus.append(fits.BinTableHDU.from_columns([
        fits.Column("defName", "31A", array=["S_MASKTYPE"] * 11),
        fits.Column("attributeName", "31A", array=names),
        fits.Column("Value", "J", array=np.arange(11)),
    ]))  # fmt: skip
    file = io.BytesIO()
    fits.HDUList(hdus).writeto(file)
    return gzip.compress(file.getvalue(), 1)


def mask_path(run: int, camcol: int, number: int, band: str) -> str:
    """Where SAS has the mask of a DR17 frame."""
    return (
        f"/sas/dr17/eboss/photo/redux/301/{run}/objcs/{camcol}/"
        f"fpM-{run:06d}-{band}{camcol}-{number:04d}.fit.gz"
    )


def frame_path(run: int, camcol: int, number: int, band: str) -> str:
    """Where SAS has a DR17 frame."""
    return (
        f"/sas/dr17/eboss/photoObj/frames/301/{run}/{camcol}/"
        f"frame-{band}-{run:06d}-{camcol}-{number:04d}.fits.bz2"
    )


def object_id(run: int, camcol: int, number: int, index: int) -> int:
    """The objID of SDSS, DR8 and later."""
    return 2 << 59 | 301 << 48 | run << 32 | camcol << 29 | number << 16 | index
