"""The section of a classifier: what its labels are worth, class by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from galpipe.catalogue import supervised_plots
from galpipe.catalogue.report.charts import chart
from galpipe.catalogue.report.release import Release

KINDS = {  # in words, where the name in a survey file is none
    "vade": "VaDE network", "vae": "VAE", "cvae": "CVAE", "cvae2": "CVAE", "fancy_cvae": "CVAE",
    "flow_vae": "VAE with a flow", "contrastive": "contrastive network",
    "votes": "network of votes", "regression": "regression network",
}  # fmt: skip


def classification(release: Release) -> dict[str, Any] | None:
    """Values of the section; None where no network learnt classes."""
    figures = release.figures.get("classification")
    if figures is None:
        return None
    diagram = None
    if figures["n"]:
        bins = figures["reliability"]
        told = ", ".join(
            f"{p:.2f}: {a:.2f}" for p, a in zip(bins["probability"], bins["accuracy"], strict=True)
        )
        diagram = chart(
            supervised_plots.diagram(figures),
            f"Reliability diagram, probability and share of right labels: {told}.",
        )
    return {
        **figures,
        "who": "held-out objects" if figures["judged_on"] == "test" else "objects",
        "rows": _rows(figures),
        "reliability": diagram,
        "bins": len(figures["reliability"]["objects"]) if figures["n"] else 0,
    }


def network_words(network: Mapping[str, Any]) -> str:
    """What kind of network was trained, in a few words for the head of the page."""
    model = network["model"]
    kind = KINDS.get(model["kind"], model["kind"].replace("_", " "))
    article = "An" if kind[0] in "aeiou" else "A"
    dimensions = f"{model['latent']} latent dimensions and " if "latent" in model else ""
    return f"{article} {kind} with {dimensions}{network['parameters']:,} parameters"


def what_it_learnt(network: Mapping[str, Any]) -> str:
    """What the network was shown beside pixels."""
    model = network["model"]
    if model["kind"] == "classifier":
        return f"with the classes of the column {model['classes']!r}"
    if model["kind"] == "contrastive":
        return "without labels" + (", with their measured columns" if model["measured"] else "")
    learnt = [name for name in network["facts"] if name != "condition"]
    return "with what the table says of them" if learnt else "without labels"


def _rows(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every true class with its figures, and its objects by predicted class."""
    found = []
    for one, counts in zip(figures["classes"], figures["confusion"], strict=True):
        total = max(sum(counts), 1)
        found.append({**one, "cells": [(int(n), n / total) for n in counts]})
    return found
