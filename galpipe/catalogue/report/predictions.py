"""The section of predicted votes or values: how far they are from what the table has."""

from __future__ import annotations

from typing import Any

from galpipe.catalogue import prediction_plots
from galpipe.catalogue.report.charts import chart
from galpipe.catalogue.report.release import Release


def predictions(release: Release) -> dict[str, Any] | None:
    """Values of the section; None where no network predicts votes or values."""
    figures = release.figures.get("predictions")
    if figures is None:
        return None
    drawn = None
    if prediction_plots.drawable(figures):
        page = (
            prediction_plots.values(figures)
            if figures["kind"] == "regression"
            else prediction_plots.votes(figures)
        )
        drawn = chart(page, f"{prediction_plots.title(figures)}.")
    return {
        **figures,
        "who": "held-out objects" if figures["judged_on"] == "test" else "objects",
        "drawn": drawn,
    }
