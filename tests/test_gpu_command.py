"""The command that measures a GPU: whole, and clear where there is none."""

from __future__ import annotations

import re

import pytest
import torch

from benchmarks import gpu


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu"])
    assert gpu.main() == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith("benchmarks.gpu: this machine has no GPU that torch can use; run it")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "name"), [("vade", "VaDE, 128 pixels"), ("residual", "residual, 64 pixels")]
)
def test_the_command_itself_runs_through(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], network: str, name: str
) -> None:
    """On the CPU, with a few stamps: the figures mean nothing, but each is there."""
    command = ["gpu", "--device", "cpu", "--objects", "64", "--only", network]
    monkeypatch.setattr("sys.argv", command)
    assert gpu.main() == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{name}: training ")
    assert re.search(r"training [\d,]+ stamps/s, the GPU waits [\d.]+ % of the time", line)
    assert re.search(r"embedding [\d,]+ stamps/s, [\d.]+ \([\d.]+ to [\d.]+\) of the", line)
