"""`galpipe labels debias`: its options, and what it says; imports nothing heavy by itself."""

from __future__ import annotations

import argparse
from pathlib import Path

TEXT = "vote fractions of a release without the bias of distance, as a table of their own"
EXAMPLES = """\
examples:
  galpipe labels debias gz2-votes --like absolute_magnitude --like radius_kpc
  galpipe labels debias gz2-votes --redshift photo_z --like absolute_magnitude --format fits
"""
EACH, FEWEST = 100, 20  # objects of a bin of redshift: unless told otherwise, and at least


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `galpipe labels debias`, beside that of the workspace."""
    parser.add_argument("survey", help="name of the survey, or its survey file")
    parser.add_argument("--release", help="name of the release (default: the one published last)")
    parser.add_argument(
        "--like",
        action="append",
        required=True,
        metavar="COLUMN",
        help="a column in which galaxies are alike whatever their distance, such as absolute "
        "magnitude or size in kpc; of several, each with its own --like",
    )
    parser.add_argument(
        "--redshift",
        default="redshift",
        metavar="COLUMN",
        help="the column of redshifts (default: redshift)",
    )
    parser.add_argument(
        "--each",
        type=_enough,
        default=EACH,
        metavar="N",
        help=f"objects of a bin of redshift, {FEWEST} or more (default: {EACH})",
    )
    parser.add_argument(
        "--format", default="parquet", choices=("parquet", "fits", "votable", "csv")
    )
    parser.add_argument(
        "--output", type=Path, help="file to write (default: SURVEY-RELEASE-debiased.suffix here)"
    )


def run(options: argparse.Namespace, survey: str) -> int:
    """Debias a release of `survey` and say what came of it; returns the exit code."""
    from galpipe import releases
    from galpipe.catalogue.debiasing import release
    from galpipe.workspace import Workspace

    workspace = Workspace.open(options.workspace, create=False)
    record = releases.record(workspace, survey, options.release)
    target, told = release.debias(
        workspace,
        record,
        options.redshift,
        options.like,
        options.each,
        options.format,
        options.output,
    )
    print(
        f"debiased {told.debiased} of {told.objects} objects, {told.cells} kinds of like galaxies"
    )
    if told.debiased < told.objects:
        print(f"  {told.objects - told.debiased} stay as they were, for want of a known value")
    for name, near, far, after in told.means:
        print(f"  {name}: {near:.3f} near by; farthest away {far:.3f}, debiased {after:.3f}")
    print(target)
    return 0


def _enough(text: str) -> int:
    if not text.isdigit() or int(text) < FEWEST:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of {FEWEST} or more")
    return int(text)
