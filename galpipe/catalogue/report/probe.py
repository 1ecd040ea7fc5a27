"""The section of the linear probe: what the vectors know of classes that they were not shown."""

from __future__ import annotations

from typing import Any

from galpipe.catalogue.probe import WORDS
from galpipe.catalogue.report.release import Release


def probe(release: Release) -> dict[str, Any] | None:
    """Values of the section; None where nothing was probed."""
    figures = release.figures.get("probe")
    if figures is None:
        return None
    rows = [{"who": WORDS[name], **found} for name, found in figures["descriptions"].items()]
    return {**figures, "rows": rows}
