"""The workspace: addresses, commits, the writer's lock, and what is refused."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest

from galpipe.errors import InputError, WorkspaceInUse
from galpipe.workspace import Ref, Workspace, address, write_json


def test_the_same_inputs_have_the_same_address() -> None:
    parents = {"a": Ref("sample", "1"), "b": None}
    assert address("stamps", 1, {"x": 1.0}, parents) == address("stamps", 1, {"x": 1.0}, parents)
    others = [
        address("stamps", 2, {"x": 1.0}, parents),
        address("stamps", 1, {"x": 1}, parents),
        address("stamps", 1, {"x": 1.0}, {"a": Ref("sample", "2"), "b": None}),
        address("cutouts", 1, {"x": 1.0}, parents),
    ]
    assert len({ref.digest for ref in [*others, address("stamps", 1, {"x": 1.0}, parents)]}) == 5


def test_addresses_are_those_of_earlier_versions() -> None:
    """A golden digest: a change here makes every store out there start anew."""
    ref = address("stamps", 1, {"x": 1.0, "y": ["é"]}, {"a": Ref("sample", "1"), "b": None})
    assert ref.digest == "2dceea687971a8191c478e5e29c982bb"


def test_an_output_exists_once_it_is_committed(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "w")
    ref = address("sample", 1, {}, {})
    place = workspace.begin(ref)
    (place / "table").write_text("half")
    assert workspace.manifest(ref) is None
    workspace.begin(ref)
    assert not (place / "table").exists()  # what an interrupted run left is dropped
    workspace.commit(ref, {}, {}, objects=3)
    manifest = workspace.manifest(ref)
    assert manifest is not None and manifest["objects"] == 3


def test_a_workspace_can_be_moved(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "here")
    ref = address("sample", 1, {}, {})
    workspace.begin(ref)
    workspace.commit(ref, {}, {})
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert Workspace.open(tmp_path / "there").manifest(ref) is not None


def _hold(root: Path, ready: multiprocessing.Event, leave: multiprocessing.Event) -> None:  # type: ignore[valid-type]
    with Workspace.open(root).writer("galpipe run x.toml"):
        ready.set()  # type: ignore[attr-defined]
        leave.wait(30)  # type: ignore[attr-defined]


def test_a_second_writer_is_told_who_holds_the_workspace(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "w", ready, leave))
    process.start()
    try:
        assert ready.wait(30)
        workspace = Workspace.open(tmp_path / "w")
        with (
            pytest.raises(WorkspaceInUse, match=rf"process {process.pid} .*galpipe run x.toml"),
            workspace.writer("other"),
        ):
            pass
    finally:
        leave.set()
        process.join(30)
    with workspace.writer("other"):  # released with its holder
        pass


def test_a_workspace_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    Workspace.open(tmp_path / "w")
    write_json(tmp_path / "w" / "galpipe.json", {"format": 99})
    with pytest.raises(InputError, match=r"newer galpipe .*upgrade"):
        Workspace.open(tmp_path / "w")


def test_a_strangers_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="not empty and not a galpipe workspace"):
        Workspace.open(tmp_path)
    with pytest.raises(InputError, match="is not a galpipe workspace"):
        Workspace.open(tmp_path / "nowhere", create=False)
    with pytest.raises(InputError, match="cannot be made a workspace"):
        Workspace.open(tmp_path / "thesis.tex" / "w")


def test_json_is_written_whole_with_sorted_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, "é"]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1.5, "é"], "b": 1}
    write_json(tmp_path / "b.json", {"a": [1.5, "é"], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.json", "b.json"]
