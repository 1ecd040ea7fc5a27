"""`galpipe sky serve`: draw the sky if it is not there yet, then serve it on loopback.

Standard output carries one JSON object a line: `{"drawing": 3, "of": 60}` while frames are drawn,
then `{"address": "http://127.0.0.1:PORT"}` once the server answers.  What people want to know goes
to standard error.
"""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from galpipe.errors import InputError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from galpipe.sky.faults import Faults
    from galpipe.sky.mast_spec import FieldSpec
    from galpipe.sky.spec import SkySpec

LOOPBACK = "127.0.0.1"
LOOK = 0.5  # seconds between two looks at the parent
GRACE = 2  # seconds that answers under way are given at the end
INTERRUPTED = 130  # exit status after Ctrl-C
GUIDE = """\
The embedded sky answers at {address}; Ctrl-C ends it.
  astroquery   from astroquery.sdss import SDSS, conf
               conf.skyserver_baseurl = "{address}"
               conf.sas_baseurl = "{address}/sas"
  SQL          {address}/dr17/SkyServerWS/SearchTools/SqlSearch?cmd=SELECT+TOP+5+*+FROM+Galaxy
  in a browser {address}/
"""


class _Terminated(BaseException):
    """SIGTERM came."""


class _Drawing:
    """Tells how far the drawing is, line by line."""

    def __init__(self, tied: bool) -> None:
        self.tied = tied
        self.done = self.total = 0

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.done, self.total = done, total
        if not self.tied:
            self.say(f"drawing the {stage} into {total} {unit}; it is kept for the next time.")
        self.advance(0)

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        _say({"drawing": self.done, "of": self.total})

    def finish(self) -> None:
        """Nothing more to tell: the address comes next."""

    def say(self, text: str) -> None:
        print(f"galpipe: {text}", file=sys.stderr, flush=True)


def serve(
    galaxies: int,
    seed: int,
    port: int,
    tied: bool,
    faults: str | None = None,
    hst_side: int | None = None,
) -> int:
    """Serve the sky of `galaxies` galaxies and this seed until SIGTERM (0) or Ctrl-C (130).

    Port 0 takes a free one.  `tied`: end when standard input ends or the parent process does, and
    say nothing to people.  `faults`: failures to make, as `galpipe.sky.faults.parse` reads them.
    `hst_side`: pixels of the field of Hubble, drawn at once; None: when it is first asked for.
    Raises InputError where the port is taken, the sky has no valid size, a failure is unknown or
    the cache cannot be written.
    """
    from galpipe import spec
    from galpipe.sky.faults import parse
    from galpipe.sky.mast_spec import FieldSpec
    from galpipe.sky.spec import SkySpec

    side = {} if hst_side is None else {"side": hst_side}
    field = spec.load(FieldSpec, {"seed": seed, **side}, "galpipe sky serve")
    chosen = spec.load(SkySpec, {"galaxies": galaxies, "seed": seed}, "galpipe sky serve")
    made = parse(faults) if faults else None
    with contextlib.closing(_listener(port)) as listener:
        if tied:
            threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
        with _signals():
            try:
                folder = _drawn(chosen, tied)
                if hst_side is not None:
                    _draw_field(field, tied)
                return _serve(folder, listener, tied, made, field)
            except _Terminated:
                return 0


def _listener(port: int) -> socket.socket:
    """A socket bound to loopback, taken before any work is done; raises InputError."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            reason = "is in use"
        else:
            reason = "cannot be taken"
        raise InputError(
            f"port {port} {reason}, so the sky cannot be served on it; "
            "give another with --port (0 takes a free one)."
        ) from None
    return listener


def _drawn(chosen: SkySpec, tied: bool) -> Path:
    """The folder of the drawn sky, drawn now where it is missing; raises InputError."""
    from galpipe.sky.cache import cached

    try:
        return cached(chosen, _Drawing(tied))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise InputError(
            f"the drawn sky cannot be kept in {error.filename or 'the cache'} ({error.strerror}); "
            "set GALPIPE_CACHE to a folder that can be written and has room."
        ) from None


def _draw_field(field: FieldSpec, tied: bool) -> None:
    """Draw the field of Hubble, now where it is missing, in a process that does nothing else."""
    if not tied:
        print("galpipe: the field of Hubble is drawn where it is not kept.", file=sys.stderr)
    context = multiprocessing.get_context("spawn")
    drawing = context.Process(target=_field_drawn, args=(field,))
    drawing.start()
    drawing.join()
    if drawing.exitcode:
        raise InputError(
            "the field of Hubble cannot be drawn or kept; set GALPIPE_CACHE to a folder that can "
            "be written and has room."
        )


def _field_drawn(field: FieldSpec) -> None:
    from galpipe.sky.mast_cache import cached_field

    cached_field(field)


def _serve(
    folder: Path, listener: socket.socket, tied: bool, faults: Faults | None, field: FieldSpec
) -> int:
    """Serve until Ctrl-C (130); SIGTERM raises _Terminated."""
    import uvicorn

    from galpipe.sky.failing import Failing
    from galpipe.sky.server import application

    app: ASGIApp = application(folder, field=field)
    if faults is not None:
        app = Failing(app, faults, folder / "sas")
    address = f"http://{LOOPBACK}:{listener.getsockname()[1]}"

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            _say({"address": address})
            if not tied:
                print(GUIDE.format(address=address), file=sys.stderr, end="", flush=True)

    config = uvicorn.Config(
        app, log_level="error", access_log=False, lifespan="on",
        timeout_graceful_shutdown=GRACE,
    )  # fmt: skip
    try:
        Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _say(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Within the block a signal first ends the drawing processes, which would be waited for."""

    def answer(number: int, _frame: FrameType | None) -> None:
        _end_children()
        raise KeyboardInterrupt if number == signal.SIGINT else _Terminated

    before = {number: signal.signal(number, answer) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(parent: int) -> None:
    """End this process and all it started when standard input ends or the parent is gone."""
    import psutil  # noqa: F401 loaded now: there is no time for it at the end

    with contextlib.suppress(OSError):  # no standard input at all
        while os.getppid() == parent:
            readable, _, _ = select.select([0], [], [], LOOK)
            if readable and not os.read(0, 4096):
                break
    _end_children()
    os._exit(0)


def _end_children() -> None:
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
