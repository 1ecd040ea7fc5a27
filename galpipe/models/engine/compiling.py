"""torch.compile, where the machine can do it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator

import torch
from torch import nn

from galpipe.errors import InputError


def compiled(module: nn.Module, device: torch.device) -> nn.Module:
    """The same module, compiled at its first call; raises InputError where no compiler is here."""
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise InputError(
                "[training] compile = true needs triton on a GPU, and it is not installed; install "
                "torch's CUDA build, which brings it, or leave compile out."
            )
    else:
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            raise InputError(
                f"[training] compile = true needs a C++ compiler on a CPU, and there is no "
                f"{compiler!r}; install one, name one in CXX, or leave compile out."
            )
    made: nn.Module = torch.compile(module, options={"deterministic": True})  # type: ignore[assignment]
    return made


@contextlib.contextmanager
def compiler_errors() -> Iterator[None]:
    """Say in one sentence that the compiler failed; other errors pass."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        first = str(error).strip().split("\n")[0]
        raise InputError(
            f"[training] compile = true: this network could not be compiled ({first}); mend the "
            "compiler, or leave compile out."
        ) from error
