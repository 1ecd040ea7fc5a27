"""A chain whose stages take known times and say when they are reached, to test what is around it.

As a program, `python -m tests.standing_chain SURVEY WORKSPACE`, it runs the real flow with the
real servers over it, with STANDING_WORKERS worker processes, and ends as `galpipe run` does.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from galpipe import chain
from galpipe.chain import StageSummary
from galpipe.errors import InputError, Interrupted

SURVEY = """\
name = "standing"
[sample]
id = "id"
id_type = "int64"
[archive]
kind = "folder"
path = "."
"""
ITEMS = 12
DIGEST = "5" * 32


def write_survey(folder: Path) -> Path:
    path = folder / "standing.toml"
    path.write_text(SURVEY)
    return path


def square(number: int) -> int:
    time.sleep(float(os.environ.get("STANDING_ITEM", "0.01")))
    return number * number


class StandingChain(chain.Chain):
    """The chain with stages that only wait; `trouble` raises once in a stage."""

    trouble: ClassVar[dict[str, list[Exception]]] = {}
    tried: ClassVar[list[str]] = []

    def run(self, stage: str) -> StageSummary:
        for done in self.summaries:
            if done.name == stage:
                return done
        begin = time.perf_counter()
        self.tried.append(stage)
        if self.trouble.get(stage):
            raise self.trouble[stage].pop()
        print(f"at {stage}", flush=True)
        if stage == "prepare":
            self.context.progress.start(stage, ITEMS, "shards")
            found = []
            for value in self.context.map(square, range(ITEMS)):
                found.append(value)
                self.context.progress.advance()
            self.context.progress.finish()
            assert sorted(found) == [n * n for n in range(ITEMS)]
        if stage == "train":
            with self.context.tracker.run("training", "standing", DIGEST) as run:
                for epoch in range(3):
                    print(f"epoch {epoch}", flush=True)
                    run.metrics({"loss": 1.0 / (1 + epoch)}, epoch)
                    wait()
        summary = StageSummary(stage, time.perf_counter() - begin, 1, 0, {"facts": 1})
        self.summaries.append(summary)
        return summary

    def summary(self) -> dict[str, Any]:
        stages = {s.name: {"seconds": s.seconds, "done": 1, "reused": 0} for s in self.summaries}
        return {
            "survey": self.survey.name, "release": self.release, "objects": 3,
            "by_status": {"OK": 3}, "stages": stages, "labels": None,
        }  # fmt: skip


def wait() -> None:
    """An epoch; with STANDING_DEAF one that does not listen to interruptions."""
    end = time.monotonic() + float(os.environ.get("STANDING_EPOCH", "0.01"))
    while time.monotonic() < end:
        try:
            time.sleep(0.05)
        except KeyboardInterrupt:
            if "STANDING_DEAF" not in os.environ:
                raise


def main() -> int:
    chain.Chain = StandingChain  # type: ignore[misc]  # before flows.session takes it
    from flows.command import run

    workers = int(os.environ.get("STANDING_WORKERS", "1"))
    try:
        print(json.dumps(run(survey=sys.argv[1], workspace=sys.argv[2], workers=workers)))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except Interrupted:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
