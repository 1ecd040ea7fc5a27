"""How a run answers Ctrl-C and SIGTERM.

The first signal raises KeyboardInterrupt in the main thread, so that every `finally` on the way
is passed; should that not end the process in time, it is ended.  The second ends it at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

PATIENCE = 8.0  # seconds from the first signal to a forced end
STATUS = 130  # exit status of an interrupted command


@contextlib.contextmanager
def answered() -> Iterator[None]:
    """Answer signals within the block; does nothing outside the main thread.

    The count is kept by a thread fed by the interpreter's wake-up descriptor, which works also
    while the main thread is inside a long C call.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {
        number: signal.signal(number, _raise)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN  # nohup
    }
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=_count, args=(reader, set(before)), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        thread.join()


def take_back_sigterm() -> None:
    """Answer SIGTERM as before inside a Prefect flow, which puts a handler of its own in place.

    Prefect's would end in a signal to this very process, which counts here as the second one.
    Prefect restores what it found at the end of the flow.  Does nothing where signals are not
    answered here: in a run from a deployment, Prefect's handler is the right one.
    """
    if signal.getsignal(signal.SIGINT) is _raise:
        signal.signal(signal.SIGTERM, _raise)


def _raise(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _count(reader: int, numbers: set[int]) -> None:
    """Watch the descriptor until it closes; end the process on the second signal, or late."""
    received = 0
    while content := os.read(reader, 64):
        received += sum(number in numbers for number in content)
        if received == 1:
            print("galpipe: stopping; once more to stop at once.", file=sys.stderr, flush=True)
            timer = threading.Timer(PATIENCE, os._exit, (STATUS,))
            timer.daemon = True
            timer.start()
        elif received > 1:
            os._exit(STATUS)
    os.close(reader)
    if received:
        timer.cancel()
