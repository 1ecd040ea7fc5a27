"""Samples from the Hubble Source Catalog (v3, images public by October 2017), by a cone.

The catalogue is asked as MAST's portal is: a JSON query in a form, answered `EXECUTING` until it is
done, `COMPLETE` with rows, or `ERROR` with a message.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from galpipe.archives.download import Downloader, pace_at
from galpipe.archives.spec import Hubble
from galpipe.archives.trouble import BadImageError
from galpipe.errors import InputError
from galpipe.sample.spec import Sample
from galpipe.status import Status

SERVICE = "Mast.Hsc.Db.v3"
MOST_ROWS = 50_000  # that are asked for; the portal cuts longer answers without a word
POLLS = 60  # of a query that is still executing
TYPES = {"int": pa.int64(), "long": pa.int64(), "float": pa.float64(), "double": pa.float64()}
INTERNAL = "_selected_"


def query(spec: Hubble, sample: Sample) -> pa.Table:
    """The rows of the Hubble Source Catalog in `sample.cone`, numbers exact.

    Raises InputError where the catalogue does not answer, or the cone holds more than one answer.
    """
    cone = sample.cone
    assert cone is not None
    asked = {
        "service": SERVICE,
        "params": {
            "ra": cone.ra, "dec": cone.dec, "radius": cone.radius / 60, "nr": MOST_ROWS,
            "ni": 1, "magtype": 1,
        },
        "format": "json", "pagesize": MOST_ROWS, "page": 1,
    }  # fmt: skip
    found = _asked(spec, asked)
    rows = found["data"]
    if len(rows) >= MOST_ROWS:
        raise InputError(
            f"sample.cone: the answer has {len(rows)} rows, as many as one may have, so it may be "
            "cut off; take a smaller radius."
        )
    if not rows:
        raise InputError(
            "sample.cone: the Hubble Source Catalog has nothing there; mend ra, dec and radius "
            "(images after October 2017 are not in it: name a table with sample.table)."
        )
    return _table(found)


def _asked(spec: Hubble, asked: dict[str, Any]) -> dict[str, Any]:
    """The whole answer to a query, once it is done."""
    address = f"{spec.mast.rstrip('/')}/api/v0/invoke"
    body = "request=" + quote(json.dumps(asked))
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "text/plain"}
    with Downloader(spec, spec.mast, pace_at(spec.mast, spec.requests_per_minute)) as downloader:
        for _ in range(POLLS):
            try:
                found = downloader.fetch(
                    address, _judged, method="POST", content=body, headers=headers
                )
            except BadImageError as error:
                raise InputError(
                    f"sample.cone: {spec.mast} gave no usable answer ({error.reason}); run the "
                    "survey again later, or mend archive.mast."
                ) from None
            if found["status"] == "COMPLETE":
                return found
            if found["status"] == "ERROR":
                said = " ".join(str(found.get("msg", "")).split())[:200]
                raise InputError(f"sample.cone: MAST refused the query ({said}); mend the cone.")
            time.sleep(spec.patience)
    raise InputError("sample.cone: MAST has not finished the query; run the survey again later.")


def _judged(content: bytes) -> dict[str, Any]:
    """An answer with a known status and, where it is complete, with all its rows."""
    try:
        found = json.loads(content)
        if found["status"] in ("EXECUTING", "ERROR"):
            return dict(found)
        whole = found["paging"]["rowsFiltered"] == len(found["data"])
        names = [str(field["name"]) for field in found["fields"]]
        good = found["status"] == "COMPLETE" and len(set(names)) == len(names)
        good &= all(isinstance(row, dict) for row in found["data"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadImageError(Status.FAILED, "an unreadable answer") from None
    if not whole:
        raise BadImageError(Status.FAILED, "the answer is cut off")
    if not good:
        raise BadImageError(Status.FAILED, "an answer of another kind")
    return dict(found)


def _table(found: dict[str, Any]) -> pa.Table:
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
