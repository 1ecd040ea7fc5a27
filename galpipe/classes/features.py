"""From measured columns and embeddings to the vectors that are clustered.

Every parameter of the way (medians, spreads, quantiles, principal axes) is fitted on the training
split alone and kept, so that an object's vector depends on nothing but its own measurements.
"""

from __future__ import annotations

import difflib
import enum
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.classes.diffusion import Diffusion, fit_diffusion
from galpipe.classes.spec import Clustering, Feature
from galpipe.errors import InputError

Floats = NDArray[np.float64]
QUANTILES = np.linspace(0, 1, 201)  # of the training split, kept for the rank transform
FITTED = ("lowest", "quantiles", "centre", "spread", "scale")  # arrays of Columns
MAPPED = ("landmarks", "widths", "axes", "spread")  # arrays of Diffusion
AXES_BESIDE_COLUMNS, MOST_AXES = 8, 64  # of an embedding, where the spec names no number
LOWEST_NORMAL = 1e-3  # the rank of the lowest training value; 1 minus this, of the highest


class Reason(enum.IntEnum):
    """Why an object has no cluster."""

    ASSIGNED = 0
    NO_STAMP = 1
    UNMEASURED = 2  # more columns are undefined than may be filled in
    NO_EMBEDDING = 3
    FAINT = 4  # its highest membership is below the survey's limit
    NO_CLUSTERS = 5  # there was nothing to fit clusters to


def chosen_columns(
    features: Sequence[Feature], present: Sequence[str], without: Sequence[str] = ()
) -> tuple[Feature, ...]:
    """The wanted columns by name: patterns filled in from the present ones, each column once.

    A pattern takes no column that fits one of `without`, and may take none; a plain
    name that is not there raises InputError.
    """
    found: dict[str, Feature] = {}
    for feature in features:
        if any(sign in feature.column for sign in "*?["):
            names = [
                name
                for name in present
                if fnmatch.fnmatchcase(name, feature.column)
                and not any(fnmatch.fnmatchcase(name, pattern) for pattern in without)
            ]
        elif feature.column in present:
            names = [feature.column]
        else:
            near = difflib.get_close_matches(feature.column, present, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(present)}."
            raise InputError(
                f"[cluster] columns: no measured column is called {feature.column!r}; {hint}"
            )
        for name in names:
            found.setdefault(name, replace(feature, column=name))
    return tuple(found.values())


@dataclass(frozen=True)
class Columns:
    """How measured columns become standardised ones: median 0, unit spread, tails held in."""

    features: tuple[Feature, ...]
    lowest: Floats  # (column) least positive training value: the floor below which log is not taken
    quantiles: Floats  # (column, 201) training quantiles of the values, for ranks
    centre: Floats  # (column) training median after the transform
    spread: Floats  # (column) half the 16-84 per cent range after it
    scale: Floats  # (column) standard deviation left after the tails are held in
    clip: float  # sigma

    def apply(self, raw: Floats) -> tuple[Floats, NDArray[np.int64]]:
        """Vectors (object, column) of raw values, NaN filled with the median; how many were."""
        z = np.empty(raw.shape)
        undefined = ~np.isfinite(raw)
        for j, feature in enumerate(self.features):
            values = np.where(undefined[:, j], np.nan, raw[:, j])
            moved = transformed(values, feature, self.lowest[j], self.quantiles[j])
            moved = held_in((moved - self.centre[j]) / self.spread[j], self.clip)
            z[:, j] = np.where(undefined[:, j], 0.0, moved / self.scale[j] * feature.weight)
        return z, undefined.sum(axis=1)


def fit_columns(raw: Floats, features: tuple[Feature, ...], clip: float) -> Columns:
    """Fit the transforms on training values (object, column); NaN are left out column by column."""
    count = len(features)
    lowest, centre = np.ones(count), np.zeros(count)
    spread, scale = np.ones(count), np.ones(count)
    quantiles = np.tile(QUANTILES, (count, 1))
    for j, feature in enumerate(features):
        values = raw[np.isfinite(raw[:, j]), j]
        if not len(values):
            continue  # a column nobody has: zero for everybody
        positive = values[values > 0]
        if len(positive):
            lowest[j] = np.quantile(positive, 0.001)
        quantiles[j] = np.quantile(values, QUANTILES)
        moved = transformed(values, feature, lowest[j], quantiles[j])
        low, centre[j], high = np.quantile(moved, [0.1587, 0.5, 0.8413])
        deviation = moved.std()
        spread[j] = (high - low) / 2 if high > low else (deviation if deviation > 0 else 1.0)
        remaining = held_in((moved - centre[j]) / spread[j], clip).std()
        scale[j] = remaining if remaining > 0 else 1.0
    return Columns(features, lowest, quantiles, centre, spread, scale, clip)


