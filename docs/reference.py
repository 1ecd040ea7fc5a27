"""The reference pages, made from the code when the site is built: an MkDocs hook.

Keys, types, defaults and ranges come from the specs themselves, meanings from the comments beside
their fields; options from the command line's parser; columns and bits from what writes them.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import io
import json
import re
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

BANDS = ("g", "r", "i")  # of the example that columns per band and per colour are shown for


@dataclass(frozen=True)
class Table:
    """A table of a survey file: its path, the spec behind it, and how a union chooses it."""

    path: str  # `prepare.scale`; empty for the top level
    spec: type[Any]
    kind: str | None  # of a union: the value of `kind` that chooses this spec
    listed: bool  # an array of tables: `[[cluster.columns]]`


def on_files(files: Any, config: Any) -> Any:
    """MkDocs: add the generated pages to those of the folder."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def pages() -> dict[str, str]:
    """The generated pages in Markdown, by name."""
    return {
        "survey-file": survey_file(),
        "command-line": command_line(),
        "label-columns": label_columns(),
        "status": status_bits(),
    }


# Survey files.


def tables() -> Iterator[Table]:
    """Every table a survey file can hold, in the order of the specs."""
    from galpipe.survey import Survey

    # Archives of one protocol share their tables.
    yield from dict.fromkeys(_tables(Table("", Survey, None, False)))


def _tables(table: Table) -> Iterator[Table]:
    yield table
    hints = typing.get_type_hints(table.spec, include_extras=True)
    for field in dataclasses.fields(table.spec):
        options, listed = specs_of(hints[field.name])
        path = f"{table.path}.{field.name}".lstrip(".")
        for option in options:
            if not by_path(option):
                yield from _tables(Table(path, option, _kind(option), listed))


def by_path(spec: Any) -> bool:
    """Whether a survey file names the file of this spec in place of writing it out."""
    from galpipe.survey import Start

    return spec is Start


def specs_of(hint: Any) -> tuple[list[type[Any]], bool]:
    """The spec classes a type hint holds, and whether in a list."""
    while typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        found = [one for option in typing.get_args(hint) for one in specs_of(option)[0]]
        return found, any(specs_of(option)[1] for option in typing.get_args(hint))
    if origin in (tuple, list):
        return specs_of(typing.get_args(hint)[0])[0], True
    return (
        ([typing.cast(type[Any], hint)], False) if dataclasses.is_dataclass(hint) else ([], False)
    )


def survey_file() -> str:
    """The page of every key of a survey file."""
    parts = [
        "# Survey file: every key",
        "Made from the specs in the code. A key that is left out has the default shown. "
        "*In the digest* says whether a change makes a new output; what is not in it may change "
        "between two runs of the same work. [Survey files](../survey-files.md) explains the "
        "choices.",
    ]
    for table in tables():
        parts += [f"## {heading(table)} {{ #{anchor(table)} }}", _prose(table.spec.__doc__ or "")]
        hints = typing.get_type_hints(table.spec, include_extras=True)
        rows = [
            "| Key | Type | Default | Valid | Meaning | In the digest |",
            "|---|---|---|---|---|---|",
        ]
        said = comments(table.spec)
        for name, field in fields_of(table.spec).items():
            digest = "no" if (field.json_schema_extra or {}).get("run_time") else "yes"
            cells = (
                f"`{name}`", type_text(hints[name]), default_text(field), valid_text(field),
                _cell(said.get(name) or of_table(table, name, hints[name])), digest,
            )  # fmt: skip
            rows.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(rows))
    return "\n\n".join(part for part in parts if part) + "\n"


def of_table(table: Table, name: str, hint: Any) -> str:
    """The meaning of a key that holds a table (or chooses one): what the table says of itself."""
    if name == "kind":
        return "chooses this table"
    options, listed = specs_of(hint)
    path = f"{table.path}.{name}".lstrip(".")
    kinds = [Table(path, one, _kind(one), listed) for one in options]
    if len(kinds) == 1:
        return f"see [{heading(kinds[0])}](#{anchor(kinds[0])})"
    return ", ".join(f"[{one.kind}](#{anchor(one)})" for one in kinds)


