"""The section of what labels are worth when the sky is worse: re-observation, and halves."""

from __future__ import annotations

from typing import Any

from galpipe.catalogue import reobservation_plots
from galpipe.catalogue.report.charts import chart
from galpipe.catalogue.report.release import Release


def reobserved(release: Release) -> dict[str, Any] | None:
    """Values of the section; None where neither was asked for."""
    again = release.figures.get("reobservation")
    halves = release.figures.get("stability")
    if again is None and halves is None:
        return None
    picture = None
    if again is not None:
        figure = reobservation_plots.flips(again)
        figure.suptitle("")  # the caption says it
        told = ", ".join(
            f"{one['words']} {100 * one['rate']:.1f} %"
            for one in again["conditions"]
            if one["rate"] is not None
        )
        picture = chart(figure, f"Labels that flip: {told}.")
    return {
        "again": again,
        "chart": picture,
        "halves": halves,
        "published": release.figures["published"]["nuisances"],
    }
