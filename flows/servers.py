"""The servers galpipe starts, and those it finds: Prefect's for a run, both dashboards for `serve`.

A server is a process of its own session on loopback, tied to the life of its starter (`tied.py`).
A run uses, in this order: `PREFECT_API_URL` where it is set, the server of a `galpipe serve` on
the same workspace while that lives, and otherwise a server of its own.  All of them but the first
keep their state in `<workspace>/prefect`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import flows
from galpipe.empty_database import Empty
from galpipe.errors import InputError
from galpipe.workspace import write_json

LOOPBACK = "127.0.0.1"
PREFECT_APP = "prefect.server.api.server:create_app"
START_LIMIT = 90.0  # seconds; a first start makes the database: 7 s on two idle cores
STOP_LIMIT = 4.0
LEAST_SPACE = 8 * 2**20  # bytes a server needs for its database
SERVE_FILE = "serve.json"
DATABASE = "prefect.db"  # in Prefect's home
EMPTY = Empty(
    "prefect",
    ("alembic_version",),
    ("PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL"),
)


def answers(address: str, timeout: float = 1.0) -> bool:
    """True where an HTTP server answers `GET address` with success."""
    try:
        with urllib.request.urlopen(address, timeout=timeout) as answer:  # noqa: S310 loopback
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


class Server:
    """A server process of ours; made by `start`, of use once `wait` has returned."""

    def __init__(
        self, name: str, port: int, health: str, process: subprocess.Popen[bytes], log: Path
    ) -> None:
        self.name, self.port, self.process, self.log = name, port, process, log
        self.address = f"http://{LOOPBACK}:{port}"
        self.health = self.address + health

    def wait(self) -> None:
        """Return when the server answers; raises InputError where it ended or never answers."""
        limit = time.monotonic() + START_LIMIT
        while not answers(self.health, timeout=2.0):
            ended = self.process.poll() is not None
            if ended or time.monotonic() > limit:
                self.stop()
                if full(self.log.parent, LEAST_SPACE):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.log))
                how = "ended" if ended else f"did not answer within {START_LIMIT:.0f} s"
                raise InputError(f"the {self.name} server {how}; its log is {self.log}.")
            time.sleep(0.05)

    def let_go(self) -> None:
        """Have the process end in its own time."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()

    def stop(self) -> None:
        """End the process and wait for its end; at most a few seconds."""
        self.let_go()
        try:
            self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(
    name: str, app: str, health: str, port: int, environment: Mapping[str, str], log: Path
) -> Server:
    """Start a server process on loopback without waiting for it; port 0 takes a free one.

    The socket is bound here and handed on, so that no other process can take the port between.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError:
        listener.close()
        raise InputError(
            f"port {port} is in use, so the {name} server cannot start on it; give another port."
        ) from None
    bound: int = listener.getsockname()[1]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 our own file and interpreter
            [
                sys.executable, "-P", str(Path(flows.__file__).parent / "tied.py"),
                app, str(listener.fileno()), str(os.getpid()),
            ],
            stdin=subprocess.PIPE, stdout=output, stderr=output,
            env={**os.environ, **environment},
            pass_fds=(listener.fileno(),), start_new_session=True,
        )  # fmt: skip
    listener.close()
    return Server(name, bound, health, process, log)


def full(folder: Path, least: int = 2**20) -> bool:
    """Whether the disk of a folder has less space left than `least` bytes."""
    return folder.exists() and shutil.disk_usage(folder).free < least


def prefect_home(root: Path) -> Path:
    """Where Prefect keeps its database and settings for a workspace."""
    return root.absolute() / "prefect"


def start_prefect(root: Path, port: int = 0, dashboard: bool = False) -> Server:
    """Start a Prefect server on the workspace's own database, with its dashboard where asked."""
    home = prefect_home(root)
    home.mkdir(parents=True, exist_ok=True)
    if full(home, LEAST_SPACE):  # it would start, and refuse every change
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(home))
    EMPTY.give(home / DATABASE)
    environment = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        # What could not be written at once, the database being busy, is tried again so soon.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    }
    if dashboard:
        environment |= {
            "PREFECT_UI_API_URL": "/api",
            "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
        }
    else:  # only what records a run: no dashboard, schedules or automations
        environment |= {
            "PREFECT__SERVER_EPHEMERAL": "1",
            "PREFECT__SERVER_FINAL": "1",
            "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
        }
    return start("Prefect", PREFECT_APP, "/api/health", port, environment, home / "server.log")


def announce(root: Path, prefect: str, mlflow: str) -> None:
    """Leave word of a `galpipe serve` for the runs on this workspace."""
    home = prefect_home(root)
    home.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname()
    write_json(
        home / SERVE_FILE,
        {"prefect": prefect, "mlflow": mlflow, "process": os.getpid(), "host": host},
    )


def withdraw(root: Path) -> None:
    """Take back what `announce` left."""
    (prefect_home(root) / SERVE_FILE).unlink(missing_ok=True)


def served(root: Path) -> dict[str, str]:
    """The addresses `prefect` and `mlflow` of a living `galpipe serve` on this workspace, or {}."""
    try:
        found = json.loads((prefect_home(root) / SERVE_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    if found["host"] != socket.gethostname() or not answers(found["prefect"] + "/api/health"):
        return {}
    return {"prefect": found["prefect"], "mlflow": found["mlflow"]}


class PrefectApi:
    """The Prefect server of a run; `url` holds from the start, `wait` returns when it answers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.given = os.environ.get("PREFECT_API_URL")
        self.own: Server | None = None
        self._ended = threading.Event()
        if self.given:
            self.url = self.given
            return
        found = served(root)
        if found:
            self.url = found["prefect"] + "/api"
            threading.Thread(target=self._stand_in, daemon=True).start()
        else:
            self.own = start_prefect(root)
            self.url = self.own.address + "/api"

    def wait(self) -> None:
        if self.own is not None:
            self.own.wait()
            EMPTY.keep(prefect_home(self.root) / DATABASE)
        elif self.given and not answers(self.url.rstrip("/") + "/health", timeout=10.0):
            raise InputError(
                f"PREFECT_API_URL is {self.url}, and no Prefect server answers there; "
                "start it, or unset the variable to use one of galpipe's own."
            )

    def stop(self) -> None:
        self._ended.set()
        if self.own is not None:
            self.own.stop()

    def _stand_in(self) -> None:
        """Where `galpipe serve` ends during a run, serve on at its address ourselves."""
        port = int(self.url.removesuffix("/api").rsplit(":", 1)[1])
        while not self._ended.wait(1.0):
            if answers(self.url + "/health", timeout=5.0):
                continue
            with contextlib.suppress(InputError):  # still going down: try again in a second
                self.own = start_prefect(self.root, port)
                self.own.wait()
                return


@contextlib.contextmanager
def prefect_api(root: Path) -> Iterator[PrefectApi]:
    """The Prefect server of a run, stopped at the end where it is its own."""
    api = PrefectApi(root)
    try:
        yield api
    finally:
        api.stop()


def client_settings(root: Path, api: PrefectApi) -> dict[str, str]:
    """What the run's own process tells Prefect, as environment variables."""
    settings = {"PREFECT_API_URL": api.url}
    if not api.given:
        settings["PREFECT_HOME"] = str(prefect_home(root))
    return settings
