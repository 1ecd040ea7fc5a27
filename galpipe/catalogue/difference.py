"""What changed between two releases: objects that came, went, or carry another label."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def difference(old: Path, new: Path) -> dict[str, Any]:
    """Compare two label files by object id.

    Returns counts `added`, `removed`, `unchanged` (equal in every column but `release`), `changed`,
    and `transitions`: how many objects went from which label to which, most frequent first.
    """
    tables = [pq.read_table(path) for path in (old, new)]
    shared = [n for n in tables[0].column_names if n != "release" and n in tables[1].column_names]
    rows = [{row["object_id"]: row for row in table.select(shared).to_pylist()} for table in tables]
    before, after = rows
    common = before.keys() & after.keys()
    unchanged = sum(_equal(before[key], after[key]) for key in common)
    moves = Counter(
        (before[key]["label"], after[key]["label"])
        for key in common
        if before[key]["label"] != after[key]["label"]
    )
    return {
        "added": len(after.keys() - before.keys()),
        "removed": len(before.keys() - after.keys()),
        "unchanged": unchanged,
        "changed": len(common) - unchanged,
        "transitions": [
            {"old": a, "new": b, "objects": n}
            for (a, b), n in sorted(moves.items(), key=lambda m: (-m[1], str(m[0])))
        ],
    }


def _equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Equal rows, where an undefined number equals an undefined number."""
    return repr(a) == repr(b)