def transformed(values: Floats, feature: Feature, lowest: float, quantiles: Floats) -> Floats:
    """One column after its transform; NaN stay NaN."""
    if feature.transform == "log":
        return np.log10(np.maximum(values, lowest))
    if feature.transform == "asinh":
        softening = float(np.median(np.abs(quantiles)))
        return np.arcsinh(values / (softening if softening > 0 else 1.0))
    if feature.transform == "rank":
        return normal_scores(values, quantiles)
    return values


def normal_scores(values: Floats, quantiles: Floats) -> Floats:
    """The normal deviate of each value's rank among the training quantiles.

    Beyond the last quantiles it goes on growing, by the logarithm of the distance in units of the
    training spread, so that strange objects stay strange.  NaN stay NaN.
    """
    from scipy.special import ndtri

    # The middle of both one-sided ranks gives ties (steps of the table) one central rank.
    left = np.interp(values, quantiles, QUANTILES)
    right = 1 - np.interp(-values, -quantiles[::-1], QUANTILES)
    score = ndtri(np.clip((left + right) / 2, LOWEST_NORMAL, 1 - LOWEST_NORMAL))
    low, high = np.interp([0.1587, 0.8413], QUANTILES, quantiles)
    spread = (high - low) / 2 if high > low else 1.0
    above = np.maximum(values - quantiles[-1], 0.0)
    below = np.maximum(quantiles[0] - values, 0.0)
    return np.asarray(score + np.log1p(above / spread) - np.log1p(below / spread), np.float64)


def defined(vectors: Floats) -> NDArray[np.bool_]:
    """Rows (object) of (object, dimension) without NaN or infinity."""
    return np.asarray(np.isfinite(vectors).all(axis=1), np.bool_)


def held_in(z: Floats, clip: float) -> Floats:
    """Values beyond `clip` grow by their logarithm: no lone value rules, and order is kept."""
    beyond = np.maximum(np.abs(z) - clip, 0.0)
    held: Floats = np.sign(z) * (np.minimum(np.abs(z), clip) + np.log1p(beyond))
    return held


@dataclass(frozen=True)
class Axes:
    """Principal axes of an embedding, each with the standard deviation `weight`."""

    mean: Floats  # (latent)
    axes: Floats  # (axis, latent), divided by the axis's standard deviation, times the weight

    def apply(self, vectors: Floats) -> Floats:
        """(object, axis); NaN where the vector is undefined.  The same bits in any batch."""
        found = np.zeros((len(vectors), len(self.axes)))
        for i in range(vectors.shape[1]):
            found += (vectors[:, i] - self.mean[i])[:, None] * self.axes[None, :, i]
        return found


def fit_axes(vectors: Floats, count: int, weight: float) -> Axes:
    """The first `count` principal axes of training vectors (object, latent), one object or more.

    Axes along which nothing varies (collapsed latents) are left out.
    """
    mean = vectors.mean(axis=0)
    _, singular, axes = np.linalg.svd(vectors - mean, full_matrices=False)
    deviation = singular / np.sqrt(len(vectors))
    alive = np.flatnonzero(deviation > 1e-6 * deviation.max())
    if not len(alive):  # all vectors are the same
        alive, deviation = np.zeros(1, np.int64), np.ones_like(deviation)
    kept = alive[:count]
    # The sign of an axis is arbitrary: its largest entry is made positive.
    top = np.abs(axes[kept]).argmax(axis=1)
    signs = np.sign(axes[kept, top])
    return Axes(mean, axes[kept] * (signs * weight / deviation[kept])[:, None])


@dataclass(frozen=True)
class Vectors:
    """The whole way from what is measured to the vector that is clustered."""

    columns: Columns | None  # None: the embedding alone is clustered
    axes: Axes | None  # None: the columns alone are clustered
    imputed: float  # most undefined columns, as a fraction, that are filled in
    diffusion: Diffusion | None = None  # where they lie among the others; None: as they are

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the vector's dimensions."""
        if self.diffusion is not None:
            count = self.diffusion.axes.shape[1]
            return tuple(f"diffusion_{i + 1:02d}" for i in range(count))
        columns = () if self.columns is None else tuple(f.column for f in self.columns.features)
        axes = () if self.axes is None else range(len(self.axes.axes))
        return (*columns, *(f"embedding_{i + 1:02d}" for i in axes))

    def apply(
        self, raw: Floats | None, embedding: Floats | None
    ) -> tuple[Floats, NDArray[np.uint8], NDArray[np.int64]]:
        """Vectors (object, dimension), why one is not usable, how many columns were filled in.

        `raw` is (object, column of `columns.features`), `embedding` (object, latent); each may be
        None where it is not clustered.
        """
        given = raw if raw is not None else embedding
        assert given is not None
        blocks: list[Floats] = []
        reason = np.full(len(given), Reason.ASSIGNED, np.uint8)
        filled = np.zeros(len(given), np.int64)
        if self.axes is not None:
            assert embedding is not None
            undefined = ~defined(embedding)
            blocks.append(self.axes.apply(np.where(undefined[:, None], 0.0, embedding)))
            reason[undefined] = Reason.NO_EMBEDDING
        if self.columns is not None:
            assert raw is not None
            z, filled = self.columns.apply(raw)
            blocks.insert(0, z)
            reason[filled > self.imputed * len(self.columns.features)] = Reason.UNMEASURED
        vectors = np.concatenate(blocks, axis=1)
        if self.diffusion is not None:
            vectors = self.diffusion.apply(vectors)
        return vectors, reason, filled


