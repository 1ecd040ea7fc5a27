"""Two processes that share a training on one CPU, by torchrun and gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from galpipe.errors import InputError
from galpipe.models.checkpoints import WEIGHTS
from galpipe.models.engine.state import kept_state
from galpipe.models.shared import JOB, LOG
from galpipe.models.training import train
from galpipe.stages import Context, Silent
from galpipe.workspace import Ref, Workspace
from tests import small_network, stamped
from tests.test_training import changed

SHARED = changed(stamped.TRAINING, processes=2)
KEPT = changed(SHARED, save_every=0.0)  # after every step
# It hears of the second epoch's end and goes no further, whatever its ranks do meanwhile.
TRAIN = """
import sys, time
from pathlib import Path
from galpipe.models.training import train
from galpipe.stages import Context, Silent
from galpipe.workspace import Workspace
from tests import stamped, test_ranks
class Halted(Silent):
    heard = 0
    def advance(self, count=1, note=""):
        self.heard += count
        if self.heard == 2:
            time.sleep(600)
workspace = Workspace(Path(sys.argv[1]))
context = Context(workspace, progress=Halted())
try:
    train(context, stamped.NETWORK, test_ranks.KEPT, *test_ranks.planted(workspace))
except KeyboardInterrupt:
    sys.exit(130)
"""


# Put before everything else in each rank: above 8 images a forward pass asks for a petabyte.
GREEDY = """
import sys
if "galpipe.models.engine.ranks" in sys.orig_argv and "--nnodes" not in sys.orig_argv:
    import torch
    from galpipe.models.vade.learner import VadeLearner
    whole = VadeLearner.forward
    def greedy(self, batch, epoch):
        if len(batch.images) > 8:
            torch.empty(2**50, dtype=torch.uint8)
        return whole(self, batch, epoch)
    VadeLearner.forward = greedy
"""


def planted(workspace: Workspace) -> tuple[Ref, Ref]:
    return stamped.commit(workspace, [stamped.galaxies(210), stamped.galaxies(90, 1)])


def environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[1])
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


def processes_of(root: Path) -> list[int]:
    """The processes whose command line names a folder."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if process.pid != os.getpid()
        and any(str(root) in word for word in process.info["cmdline"] or [])
    ]


def test_two_ranks_learn_from_other_galaxies_and_end_alike(tmp_path: Path) -> None:
    part = small_network.plant(tmp_path / "part")
    folder = tmp_path / "training"
    folder.mkdir()
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", "2",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1",
        "-m", "tests.rank_of_two", str(folder), str(part),
    ]  # fmt: skip
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1))
    for first, second in zip(one["rows"], two["rows"], strict=True):
        assert len(first) == len(second) == len(set(first)) == len(set(second)) == 45
        assert not set(first) & set(second)
    left_out = [set(range(91)) - {*a, *b} for a, b in zip(one["rows"], two["rows"], strict=True)]
    assert len(set(map(frozenset, left_out))) > 1
    assert one["history"] == two["history"]
    losses = [record["train_loss"] for record in one["history"]]
    assert losses[-1] < 0.7 * losses[0]
    weights = [(folder / f"{rank}.safetensors").read_bytes() for rank in (0, 1)]
    assert weights[0] == weights[1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Ref]:
    workspace = Workspace.open(tmp_path_factory.mktemp("shared"))
    heard: list[str] = []

    class Heard(Silent):
        def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
            heard.append(f"{stage} {done} of {total}")

        def advance(self, count: int = 1, note: str = "") -> None:
            heard.extend([note] * count)

    context = Context(workspace, progress=Heard())
    ref = train(context, stamped.NETWORK, SHARED, *planted(workspace))
    assert heard[0] == "train 0 of 5" and len(heard) == 6
    assert "elbo" in heard[5] and "waiting for stamps" in heard[5]
    manifest = workspace.manifest(ref)
    assert manifest is not None and manifest["figures"]["explained_variance"] > 0.9
    assert {path.name for path in workspace.place(ref).iterdir()} == {
        WEIGHTS, "model.json", "history.json", "manifest.json",
    }  # fmt: skip
    return workspace, ref


def kill_in_the_middle(root: Path, number: signal.Signals, reached: Callable[[], bool]) -> int:
    """Start a shared training alone, send it a signal; its exit code, once nothing is left."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(root)], env=environment(), stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None and len(processes_of(root)) >= 4  # torchrun and two ranks too
    process.send_signal(number)
    code = process.wait(10)
    deadline = time.monotonic() + 10
    while processes_of(root) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(root) == []
    return code


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (signal.SIGKILL, -signal.SIGKILL),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_stopped_in_the_middle_it_leaves_no_process_and_goes_on(
    undisturbed: tuple[Workspace, Ref], tmp_path: Path, number: signal.Signals, expected: int
) -> None:
    """The parent alone is signalled, within an epoch; the same command ends with the same bytes."""
    whole, ref = undisturbed
    workspace = Workspace.open(tmp_path / "w")
    place = workspace.place(ref)

    def reached() -> bool:
        """In the middle of the third of five epochs, at the mixture's first steps."""
        state = kept_state(place)
        return state is not None and (state.epochs, state.step) >= (2, 3)

    assert kill_in_the_middle(workspace.root, number, reached) == expected
    assert (place / JOB).exists() and workspace.manifest(ref) is None
    again = train(Context(workspace), stamped.NETWORK, SHARED, *planted(workspace))
    assert again == ref
    for name in (WEIGHTS, "history.json", "manifest.json"):
        assert (place / name).read_bytes() == (whole.place(ref) / name).read_bytes(), name


def test_too_many_processes_are_refused(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "w")
    many = changed(stamped.TRAINING, processes=33)
    with pytest.raises(InputError, match="processes = 33 are too many to share 240 usable stamps"):
        train(Context(workspace), stamped.NETWORK, many, *planted(workspace))


@pytest.mark.slow
def test_what_a_rank_refuses_is_told_in_its_own_sentence(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "w")
    wild = changed(SHARED, learning_rate=1e12, rate={"kind": "constant"})
    with pytest.raises(InputError, match="the loss is not finite in epoch"):
        train(Context(workspace), stamped.NETWORK, wild, *planted(workspace))
    assert processes_of(workspace.root) == []
    assert any(workspace.root.glob(f"store/model/*/{LOG}"))


@pytest.mark.slow
def test_out_of_memory_in_the_ranks_begins_again_in_smaller_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An allocation that really fails, in every rank; 16 images of a step are each rank's."""
    (tmp_path / "sitecustomize.py").write_text(GREEDY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    workspace, said = Workspace.open(tmp_path / "w"), []

    class Heard(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    context = Context(workspace, progress=Heard())
    ref = train(context, stamped.NETWORK, SHARED, *planted(workspace))
    assert said[0] == "training: out of memory; every batch now comes in 2 parts"
    assert sum("out of memory" in text for text in said) == 1
    manifest = workspace.manifest(ref)
    assert manifest is not None and manifest["accumulate"] == 2
    assert manifest["figures"]["explained_variance"] > 0.9
