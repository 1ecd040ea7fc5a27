"""Deterministic arithmetic: threads, seeds, stored stamps as brightness."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import deterministic

from galpipe.errors import InputError
from galpipe.models.engine.memory import keep_freed_memory


@contextlib.contextmanager
def fixed_arithmetic(threads: int) -> Iterator[None]:
    """Deterministic kernels on a stated number of threads, which decides the last bits.

    torch's own random numbers are the caller's again afterwards.
    """
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    fresh: Any = deterministic  # its setting is a property that no type checker sees
    filled = fresh.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS is not deterministic
    keep_freed_memory()
    torch.set_num_threads(threads)
    # As `use_deterministic_algorithms` does, which imports torch's compiler (1.5 s) to tell it too.
    torch.set_deterministic_debug_mode("error")
    # By default fresh memory is filled with NaN then, which finds mistakes and costs a pass each.
    fresh.fill_uninitialized_memory = False
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])
        fresh.fill_uninitialized_memory = filled


def device_of(name: str, where: str) -> torch.device:
    """The device a survey asks for; raises InputError where this machine has none.

    `where` is the survey file's section, for the message.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f'[{where}] device = "cuda", and this machine has no GPU that torch can use; '
            'say device = "cpu", or run it where there is one.'
        )
    return torch.device(name)


def seed_all(*seeds: int) -> None:
    """Seed torch's random numbers, on every device in use, from the given numbers alone.

    `torch.manual_seed` does the same in 3 ms where no GPU is in use: it keeps the seed and the
    whole call stack, each time, for one that might come.
    """
    state = _state(*seeds)
    torch.default_generator.manual_seed(state)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(state)


def generator(*seeds: int) -> torch.Generator:
    """Random numbers that depend on the given seeds alone."""
    return torch.Generator().manual_seed(_state(*seeds))


def _state(*seeds: int) -> int:
    return int(np.random.SeedSequence(list(seeds)).generate_state(1, np.uint64)[0]) >> 1


def as_brightness(stored_BAYX: Tensor, unit_scale: float) -> Tensor:
    """Stored stamps (uint8 or float16) as float32 in 0..1."""
    if stored_BAYX.dtype == torch.uint8:
        return torch.div(stored_BAYX, unit_scale)  # cast and division in one pass
    return stored_BAYX.to(torch.float32, copy=True).div_(unit_scale)
