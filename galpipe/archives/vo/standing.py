"""A VO archive with addresses that answer, for as long as a stage asks it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from galpipe.archives.sky import standing
from galpipe.archives.spec import Vo
from galpipe.stages import Context


@contextlib.contextmanager
def answering(context: Context, spec: Vo) -> Iterator[Vo]:
    """The archive as it is, or behind the addresses of the simulated sky, which it starts.

    Raises InputError where the sky cannot be served.
    """
    if spec.embedded is None or spec.tap or spec.sia:
        yield spec
        return
    with standing(context, spec.embedded.galaxies, spec.embedded.seed) as address:
        yield dataclasses.replace(
            spec, tap=f"{address}/tap", sia=f"{address}/sia2",
            hips2fits=f"{address}/hips2fits", requests_per_minute=None,
        )  # fmt: skip
