"""Questions to MAST's portal: a JSON query in a form, answered with a table.

The portal says `EXECUTING` until it is done, then `COMPLETE` with rows, or `ERROR` with a message.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from galpipe.archives.download import Downloader
from galpipe.archives.spec import Hubble
from galpipe.archives.trouble import BadImageError
from galpipe.errors import InputError
from galpipe.status import Status

MOST_ROWS = 50_000  # that are asked for; the portal cuts longer answers without a word
POLLS = 60  # of a query that is still executing
TYPES = {"int": pa.int64(), "long": pa.int64(), "float": pa.float64(), "double": pa.float64()}
INTERNAL = "_selected_"


def ask(
    spec: Hubble, downloader: Downloader, service: str, params: Mapping[str, Any], key: str
) -> dict[str, Any]:
    """The whole answer of a service: `data`, a list of rows, and `fields`, their names and types.

    `key` of the survey file is named where InputError is raised: no usable answer, a refusal, or as
    many rows as one answer may have.
    """
    asked = {
        "service": service, "params": params, "format": "json", "pagesize": MOST_ROWS, "page": 1,
    }  # fmt: skip
    address = f"{spec.mast.rstrip('/')}/api/v0/invoke"
    body = "request=" + quote(json.dumps(asked))
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "text/plain"}
    for _ in range(POLLS):
        try:
            found = downloader.fetch(address, _judged, method="POST", content=body, headers=headers)
        except BadImageError as error:
            raise InputError(
                f"{key}: {spec.mast} gave no usable answer ({error.reason}); run the "
                "survey again later, or mend archive.mast."
            ) from None
        if found["status"] == "COMPLETE":
            if len(found["data"]) >= MOST_ROWS:
                raise InputError(
                    f"{key}: the answer has {len(found['data'])} rows, as many as one may have, so "
                    "it may be cut off; take a smaller piece of sky."
                )
            return found
        if found["status"] == "ERROR":
            said = " ".join(str(found.get("msg", "")).split())[:200]
            raise InputError(f"{key}: MAST refused the query ({said}); mend {key}.")
        time.sleep(spec.patience)
    raise InputError(f"{key}: MAST has not finished the query; run the survey again later.")


def _judged(content: bytes) -> dict[str, Any]:
    """An answer with a known status and, where it is complete, with all its rows."""
    try:
        found = json.loads(content)
        if found["status"] in ("EXECUTING", "ERROR"):
            return dict(found)
        whole = found["paging"]["rowsFiltered"] == len(found["data"])
        names = [str(field["name"]) for field in found["fields"] if "type" in field]
        good = found["status"] == "COMPLETE" and len(set(names)) == len(names)
        good &= len(names) == len(found["fields"])
        good &= all(isinstance(row, dict) for row in found["data"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadImageError(Status.FAILED, "an unreadable answer") from None
    if not whole:
        raise BadImageError(Status.FAILED, "the answer is cut off")
    if not good:
        raise BadImageError(Status.FAILED, "an answer of another kind")
    return dict(found)


def table_of(found: Mapping[str, Any]) -> pa.Table:
    """The rows as a table: integers exact, what is no number in a column of numbers null."""
    columns = {}
    for field in found["fields"]:
        name, type = str(field["name"]), TYPES.get(str(field["type"]), pa.string())
        if name == INTERNAL:
            continue
        values = [_value(row.get(name), type) for row in found["data"]]
        columns[name] = pa.array(values, type)
    return pa.table(columns)


def _value(value: Any, type: pa.DataType) -> Any:
    if value is None or isinstance(value, bool | list | dict):
        return None
    if type == pa.int64():
        return value if isinstance(value, int) and -(2**63) <= value < 2**63 else None
    if type == pa.float64():
        good = isinstance(value, int | float) and math.isfinite(value)
        return float(value) if good else None
    return str(value)
