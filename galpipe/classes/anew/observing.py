"""Galaxies of a release seen anew: their cutouts degraded, prepared and embedded as it does.

Nothing is fitted anew: preparation and network are those of the release.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe import spec as specs
from galpipe.classes import gather
from galpipe.classes.anew.degrading import Worse, degraded
from galpipe.classes.anew.network import Told, embedded_anew, view_of
from galpipe.stamps.morphology import columns
from galpipe.stamps.parts import Part
from galpipe.stamps.pixels import prepare_images
from galpipe.stamps.prepare import read_scale
from galpipe.stamps.spec import Preparation
from galpipe.stamps.stretch import stored, stretched, unit_scale
from galpipe.status import Status
from galpipe.workspace import Ref, Workspace

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Cutouts:
    """Cutouts of some catalogue rows, as the archive gave them."""

    images: NDArray[Any]  # (row, band, y, x)
    ny: NDArray[np.int32]
    nx: NDArray[np.int32]
    status: NDArray[np.int32]
    ids: list[Any]
    bands: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """What a release makes of cutouts, row by row."""

    usable: NDArray[np.bool_]  # (row)
    names: tuple[str, ...]  # of the measured columns
    measured: Floats  # (row, column)
    arrays: Mapping[str, Floats]  # what the network gives, (row, ...); empty without one

    def columns(self, wanted: Sequence[str]) -> Floats:
        """Some of the measured columns, (row, wanted)."""
        return self.measured[:, [self.names.index(name) for name in wanted]]


class Observer:
    """Preparation and network of a release, for cutouts of given catalogue rows that have stamps.

    `embeddings` None: without a network; `told` of these rows: the columns it is told.
    """

    def __init__(
        self,
        workspace: Workspace,
        stamps: Ref,
        embeddings: Ref | None,
        rows: Rows,
        told: Told | None = None,
    ) -> None:
        manifest = workspace.manifest(stamps)
        assert manifest is not None, "stamps are committed before they are made anew"
        self.preparation = specs.load(
            Preparation, manifest["spec"], "the preparation of these stamps"
        )
        scaling = Ref("scaling", manifest["parents"]["scaling"])
        self._scale = np.asarray(read_scale(workspace.place(scaling) / "scaling.json"), np.float64)
        self.cutouts = read_cutouts(workspace, stamps, rows)
        self._workspace, self._embeddings = workspace, embeddings
        self._model: Ref | None = None
        if embeddings is not None:
            made = workspace.manifest(embeddings)
            assert made is not None, "embeddings are committed before they are repeated"
            self._model = Ref("model", made["parents"]["model"])
        self._told = told

    def see(self, cutouts: Cutouts, preparation: Preparation) -> Seen:
        """Prepare cutouts of the given rows, and embed their stamps."""
        prepared = prepare_images(
            cutouts.images, cutouts.ny, cutouts.nx, cutouts.status, cutouts.bands, preparation
        )
        names = tuple(column.name for column in columns(cutouts.bands))
        measured = prepared.measured.astype(np.float64)
        arrays: Mapping[str, Floats] = {}
        if self._model is not None and self._embeddings is not None:
            seen = getattr(prepared, view_of(self._workspace, self._model))
            arrays = embedded_anew(
                self._workspace,
                self._model,
                self._embeddings,
                stored(stretched(seen, self._scale, preparation.stretch), preparation.dtype),
                unit_scale(preparation.dtype),
                None if self._told is None else self._told.anew(names, measured),
            )
        return Seen(
            (prepared.status & int(Status.OK)) > 0,
            names,
            measured,
            arrays,
        )


def degrade(cutouts: Cutouts, worse: Sequence[Worse], fwhm: float, seed: int) -> Cutouts:
    """Each cutout under conditions of its own; all are turned, or none.

    `fwhm` of the archive's PSF in cutout pixels, `seed` of the noise.
    """
    count, bands, *shape = cutouts.images.shape
    ny, nx = cutouts.ny, cutouts.nx
    if worse[0].turned:  # a side comes to stand where the other lay
        shape, ny, nx = shape[::-1], nx, ny
    images = np.zeros((count, bands, *shape), cutouts.images.dtype)
    for i, image in enumerate(cutouts.images):
        own = image[:, : cutouts.ny[i], : cutouts.nx[i]]
        made = degraded(own, worse[i], fwhm, seed, cutouts.ids[i])
        images[i, :, : ny[i], : nx[i]] = made
    return replace(cutouts, images=images, ny=ny, nx=nx)


def read_cutouts(workspace: Workspace, stamps: Ref, rows: Rows) -> Cutouts:
    """The cutouts of catalogue rows that have a stamp, in the order of the rows."""
    where = gather.read_index(workspace, stamps)
    manifest = workspace.manifest(stamps)
    assert manifest is not None, "stamps are committed before they are made anew"
    source = {str(entry["part"]): str(entry["cutouts"]) for entry in manifest["parts"]}
    parts = [Part(workspace.place(Ref("cutout-part", source[digest]))) for digest in where.parts]
    used = np.unique(where.part[rows])
    shape = np.max([parts[i].array("image").shape[1:] for i in used], axis=0)
    kind = parts[used[0]].array("image").dtype
    kind = np.result_type(kind, *(parts[i].array("image").dtype for i in used))
    images = np.zeros((len(rows), *shape), kind)
    small = {name: np.zeros(len(rows), np.int32) for name in ("ny", "nx", "status")}
    for i in used:
        part, mine = parts[i], np.flatnonzero(where.part[rows] == i)
        place = where.row[rows[mine]]
        for name, values in small.items():
            values[mine] = part.read(name)[place]
        array = part.array("image")
        for one, row in zip(mine, place, strict=True):
            image = np.asarray(array[int(row)])
            images[one, :, : image.shape[1], : image.shape[2]] = image
    bands = tuple(str(b) for b in parts[used[0]].group.attrs["bands"])
    ids = where.object_id.take(rows).to_pylist()
    return Cutouts(images, small["ny"], small["nx"], small["status"], ids, bands)
