"""Votes as a Galaxy Zoo of this sky would give them: a multinomial about what is there to see."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa

from galpipe.sky.population import Member

Rng = np.random.Generator

# The tree's questions and answers as in zoo2MainSpecz (Willett et al. 2013).
TASKS: dict[str, tuple[str, ...]] = {
    "t01_smooth_or_features": ("a01_smooth", "a02_features_or_disk", "a03_star_or_artifact"),
    "t02_edgeon": ("a04_yes", "a05_no"),
    "t03_bar": ("a06_bar", "a07_no_bar"),
    "t04_spiral": ("a08_spiral", "a09_no_spiral"),
    "t05_bulge_prominence": (
        "a10_no_bulge", "a11_just_noticeable", "a12_obvious", "a13_dominant",
    ),
    "t06_odd": ("a14_yes", "a15_no"),
    "t07_rounded": ("a16_completely_round", "a17_in_between", "a18_cigar_shaped"),
    "t08_odd_feature": (
        "a19_ring", "a20_lens_or_arc", "a21_disturbed", "a22_irregular", "a23_other", "a24_merger",
        "a38_dust_lane",
    ),
}  # fmt: skip
VOTES = {
    f"{task}_{answer}_{what}": kind
    for task, answers in TASKS.items()
    for answer in answers
    for what, kind in (
        ("count", pa.int32()),
        ("weighted_fraction", pa.float64()),
        ("debiased", pa.float64()),
    )
}
CLEAR = 25.0  # S/N at which half of the detail that is there is seen


def votes(member: Member, snr: float, rng: Rng) -> dict[str, Any]:
    """Counts, fractions and the class string of one object; `snr`: of its half-light disc.

    The debiased fractions are the counts' own: the sky has no bias with distance to take out.
    """
    people = int(rng.integers(28, 56))
    seen = snr / (snr + CLEAR)
    row: dict[str, Any] = {}
    counts = {"": people}
    total = 0
    for task, chances in _chances(member, seen).items():
        asked = _asked(task, counts)
        p = np.maximum(np.array(chances, float), 0.01)
        given = rng.multinomial(asked, p / p.sum())
        total += int(given.sum())
        for answer, count in zip(TASKS[task], given, strict=True):
            fraction = float(count) / asked if asked else 0.0
            counts[answer] = int(count)
            row |= {
                f"{task}_{answer}_count": int(count),
                f"{task}_{answer}_weighted_fraction": fraction,
                f"{task}_{answer}_debiased": fraction,
            }
    row |= {"total_classifications": people, "total_votes": total, "gz2class": _name(counts)}
    return row


def _asked(task: str, counts: dict[str, int]) -> int:
    """How many of the people a question of the tree reaches."""
    leads = {
        "t01_smooth_or_features": "",
        "t02_edgeon": "a02_features_or_disk",
        "t07_rounded": "a01_smooth",
        "t08_odd_feature": "a14_yes",
    }
    if task == "t06_odd":
        return counts["a01_smooth"] + counts["a02_features_or_disk"]
    return counts[leads.get(task, "a05_no")]


def _chances(member: Member, seen: float) -> dict[str, tuple[float, ...]]:
    """How likely each answer is, given the truth and how much of it is seen (0 to 1)."""
    kind = member.kind
    features = {"elliptical": 0.05, "irregular": 0.75, "merger": 0.6}.get(kind, seen)
    nothing = {"star": 0.85, "artefact": 0.9}.get(kind, 0.02)
    edge = 0.9 if kind == "edge_on" else 0.03
    bar = {"barred": 0.85 * seen, "spiral": 0.06}.get(kind, 0.1)
    arms = {"barred": 0.8 * seen, "spiral": 0.95 * seen}.get(kind, 0.12)
    odd = {"merger": 0.85, "irregular": 0.6, "artefact": 0.5}.get(kind, 0.05)
    odd += 0.1 * member.companion
    merging, irregular = (1.0 * (kind == k) for k in ("merger", "irregular"))
    ratio = member.axis_ratio
    return {
        "t01_smooth_or_features": (
            (1 - features) * (1 - nothing), features * (1 - nothing), nothing,
        ),
        "t02_edgeon": (edge, 1 - edge),
        "t03_bar": (bar, 1 - bar),
        "t04_spiral": (arms, 1 - arms),
        "t05_bulge_prominence": (0.15, 0.45, 0.35, 0.05),
        "t06_odd": (odd, 1 - odd),
        "t07_rounded": (
            1 / (1 + math.exp(-(ratio - 0.8) * 18)), 0.6, 1 / (1 + math.exp((ratio - 0.35) * 18)),
        ),
        "t08_odd_feature": (
            0.05, 0.02, 0.1 + 0.2 * merging, 0.05 + 2 * irregular, 0.1, 0.05 + 2 * merging, 0.05,
        ),
    }  # fmt: skip


def _name(counts: dict[str, int]) -> str:
    """The class string by the plurality of each question, as in Willett et al. (2013), app. A."""

    def most(task: str) -> str:
        return max(TASKS[task], key=lambda answer: counts[answer])

    first = most("t01_smooth_or_features")
    if first == "a03_star_or_artifact":
        return "A"
    if first == "a01_smooth":
        name = "E" + {"a16": "r", "a17": "i", "a18": "c"}[most("t07_rounded")[:3]]
    elif most("t02_edgeon") == "a04_yes":
        name = "Ser"
    else:
        bulge = {"a10": "d", "a11": "c", "a12": "b", "a13": "a"}[most("t05_bulge_prominence")[:3]]
        bar = "B" if most("t03_bar") == "a06_bar" else ""
        arms = "" if most("t04_spiral") == "a08_spiral" else "x"
        name = f"S{bar}{bulge}{arms}"
    if counts["a14_yes"] <= counts["a15_no"]:
        return name
    odd = {"a19": "r", "a20": "l", "a21": "d", "a22": "i", "a23": "o", "a24": "m", "a38": "u"}
    return f"{name}({odd[most('t08_odd_feature')[:3]]})"
