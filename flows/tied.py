"""A server's own process, tied to the life of the process that started it.

Run by path, `python -P tied.py APP SOCKET PARENT`: serves the ASGI app `module:attribute` (a name
that begins with `create` is called first) on the listening socket inherited as descriptor SOCKET.
It ends when its standard input closes or its parent is another process than PARENT, which is how
the death of the parent looks from here, `kill -9` included.  It sits in a session of its own, so
Ctrl-C on the terminal does not reach it: the run is told first, and needs the server to say so.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
import time

LOOK = 1.0  # seconds between two looks at the parent
GRACE = 2.0  # seconds to end in, before it is ended


def watch(parent: int) -> None:
    """Wait for the parent's end, then end this process."""
    while os.getppid() == parent:
        readable, _, _ = select.select([0], [], [], LOOK)
        if readable and not os.read(0, 64):
            break
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE + 1)
    os._exit(0)


def main() -> None:
    app, descriptor, parent = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    threading.Thread(target=watch, args=(parent,), daemon=True).start()
    import uvicorn

    module, _, attribute = app.partition(":")
    gc.disable()  # nothing that is imported is garbage, and a sixth of the time goes in looking
    found = getattr(importlib.import_module(module), attribute)
    gc.freeze()
    gc.enable()
    server = uvicorn.Server(
        uvicorn.Config(
            found,
            factory=attribute.startswith("create"),
            log_level="error",
            lifespan="on" if attribute.startswith("create") else "auto",
            timeout_graceful_shutdown=int(GRACE),
        )
    )
    server.run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    main()
