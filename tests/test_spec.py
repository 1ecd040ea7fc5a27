"""Specs: strict, frozen, canonical; every section of a survey round-trips through plain values."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from galpipe import spec
from galpipe.archives.spec import Folder
from galpipe.catalogue.spec import Evaluation, Publication
from galpipe.classes.spec import Clustering
from galpipe.errors import InputError
from galpipe.models.spec import Embedding, NoModel, Training, VaDE
from galpipe.sample.spec import Sample, Split
from galpipe.stamps.spec import Annulus, Asinh, PetrosianScale, Preparation

SPECS: list[tuple[type, dict[str, Any]]] = [
    (Sample, {"id": "objid", "id_type": "int64"}),
    (Split, {}),
    (Folder, {"path": "somewhere"}),
    (Preparation, {}),
    (VaDE, {}),
    (NoModel, {}),
    (Training, {}),
    (Embedding, {}),
    (Clustering, {}),
    (Evaluation, {}),
    (Publication, {}),
]


def _values(cls: type, required: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Valid plain values of a spec: any subset of its numeric, boolean and text fields changed."""
    choices: dict[str, st.SearchStrategy[Any]] = {}
    for name, field in cls.__pydantic_fields__.items():  # type: ignore[attr-defined]
        default = field.default
        adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
        if isinstance(default, bool):
            options: st.SearchStrategy[Any] = st.booleans()
        elif isinstance(default, int):
            options = st.integers(0, 4096)
        elif isinstance(default, float):
            options = st.floats(0, 1e4, allow_nan=False)
        else:
            continue

        def valid(value: Any, adapter: TypeAdapter[Any] = adapter) -> bool:
            try:
                adapter.validate_python(value)
            except ValueError:
                return False
            return True

        choices[name] = options.filter(valid)
    return st.fixed_dictionaries({k: st.just(v) for k, v in required.items()}, optional=choices)


@pytest.mark.parametrize(("cls", "required"), SPECS, ids=lambda v: getattr(v, "__name__", ""))
def test_every_spec_round_trips(cls: type, required: dict[str, Any]) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(_values(cls, required))
    def check(values: dict[str, Any]) -> None:
        try:
            made = spec.load(cls, values)
        except InputError:  # two valid fields may exclude each other
            return
        assert spec.load(cls, spec.dump(made)) == made
        assert json.loads(spec.canonical(made)) == spec.identity(made)
        assert spec.digest(made) == spec.digest(spec.load(cls, spec.dump(made)))

    check()


def test_an_unknown_key_names_the_nearest_valid_one() -> None:
    with pytest.raises(InputError, match="did you mean 'align'"):
        spec.load(Preparation, {"allign": True}, "survey.toml")
    with pytest.raises(InputError, match=r"\[stretch\] has no key 'softness'; did you mean"):
        spec.load(Preparation, {"stretch": {"kind": "asinh", "softness": 1.0}}, "survey.toml")
    with pytest.raises(InputError, match="no kind 'petrosain'; did you mean 'petrosian'"):
        spec.load(Preparation, {"scale": {"kind": "petrosain"}}, "survey.toml")


@pytest.mark.parametrize(
    "values", [{"size": "64"}, {"size": 64.5}, {"size": True}, {"size": 2}, {"align": 1}]
)
def test_a_value_of_the_wrong_type_or_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        spec.load(Preparation, values, "survey.toml")


def test_a_spec_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Asinh().softening = 1.0  # type: ignore[misc]


def test_run_time_fields_stay_out_of_the_digest() -> None:
    here, there = (spec.load(Folder, {"path": path}) for path in ("/here", "/there"))
    assert here != there
    assert spec.digest(here) == spec.digest(there)
    assert "path" not in spec.identity(here)


def test_defaults_written_out_give_the_same_digest() -> None:
    plain = spec.load(Preparation, {})
    assert spec.digest(spec.load(Preparation, spec.dump(plain))) == spec.digest(plain)
    assert spec.digest(spec.load(Preparation, {"scale": {"kind": "fixed"}})) == spec.digest(plain)


def test_different_specs_have_different_digests() -> None:
    variants = [
        Preparation(),
        Preparation(size=128),
        Preparation(background=Annulus()),
        Preparation(scale=PetrosianScale()),
        Preparation(scale=PetrosianScale(radii=5.0)),
    ]
    assert len({spec.digest(variant) for variant in variants}) == len(variants)
