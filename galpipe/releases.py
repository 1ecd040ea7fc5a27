"""Releases: a name, the outputs that make it up, and what a later release keeps of it.

The first release of a survey fits scaling, model and clusters.  A later one (`--release B`) keeps
them, as far as the survey file still says the same, and does only what is new.  Publishing a
release again under its own name, from other inputs, replaces it; the old one is kept beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import galpipe
from galpipe import spec
from galpipe.archives.fingerprint import source_fingerprint
from galpipe.errors import InputError
from galpipe.status import Status, names
from galpipe.survey import NAME, Survey, sections
from galpipe.workspace import MANIFEST, Ref, Workspace, file_sha256, read_record, write_json

LABELS = "labels.parquet"
PROVENANCE = "provenance.json"
REPORT = "report.html"
SOURCES = (".py", ".j2", ".css", ".js")
FAILED = names(Status.FAILED)
# What a later release keeps of its base, and the sections of the survey that decide it.
KEPT = {
    "cutouts": ("archive",),
    "scaling": ("prepare",),
    "model": ("start", "model", "training"),
    "clusters": ("embed", "cluster"),
}


@dataclass(frozen=True)
class Base:
    """What a run takes from earlier releases of its survey; None: made anew."""

    release: str | None = None  # the release whose outputs are kept
    cutouts: Ref | None = None  # its pixels, which need not be fetched again
    scaling: Ref | None = None
    model: Ref | None = None
    clusters: Ref | None = None


def release_name(survey: Survey, release: str | None, prune: int | None) -> str:
    """The release a run publishes; a pruned run never takes the name of a whole one."""
    name = release or survey.release
    if not re.fullmatch(NAME, name):
        raise InputError(
            f"release {name[:80]!r} is no usable name; use up to 64 letters, digits, '.', '_' and "
            "'-', a letter or digit first."
        )
    return name if prune is None else f"{name}-prune{prune}"


def base_of(workspace: Workspace, survey: Survey, release: str, prune: int | None) -> Base:
    """What the run of a release keeps: as recorded if it was published before, else of the newest.

    A run without a base makes everything from its inputs, so that its bytes do not depend on what
    else the workspace holds.
    """
    records = workspace.releases(survey.name)
    mine = next((r for r in records if r["release"] == release), None)
    if mine is not None:  # published before: on the same base, as it was then
        name, was, keeps = mine["base"], mine["sections"], mine["kept"]
    else:
        others = [r for r in records if r["prune"] is None and prune is None]
        if not others:
            return Base()
        name, was, keeps = others[-1]["release"], others[-1]["sections"], others[-1]["refs"]
    now = {section: spec.digest(value) for section, value in sections(survey).items()}
    kept: dict[str, Ref] = {}
    for output, depends in KEPT.items():
        # Each rests on the one before: a change breaks the rest of the line.
        if any(was.get(section) != now.get(section) for section in depends):
            break
        if output in keeps:
            kept[output] = Ref(output, keeps[output])
    return Base(name, **kept)


def run_key(survey: Survey, release: str, prune: int | None) -> str:
    """A digest of everything that decides a release: survey, source, code."""
    return spec.digest(
        {
            "survey": spec.identity(survey),
            "release": release,
            "prune": prune,
            "pruned": survey.training.pruned if prune is not None else None,
            "source": source_fingerprint(survey.archive, survey.sample, release),
            "start": _start_fingerprint(survey, release),
            "shown": [survey.title, survey.publish.credit],
            "code": _code(),
        }
    )


def _start_fingerprint(survey: Survey, release: str) -> Any:
    """What the survey that gives the first weights reads, as far as it can be told from outside."""
    start = survey.start
    return None if start is None else source_fingerprint(start.archive, start.sample, release)


def _code() -> str:
    """A digest of galpipe's own source files: another version may do another thing."""
    hasher = hashlib.sha256()
    root = Path(galpipe.__file__).parent
    sources = (path for path in root.rglob("*") if path.suffix in SOURCES)
    for path in sorted(sources):
        hasher.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return hasher.hexdigest()


def record(workspace: Workspace, survey: str, release: str | None) -> dict[str, Any]:
    """The record of a published release (None: the newest); InputError where there is none."""
    records = workspace.releases(survey)
    if not records:
        known = sorted(path.name for path in (workspace.root / "releases").glob("*"))
        raise InputError(
            f"{workspace.root} holds no published release of {survey!r}; "
            f"it holds {', '.join(known) or 'none'}."
        )
    if release is None:
        return records[-1]
    for found in records:
        if found["release"] == release:
            return found
    raise InputError(
        f"{survey!r} has no release {release!r}; it has {', '.join(r['release'] for r in records)}."
    )


