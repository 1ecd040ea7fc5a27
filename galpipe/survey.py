"""A survey: every choice of a run in one immutable value, read from a TOML file.

A survey file holds only what differs from the defaults, which live beside what they configure
(`galpipe/<wing>/spec.py`).
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field

from galpipe import spec
from galpipe.archives.spec import Archive, Folder, Hst, HstSky, Vo
from galpipe.catalogue.spec import Evaluation, Publication
from galpipe.classes.spec import Clustering
from galpipe.errors import InputError
from galpipe.models.spec import Embedding, Model, NoModel, Training
from galpipe.sample.spec import Sample
from galpipe.stamps.spec import Preparation

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"  # safe as a folder's name everywhere


@spec.spec
class Survey:
    """What to fetch, how to prepare it, what to learn from it, what to publish."""

    name: str = Field(pattern=NAME)  # of the survey: its folder, its releases, its runs
    title: str = spec.run_time("")  # for people: shown, never part of a digest
    release: str = spec.run_time("r1", pattern=NAME)  # the name of the first release
    sample: Sample
    archive: Archive
    prepare: Preparation = Preparation()
    model: Model = NoModel()
    training: Training = Training()
    embed: Embedding = Embedding()
    cluster: Clustering = Clustering()
    evaluate: Evaluation = Evaluation()
    publish: Publication = Publication()


def load(path: Path | str) -> Survey:
    """Read a survey file; raises InputError with one sentence where it is wrong.

    Paths in it may hold $VARIABLES and are relative to the survey file.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such survey file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a survey file ({error}).") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not a valid TOML file: {error}.") from None
    for table, key in (("archive", "path"), ("sample", "table"), ("sample", "join")):
        section = values.get(table)
        if isinstance(section, dict) and isinstance(section.get(key), str):
            section[key] = str(_resolved(section[key], path, f"[{table}] {key}"))
    survey = spec.load(Survey, values, str(path))
    try:
        _check_sample(survey.archive, survey.sample)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return survey


def ready(name: str) -> Path:
    """The file of a survey that comes with galpipe: in the checkout, or where it is installed."""
    beside = Path(__file__).resolve().parents[1] / "deploy" / "surveys" / f"{name}.toml"
    installed = Path(sys.prefix) / "share" / "galpipe" / "surveys" / f"{name}.toml"
    for path in (beside, installed):
        if path.is_file():
            return path
    raise InputError(
        f"{name}.toml is neither in {beside.parent} nor in {installed.parent}; "
        "install galpipe anew."
    )


def _check_sample(archive: Archive, sample: Sample) -> None:
    """Raise InputError where the archive cannot give the objects that the sample describes."""
    given = [key for key in ("sql", "adql", "cone") if getattr(sample, key) is not None]
    if isinstance(archive, Folder):
        if given:
            raise InputError(
                f"sample.{given[0]}: a folder answers no queries; name a table with sample.table, "
                'or take archive.kind = "sdss".'
            )
        return
    language = "adql" if isinstance(archive, Vo) else "sql"
    language = "cone" if isinstance(archive, Hst | HstSky) else language
    if given not in ([], [language]) or (sample.table is None) == (not given):
        raise InputError(
            f"sample: an archive of kind {archive.kind!r} needs either sample.{language} or "
            "sample.table; give one of them."
        )
    if sample.ra is None or sample.dec is None:
        raise InputError(
            f"sample: an archive of kind {archive.kind!r} is asked by position; name the columns "
            "of degrees with sample.ra and sample.dec."
        )


def _resolved(text: str, survey_file: Path, where: str) -> Path:
    """A path of a survey file with its $VARIABLES filled in, made absolute."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        found = os.environ.get(name) or _known_default(name)
        if found is None:
            raise InputError(
                f"{survey_file}: {where} needs the environment variable {name}, which is not set; "
                f"set it to the folder it stands for."
            )
        return found

    filled = Path(re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, text)).expanduser()
    return Path(os.path.abspath(survey_file.parent / filled))


def _known_default(variable: str) -> str | None:
    """GALPIPE_DATA falls back to the data folder beside a checkout, where there is one."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return str(beside) if variable == "GALPIPE_DATA" and beside.is_dir() else None


def sections(survey: Survey) -> dict[str, Any]:
    """The survey's specs by section, as they enter digests."""
    identity: dict[str, Any] = spec.identity(survey)
    return {name: value for name, value in identity.items() if isinstance(value, dict)}
