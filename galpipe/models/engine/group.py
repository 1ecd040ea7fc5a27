"""The processes that share a training: one alone, or ranks that hold the same weights."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(days=7)  # to wait for the first rank, which judges alone


class Group:
    """A training in one process: what several would tell each other is known already."""

    rank, size = 0, 1

    def wrapped(self, module: nn.Module) -> nn.Module:
        """The module whose backward pass takes the mean of all ranks' gradients."""
        return module

    def apart(self, module: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Backward passes in here keep their gradients to themselves."""
        return contextlib.nullcontext()

    def alike(self, module: nn.Module) -> None:
        """Give all ranks the first rank's parameters and buffers."""

    def told(self, value: Any) -> Any:
        """The first rank's value, of plain JSON."""
        return value

    def agreed(self, answer: bool) -> bool:
        """The first rank's yes or no."""
        return answer

    def gathered(self, values: list[float]) -> list[list[float]]:
        """The numbers of every rank, in the order of the ranks."""
        return [values]


class Ranks(Group):
    """One of several processes started by torchrun (Li et al. 2020, PyTorch Distributed).

    Gradients go by NCCL between GPUs and by gloo between CPUs; what is said beside them always by
    gloo, as JSON, so that no process unpickles anything and none waits for a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        """Find the other ranks by the environment that torchrun gives; `device` is this one's."""
        self._device = device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE
        )
        self._words = distributed.new_group(backend="gloo", timeout=PATIENCE)
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def wrapped(self, module: nn.Module) -> nn.Module:
        ids = [self._device.index] if self._device.type == "cuda" else None
        # A phase may leave parameters out (VaDE's warm-up its mixture): they are looked for.
        return DistributedDataParallel(module, device_ids=ids, find_unused_parameters=True)

    @contextlib.contextmanager
    def apart(self, module: nn.Module) -> Iterator[None]:
        assert isinstance(module, DistributedDataParallel)
        with module.no_sync():
            yield

    @torch.no_grad()
    def alike(self, module: nn.Module) -> None:
        for value in module.state_dict().values():
            mine = value.contiguous()
            distributed.broadcast(mine, 0)
            value.copy_(mine)

    def told(self, value: Any) -> Any:
        content = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
        length = torch.tensor(len(content))
        distributed.broadcast(length, 0, group=self._words)
        if self.rank:
            content = torch.empty(int(length), dtype=torch.uint8)
        distributed.broadcast(content, 0, group=self._words)
        return json.loads(bytes(content.tolist()))

    def agreed(self, answer: bool) -> bool:
        word = torch.tensor(answer, dtype=torch.uint8)
        distributed.broadcast(word, 0, group=self._words)
        return bool(word)

    def gathered(self, values: list[float]) -> list[list[float]]:
        mine = torch.tensor(values, dtype=torch.float64)
        found: list[Tensor] = [torch.empty_like(mine) for _ in range(self.size)]
        distributed.all_gather(found, mine, group=self._words)
        return [list(map(float, numbers)) for numbers in found]

    def leave(self, module: nn.Module) -> None:
        """Say goodbye to the other ranks, once all is done; raises where the weights differ."""
        made = hashlib.sha256()
        for parameter in module.parameters():
            made.update(parameter.detach().cpu().contiguous().numpy().tobytes())
        own = made.hexdigest()
        if self.told(own) != own:
            raise RuntimeError("the ranks of a training ended with different weights")
        distributed.destroy_process_group()
