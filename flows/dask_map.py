"""The shard map over Dask: worker processes of this machine, or any scheduler.

Workers start when a stage first maps more than one item, and are closed before training, which
wants the cores.  At most a few items per worker are in flight, so that memory does not grow with
the survey; results come in the order in which they end.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from galpipe.errors import InputError

A = TypeVar("A")
B = TypeVar("B")
IN_FLIGHT = 4  # items per worker
CLOSE_LIMIT = 2.5  # seconds, for the client and for the workers
CONNECT_LIMIT = 10.0  # seconds
FORKED = "forkserver" in multiprocessing.get_all_start_methods()
PRELOADED = "flows.preloaded"  # by the process that workers are forked from
# One thread of arithmetic per worker.  64 KiB, what Dask would set for the allocator, gives memory
# back to the system after every temporary array, and numpy fetches it again: 3 to 5 times slower.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": None,
}  # fmt: skip


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Processes started by threads that begin in this block never see Ctrl-C.

    A terminal sends it to every process of the command, and only the run itself shall answer.
    A blocked signal is inherited by threads and processes; here it waits for the block's end.
    """
    # Its own start would unblock the signal, so it is started before.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Start processes with `ENVIRONMENT`: libraries read it when they are imported."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    try:
        _set(ENVIRONMENT)
        yield
    finally:
        _set(before)


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


class DaskMap:
    """A `galpipe.stages.ShardMap`; `overhead` counts the seconds of starting and closing.

    `workers` processes of one thread on this machine, or, with `scheduler` (tcp://...), those of
    a cluster that is there already, which is left as it was.  Items lost with a worker are tried
    again on another one, three times; an exception of the function itself is raised here as it is.
    """

    def __init__(self, workers: int | None = None, scheduler: str | None = None) -> None:
        self.workers = workers or cores()
        self.scheduler = scheduler
        self.overhead = 0.0
        self._client: Any = None
        self._cluster: Any = None

    def begin(self) -> None:
        """Have what the workers import imported meanwhile, by the process they are forked from.

        Does nothing where no workers will be started here, or where processes cannot be forked so.
        """
        if FORKED and self.scheduler is None and self.workers > 1:
            multiprocessing.set_forkserver_preload([PRELOADED])
            with deaf_children(), _environment():
                multiprocessing.forkserver.ensure_running()

    def __call__(self, function: Callable[[A], B], items: Iterable[A], /) -> Iterator[B]:
        waiting = iter(items)
        first = list(itertools.islice(waiting, 2))
        if len(first) < 2 or (self.scheduler is None and self.workers == 1):
            return map(function, itertools.chain(first, waiting))
        return self._spread(function, itertools.chain(first, waiting))

    def _spread(self, function: Callable[[A], B], items: Iterator[A]) -> Iterator[B]:
        from distributed import as_completed

        client = self._connect()
        limit = IN_FLIGHT * max(len(client.scheduler_info(n_workers=-1)["workers"]), self.workers)
        running = as_completed(loop=client.loop)
        try:
            for item in itertools.islice(items, limit):
                running.add(client.submit(function, item, pure=False))
            for future in running:
                result: B = future.result()
                future.release()
                for item in itertools.islice(items, 1):
                    running.add(client.submit(function, item, pure=False))
                yield result
        finally:
            for future in list(running.futures):
                future.release()

    def _connect(self) -> Any:
        if self._client is not None:
            return self._client
        begin = time.perf_counter()
        import dask
        from distributed import Client, LocalCluster

        logging.getLogger("distributed").setLevel(logging.ERROR)  # it tells of every connection
        self.begin()
        # For good: a nanny that replaces a lost worker asks again.
        dask.config.set({
            "distributed.worker.multiprocessing-method": "forkserver" if FORKED else "spawn",
            "distributed.nanny.pre-spawn-environ": ENVIRONMENT,
        })  # fmt: skip
        with deaf_children():
            if self.scheduler is None:
                self._cluster = LocalCluster(
                    n_workers=self.workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    memory_limit=0,  # shards are small, and a paused worker helps nobody
                    silence_logs=logging.CRITICAL,
                )
            try:
                self._client = Client(
                    self._cluster or self.scheduler, set_as_default=False, timeout=CONNECT_LIMIT
                )
            except (OSError, ValueError) as error:
                raise InputError(
                    f"--dask {self.scheduler}: no Dask scheduler answers there ({error})."
                ) from None
        self.overhead += time.perf_counter() - begin
        return self._client

    def close(self) -> None:
        """End the workers (or leave the cluster); the next map starts them again.

        A worker that does not end in time, because it is in the middle of an item, is killed: what
        it had not committed does not exist.
        """
        begin = time.perf_counter()
        client, cluster = self._client, self._cluster
        self._client = self._cluster = None
        if client is not None:
            with contextlib.suppress(TimeoutError):
                client.close(timeout=CLOSE_LIMIT)
        if cluster is not None:
            processes = [worker.pid for worker in cluster.workers.values() if worker.pid]
            try:
                cluster.close(timeout=CLOSE_LIMIT)
            except TimeoutError:
                for process in processes:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
        self.overhead += time.perf_counter() - begin