def plain_vectors(
    vectors: Vectors, raw: Floats | None, embedding: Floats | None
) -> tuple[tuple[str, ...], Floats]:
    """Names and values (object, dimension) of what the vectors are made of, to be put into words.

    Measured columns in standard deviations of the training split, without weights, and axes of the
    embedding; those of the neighbours' coordinates would mean nothing to a reader.
    """
    plain = replace(vectors, diffusion=None)
    values = plain.apply(raw, embedding)[0]
    weights = np.ones(values.shape[1])
    if vectors.columns is not None:
        features = vectors.columns.features
        weights[: len(features)] = [feature.weight for feature in features]
    return plain.names, values / weights


def fit_vectors(
    spec: Clustering,
    present: Sequence[str],
    raw: Floats | None,
    embedding: Floats | None,
    train: NDArray[np.bool_],
) -> Vectors:
    """Fit on the rows of `train`: raw (object, wanted column) and embedding (object, latent)."""
    columns = axes = None
    if spec.on in ("columns", "both"):
        features = chosen_columns(spec.columns, present, spec.without)
        if not features or raw is None:
            raise InputError("[cluster] columns: none of them was measured; name at least one.")
        columns = fit_columns(raw[train], features, spec.clip)
    if spec.on != "columns":
        if embedding is None:
            raise InputError(
                f"[cluster] on = {spec.on!r} needs a model, and [model] kind is 'none'; "
                "choose a model, or on = 'columns'."
            )
        most = MOST_AXES if spec.on == "embedding" else AXES_BESIDE_COLUMNS
        count = spec.embedding_axes or most
        weight = spec.embedding_weight if spec.on == "both" else 1.0
        axes = fit_axes(embedding[train & defined(embedding)].astype(np.float64), count, weight)
    vectors = Vectors(columns, axes, spec.imputed)
    if spec.neighbours is None:
        return vectors
    z, reason, _ = vectors.apply(raw, embedding)
    z = z[train & (reason == Reason.ASSIGNED)]
    if len(z) < spec.neighbours.nearest + spec.neighbours.axes:
        raise InputError(
            f"[cluster] neighbours: {len(z)} usable objects in the training split are too few for "
            f"{spec.neighbours.nearest} neighbours and {spec.neighbours.axes} axes; give a larger "
            "sample or fewer of both."
        )
    fitted = fit_diffusion(
        z, axes=spec.neighbours.axes,
        neighbours=spec.neighbours.nearest, landmarks=spec.neighbours.landmarks,
    )  # fmt: skip
    return replace(vectors, diffusion=fitted)


def stored(vectors: Vectors) -> tuple[dict[str, Any], dict[str, Floats]]:
    """The fitted way as plain JSON values and as float64 arrays."""
    facts: dict[str, Any] = {"imputed": vectors.imputed, "names": list(vectors.names)}
    arrays: dict[str, Floats] = {}
    if vectors.columns is not None:
        facts["columns"] = [
            {"column": f.column, "transform": f.transform, "weight": f.weight}
            for f in vectors.columns.features
        ]
        facts["clip"] = vectors.columns.clip
        for name in FITTED:
            arrays[f"columns.{name}"] = getattr(vectors.columns, name)
    if vectors.axes is not None:
        arrays["axes.mean"], arrays["axes.axes"] = vectors.axes.mean, vectors.axes.axes
    if vectors.diffusion is not None:
        facts["neighbours"] = vectors.diffusion.neighbours
        for name in MAPPED:
            arrays[f"diffusion.{name}"] = getattr(vectors.diffusion, name)
    return facts, arrays


def restored_vectors(facts: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Vectors:
    """The way as `stored` gave it."""
    columns = axes = None
    if "columns" in facts:
        features = tuple(Feature(**entry) for entry in facts["columns"])
        fitted = {name: arrays[f"columns.{name}"] for name in FITTED}
        columns = Columns(features, **fitted, clip=facts["clip"])
    if "axes.mean" in arrays:
        axes = Axes(arrays["axes.mean"], arrays["axes.axes"])
    diffusion = None
    if "neighbours" in facts:
        fitted = {name: arrays[f"diffusion.{name}"] for name in MAPPED}
        diffusion = Diffusion(**fitted, neighbours=facts["neighbours"])
    return Vectors(columns, axes, facts["imputed"], diffusion)
