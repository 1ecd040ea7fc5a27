"""What new galaxies are worth: their morphology against that of galaxies kept out of training.

Every figure stands beside its control, real galaxies against real ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.catalogue.synthetic import shapes
from galpipe.catalogue.synthetic.textures import power_spectrum, textures
from galpipe.catalogue.synthetic.twosample import auroc, energy_distance, nearest
from galpipe.stages import Context
from galpipe.stamps.morphology import columns

AT_ONCE = 25  # galaxies measured by one piece of work
BLOCK = 2  # pixels a side that are averaged before images are compared one by one

Stamps = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Stamps with what is measured on them."""

    stamps: Stamps  # (galaxy, band, y, x), as stored
    own: Floats  # (galaxy, column) of `shapes.OWN`
    statmorph: Floats  # (galaxy, column) of `shapes.STATMORPH`

    def images(self, unit_scale: float) -> Floats:
        """The mean of the planes in 0..1, (galaxy, y, x)."""
        found: Floats = self.stamps.mean(1, dtype=np.float64) / unit_scale
        return found


def samples(
    context: Context, several: Sequence[Stamps], unit_scale: float, planes: Sequence[str]
) -> list[Sample]:
    """Measure several lots of stamps, a tenth of a second each, in all processes there are."""
    work = [
        _Some(number, start, stamps[start : start + AT_ONCE], unit_scale, tuple(planes))
        for number, stamps in enumerate(several)
        for start in range(0, len(stamps), AT_ONCE)
    ]
    context.progress.start("measure", sum(map(len, several)), "galaxies")
    found: list[tuple[int, int, Floats, Floats]] = []
    for one in context.map(_measured, work):
        found.append(one)
        context.progress.advance(len(one[2]))
    context.progress.finish()
    found.sort(key=lambda one: one[:2])
    return [
        Sample(
            stamps,
            np.concatenate([own for lot, _, own, _ in found if lot == number]),
            np.concatenate([told for lot, _, _, told in found if lot == number]),
        )
        for number, stamps in enumerate(several)
    ]


@dataclass(frozen=True)
class _Some:
    """Stamps of one lot, as they travel to a worker."""

    lot: int
    start: int
    stamps: Stamps
    unit_scale: float
    planes: tuple[str, ...]


def _measured(some: _Some) -> tuple[int, int, Floats, Floats]:
    """The lot and the place in it, and what is measured of some stamps, as `Sample` has it."""
    names = [column.name for column in columns(some.planes)]
    own = shapes.measured(some.stamps, some.unit_scale, some.planes).astype(np.float64)
    told = shapes.by_statmorph(some.stamps, some.unit_scale)
    return (
        some.lot,
        some.start,
        own[:, [names.index(name) for name in shapes.OWN]],
        np.stack([told[name] for name in shapes.STATMORPH], 1),
    )


def judge(
    new: Sample, held_out: Sample, control: Sample, training: Stamps, unit_scale: float, seed: int
) -> dict[str, Any]:
    """Figures of new galaxies against the `held_out` ones; the `control` are training galaxies.

    training: stamps that the model learnt from, among which the most like is looked for.
    """
    blocks = _blocks(training, unit_scale)
    distance = {
        name: float(np.median(nearest(_blocks(one.stamps, unit_scale), blocks)))
        for name, one in (("generated", new), ("held_out", held_out))
    }
    spectrum = {}
    for name, one in (("generated", new), ("held_out", held_out), ("control", control)):
        waves, power = power_spectrum(one.images(unit_scale))
        spectrum[name] = power.mean(0)
    features = {
        name: textures(one.images(unit_scale))
        for name, one in (("generated", new), ("held_out", held_out), ("control", control))
    }
    return {
        "format": 1,
        "n": {"generated": len(new.stamps), "held_out": len(held_out.stamps),
              "control": len(control.stamps), "training": len(training)},
        "auroc": {
            space: {
                "generated": auroc(getattr(held_out, space), getattr(new, space), seed),
                "control": auroc(getattr(held_out, space), getattr(control, space), seed),
            }
            for space in ("own", "statmorph")
        },
        "columns": {"own": list(shapes.OWN), "statmorph": list(shapes.STATMORPH)},
        "textures": {
            "generated": energy_distance(features["held_out"], features["generated"]),
            "control": energy_distance(features["held_out"], features["control"]),
        },
        "nearest_training_image": distance,
        "power_spectrum": {
            "cycles_per_stamp": waves.tolist(),
            **{name: values.tolist() for name, values in spectrum.items()},
            "largest_log10_ratio": _worst(spectrum["generated"], spectrum["held_out"]),
            "control_log10_ratio": _worst(spectrum["control"], spectrum["held_out"]),
        },
        "statistics": {
            name: {
                who: _summary(one.statmorph[:, k])
                for who, one in (("generated", new), ("held_out", held_out), ("control", control))
            }
            for k, name in enumerate(shapes.STATMORPH)
        },
    }  # fmt: skip


def _worst(power: Floats, real: Floats) -> float:
    return float(np.abs(np.log10(np.maximum(power, 1e-12) / np.maximum(real, 1e-12))).max())


def _summary(values: Floats) -> dict[str, float | int | None]:
    """Median and the 16th and 84th percentile of what is defined, and how many are."""
    good = values[np.isfinite(values)]
    if not len(good):
        return {"n": 0, "p16": None, "median": None, "p84": None}
    low, middle, high = np.percentile(good, [16, 50, 84])
    return {"n": len(good), "p16": float(low), "median": float(middle), "p84": float(high)}


def _blocks(stamps: Stamps, unit_scale: float) -> NDArray[np.float32]:
    """Block means of the planes' mean, (galaxy, block): structure rather than noise."""
    images = stamps.mean(1, dtype=np.float32) / np.float32(unit_scale)
    count, ny, nx = images.shape
    y, x = ny // BLOCK * BLOCK, nx // BLOCK * BLOCK
    blocks = images[:, :y, :x].reshape(count, y // BLOCK, BLOCK, x // BLOCK, BLOCK).mean((2, 4))
    found: NDArray[np.float32] = blocks.reshape(count, -1)
    return found
