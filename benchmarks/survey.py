"""A whole survey, from zip to labels: `python -m benchmarks.survey [SURVEY.toml] [prune]`.

Prints seconds per stage, the peak memory of the command with all its processes, and the figures of
the clusters: all objects and the held-out split, published and the network's own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

DEFAULT = Path(__file__).resolve().parents[1] / "deploy" / "surveys" / "gz5-images.toml"
FIGURES = (
    "all_objects_beyond_inclination",
    "published_beyond_inclination",
    "model_beyond_inclination",
    "all_objects_nmi",
    "published_nmi",
    "model_nmi",
    "published_nmi_bound",
    "all_objects_position_angle_z",
    "published_position_angle_z",
    "model_position_angle_z",
    "reconstruction_mse",
    "reconstruction_variance_explained",
    "judged",
)


def memory(process: psutil.Process) -> int:
    """Bytes that the process and its children hold alone (shared pages counted once)."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().uss
        except psutil.Error:
            continue
    return total


def main(survey: Path = DEFAULT, *prune: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "galpipe", "run", str(survey), "--json"]
        words += ["--workspace", f"{folder}/w", *(["--prune", *prune] if prune else [])]
        begin = time.perf_counter()
        command = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        peak, process = 0, psutil.Process(command.pid)
        while command.poll() is None:
            peak = max(peak, memory(process))
            time.sleep(0.5)
        seconds = time.perf_counter() - begin
        assert command.stdout is not None
        summary = json.loads(command.stdout.read())
        headline = json.loads((Path(summary["report"]) / "figures.json").read_text())["headline"]
    print(f"{summary['survey']}: {summary['objects']} objects in {seconds:.0f} s")
    for name, stage in summary["stages"].items():
        print(f"  {name:<10} {stage['seconds']:7.1f} s")
    print(f"  {'around it':<10} {summary['orchestration_seconds']:7.1f} s")
    print(f"peak memory, all processes: {peak / 2**30:.2f} GiB")
    for name in FIGURES:
        if headline.get(name) is not None:
            print(f"  {name:<34} {headline[name]:9.4g}")


if __name__ == "__main__":
    main(*([Path(sys.argv[1])] if len(sys.argv) > 1 else []), *sys.argv[2:])
