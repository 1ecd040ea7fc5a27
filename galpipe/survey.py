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
from typing import Annotated, Any

from pydantic import Field

from galpipe import spec
from galpipe.archives.spec import Archive, Folder, Hst, HstSky, Vo
from galpipe.catalogue.spec import Evaluation, Publication
from galpipe.classes.spec import Clustering
from galpipe.errors import InputError
from galpipe.models.backbones.spec import Learnt
from galpipe.models.classifier.spec import Classifier
from galpipe.models.contrastive.spec import Contrastive
from galpipe.models.spec import Embedding, Model, NoModel, Training
from galpipe.sample.spec import Sample
from galpipe.stamps.spec import Preparation

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"  # safe as a folder's name everywhere


@spec.spec
class Start:
    """What decides the network of another survey, which is trained first where it is not yet."""

    name: str = Field(pattern=NAME)  # of that survey
    sample: Sample
    archive: Archive
    prepare: Preparation
    model: Annotated[Contrastive | Classifier, Field(discriminator="kind")]
    training: Training
    start: Start | None = None  # the survey whose network that one begins with in its turn


@spec.spec
class Survey:
    """What to fetch, how to prepare it, what to learn from it, what to publish."""

    name: str = Field(pattern=NAME)  # of the survey: its folder, its releases, its runs
    title: str = spec.run_time("")  # for people: shown, never part of a digest
    release: str = spec.run_time("r1", pattern=NAME)  # the name of the first release
    # In a file: the path of the survey file whose network learnt encoders begin with.
    start: Start | None = None
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
    return _load(Path(path), ())


def _load(path: Path, after: tuple[Path, ...]) -> Survey:
    """`load`, of a survey that those `after` it start with."""
    values = _values(path)
    for table, key in (("archive", "path"), ("sample", "table"), ("sample", "join")):
        section = values.get(table)
        if isinstance(section, dict) and isinstance(section.get(key), str):
            section[key] = str(_resolved(section[key], path, f"[{table}] {key}"))
    _begun(values, path, after)
    survey = spec.load(Survey, values, str(path))
    try:
        _check_sample(survey.archive, survey.sample)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return survey


def _values(path: Path) -> dict[str, Any]:
    """A survey file as it stands; raises InputError where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such survey file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a survey file ({error}).") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not a valid TOML file: {error}.") from None


def before(start: Start) -> Survey:
    """The survey that gives the network to start with, as far as its training needs it."""
    return Survey(
        name=start.name, sample=start.sample, archive=start.archive, prepare=start.prepare,
        model=start.model, training=start.training, start=start.start,
    )  # fmt: skip


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


def _begun(values: dict[str, Any], path: Path, after: tuple[Path, ...]) -> None:
    """Replace the path `start` by what decides that survey's network, and tell learnt encoders."""
    model = values.get("model")
    model = model if isinstance(model, dict) else {}
    several = model.get("encoders")
    given = [*(several if isinstance(several, list) else ()), model.get("encoder")]
    learnt = [one for one in given if isinstance(one, dict) and one.get("kind") == "learnt"]
    name = values.get("start")
    if name is None and not learnt:
        return
    if not isinstance(name, str) or not learnt:
        wanted = "the path of a survey file" if learnt else "an encoder of kind 'learnt' in [model]"
        raise InputError(
            f"{path}: start: {wanted} is missing; a network starts with what another survey's "
            "learnt where both are given."
        )
    first = _resolved(name, path, "start")
    after = (*after, path.resolve())
    if first.resolve() in after:
        raise InputError(
            f"{path}: start: {first} starts, in the end, with the network of this survey; name one "
            "that does not."
        )
    other = _load(first, after)
    told = _encoder(other)
    if told is None:
        raise InputError(
            f"{path}: start: the network of {other.name!r} is of kind {other.model.kind!r}; name a "
            "survey whose [model] kind is 'contrastive', or a classifier that starts with one."
        )
    values["start"] = {
        key: spec.dump(getattr(other, key))
        for key in ("sample", "archive", "prepare", "model", "training")
    } | {"name": other.name, "start": None if other.start is None else spec.dump(other.start)}
    for one in learnt:
        twice = sorted(one.keys() & told.keys())
        if twice:
            raise InputError(
                f"{path}: [model] a learnt encoder has the {twice[0]} of {other.name!r}, where its "
                f"weights come from; leave {twice[0]!r} out."
            )
        one |= told


def _encoder(survey: Survey) -> dict[str, Any] | None:
    """What a learnt encoder takes from a survey's: its maps, pooling and pixels; None without."""
    model = survey.model
    if isinstance(model, Classifier):
        own: Any = model.encoder if isinstance(model.encoder, Learnt) else None
    else:
        own = model if isinstance(model, Contrastive) else None
    if own is None:
        return None
    return {
        "encoder": spec.dump(own.encoder), "pooling": own.pooling, "pixels": own.pixels,
    }  # fmt: skip


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
