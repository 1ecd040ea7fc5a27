"""Labels that stay where a galaxy is seen worse: a rule that learns them of degraded galaxies.

A mixture knows galaxies as they are, and every measurement drifts with noise, light and PSF: an
object near the border of two clusters changes its label.  The rule, a small network on the same
measurements, is shown training objects as they are and seen worse, and learns of both the
memberships that the mixture gives the former (consistency under augmentation: Xie et al. 2020).
Then it learns anew, in rounds, what its own memberships of all views of an object agree on, so that
the borders move to where few galaxies cross them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.classes.anew.degrading import Worse
from galpipe.classes.anew.network import Told, told_of
from galpipe.classes.anew.observing import Observer, degrade
from galpipe.classes.features import Reason, fit_vectors, stored
from galpipe.classes.rule import Layers, Rule
from galpipe.classes.spec import Clustering, Steady
from galpipe.stages import Context
from galpipe.workspace import Ref, Workspace

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

AT_ONCE = 256  # objects seen again by one piece of work
BATCH = 128  # objects of a step of the learning


@dataclass(frozen=True)
class _Again:
    """Some training objects to be seen once more, as they travel to a worker."""

    root: str
    stamps: Ref
    embeddings: Ref | None
    rows: Rows  # of the catalogue
    told: Told | None  # of these rows
    number: int  # how often they were seen worse before
    spec: Steady
    columns: tuple[str, ...]


@dataclass(frozen=True)
class _Seen:
    """What came of them; those without a usable stamp are left out."""

    asked: int  # objects
    number: int
    rows: Rows
    raw: Floats
    vector: Floats | None


def fit(
    context: Context,
    spec: Clustering,
    stamps: Ref,
    embeddings: Ref | None,
    catalogue: Ref,
    present: Sequence[str],
    columns: Sequence[str],
    measured: tuple[Floats | None, Floats | None],
    train: NDArray[np.bool_],
    wanted: Floats,
) -> tuple[Rule, Floats, dict[str, Any]]:
    """The rule, the memberships that it gives the training rows, and what is told of it.

    `present`: all columns that were measured; `measured`: the raw values of `columns` and the
    embedding, row by row of the catalogue, None where they have no part; `train`: which rows are
    learnt from; `wanted` (training row, cluster): the mixture's memberships.
    """
    steady, workspace = spec.steady, context.workspace
    assert steady is not None, "a rule is fitted where it is asked for"
    plain = replace(
        spec,
        columns=tuple(replace(feature, weight=1.0) for feature in spec.columns),
        embedding_axes=steady.axes,
        embedding_weight=1.0,
        neighbours=None,
    )
    raw, embedding = measured
    vectors = fit_vectors(plain, present, raw, embedding, train)
    rows = np.flatnonzero(train)
    target = np.full(len(train), -1)
    target[rows] = np.arange(len(rows))
    ours = None if vectors.axes is None else embeddings
    count = min(steady.objects, len(rows))
    chosen = rows[np.arange(count) * len(rows) // count]  # evenly along the catalogue
    told_them = told_of(workspace, ours, stamps, catalogue, chosen)
    work = [
        _Again(
            str(workspace.root), stamps, ours, chosen[some],
            None if told_them is None else told_them.some(some),
            number, steady, tuple(columns),
        )
        for number in range(steady.times)
        for some in np.array_split(np.arange(len(chosen)), -(-len(chosen) // AT_ONCE))
    ]  # fmt: skip
    context.progress.start("cluster", len(chosen) * steady.times, "degraded objects")
    again: list[_Seen] = []
    for seen in context.network_map(_see, work):
        again.append(seen)
        context.progress.advance(seen.asked)
    context.progress.finish()
    again.sort(key=lambda seen: (seen.number, seen.rows[0] if len(seen.rows) else -1))
    own = None if raw is None else raw[train], None if embedding is None else embedding[train]
    inputs, targets = [vectors.apply(*own)[0]], [np.arange(len(rows))]
    for seen in again:
        values, reason, _ = vectors.apply(seen.raw if raw is not None else None, seen.vector)
        usable = reason == Reason.ASSIGNED
        inputs.append(values[usable])
        targets.append(target[seen.rows[usable]])
    shown, whose = np.concatenate(inputs), np.concatenate(targets)
    context.progress.start("cluster", steady.networks * (1 + steady.rounds), "small networks")
    rule = Rule(vectors, _networks(context, shown, wanted[whose], steady))
    for _ in range(steady.rounds):
        agreed = _agreed(rule.posterior(shown), whose, len(rows))
        rule = Rule(vectors, _networks(context, shown, agreed[whose], steady))
    context.progress.finish()
    given = rule.posterior(inputs[0])
    same = given.argmax(axis=1) == wanted.argmax(axis=1)
    facts, _ = stored(vectors)
    told = {
        "vectors": facts,
        "networks": len(rule.networks),
        "objects": len(chosen),
        "seen_worse": sum(len(one) for one in inputs[1:]),
        "as_mixture": float(same.mean()),  # share of training objects
    }
    return rule, given, told


def _networks(
    context: Context, inputs_NU: Floats, wanted_NK: Floats, spec: Steady
) -> tuple[Layers, ...]:
    found = []
    for number in range(spec.networks):
        found.append(_learnt(inputs_NU, wanted_NK, spec, number))
        context.progress.advance()
    return tuple(found)


def _agreed(given_VK: Floats, whose_V: Rows, objects: int) -> Floats:
    """What the views of every object agree on, (object, cluster): their mean, squared, sums 1."""
    total = np.zeros((objects, given_VK.shape[1]))
    np.add.at(total, whose_V, given_VK)
    sharp = total**2
    shares: Floats = sharp / sharp.sum(axis=1, keepdims=True)
    return shares


def worse(spec: Steady, number: int, object_id: Any) -> Worse:
    """The conditions under which an object is seen the `number`-th time, of its id alone.

    Each of noise, light and PSF stays as it is with chance 1/2.
    """
    text = f"steady {spec.seed} {number} {object_id}"
    random = np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))
    share = random.random(3) * (random.random(3) < 0.5)
    return Worse(
        f"steady {number}",
        "",
        noise=float(spec.noise ** share[0]),
        light=float(spec.light ** share[1]),
        psf=float(1 + (spec.psf - 1) * share[2]),
    )


def _see(work: _Again) -> _Seen:
    """Degrade, prepare and embed some objects."""
    workspace, spec = Workspace(work.root), work.spec
    observer = Observer(workspace, work.stamps, work.embeddings, work.rows, work.told)
    conditions = [worse(spec, work.number, one) for one in observer.cutouts.ids]
    seen = observer.see(
        degrade(observer.cutouts, conditions, spec.fwhm, spec.seed), observer.preparation
    )
    vector = seen.arrays["vector"][seen.usable] if work.embeddings is not None else None
    raw = seen.columns(work.columns)[seen.usable]
    return _Seen(len(work.rows), work.number, work.rows[seen.usable], raw, vector)


def _learnt(inputs_NU: Floats, wanted_NK: Floats, spec: Steady, number: int) -> Layers:
    """The layers of the `number`-th network: cross-entropy with what is wanted, by AdamW."""
    import torch
    from torch import nn

    from galpipe.models.engine.arithmetic import fixed_arithmetic, seed_all

    with fixed_arithmetic(1):
        seed_all(spec.seed, number)
        inputs = torch.from_numpy(inputs_NU).float()
        wanted = torch.from_numpy(wanted_NK).float()
        sizes = [inputs.shape[1], spec.hidden, spec.hidden, wanted.shape[1]]
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        steps: list[nn.Module] = [layers[0]]
        for layer in layers[1:]:
            steps += [nn.ReLU(), nn.Dropout(spec.dropout), layer]
        network = nn.Sequential(*steps)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay
        )
        batches = -(-len(inputs) // BATCH)
        rate = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, spec.learning_rate, spec.epochs * batches
        )
        for _ in range(spec.epochs):
            for some in torch.split(torch.randperm(len(inputs)), BATCH):
                told = torch.log_softmax(network(inputs[some]), 1)
                loss = -(wanted[some] * told).sum(1).mean()
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                rate.step()
    return tuple(
        (layer.weight.detach().double().numpy().T.copy(), layer.bias.detach().double().numpy())
        for layer in layers
    )