def published(
    workspace: Workspace, survey: Survey, release: str, key: str, retry: str | None = None
) -> dict[str, Any] | None:
    """The record of a release that was published from these very inputs, if it is whole.

    `retry`: "failed" where a release that holds objects for which the archive did not answer is
    not taken as done.
    """
    folder = workspace.release(survey.name, release)
    if not (folder / "release.json").exists():
        return None
    record = read_record(folder / "release.json")
    if record["key"] != key:
        return None
    if retry == "failed" and failed(record):
        return None  # the archive may answer now
    for name, digest in record["refs"].items():
        if not (workspace.place(Ref(name, digest)) / MANIFEST).exists():
            return None
    labels = folder / LABELS
    if not labels.exists() or file_sha256(labels) != record["labels_sha256"]:
        return None
    return record


def failed(record: dict[str, Any]) -> int:
    """How many objects of a published release the archive did not answer for."""
    found = record["by_status"].items()
    return sum(number for status, number in found if FAILED in status.split("|"))


def bands_of(workspace: Workspace, record: dict[str, Any]) -> dict[str, dict[str, int]]:
    """How the objects of a published release ended in each band; {} where it does not say."""
    digest = record["refs"].get("cutouts")
    manifest = workspace.manifest(Ref("cutouts", digest)) if digest else None
    told: dict[str, dict[str, int]] = (manifest or {}).get("by_band", {})
    order = (manifest or {}).get("spec", {}).get("bands", [])
    return {
        band: dict(sorted(told[band].items(), key=lambda end: (-end[1], end[0])))
        for band in order
        if band in told
    }


def publish(
    workspace: Workspace,
    survey: Survey,
    release: str,
    prune: int | None,
    refs: dict[str, Ref],
    base: Base,
    key: str,
) -> Path:
    """Put the labels and the record of a release in their place; the record, last, publishes it."""
    folder = workspace.release(survey.name, release)
    folder.mkdir(parents=True, exist_ok=True)
    made = workspace.place(refs["labels"]) / LABELS
    records = workspace.releases(survey.name)
    mine = next((r for r in records if r["release"] == release), None)
    digest = file_sha256(made)
    if mine is not None and mine["labels_sha256"] != digest and (folder / LABELS).exists():
        aside = folder / "superseded" / mine["refs"]["labels"]
        aside.mkdir(parents=True, exist_ok=True)
        for name in ("release.json", LABELS, REPORT):
            if (folder / name).exists():
                shutil.copyfile(folder / name, aside / name)
    told = workspace.place(refs["report"])
    sources = {LABELS: made, "label_scheme.json": _scheme(workspace, refs)}
    for name in (REPORT, "ACKNOWLEDGEMENTS.txt", "references.bib"):
        sources[name] = told / name
    for name, source in sources.items():
        if source is not None:
            partial = folder / f".{name}.part"
            shutil.copyfile(source, partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(folder / name)
    sequence = mine["sequence"] if mine else 1 + max((r["sequence"] for r in records), default=0)
    manifest = workspace.manifest(refs["labels"]) or {}
    write_json(
        folder / "release.json",
        {
            "survey": survey.name,
            "release": release,
            "sequence": sequence,
            "prune": prune,
            "base": base.release,
            "kept": {n: ref.digest for n in KEPT if (ref := getattr(base, n)) is not None},
            "key": key,
            "sections": {name: spec.digest(value) for name, value in sections(survey).items()},
            "spec": spec.identity(survey),
            "refs": {name: ref.digest for name, ref in refs.items()},
            "objects": manifest.get("objects", 0),
            "by_status": manifest.get("by_status", {}),
            "labels_sha256": digest,
        },
    )
    return folder


def _scheme(workspace: Workspace, refs: dict[str, Ref]) -> Path | None:
    path = workspace.place(refs["clusters"]) / "clusters.json"
    return path if path.exists() else None


def unchanged_summary(workspace: Workspace, record: dict[str, Any]) -> dict[str, Any]:
    """The summary of a run that found its release published: everything reused."""
    folder = workspace.release(record["survey"], record["release"])
    reused = {
        "sample": 1, "retrieve": record["objects"], "prepare": record["objects"],
        "train": int("model" in record["refs"]),
        "embed": record["objects"] if "embeddings" in record["refs"] else 0,
        "cluster": 2, "evaluate": 1, "publish": 2,
    }  # fmt: skip
    return {
        "survey": record["survey"],
        "release": record["release"],
        "objects": record["objects"],
        "by_status": record["by_status"],
        "stages": {name: {"seconds": 0.0, "done": 0, "reused": n} for name, n in reused.items()},
        "labels": str(folder / LABELS),
        "report": str(folder / REPORT),
        "figures": (workspace.manifest(Ref("evaluation", record["refs"]["evaluation"])) or {}).get(
            "figures", {}
        ),
        "mlflow_run_id": _provenance(folder).get("mlflow_run_id"),
        "nothing_to_do": True,
    }


def note_provenance(workspace: Workspace, survey: str, release: str, facts: dict[str, Any]) -> None:
    """Keep beside a release what is no part of its content: run ids, dates, seconds, the host."""
    write_json(workspace.release(survey, release) / PROVENANCE, facts)


def _provenance(folder: Path) -> dict[str, Any]:
    path = folder / PROVENANCE
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found
