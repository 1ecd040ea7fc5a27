"""The sky that comes with galpipe, served for as long as a stage asks it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from galpipe.archives.spec import Sdss, Sky
from galpipe.errors import InputError
from galpipe.stages import Context

ENDS_WITHIN = 5.0  # seconds for the server to end once its standard input is closed
SHOWN_LINES = 6  # of what the server said before it failed


@contextlib.contextmanager
def answering(context: Context, spec: Sdss | Sky) -> Iterator[Sdss | Sky]:
    """The archive with addresses that answer while the context lasts.

    A sky without addresses is drawn where it is not cached, and served on a free port by a process
    that ends with this one, however this one ends.  Raises InputError where it cannot be served.
    """
    if isinstance(spec, Sdss) or (spec.skyserver and spec.sas):
        yield spec
        return
    with standing(context, spec.galaxies, spec.seed) as address:
        yield dataclasses.replace(spec, skyserver=address, sas=f"{address}/sas")


@contextlib.contextmanager
def standing(
    context: Context, galaxies: int, seed: int, hst_side: int | None = None
) -> Iterator[str]:
    """The address of a server of the sky that stands while the context lasts, as in `answering`.

    hst_side: pixels of the field of Hubble, which is then drawn before the server answers.
    """
    field = [] if hst_side is None else ["--hst-side", str(hst_side)]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        server = subprocess.Popen(  # noqa: S603 (our own module)
            [
                sys.executable, "-m", "galpipe", "sky", "serve", "--galaxies", str(galaxies),
                "--seed", str(seed), "--port", "0", "--tied", *field,
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
            text=True, start_new_session=True,
        )  # fmt: skip
        try:
            yield _address(context, server, said)
        finally:
            _end(server)


def _address(context: Context, server: subprocess.Popen[str], said: IO[str]) -> str:
    """Where the server answers, once it does; what it draws before is told to the progress."""
    assert server.stdout is not None
    drawn = None
    for line in server.stdout:
        news = _news(line)
        if "drawing" in news:
            if drawn is None:
                drawn = int(news["drawing"])
                context.progress.start("sky", int(news["of"]), "frames", drawn)
            context.progress.advance(int(news["drawing"]) - drawn)
            drawn = int(news["drawing"])
        if "address" in news:
            if drawn is not None:
                context.progress.finish()
            return str(news["address"]).rstrip("/")
    server.wait()
    said.seek(0)
    last = " ".join(" ".join(said.read().splitlines()[-SHOWN_LINES:]).split())[-400:]
    raise InputError(
        f"archive: the sky server ended with code {server.returncode} before it answered "
        f"({last or 'it said nothing'}); run `galpipe sky serve` to see why."
    )


def _news(line: str) -> dict[str, Any]:
    """One line of the server's standard output; {} where it is no JSON object."""
    try:
        news = json.loads(line)
    except ValueError:
        return {}
    return news if isinstance(news, dict) else {}


def _end(server: subprocess.Popen[str]) -> None:
    """Close the server's standard input, which ends it, and see to it that it does."""
    assert server.stdin is not None and server.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        server.stdin.close()
    try:
        server.wait(ENDS_WITHIN)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    server.stdout.close()