def _kind(cls: type[Any]) -> str | None:
    field = fields_of(cls).get("kind")
    return None if field is None else str(field.default)


def fields_of(cls: Any) -> dict[str, Any]:
    """The fields of a spec class, as pydantic knows them."""
    fields: dict[str, Any] = cls.__pydantic_fields__
    return fields


def anchor(table: Table) -> str:
    """The address of a table's section on its page."""
    words = [table.path or "top", table.kind or ""]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


def heading(table: Table) -> str:
    """`[prepare.scale]` with `kind = "fixed"`, as it stands in a survey file."""
    if not table.path:
        return "The top level"
    name = f"[[{table.path}]]" if table.listed else f"[{table.path}]"
    return f"`{name}`" + (f", `kind = {json.dumps(table.kind)}`" if table.kind else "")


def type_text(hint: Any) -> str:
    """A type in words; tables are named as such."""
    while typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        words = dict.fromkeys(type_text(one) for one in arguments if one is not type(None))
        return " or ".join(words)
    if origin in (tuple, list):
        return f"list of {type_text(arguments[0])}"
    if dataclasses.is_dataclass(hint):
        return "path" if by_path(hint) else "table"
    names = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`"}
    return names[hint]


def default_text(field: Any) -> str:
    """A default as a survey file would give it."""
    if field.is_required():
        return "*required*"
    value = field.get_default(call_default_factory=True)
    return "—" if value is None else f"`{_cell(toml(value))}`"


def toml(value: Any) -> str:
    """A value as in a survey file; of a table only what makes it what it is."""
    if isinstance(value, tuple):
        if len(value) > 4:
            return f"[{toml(value[0])}, … {len(value)} in all]"
        return "[" + ", ".join(toml(one) for one in value) + "]"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = fields_of(type(value))
        shown = {
            name: getattr(value, name)
            for name, field in fields.items()
            if name == "kind" or getattr(value, name) != field.default
        }
        inside = ", ".join(f"{name} = {toml(one)}" for name, one in shown.items())
        return f"{{ {inside} }}" if inside else "{}"
    return json.dumps(value, ensure_ascii=False)


def valid_text(field: Any) -> str:
    """The range of a number, the length and the pattern of a text."""
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    found = []
    for constraint in field.metadata:
        for name, sign in signs.items():
            if (bound := getattr(constraint, name, None)) is not None:
                found.append(f"{sign} {bound:g}")
        for name, words in (("min_length", "at least"), ("max_length", "at most")):
            if (bound := getattr(constraint, name, None)) is not None:
                found.append(f"{words} {bound} long")
        if (pattern := getattr(constraint, "pattern", None)) is not None:
            found.append(f"`{_cell(pattern)}`")
    return ", ".join(found)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _prose(text: str) -> str:
    return textwrap.dedent("    " + text).strip()


def comments(cls: type[Any]) -> dict[str, str]:
    """What the comments beside (or right above) the fields of a class say, bases first.

    A comment right above covers its field; a trailing one is taken before it.
    """
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        if one.__module__.startswith("galpipe"):
            found |= {name: text for name, text in _comments(one).items() if text}
    return found


def _comments(cls: type[Any]) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(cls))
    trailing: dict[int, str] = {}
    alone: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("#").strip()
            whole = token.line.strip().startswith("#")
            (alone if whole else trailing)[token.start[0]] = text
    (definition,) = [one for one in ast.parse(source).body if isinstance(one, ast.ClassDef)]
    found = {}
    for node in definition.body:
        target: ast.expr | None = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.Assign):
            target = node.targets[0]
        if not isinstance(target, ast.Name):
            continue
        above: list[str] = []
        line = node.lineno - 1
        while line in alone:
            above.insert(0, alone[line])
            line -= 1
        last = node.end_lineno or node.lineno
        beside = [trailing[n] for n in range(node.lineno, last + 1) if n in trailing]
        found[target.id] = " ".join(beside) or " ".join(above)
    return found


# The command line.


def command_line() -> str:
    """The page of every command and option."""
    from galpipe.cli import _parser

    parts = ["# Command line", "Made from the parser of the command itself."]
    for words, parser in commands(_parser(), ()):
        parts += [f"## `{' '.join(words)}`", parser.description or ""]
        parts.append("```text\n" + _usage(parser) + "\n```")
        rows = [
            f"| {_option(action)} | {_default(action)} | {_cell(action.help or '')} |"
            for action in parser._actions
            if not isinstance(action, argparse._SubParsersAction | argparse._HelpAction)
        ]
        if rows:
            parts.append("\n".join(["| Option | Default | Meaning |", "|---|---|---|", *rows]))
        examples = [line for line in (parser.epilog or "").splitlines() if line.startswith("  ")]
        if examples:
            parts.append("```\n" + textwrap.dedent("\n".join(examples)) + "\n```")
    return "\n\n".join(part for part in parts if part) + "\n"


def commands(
    parser: argparse.ArgumentParser, words: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command that does something, with its words."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield words, parser
    for action in below:
        for name, one in action.choices.items():
            yield from commands(one, (*(words or (parser.prog,)), name))


def _usage(parser: argparse.ArgumentParser) -> str:
    formatter = argparse.HelpFormatter(prog=parser.prog, width=96)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, "")
    return formatter.format_help().strip()


def _option(action: argparse.Action) -> str:
    value = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    )
    name = action.option_strings[-1] if action.option_strings else str(value).strip("()")
    takes = f" {value}" if action.option_strings and action.nargs != 0 else ""
    return f"`{name}{takes}`"


def _default(action: argparse.Action) -> str:
    if action.required:
        return "*required*"
    if action.dest == "workspace":
        return "`workspace`"
    return "" if action.default in (None, False, argparse.SUPPRESS) else f"`{action.default}`"


# Labels and statuses.


def label_columns() -> str:
    """The page of the columns of the published labels."""
    from galpipe.catalogue.labels import MEANINGS
    from galpipe.stamps.morphology import columns

    rows = [(name, m.unit, m.ucd, m.description) for name, m in MEANINGS.items()]
    measured = [(c.name, c.unit or "", c.ucd, c.description) for c in columns(BANDS)]
    head = "| Column | Unit | UCD | Meaning |\n|---|---|---|---|\n"

    def table(lines: list[tuple[str, str, str, str]]) -> str:
        return head + "\n".join(
            f"| `{name}` | {unit} | `{ucd}` | {_cell(text)} |" for name, unit, ucd, text in lines
        )

    return "\n\n".join(
        [
            "# Columns of the labels",
            "Made from what writes them. Unit, UCD and description are in the Parquet metadata, "
            "and travel into FITS and VOTable. [The labels](../labels.md) explains them.",
            "## Every survey",
            table(rows),
            "## Measured morphology",
            f"Shown for a survey with the bands {', '.join(BANDS)}; another has its own colours.",
            table(measured),
            "## Carried from the input",
            "`input_*`: the columns named in `[publish] carry`, as they came.",
        ]
    )


def status_bits() -> str:
    """The page of the bits an object can end with."""
    from galpipe.status import Status

    said = _comments(Status)
    rows = [f"| {flag.value} | `{flag.name}` | {_cell(said[str(flag.name)])} |" for flag in Status]
    prose = re.sub(r"\s+", " ", Status.__doc__ or "")
    return "\n\n".join(
        [
            "# Status bits",
            f"{prose} The column `status` is their sum, `status_text` has them in words.",
            "| Bit | Name | Meaning |\n|---|---|---|\n" + "\n".join(rows),
        ]
    )
