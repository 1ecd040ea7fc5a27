"""VOTables from services: refused where their shape is bad, then read by astropy."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from galpipe.sample.votable_shape import BadVotableError, check_shape, shortened

__all__ = ["Answer", "BadVotableError", "Link", "quiet", "read", "shortened"]
_one_at_a_time = threading.RLock()  # Python's warning filters are one for all threads


@dataclass(frozen=True)
class Link:
    """A service that a document describes: its standard, address and the parameters it names."""

    standard: str
    address: str
    parameters: dict[str, str]


@dataclass(frozen=True)
class Answer:
    """What a service answered: `status` OK, OVERFLOW or ERROR, with the message of the latter.

    `table` is an astropy table of the results, None where there is none.
    """

    status: str
    message: str
    table: Any
    links: tuple[Link, ...]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows by column names in small letters; None where a cell is masked or empty."""
        if self.table is None:
            return
        names = [str(name) for name in self.table.colnames]
        for row in self.table:
            yield {name.lower(): _plain(row[name]) for name in names}


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings of headers older than the standards, whatever other threads do."""
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read(content: bytes, most_bytes: int) -> Answer:
    """The answer in a VOTable document of at most `most_bytes`; raises BadVotableError."""
    if len(content) > most_bytes:
        raise BadVotableError(f"larger than {most_bytes} bytes")
    check_shape(content)
    from astropy.io import votable

    try:
        with quiet():
            document = votable.parse(io.BytesIO(content), verify="ignore", invalid="mask")
            return _answer(document)
    except MemoryError:
        raise
    except Exception as error:  # astropy raises whatever its parser meets
        raise BadVotableError(shortened(error)) from None


def _answer(document: Any) -> Answer:
    resources = list(document.iter_resources()) if hasattr(document, "iter_resources") else []
    resources = resources or list(_resources(document.resources))
    results = next((one for one in resources if (one.type or "").lower() == "results"), None)
    if results is None and resources and (resources[0].type or "").lower() != "meta":
        results = resources[0]
    tables = list(results.tables) if results is not None else []
    infos = [*document.infos, *(results.infos if results is not None else [])]
    infos += [info for table in tables for info in table.infos]
    status, message = "OK", ""
    for info in infos:  # the last one counts: an overflow is told after the rows
        if str(info.name).upper() == "QUERY_STATUS":
            status, message = str(info.value).upper(), shortened(info.content or "no reason")
    table = tables[0].to_table(use_names_over_ids=True) if tables and status != "ERROR" else None
    links = tuple(link for one in resources for link in _links(one))
    return Answer(status, message, table, links)


def _resources(found: Any) -> Iterator[Any]:
    for resource in found:
        yield resource
        yield from _resources(resource.resources)


def _links(resource: Any) -> Iterator[Link]:
    if "adhoc:service" not in (resource.utype or ""):
        return
    facts = {str(param.name): _plain(param.value) for param in resource.params}
    if not facts.get("accessURL"):
        return
    parameters = {}
    for group in resource.groups:
        if group.name == "inputParams":
            for param in group.entries:
                if hasattr(param, "value"):
                    value = _plain(param.value)
                    parameters[str(param.name).upper()] = "" if value is None else str(value)
    yield Link(str(facts.get("standardID") or ""), str(facts["accessURL"]), parameters)


def _plain(value: Any) -> Any:
    """A cell as a Python value; None where it is masked."""
    import numpy as np

    if value is None or value is np.ma.masked:
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str | int | float):
        return value
    return str(value)
