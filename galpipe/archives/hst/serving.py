"""An archive of Hubble with addresses that answer, for as long as a stage asks it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from galpipe.archives.sky import standing
from galpipe.archives.spec import HstSky, Hubble
from galpipe.stages import Context


@contextlib.contextmanager
def answering(context: Context, spec: Hubble) -> Iterator[Hubble]:
    """The archive as it is, or behind the addresses of the simulated field, which it starts.

    Raises InputError where the field cannot be served.
    """
    if not isinstance(spec, HstSky) or (spec.mast and spec.files):
        yield spec
        return
    with standing(context, 1, spec.seed, spec.side) as address:
        yield dataclasses.replace(spec, mast=address, files=f"{address}/hst")
