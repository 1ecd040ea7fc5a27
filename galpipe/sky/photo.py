"""The files of the photometric pipeline beside the frames: psField and fpM, at their real paths."""

from __future__ import annotations

import json
import os
from pathlib import Path

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from galpipe.sky import pixelmasks, psfields
from galpipe.sky.instrument import BANDS

PATH = "/sas/dr17/eboss/photo/redux/301/{run:int}/objcs/{camcol:int}/{name}"


class Photo:
    """Makes the files of one drawn sky when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._manifest = json.loads((folder / "manifest.json").read_text())
        self._making = anyio.CapacityLimiter(os.cpu_count() or 1)

    def route(self) -> Route:
        return Route(PATH, self.answer)

    async def answer(self, request: Request) -> Response:
        """A file, or 404."""
        path = request.path_params
        content = await anyio.to_thread.run_sync(
            self.file, path["run"], path["camcol"], path["name"], limiter=self._making
        )
        if content is None:
            return Response(b"not here", 404)
        kind = "application/gzip" if path["name"].endswith(".gz") else "application/fits"
        return Response(content, media_type=kind)

    def file(self, run: int, camcol: int, name: str) -> bytes | None:
        """The bytes of a file by its name; None where this sky has none of that name."""
        seed = int(self._manifest["spec"]["seed"])
        fields = int(self._manifest["frames"]) // len(BANDS)
        found = pixelmasks.NAME.fullmatch(name)
        if found is not None and (int(found[1]), int(found[3])) == (run, camcol):
            field = psfields.field_at(seed, fields, run, camcol, int(found[4]))
            if field is not None:
                return pixelmasks.pixelmask(self.folder, seed, field.index, found[2])
            return None
        field = psfields.field_named(seed, fields, run, camcol, name)
        return None if field is None else psfields.psfield(seed, field.index)
