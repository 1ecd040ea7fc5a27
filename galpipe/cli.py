"""The command line; cheap to import: a command loads the heavy libraries it needs itself."""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from galpipe import __version__
from galpipe.catalogue.debiasing import command as debiasing
from galpipe.catalogue.synthetic import command

RUN_EXAMPLES = """\
examples:
  galpipe run deploy/surveys/gz5-images.toml
  galpipe run my-survey.toml --workspace /data/galpipe --prune 500
  galpipe run my-survey.toml --release B            # a catalogue that has grown: only what is new
  galpipe run my-survey.toml --dask tcp://node1:8786
  galpipe run my-survey.toml --retry failed         # an archive that was down answers again
"""
SKY_EXAMPLES = """\
examples:
  galpipe sky serve                     # 2,000 simulated galaxies as SDSS serves its own
  galpipe sky serve --galaxies 300 --seed 7 --port 8400
"""
DEMO_EXAMPLES = """\
examples:
  galpipe demo                          # a few minutes on two cores
  galpipe demo --workspace /tmp/demo --prune 300
"""
EXPORT_EXAMPLES = """\
examples:
  galpipe labels export gz5 --format fits
  galpipe labels export gz5 --release B --format votable --output gz5-B.vot
"""


def program() -> int:
    """The command as a process of its own."""
    # Nothing that is imported is garbage: looking for it on the way takes a sixth of the time of
    # the imports of a run, and half a second when the interpreter ends.
    gc.set_threshold(10_000, 20, 50)
    code = main()
    gc.freeze()
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 2 bad input, 130 interrupted)."""
    options = _parser().parse_args(arguments)
    from galpipe.errors import InputError, Interrupted

    try:
        return int(options.command(options))
    except InputError as error:
        print(f"galpipe: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Interrupted):
        print(
            "galpipe: interrupted; what was committed is kept, run the same command to go on.",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        sentence = _mendable(error, options)
        if sentence is None:
            raise
        print(f"galpipe: {sentence}", file=sys.stderr)
        return 2


def _mendable(error: BaseException, options: argparse.Namespace) -> str | None:
    """The sentence for trouble with the disk, whoever met it first; None for anything else."""
    where = getattr(options, "workspace", None) or "the workspace"
    if _disk_is_full(error):
        return (
            f"no space left on the disk of {where}; what was committed is kept: "
            "free some space (or move the workspace) and run the same command again."
        )
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        where = error.filename or where
        return (
            f"{where} cannot be written ({error.strerror}); give another folder with --workspace."
        )
    return None


def _disk_is_full(error: BaseException | None) -> bool:
    """True where a full disk is behind an error; SQLite tells it in words only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "database or disk is full" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="galpipe",
        description="From a galaxy archive to a published catalogue of morphological labels.",
        epilog="`galpipe COMMAND --help` shows a command's options and examples.",
    )
    parser.add_argument("--version", action="version", version=f"galpipe {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = _command(commands, "run", "run a survey, from its images to its labels", RUN_EXAMPLES)
    run.add_argument("survey", type=Path, help="survey file (TOML)")
    _workspace(run)
    run.add_argument("--release", help="name of the release (default: the survey's, r1)")
    run.add_argument(
        "--prune", type=_positive, metavar="N", help="only N objects, always the same ones"
    )
    run.add_argument(
        "--until",
        metavar="STAGE",
        help="stop after sample, retrieve, prepare, train, embed, cluster, evaluate or publish",
    )
    run.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="scheduler of a running Dask cluster (default: processes of this machine)",
    )
    run.add_argument(
        "--workers",
        type=_positive,
        metavar="N",
        help="worker processes on this machine (default: its cores)",
    )
    run.add_argument(
        "--retry",
        choices=("failed",),
        help="failed: go back for the objects of a published release that its archive did not "
        "answer for",
    )
    run.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    run.set_defaults(command=_run)

    demo = _command(
        commands, "demo", "the whole chain on the simulated sky that comes with galpipe",
        DEMO_EXAMPLES,
    )  # fmt: skip
    _workspace(demo)
    demo.add_argument(
        "--prune", type=_positive, metavar="N", help="only N objects, always the same ones"
    )
    demo.add_argument(
        "--json", action="store_true", help="print one JSON object on standard output"
    )
    demo.set_defaults(command=_demo)

    status = _command(
        commands,
        "status",
        "what a workspace holds, and how its objects ended",
        "example:\n  galpipe status --workspace /data/galpipe\n",
    )
    _workspace(status)
    status.add_argument(
        "--json", action="store_true", help="print one JSON object on standard output"
    )
    status.set_defaults(command=_status)

    labels = commands.add_parser("labels", help="published labels", description="Published labels.")
    kinds = labels.add_subparsers(title="commands", metavar="COMMAND", required=True)
    export = _command(
        kinds, "export", "write labels as Parquet, FITS, VOTable or CSV", EXPORT_EXAMPLES
    )
    export.add_argument("survey", help="name of the survey, or its survey file")
    _workspace(export)
    export.add_argument("--release", help="name of the release (default: the one published last)")
    export.add_argument("--format", required=True, choices=("parquet", "fits", "votable", "csv"))
    export.add_argument(
        "--output", type=Path, help="file to write (default: SURVEY-RELEASE.suffix here)"
    )
    export.set_defaults(command=_export)
    debias = _command(kinds, "debias", debiasing.TEXT, debiasing.EXAMPLES)
    _workspace(debias)
    debiasing.options(debias)
    debias.set_defaults(command=_debias)

    diff = _command(
        commands, "diff", "what changed between two releases", "example:\n  galpipe diff gz5 r1 B\n"
    )
    diff.add_argument("survey", help="name of the survey, or its survey file")
    diff.add_argument("old", help="the earlier release")
    diff.add_argument("new", help="the later release")
    _workspace(diff)
    diff.add_argument(
        "--json", action="store_true", help="print one JSON object on standard output"
    )
    diff.set_defaults(command=_diff)

    generate = _command(commands, "generate", command.TEXT, command.EXAMPLES)
    _workspace(generate)
    command.options(generate)
    generate.set_defaults(command=_generate)

    sky = commands.add_parser(
        "sky", help="the simulated sky", description="The simulated sky that comes with galpipe."
    )
    kinds = sky.add_subparsers(title="commands", metavar="COMMAND", required=True)
    stand_in = _command(
        kinds, "serve", "a stand-in for the SDSS archive on this machine", SKY_EXAMPLES
    )
    stand_in.add_argument(
        "--galaxies", type=_positive, default=2000, metavar="N", help="how many (default: 2000)"
    )
    stand_in.add_argument(
        "--seed", type=int, default=1, help="the same seed gives the same sky (default: 1)"
    )
    stand_in.add_argument(
        "--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)"
    )
    stand_in.add_argument(
        "--tied", action="store_true", help="end when standard input ends, with its starter"
    )
    stand_in.add_argument(
        "--faults",
        metavar="SPEC",
        help="failures to make, by rate and seed: 503=0.05,reset=0.02,persistent.404=0.01,seed=3",
    )
    stand_in.add_argument(
        "--hst-side",
        type=int,
        metavar="PIXELS",
        help="draw the field of Hubble before serving, so many pixels of 0.03 arcsec on a side",
    )
    stand_in.set_defaults(command=_sky)

    serve = _command(
        commands,
        "serve",
        "the Prefect and MLflow dashboards on this machine, and the worker of scheduled runs",
        "example:\n  galpipe serve --workspace /data/galpipe\n",
    )
    _workspace(serve)
    serve.add_argument("--prefect-port", type=_positive, default=4200, metavar="PORT")
    serve.add_argument("--mlflow-port", type=_positive, default=5000, metavar="PORT")
    serve.set_defaults(command=_serve)
    return parser


