"""A release of stamps as one lazily joined xarray data set, whatever parts it lies in."""

from __future__ import annotations

import warnings
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from galpipe.stamps.gather import part_path, read_index
from galpipe.stamps.parts import DATA
from galpipe.workspace import Ref, Workspace


def open_joined(workspace: Workspace, stamps: Ref) -> xr.Dataset:
    """All rows of a release in canonical order; nothing is read before it is asked for.

    Variables: `image` and `image_unmasked` (object, band, y, x), `measured` (object, column),
    `status`, `ra`, `dec`, `pixel_scale`, `coverage`, and the coordinate `object_id`.  Objects
    without pixels have zeros (NaN in float arrays) and a status that says why.
    Attributes: `stamps`, the digest of the release's stamps, and `parts`, those of its parts.
    """
    index = read_index(workspace, stamps)
    digests = [d for d in index["part"].unique().to_pylist() if d is not None]
    object_id = index["object_id"].to_numpy()
    attributes = {"stamps": stamps.digest, "parts": digests}
    if not digests:
        return xr.Dataset(coords={"object_id": ("object", object_id)}, attrs=attributes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # str arrays have no final Zarr v3 specification yet
        opened = [
            xr.open_zarr(part_path(workspace, "stamps", d) / DATA, consolidated=False)
            for d in digests
        ]
    starts = dict(zip(digests, np.cumsum([0, *(d.sizes["object"] for d in opened)]), strict=False))
    joined: xr.Dataset = xr.concat(
        [d.drop_vars("object_id", errors="ignore") for d in opened],
        dim="object",
        coords="minimal",
        compat="override",
        combine_attrs="drop_conflicts",
    )
    total = joined.sizes["object"]
    positions = np.array(
        [
            total if part is None else starts[part] + row
            for part, row in zip(index["part"].to_pylist(), index["row"].to_pylist(), strict=True)
        ],
        dtype=np.int64,
    )
    if (positions == total).any():
        joined = xr.concat(
            [joined, _absent(joined)], dim="object", coords="minimal", compat="override"
        )
    if not np.array_equal(positions, np.arange(total)):
        joined = joined.isel(object=positions)
    joined["status"] = ("object", index["status"].to_numpy())
    joined = joined.assign_coords(object_id=("object", object_id))
    joined.attrs.update(attributes)
    return joined


def _absent(like: xr.Dataset) -> xr.Dataset:
    """One row of an object without pixels."""

    def row(variable: Any) -> Any:
        fill = np.nan if variable.dtype.kind == "f" else 0
        return da.full((1, *variable.shape[1:]), fill, dtype=variable.dtype)

    return xr.Dataset(
        {
            name: (variable.dims, row(variable))
            for name, variable in like.data_vars.items()
            if "object" in variable.dims
        },
        coords={n: c for n, c in like.coords.items() if "object" not in c.dims},
    )
