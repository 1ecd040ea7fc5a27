"""What a network makes of its conditions: losses with true and shuffled ones, strips, trends."""

from __future__ import annotations

from typing import Any

from galpipe.catalogue.interpolation import STEPS, interpolations
from galpipe.catalogue.measuring import QUANTITIES
from galpipe.catalogue.report.charts import chart
from galpipe.catalogue.report.release import Inputs, Release
from galpipe.workspace import Workspace


def conditioned(workspace: Workspace, release: Release, inputs: Inputs) -> dict[str, Any] | None:
    """Values of the part of the page; None where no network is told conditions."""
    figures = release.figures.get("conditions")
    if figures is None:
        return None
    pages = interpolations(
        workspace, inputs.catalogue, inputs.stamps, inputs.model, inputs.embeddings, figures
    )
    shown = []
    for column, trend in figures["trends"].items():
        picture = None
        if column in pages:
            alt = (
                f"Held-out galaxies drawn at {STEPS} values of {column} from {trend['low']:.3g} to "
                f"{trend['high']:.3g}, and how their measures go with it."
            )
            picture = chart(pages[column], alt)
        rows = [{"name": QUANTITIES[name], **found} for name, found in trend["quantities"].items()]
        shown.append({"column": column, "trend": trend, "chart": picture, "rows": rows})
    return {**figures, "shown": shown}
