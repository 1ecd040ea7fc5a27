"""Drawing new galaxies, and writing them as stamps: the layout that prepared stamps have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from galpipe.catalogue.synthetic.request import Conditions, Request
from galpipe.models.engine.arithmetic import fixed_arithmetic, seed_all
from galpipe.models.network import Network
from galpipe.stamps.morphology import columns
from galpipe.stamps.parts import ArrayLayout, Part, PartLayout, create
from galpipe.stamps.stretch import stored, unit_scale
from galpipe.status import Status

AT_ONCE = 64  # galaxies that share a seed: a longer catalogue begins with a shorter one

Stamps = NDArray[Any]


def draw(network: Network, request: Request, told: Conditions | None, dtype: str) -> Stamps:
    """New stamps as they are stored, (galaxy, band, y, x); the same for the same request.

    What lies outside 0..1 is cut off there, as it is in prepared stamps.
    """
    drawn = []
    with torch.no_grad(), fixed_arithmetic(1):
        for number, start in enumerate(range(0, request.count, AT_ONCE)):
            count = min(AT_ONCE, request.count - start)
            given = None
            if told is not None:  # a whole batch always, so that its random numbers are the same
                own = told.values[start : start + count]
                own = np.concatenate([own, np.repeat(own[-1:], AT_ONCE - count, 0)])
                given = torch.from_numpy(own.astype(np.float32))
            seed_all(request.seed, number)
            images = network.generate(AT_ONCE, request.component, given)[:count]
            drawn.append(stored(images.clamp(0, 1).numpy(), dtype))
    return np.concatenate(drawn)


def write(
    folder: Path,
    stamps: Stamps,
    measured: NDArray[np.float32],
    planes: Sequence[str],
    attributes: Mapping[str, Any],
    shard: int = 512,
) -> None:
    """Write stamps with their measured columns as a part of stamps.

    Both views hold the same pixels, a new galaxy's neighbours being no others.  There is no
    position on the sky and no pixel scale: they are NaN.
    """
    table = columns(planes)
    count, nan = len(stamps), float("nan")
    shape, dims = stamps.shape[1:], ("band", "y", "x")
    described = tuple(
        (key, [getattr(column, key) for column in table]) for key in ("unit", "ucd", "description")
    )
    arrays = (
        ArrayLayout("image", stamps.dtype, shape, dims),
        ArrayLayout("image_unmasked", stamps.dtype, shape, dims),
        ArrayLayout("measured", "float32", (len(table),), ("column",), nan, attributes=described),
        ArrayLayout("status", "int32"),
        ArrayLayout("ra", "float64", fill=nan),
        ArrayLayout("dec", "float64", fill=nan),
        ArrayLayout("pixel_scale", "float32", fill=nan),
        ArrayLayout("coverage", "float32"),
    )
    facts = {
        "bands": list(planes),
        "measured_bands": list(planes),
        "unit_scale": unit_scale(str(stamps.dtype)),
        **attributes,
    }
    names = [column.name for column in table]
    create(folder, PartLayout(count, shard, shard, arrays), np.arange(1, count + 1), facts, names)
    part = Part(folder)
    for number in range(part.shards):
        rows = part.rows(number)
        length = rows.stop - rows.start
        unknown = np.full(length, nan)
        part.write(
            number,
            {
                "image": stamps[rows],
                "image_unmasked": stamps[rows],
                "measured": measured[rows],
                "status": np.full(length, int(Status.OK), np.int32),
                "ra": unknown,
                "dec": unknown,
                "pixel_scale": unknown,
                "coverage": np.ones(length),
            },
            {"by_status": {"OK": length}},
        )
