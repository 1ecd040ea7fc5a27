"""New galaxies from a published release's model: stamps, a table, and what they are worth."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from galpipe.catalogue.heldout import thinned
from galpipe.catalogue.synthetic import judgement, pages, shapes
from galpipe.catalogue.synthetic.drawing import draw, write
from galpipe.catalogue.synthetic.request import Request, check, conditions
from galpipe.errors import InputError
from galpipe.models.checkpoints import load_model
from galpipe.models.engine.arithmetic import fixed_arithmetic
from galpipe.models.spec import VIEWS
from galpipe.models.splits import read_splits
from galpipe.stages import Context
from galpipe.stamps.batches import Selection
from galpipe.stamps.morphology import columns
from galpipe.stamps.parts import Part
from galpipe.workspace import Ref, write_json

FEWEST = 25  # galaxies of each sample: four fifths of two have leaves of 20 to split, and no fewer
LARGEST = 20_000  # training images that are searched for the most like

Stamps = NDArray[Any]


def generate(
    context: Context, record: Mapping[str, Any], request: Request, target: Path, judged: int
) -> dict[str, Any]:
    """Draw new galaxies into the folder `target`; returns what is said of them.

    record: of a published release.  The folder has `stamps/` (a part of stamps),
    `catalogue.parquet` (object_id from 1, conditions, measured columns), `generated.json` (where
    they come from), and with `judged` > 0 `judgement.json` and `plots/`, on so many galaxies of
    each sample at most.  The same request gives the same bytes.  Raises InputError where the
    release's model cannot draw what is asked for, or the folder is there already.
    """
    if "model" not in record["refs"]:
        raise InputError(
            f"generate: {record['survey']} {record['release']} has no model; its [model] is none."
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"generate: {target} is there already; give another folder with --output.")
    model, stamps, catalogue = (
        Ref(name, record["refs"][name]) for name in ("model", "stamps", "sample")
    )
    workspace, progress = context.workspace, context.progress
    network = load_model(workspace.place(model))
    check(request, network)
    if request.normal:
        network.flow = None
    told = conditions(workspace, request, network, stamps, catalogue)
    splits = read_splits(workspace, stamps, catalogue)
    like = Part(splits.selections["train"][0].part)
    unit_scale = float(like.group.attrs["unit_scale"])  # type: ignore[arg-type]
    planes = [str(name) for name in like.group.attrs["bands"]]  # type: ignore[union-attr]
    progress.say(f"generate: {request.count} galaxies")
    drawn = draw(network, request, told, str(like.array("image").dtype))
    measured = shapes.measured(drawn, unit_scale, planes)
    source = {
        "survey": record["survey"],
        "release": record["release"],
        "model": model.digest,
        "kind": network.spec.kind,
        "count": request.count,
        "seed": request.seed,
        "component": request.component,
        "given": dict(request.given),
        "prior": "normal" if request.normal else "own",
        "notes": [] if told is None else list(told.notes),
    }
    partial = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    write(partial / "stamps", drawn, measured, planes, {"generated": source})
    table: dict[str, Any] = {"object_id": np.arange(1, request.count + 1)}
    if told is not None:
        table |= {f"condition_{n}": told.values[:, k] for k, n in enumerate(told.columns)}
    if request.component is not None:
        table["condition_component"] = np.full(request.count, request.component)
    table |= {column.name: measured[:, k] for k, column in enumerate(columns(planes))}
    pq.write_table(pa.table(table), partial / "catalogue.parquet", compression="zstd")
    write_json(partial / "generated.json", source)
    figures = None
    if judged:
        view = VIEWS[network.spec.view]
        real = {
            name: _real(splits.selections[name], view, most)
            for name, most in (("train", LARGEST), ("test", judged))
        }
        figures = _judged(context, drawn[:judged], real, planes, unit_scale, request.seed, partial)
    if target.exists():
        target.rmdir()
    partial.rename(target)
    return {"folder": str(target), **source, "judgement": figures}


def _judged(
    context: Context,
    drawn: Stamps,
    real: Mapping[str, Stamps],
    planes: list[str],
    unit_scale: float,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Measure, compare, and write the judgement with its plots."""
    few = min(len(drawn), len(real["test"]), len(real["train"]))
    if few < FEWEST:
        raise InputError(
            f"generate: {len(drawn)} generated, {len(real['test'])} held-out and "
            f"{len(real['train'])} training galaxies are too few to be judged; give at least "
            f"{FEWEST} of each, or --judged 0."
        )
    chosen = real["train"][thinned(np.arange(len(real["train"])), len(real["test"]))]
    with fixed_arithmetic(1):
        new, held_out, control = judgement.samples(
            context, [drawn, real["test"], chosen], unit_scale, planes
        )
        figures = judgement.judge(new, held_out, control, real["train"], unit_scale, seed)
    write_json(folder / "judgement.json", figures)
    pages.draw(folder / "plots", new, held_out, figures, unit_scale)
    return figures


def _real(selections: list[Selection], view: str, most: int) -> Stamps:
    """Stamps of a split in the catalogue's order, evenly thinned to `most`."""
    ends = np.cumsum([len(one.rows) for one in selections])
    chosen = thinned(np.arange(ends[-1]), most)
    found = []
    for one, end in zip(selections, ends, strict=True):
        begin = end - len(one.rows)
        rows = one.rows[chosen[(chosen >= begin) & (chosen < end)] - begin]
        found.append(np.asarray(Part(one.part).array(view).oindex[rows]))
    return np.concatenate(found)