def _command(commands: Any, name: str, text: str, epilog: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    return parser


def _workspace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workspace",
        type=Path,
        default=Path(os.environ.get("GALPIPE_WORKSPACE", "workspace")),
        metavar="DIR",
        help="where everything galpipe makes is kept (default: $GALPIPE_WORKSPACE, or ./workspace)",
    )


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return number


def _run(options: argparse.Namespace) -> int:
    from galpipe import releases, survey
    from galpipe.chain import STAGES
    from galpipe.errors import InputError
    from galpipe.workspace import Workspace

    chosen = survey.load(options.survey)
    if options.until is not None and options.until not in STAGES:
        raise InputError(
            f"--until {options.until}: there is no such stage; it takes {', '.join(STAGES)}."
        )
    release = releases.release_name(chosen, options.release, options.prune)
    workspace = Workspace.open(options.workspace)
    key = releases.run_key(chosen, release, options.prune)
    # After a killed run there is something to do in any case: to close what it left open.
    if options.until in (None, STAGES[-1]) and not workspace.run_is_open():
        record = releases.published(workspace, chosen, release, key, options.retry)
        if record is not None:
            summary = releases.unchanged_summary(workspace, record)
            _print_summary(summary, options.json, unchanged=True)
            return 0

    from flows.command import run

    summary = run(
        survey=options.survey, workspace=options.workspace, release=options.release,
        prune=options.prune, until=options.until, dask=options.dask, workers=options.workers,
    )  # fmt: skip
    _print_summary(summary, options.json)
    return 0


def _demo(options: argparse.Namespace) -> int:
    from galpipe import survey

    options.survey = survey.ready("demo")
    options.release = options.until = options.dask = options.workers = options.retry = None
    code = _run(options)
    if code == 0 and not options.json:
        where = shlex.quote(str(options.workspace))
        print(f"  dashboards: galpipe serve --workspace {where}   (Prefect, MLflow)")
        print(
            f"  labels for TOPCAT: galpipe labels export demo --format votable --workspace {where}"
        )
    return code


