"""VOTables as VO services write them: tables with status, errors, service links, and VOSI."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape, quoteattr

MEDIA = "application/x-votable+xml"
HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
OPEN = '<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">\n'
CLOSE = "</VOTABLE>\n"


@dataclass(frozen=True)
class Field:
    """A column: `datatype` is long, double or char (text of any length)."""

    name: str
    datatype: str
    unit: str = ""
    ucd: str = ""
    utype: str = ""

    def xml(self) -> str:
        given = {"name": self.name, "datatype": self.datatype}
        if self.datatype == "char":
            given["arraysize"] = "*"
        given |= {k: v for k, v in (("unit", self.unit), ("ucd", self.ucd)) if v}
        if self.utype:
            given["utype"] = self.utype
        return f"<FIELD {_attributes(given)}/>\n"


def results(
    fields: Sequence[Field], rows: Iterable[Sequence[Any]], overflow: bool = False, more: str = ""
) -> str:
    """The answer to a query; `overflow` adds the status that says that rows were left out.

    `more` is XML after the results: service descriptors.
    """
    body = "".join(f"<TR>{''.join(_cell(value) for value in row)}</TR>\n" for row in rows)
    last = '<INFO name="QUERY_STATUS" value="OVERFLOW"/>\n' if overflow else ""
    return (
        f'{HEAD}{OPEN}<RESOURCE type="results">\n<INFO name="QUERY_STATUS" value="OK"/>\n<TABLE>\n'
        f"{''.join(field.xml() for field in fields)}<DATA><TABLEDATA>\n{body}"
        f"</TABLEDATA></DATA>\n</TABLE>\n{last}</RESOURCE>\n{more}{CLOSE}"
    )


def error(message: str) -> str:
    """The document of a query that was refused (DALI 1.1, section 4.4)."""
    return (
        f'{HEAD}{OPEN}<RESOURCE type="results">\n'
        f'<INFO name="QUERY_STATUS" value="ERROR">{escape(message)}</INFO>\n</RESOURCE>\n{CLOSE}'
    )


def soda_descriptor(address: str, id: str) -> str:
    """The service descriptor by which a DataLink document names its cutout service."""
    return (
        '<RESOURCE type="meta" utype="adhoc:service" ID="soda">\n'
        '<PARAM name="standardID" datatype="char" arraysize="*" '
        'value="ivo://ivoa.net/std/SODA#sync-1.0"/>\n'
        f'<PARAM name="accessURL" datatype="char" arraysize="*" value={quoteattr(address)}/>\n'
        '<GROUP name="inputParams">\n'
        f'<PARAM name="ID" datatype="char" arraysize="*" value={quoteattr(id)}/>\n'
        '<PARAM name="CIRCLE" datatype="double" arraysize="3" xtype="circle" unit="deg" '
        'ucd="pos.outline;obs" value=""/>\n</GROUP>\n</RESOURCE>\n'
    )


def fields_of(
    names: Sequence[str], rows: Sequence[Sequence[Any]], known: dict[str, tuple[str, str, str]]
) -> list[Field]:
    """The columns of an answer: as `known` (type, unit, UCD), else after their values."""
    fields = []
    for place, name in enumerate(names):
        kind, unit, ucd = known.get(name.lower(), ("", "", ""))
        values = [row[place] for row in rows if row[place] is not None]
        if any(isinstance(value, str) for value in values):
            kind = "char"
        elif any(isinstance(value, float) for value in values):
            kind = "double"
        elif values or not kind:
            kind = kind if kind == "double" else "long" if values else "char"
        fields.append(Field(name, kind, unit, ucd))
    return fields


def capabilities(entries: Sequence[tuple[str, str]], tap: str = "", rows: int = 0) -> str:
    """VOSI: what is to be had at which addresses, as (standard, address).

    `tap` is the address of a TAP service and `rows` how many rows it gives at most.
    """
    table_access = (
        '<capability standardID="ivo://ivoa.net/std/TAP" xsi:type="tr:TableAccess">'
        '<interface xsi:type="vs:ParamHTTP" role="std" version="1.1">'
        f'<accessURL use="base">{escape(tap)}</accessURL></interface>'
        "<language><name>ADQL</name><version>2.1</version></language>"
        '<outputFormat ivo-id="ivo://ivoa.net/std/TAPRegExt#output-votable-td">'
        f"<mime>{MEDIA}</mime><alias>votable</alias></outputFormat>"
        f'<outputLimit><default unit="row">{rows}</default><hard unit="row">{rows}</hard>'
        "</outputLimit></capability>\n"
    )
    plain = "".join(
        f'<capability standardID="ivo://ivoa.net/std/{standard}">'
        '<interface xsi:type="vs:ParamHTTP" role="std">'
        f'<accessURL use="full">{escape(address)}</accessURL></interface></capability>\n'
        for standard, address in entries
    )
    return (
        f"{HEAD}<vosi:capabilities "
        'xmlns:vosi="http://www.ivoa.net/xml/VOSICapabilities/v1.0" '
        'xmlns:vs="http://www.ivoa.net/xml/VODataService/v1.1" '
        'xmlns:tr="http://www.ivoa.net/xml/TAPRegExt/v1.0" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">\n'
        f"{table_access if tap else ''}{plain}</vosi:capabilities>\n"
    )


def availability() -> str:
    """VOSI: the service answers."""
    return (
        f'{HEAD}<vosi:availability xmlns:vosi="http://www.ivoa.net/xml/VOSIAvailability/v1.0">'
        "<vosi:available>true</vosi:available></vosi:availability>\n"
    )


def tableset(tables: dict[str, list[Field]]) -> str:
    """VOSI: the tables and their columns."""

    def column(field: Field) -> str:
        array = ' arraysize="*"' if field.datatype == "char" else ""
        return (
            f"<column><name>{escape(field.name)}</name><unit>{escape(field.unit)}</unit>"
            f'<ucd>{escape(field.ucd)}</ucd><dataType xsi:type="vs:VOTableType"{array}>'
            f"{field.datatype}</dataType></column>"
        )

    body = "".join(
        f'<table type="table"><name>{escape(name)}</name>'
        f"{''.join(column(field) for field in fields)}</table>\n"
        for name, fields in tables.items()
    )
    return (
        f'{HEAD}<vosi:tableset xmlns:vosi="http://www.ivoa.net/xml/VOSITables/v1.0" '
        'xmlns:vs="http://www.ivoa.net/xml/VODataService/v1.1" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        f"<schema><name>sky</name>\n{body}</schema></vosi:tableset>\n"
    )


def _attributes(values: dict[str, str]) -> str:
    return " ".join(f"{name}={quoteattr(value)}" for name, value in values.items())


def _cell(value: Any) -> str:
    """A value; floats as their shortest exact decimal, a missing one as an empty cell."""
    if value is None:
        return "<TD/>"
    if isinstance(value, float):
        return f"<TD>{value!r}</TD>" if math.isfinite(value) else "<TD/>"
    return f"<TD>{escape(str(value))}</TD>"
