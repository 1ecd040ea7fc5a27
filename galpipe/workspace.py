"""Where things lie: outputs by digest, manifests that commit them, releases, the writer's lock.

    <workspace>/
      galpipe.json                       format of the workspace
      writer.lock                        held by the one run that writes
      open-run.json                      there while a run is open
      store/<stage>/<digest>/            an output; `manifest.json`, written last, commits it
      releases/<survey>/<release>/       a published release
      mlflow.db  mlflow/  prefect/       the trackers' own files

No path is kept inside, so a workspace can be moved or copied.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galpipe import spec
from galpipe.errors import InputError, WorkspaceInUse

FORMAT = 1
MANIFEST = "manifest.json"
OPEN_RUN = "open-run.json"  # there while a run is open; found by the next one: it was killed


def cache_folder() -> Path:
    """What no workspace owns and any may use: $GALPIPE_CACHE, or the user's folder for caches."""
    import platformdirs

    return Path(os.environ.get("GALPIPE_CACHE") or platformdirs.user_cache_dir("galpipe"))


@dataclass(frozen=True)
class Ref:
    """A committed output: the stage that made it and the digest of its inputs."""

    stage: str
    digest: str


def address(stage: str, version: int, settings: Any, parents: Mapping[str, Any]) -> Ref:
    """Name an output by what decides its bytes: stage, version, spec, parents' digests."""
    inputs = {
        "stage": stage,
        "version": version,
        "spec": spec.identity(settings),
        "parents": {
            name: parent.digest if isinstance(parent, Ref) else parent
            for name, parent in parents.items()
        },
    }
    return Ref(stage, spec.digest(inputs))


class Workspace:
    """A folder that holds everything galpipe makes for one or more surveys."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    @classmethod
    def open(cls, root: Path | str, create: bool = True) -> Workspace:
        """Open (or make) a workspace; raises InputError where it cannot be used."""
        workspace = cls(root)
        marker = workspace.root / "galpipe.json"
        if not marker.exists():
            if not create:
                raise InputError(
                    f"{workspace.root} is not a galpipe workspace; give one with --workspace."
                )
            if workspace.root.is_dir() and any(workspace.root.iterdir()):
                strangers = [p.name for p in workspace.root.iterdir() if p.name != "writer.lock"]
                if strangers:
                    raise InputError(
                        f"{workspace.root} is not empty and not a galpipe workspace; "
                        "give an empty or new folder with --workspace."
                    )
            try:
                workspace.root.mkdir(parents=True, exist_ok=True)
                write_json(marker, {"format": FORMAT})
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise
                raise InputError(
                    f"{workspace.root} cannot be made a workspace ({error.strerror}); "
                    "give another folder with --workspace."
                ) from None
        try:
            found = json.loads(marker.read_text())["format"]
            if type(found) is not int or found < 1:
                raise ValueError(found)
        except (ValueError, KeyError, TypeError, OSError):
            raise InputError(f"{marker} is damaged; restore it or use a new workspace.") from None
        if found > FORMAT:
            raise InputError(
                f"{workspace.root} was written by a newer galpipe (format {found}, this one reads "
                f"up to {FORMAT}); upgrade galpipe or use a new workspace."
            )
        return workspace

    def place(self, ref: Ref) -> Path:
        """The folder of an output, committed or not."""
        return self.root / "store" / ref.stage / ref.digest

    def manifest(self, ref: Ref) -> dict[str, Any] | None:
        """What a committed output says of itself; None where it is not committed."""
        try:
            loaded: dict[str, Any] = json.loads((self.place(ref) / MANIFEST).read_text())
        except FileNotFoundError:
            return None
        return loaded

    def begin(self, ref: Ref, *, clean: bool = True) -> Path:
        """The folder to write an output into; `clean` drops what an interrupted run left."""
        place = self.place(ref)
        if clean and place.exists():
            shutil.rmtree(place)
        place.mkdir(parents=True, exist_ok=True)
        return place

    def commit(self, ref: Ref, settings: Any, parents: Mapping[str, Any], **facts: Any) -> Ref:
        """Write the manifest, which makes the output exist.  `facts` are kept in it as given."""
        write_json(
            self.place(ref) / MANIFEST,
            {
                "stage": ref.stage,
                "digest": ref.digest,
                "spec": spec.identity(settings),
                "parents": {k: v.digest if isinstance(v, Ref) else v for k, v in parents.items()},
                **facts,
            },
        )
        return ref

    def run_is_open(self) -> bool:
        """True during a run, and after one that was killed."""
        return (self.root / OPEN_RUN).exists()

    def committed_files(self) -> frozenset[Path]:
        """Every file that commits something: manifests of outputs and markers of shards."""
        store = self.root / "store"
        return frozenset((*store.glob(f"*/*/{MANIFEST}"), *store.glob("*/*/shards/*.json")))

    def release(self, survey: str, name: str) -> Path:
        """The folder of a release, published or not."""
        return self.root / "releases" / survey / name

    def releases(self, survey: str) -> list[dict[str, Any]]:
        """The published releases of a survey, in the order of publication."""
        folder = self.root / "releases" / survey
        found = [read_record(path) for path in sorted(folder.glob("*/release.json"))]
        return sorted(found, key=lambda record: (record["sequence"], record["release"]))

    @contextlib.contextmanager
    def writer(self, command: str) -> Iterator[None]:
        """Hold the workspace as its only writer, or say who does."""
        path = self.root / "writer.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                holder = os.read(descriptor, 4096).decode(errors="replace").strip()
                raise WorkspaceInUse(
                    f"{self.root} is in use by {holder or 'another run'}; "
                    "wait for it, or give another folder with --workspace."
                ) from None
            os.ftruncate(descriptor, 0)
            os.write(
                descriptor, f"process {os.getpid()} on {socket.gethostname()} ({command})".encode()
            )
            yield
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)


def read_record(path: Path) -> dict[str, Any]:
    """The record of a release; InputError where it is damaged."""
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        record["refs"], record["sequence"]
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{path} is damaged; move its folder away and run the survey again: what the release "
            "is made of is still in the store."
        ) from None
    return record


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole or absent, also under kill -9 or a power cut."""
    partial = path.with_name(f".{path.name}.part")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all, with sorted keys, so that equal values are equal bytes."""
    write_bytes(
        path, (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()
    )


def sync_folder(path: Path) -> None:
    """Make a rename in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, as 64 hexadecimal characters."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