def _print_summary(summary: dict[str, Any], as_json: bool, unchanged: bool = False) -> None:
    if as_json:
        print(json.dumps(summary))
        return
    if unchanged:
        print(
            f"{summary['survey']} {summary['release']}: nothing to do, "
            "published from the same inputs."
        )
    else:
        print(f"{summary['survey']} {summary['release']}: {summary['objects']} objects")
        for name, stage in summary["stages"].items():
            print(
                f"  {name:<9} {stage['seconds']:8.1f} s"
                f"   {stage['done']:>8} done {stage['reused']:>8} reused"
            )
        if "orchestration_seconds" in summary:
            print(
                f"  orchestration (Prefect, Dask, MLflow) {summary['orchestration_seconds']:.1f} s"
            )
    for status, count in summary["by_status"].items():
        print(f"  {count:>8}  {status}")
    failed = sum(n for status, n in summary["by_status"].items() if "FAILED" in status.split("|"))
    if failed:
        print(f"  {failed} failed: the archive did not answer; --retry failed goes back for them")
    nmi = summary.get("figures", {}).get("published_nmi")
    if nmi is not None:
        judged = summary["figures"]["judged"]
        print(f"  agreement with the true classes: NMI {nmi:.2f} ({judged} objects judged)")
    for name in ("labels", "report"):
        if summary.get(name):
            print(f"  {name}: {summary[name]}")


def _survey_name(text: str) -> str:
    """A survey is named by its name, or by its file."""
    if text.endswith(".toml"):
        from galpipe import survey

        return survey.load(text).name
    return text


def _status(options: argparse.Namespace) -> int:
    from galpipe.releases import bands_of
    from galpipe.workspace import Workspace

    workspace = Workspace.open(options.workspace, create=False)
    records = [
        record
        for folder in sorted((workspace.root / "releases").glob("*"))
        for record in workspace.releases(folder.name)
    ]
    if options.json:
        keys = ("survey", "release", "base", "objects", "by_status")
        told = [
            {key: record[key] for key in keys} | {"by_band": bands_of(workspace, record)}
            for record in records
        ]
        print(json.dumps({"releases": told}))
        return 0
    if not records:
        print(f"{workspace.root}: nothing published yet.")
    for record in records:
        base = f" (on {record['base']})" if record["base"] else ""
        print(f"{record['survey']} {record['release']}{base}: {record['objects']} objects")
        for status, count in record["by_status"].items():
            print(f"  {count:>8}  {status}")
        for band, ends in bands_of(workspace, record).items():
            said = ", ".join(f"{number} {end}" for end, number in ends.items())
            print(f"  {band + ':':>10} {said}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from galpipe import releases
    from galpipe.catalogue.export import SUFFIX, export
    from galpipe.workspace import Workspace

    workspace = Workspace.open(options.workspace, create=False)
    record = releases.record(workspace, _survey_name(options.survey), options.release)
    folder = workspace.release(record["survey"], record["release"])
    target = options.output or Path(
        f"{record['survey']}-{record['release']}{SUFFIX[options.format]}"
    )
    export(folder / "labels.parquet", target, options.format)
    print(target)
    return 0


def _debias(options: argparse.Namespace) -> int:
    return debiasing.run(options, _survey_name(options.survey))


def _diff(options: argparse.Namespace) -> int:
    from galpipe import releases
    from galpipe.catalogue.difference import difference
    from galpipe.workspace import Workspace

    workspace = Workspace.open(options.workspace, create=False)
    name = _survey_name(options.survey)
    old, new = (releases.record(workspace, name, one) for one in (options.old, options.new))
    folders = (workspace.release(name, record["release"]) for record in (old, new))
    found = difference(*(folder / "labels.parquet" for folder in folders))
    if options.json:
        print(json.dumps(found))
        return 0
    print(f"{name}: {old['release']} -> {new['release']}")
    for kind in ("added", "removed", "unchanged", "changed"):
        print(f"  {found[kind]:>8}  {kind}")
    for change in found["transitions"]:
        print(f"  {change['objects']:>8}  {change['old']} -> {change['new']}")
    return 0


def _generate(options: argparse.Namespace) -> int:
    from flows.dask_map import DaskMap
    from galpipe.catalogue.synthetic.command import run

    with contextlib.closing(DaskMap(options.workers)) as spread:
        return run(options, spread)


def _sky(options: argparse.Namespace) -> int:
    from galpipe.sky.command import serve

    return serve(
        options.galaxies, options.seed, options.port, options.tied, options.faults,
        options.hst_side,
    )  # fmt: skip


def _serve(options: argparse.Namespace) -> int:
    from flows.serve import serve

    return serve(options.workspace, options.prefect_port, options.mlflow_port)


if __name__ == "__main__":
    sys.exit(main())
