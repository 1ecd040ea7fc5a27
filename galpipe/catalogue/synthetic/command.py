"""`galpipe generate`: its options, and what it says; cheap to import, as the command line is."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from galpipe.stages import ShardMap

TEXT = "new galaxies drawn by a release's model, and their morphology against real ones"
EXAMPLES = """\
examples:
  galpipe generate gz5-flow-vae --count 1000
  galpipe generate gz5-flow-vae --count 200 --seed 7 --judged 0 --output new-galaxies
  galpipe generate gz5 --count 64 --component 3                 # of one of VaDE's components
  galpipe generate my-survey --count 500 --given redshift=0.3   # of a conditioned model
"""


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `galpipe generate`, beside that of the workspace."""
    parser.add_argument("survey", help="name of the survey, or its survey file")
    parser.add_argument("--release", help="name of the release (default: the one published last)")
    parser.add_argument(
        "--count", type=_positive, required=True, metavar="N", help="how many galaxies"
    )
    parser.add_argument(
        "--seed", type=_whole, default=0, help="the same seed gives the same galaxies (default: 0)"
    )
    parser.add_argument(
        "--component", type=_whole, metavar="K", help="only of this component of a mixture, from 0"
    )
    parser.add_argument(
        "--given",
        action="append",
        default=[],
        type=_condition,
        metavar="COLUMN=VALUE",
        help="a condition of the model; those not given are those of real galaxies; repeatable",
    )
    parser.add_argument(
        "--prior",
        choices=("own", "normal"),
        default="own",
        help="normal: a flow_vae without its flow, to see what the flow is worth",
    )
    parser.add_argument(
        "--judged",
        type=_whole,
        default=300,
        metavar="N",
        help="galaxies measured of the new, the held-out and the training ones (default: 300)",
    )
    parser.add_argument(
        "--workers", type=_positive, metavar="N",
        help="processes that measure them (default: one per core)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="new folder (default: SURVEY-RELEASE-generated)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on standard output"
    )


def run(options: argparse.Namespace, spread: ShardMap) -> int:
    """Draw, write, judge by the processes that `spread` has; returns the exit code."""
    from galpipe import releases, survey
    from galpipe.catalogue.synthetic.request import Request
    from galpipe.catalogue.synthetic.stage import generate
    from galpipe.progress import choose
    from galpipe.stages import Context, Silent
    from galpipe.workspace import Workspace

    workspace = Workspace.open(options.workspace, create=False)
    name = options.survey
    if name.endswith(".toml"):
        name = survey.load(name).name
    record = releases.record(workspace, name, options.release)
    request = Request(
        options.count, options.seed, options.component, dict(options.given),
        options.prior == "normal",
    )  # fmt: skip
    target = options.output or Path(f"{record['survey']}-{record['release']}-generated")
    progress = Silent() if options.json else choose()
    context = Context(workspace, map=spread, progress=progress)
    found = generate(context, record, request, target, options.judged)
    if options.json:
        print(json.dumps(found))
        return 0
    for note in found["notes"]:
        print(f"  {note}")
    figures = found["judgement"]
    if figures is not None:
        for space, name in (("own", "galpipe's columns"), ("statmorph", "statmorph")):
            told, real = (figures["auroc"][space][who] for who in ("generated", "control"))
            print(
                f"  real against generated, {name}: AUROC {told['auroc']:.3f} ± "
                f"{told['error']:.3f} (real against real {real['auroc']:.3f})"
            )
        near = figures["nearest_training_image"]
        print(
            f"  rms to the nearest training image: {near['generated']:.4f} "
            f"(held-out galaxies {near['held_out']:.4f})"
        )
    print(found["folder"])
    return 0


def _positive(text: str) -> int:
    number = _whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return number


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0")
    return int(text)


def _condition(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not name or not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text} is not COLUMN=VALUE, as in redshift=0.3")
    return name, number
