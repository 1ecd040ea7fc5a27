"""A small sky with planted truth: round, inclined and edge-on galaxies, and their table."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 48
KINDS = ("round", "inclined", "edge_on")


def galaxy(kind: str, rng: np.random.Generator) -> np.ndarray:
    """One RGB image (SIZE, SIZE, 3) uint8 of a kind, at a random angle, with noise."""
    axis_ratio = {"round": 0.95, "inclined": 0.55, "edge_on": 0.2}[kind]
    index = {"round": 3.0, "inclined": 1.0, "edge_on": 1.0}[kind]
    angle, radius = rng.uniform(0, np.pi), rng.uniform(4.5, 6.5)
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    u = x * np.cos(angle) + y * np.sin(angle)
    v = (-x * np.sin(angle) + y * np.cos(angle)) / axis_ratio
    light = 180 * np.exp(-1.7 * (np.hypot(u, v) / radius) ** (1 / index))
    if rng.uniform() < 0.3:
        nx, ny = rng.choice([-16, 16], 2)
        light = light + 120 * np.exp(-((x - nx) ** 2 + (y - ny) ** 2) / 6)
    colours = np.array([1.0, 0.9, 0.7]) if kind == "round" else np.array([0.8, 0.9, 1.0])
    image = light[..., None] * colours + rng.normal(6, 2, (SIZE, SIZE, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def draw(folder: Path, objects: int, first: int = 0, positions: bool = True) -> Path:
    """Draw the objects from number `first` on into a folder, and write the table of all of them.

    An object's image depends on its number alone, so a folder that grows keeps its old images.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(objects):
        rng = np.random.default_rng(number)
        kind = KINDS[int(rng.integers(3))]
        identifier = 587722981741363200 + 7919 * number
        if number >= first:
            Image.fromarray(galaxy(kind, rng)).save(folder / "images" / f"{identifier}.png")
        row = {"objid": identifier, "file": f"images/{identifier}.png", "kind": kind}
        if positions:
            row |= {"ra": (number * 37.7) % 360, "dec": (number * 11.3) % 120 - 60}
        rows.append(row)
    with (folder / "galaxies.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def survey_file(path: Path, folder: Path, model: str = "none", extra: str = "") -> Path:
    """A survey file for a drawn folder; `model` is `none` or the text of a [model] table."""
    table = 'kind = "none"' if model == "none" else model
    path.write_text(
        f"""
name = "sky"

[sample]
id = "objid"
id_type = "int64"
file = "file"
ra = "ra"
dec = "dec"

[archive]
kind = "folder"
path = "{folder}"
bands = ["i", "r", "g"]
shard = 64

[prepare]
size = 32
shard = 64
chunk = 32
background = {{ kind = "annulus" }}

[model]
{table}

[cluster]
components = 3

[evaluate]
permutations = 20
truth = {{ classes = "kind" }}
{extra}
"""
    )
    return path
