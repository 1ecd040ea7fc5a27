"""What a spec is: a strict, frozen, keyword-only dataclass with a canonical JSON and a digest.

A spec holds everything that decides the bytes of an output, and nothing else.  Settings that
may change between two runs of the same work (a path, a number of workers) are marked with
`run_time` and stay out of the digest.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from galpipe.errors import InputError

T = TypeVar("T")
DIGEST_CHARACTERS = 32  # 128 bits of sha256


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def spec(cls: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass that refuses unknown keys and wrong types."""
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return typing.cast(type[T], dataclass(frozen=True, kw_only=True, config=config)(cls))


def run_time(default: Any, **constraints: Any) -> Any:
    """A field that never enters a digest: where things lie, how many workers, which port."""
    return Field(default, json_schema_extra={"run_time": True}, **constraints)


_adapters: dict[Any, TypeAdapter[Any]] = {}


def _adapter(cls: Any) -> TypeAdapter[Any]:
    if cls not in _adapters:
        _adapters[cls] = TypeAdapter(cls)
    return _adapters[cls]


def load(cls: type[T], values: Mapping[str, Any], where: str = "spec") -> T:
    """Build a spec from plain values (a TOML table), or say in one sentence what is wrong.

    `where` names the source in the message.  Raises InputError.
    """
    _refuse_unknown_keys(cls, values, where, ())
    _refuse_undefined(values, where, ())
    try:
        text = json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{where}: a value is not a plain number, text or list: {error}."
        ) from None
    try:
        return typing.cast(T, _adapter(cls).validate_json(text))
    except ValidationError as error:
        first = error.errors()[0]
        missing = [e["loc"] for e in error.errors() if e["type"] == "missing"]
        if missing:
            keys = ", ".join(".".join(str(step) for step in place) for place in missing)
            raise InputError(f"{where}: {keys} must be given.") from None
        path = ".".join(str(step) for step in first["loc"]) or "(top)"
        given = f" (given: {first['input']!r})"
        more = error.error_count() - 1
        rest = f", and {more} more" if more else ""
        raise InputError(f"{where}: {path}: {first['msg']}{given}{rest}.") from None


def dump(value: Any) -> dict[str, Any]:
    """All fields of a spec as plain JSON values; `load(type(s), dump(s)) == s`."""
    return typing.cast(dict[str, Any], _adapter(type(value)).dump_python(value, mode="json"))


def identity(value: Any) -> Any:
    """The part of a spec that decides bytes, as plain JSON values (run-time fields left out)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = typing.cast(Any, value).__pydantic_fields__
        return {
            name: identity(getattr(value, name))
            for name, field in fields.items()
            if not (field.json_schema_extra or {}).get("run_time")
        }
    if isinstance(value, Mapping):
        return {str(key): identity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [identity(item) for item in value]
    return value


def canonical(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, no NaN; the same value always gives this text."""
    return json.dumps(
        identity(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: Any) -> str:
    """The first 128 bits of sha256 over the canonical JSON, as 32 hexadecimal characters."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:DIGEST_CHARACTERS]


def _refuse_unknown_keys(cls: Any, values: Any, where: str, path: tuple[str, ...]) -> None:
    """Walk the spec and its values together, and name the nearest valid key for an unknown one."""
    chosen = _chosen(cls, values, where, path)
    if chosen is None or not isinstance(values, Mapping):
        return
    hints = typing.get_type_hints(chosen, include_extras=True)
    names = [field.name for field in dataclasses.fields(chosen)]
    for key, item in values.items():
        if key not in names:
            table = f"[{'.'.join(path)}]" if path else "the top level"
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(names)}."
            raise InputError(f"{where}: {table} has no key {key!r}; {hint}")
        _refuse_unknown_keys(hints[key], item, where, (*path, str(key)))


def _refuse_undefined(values: Any, where: str, path: tuple[str, ...]) -> None:
    """NaN and infinity have no place in canonical JSON; name the key that holds one."""
    if isinstance(values, float) and not math.isfinite(values):
        raise InputError(f"{where}: {'.'.join(path)}: {values} is not a finite number.")
    items: Any = ()
    if isinstance(values, Mapping):
        items = values.items()
    elif isinstance(values, list | tuple):
        items = enumerate(values)
    for key, item in items:
        _refuse_undefined(item, where, (*path, str(key)))


def _chosen(hint: Any, values: Any, where: str, path: tuple[str, ...]) -> Any:
    """The spec class a type hint stands for, given the values: unions are told apart by `kind`."""
    while typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [_chosen(option, None, where, path) for option in typing.get_args(hint)]
        specs = [option for option in options if option is not None]
        if len(specs) > 1 and isinstance(values, Mapping):
            kinds = {field_default(option, "kind"): option for option in specs}
            kind = values.get("kind")
            if kind not in kinds:
                near = difflib.get_close_matches(str(kind), kinds, n=1, cutoff=0.5)
                hint_text = f"did you mean {near[0]!r}? It" if near else "it"
                said = "says no kind" if kind is None else f"has no kind {kind!r}"
                raise InputError(
                    f"{where}: [{'.'.join(path)}] {said}; {hint_text} takes {', '.join(kinds)}."
                )
            return kinds[kind]
        return specs[0] if specs else None
    return hint if dataclasses.is_dataclass(hint) else None


def field_default(cls: Any, name: str) -> Any:
    """The default of one field of a spec class."""
    return cls.__pydantic_fields__[name].default
