"""Training beside Hyrax (LINCC Frameworks), on the same module and images, in one run.

    python -m benchmarks.hyrax --hyrax-python /path/to/its/python [--objects 2560]

Hyrax wants an environment of its own: `python -m venv hyrax; hyrax/bin/pip install hyrax`.  Both
train VaDE's default network with Adam on blurred noise of 64 pixels in batches of 128, both with
their training verb as it comes (Hyrax with its cache of samples, its checkpoints and MLflow;
galpipe with its shuffle, flips, sums and the state kept).  Hyrax's images are an array in memory,
galpipe's a stamp part on disk.  A batch of one, then a batch of the other, so that a busy machine
disturbs both alike; one thread each.  What is compared is the processor time of all threads, epoch
by epoch, which is what a core that has nothing else to do needs; the first is not counted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.training import REPEATS, Turn, begun, plant
from galpipe.models.engine.arithmetic import fixed_arithmetic
from galpipe.models.engine.spec import Constant, Training
from galpipe.models.learner import Epoch
from galpipe.stamps.batches import Selection, Stamps
from galpipe.workspace import Ref, Workspace

SIDE = Path(__file__).with_name("hyrax_side.py")


def main() -> None:
    parser = argparse.ArgumentParser(description="Training beside Hyrax, in one run.")
    parser.add_argument("--hyrax-python", required=True, help="the python of Hyrax's environment")
    parser.add_argument("--objects", type=int, default=2560, help="stamps per epoch")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32",
        help="of galpipe's arithmetic; Hyrax's is float32",
    )  # fmt: skip
    given = parser.parse_args()
    training = Training(threads=1, learning_rate=1e-6, rate=Constant(), precision=given.precision)
    with tempfile.TemporaryDirectory() as folder, fixed_arithmetic(1):
        work = Path(folder)
        workspace = Workspace.open(work / "workspace")
        plant(workspace, given.objects)
        part = workspace.place(Ref("stamp-part", "part"))
        whole = Stamps([Selection(part, np.arange(given.objects))]).ordered(256)
        np.save(work / "images.npy", np.concatenate([images for images, _ in whole]))
        fitting = begun(work, part, given.objects, training)
        other = subprocess.Popen(
            [
                given.hyrax_python, "-P", str(SIDE), str(work / "images.npy"), folder,
                str(REPEATS + 1), "1", str(training.batch),
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(work / "log").open("wb"),
            text=True, bufsize=1,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        )  # fmt: skip

        def taken() -> float:
            """Hyrax's seconds so far; it waits for its turn then."""
            assert other.stdout is not None
            line = other.stdout.readline()
            if not line:
                raise SystemExit(f"Hyrax ended early:\n{(work / 'log').read_text()[-3000:]}")
            return float(line)

        def go() -> None:
            assert other.stdin is not None
            other.stdin.write("\n")
            other.stdin.flush()

        so_far = [taken()]

        def batch(*_: object) -> None:
            go()
            so_far.append(taken())

        turns: list[Turn] = []
        begin = [so_far[0], time.process_time()]

        def tell(epoch: Epoch, record: Mapping[str, Any], speed: Mapping[str, float]) -> None:
            now = [so_far[-1], time.process_time()]
            turns.append((now[0] - begin[0], now[1] - begin[1]))
            begin[:] = now

        try:
            fitting.learner.register_forward_pre_hook(batch)
            fitting.run(tell)
            go()
            other.wait(60)
        finally:
            other.kill()
    theirs, ours = np.array(turns[1:]).T
    ratios = theirs / ours
    print(
        f"Hyrax {np.median(theirs):.2f} s, galpipe {np.median(ours):.2f} s per epoch of "
        f"{given.objects}, {given.precision}: galpipe is {np.median(ratios):.3f} times as fast "
        f"({ratios.min():.3f} to {ratios.max():.3f})"
    )


if __name__ == "__main__":
    main()
