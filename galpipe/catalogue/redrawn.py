"""What a trained model makes of stamps, and what it says of its own components.

The only room of this wing that loads torch, and only where there is a model.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galpipe.workspace import Ref, Workspace

Images = NDArray[np.float32]

AT_ONCE = 256  # stamps of a forward pass


def can(workspace: Workspace, model: Ref, ability: str) -> bool:
    """Whether a model can "redraw" stamps, "generate" new ones or tells its own "mixture"."""
    facts = json.loads((workspace.place(model) / "model.json").read_text())
    return ability in facts["abilities"]


def columns_of(workspace: Workspace, model: Ref) -> list[str]:
    """The columns of the catalogue that a model is told, in their order."""
    facts = json.loads((workspace.place(model) / "model.json").read_text())
    return list(facts["facts"].get("condition", {"columns": []})["columns"])


def merged_components(workspace: Workspace, model: Ref | None) -> dict[str, str]:
    """Components of the model's mixture that share the label of another, and whose."""
    if model is None:
        return {}
    facts = json.loads((workspace.place(model) / "model.json").read_text())
    return dict(facts.get("told", {}).get("merged", {}))


def redrawn(
    workspace: Workspace,
    model: Ref,
    images: Images,
    conditions: NDArray[np.floating[Any]] | None = None,
) -> Images:
    """The model's drawings of stamps (object, band, y, x) in 0..1, in the same shape.

    `conditions` (object, condition) are those of a network that is told some: see `conditions_of`.
    """
    import torch

    from galpipe.models.checkpoints import load_model
    from galpipe.models.engine.arithmetic import fixed_arithmetic

    network = load_model(workspace.place(model))
    given = None if conditions is None else torch.from_numpy(conditions.astype(np.float32))
    seen, drawn = torch.from_numpy(images), np.empty_like(images)
    with torch.no_grad(), fixed_arithmetic(1):
        for start in range(0, len(images), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            drawn[some] = network.redraw(seen[some], None if given is None else given[some]).numpy()
    return drawn


def compared(
    workspace: Workspace,
    model: Ref,
    images: Images,
    conditions: NDArray[np.float64],
    permutations: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Losses of images under their own, no and shuffled conditions of a conditional VAE.

    (object), (object) and (permutation, object), in the units of its loss.
    """
    import torch

    from galpipe.models.checkpoints import load_model
    from galpipe.models.cvae.judging import losses
    from galpipe.models.engine.arithmetic import fixed_arithmetic

    network = load_model(workspace.place(model))
    given = torch.from_numpy(conditions.astype(np.float32))
    with fixed_arithmetic(1):
        found = losses(network, torch.from_numpy(images), given, permutations, seed)
    own, unknown, shuffled = (
        value.double().numpy() for value in (found.own, found.unknown, found.shuffled)
    )
    return own, unknown, shuffled


def drawn_at(
    workspace: Workspace,
    model: Ref,
    images: Images,
    conditions: NDArray[np.float64],
    column: int,
    values: NDArray[np.float64],
) -> Images:
    """Images encoded under their own conditions, drawn where one of them has other values.

    (value, object, band, y, x) in 0..1; `column` is the place of the condition among its fellows.
    """
    import torch

    from galpipe.models.checkpoints import load_model
    from galpipe.models.cvae import judging
    from galpipe.models.engine.arithmetic import fixed_arithmetic

    network = load_model(workspace.place(model))
    own, others = (torch.from_numpy(given.astype(np.float32)) for given in (conditions, values))
    with fixed_arithmetic(1):
        drawn = judging.drawn_at(network, torch.from_numpy(images), own, column, others)
    found: Images = drawn.numpy()
    return found


def own_overlap(workspace: Workspace, model: Ref) -> NDArray[np.float64]:
    """Bhattacharyya overlap of the model's mixture components: (component, component)."""
    from galpipe.models.checkpoints import load_model
    from galpipe.models.vade.components import bhattacharyya

    mixture = load_model(workspace.place(model)).mixture
    means = mixture.means_CJ.double().numpy()
    return bhattacharyya(means, mixture.covariances().numpy())


def generated(
    workspace: Workspace, model: Ref, count: int, seed: int
) -> tuple[NDArray[np.float64], Images, Images]:
    """What each component of the model's mixture draws, from nothing but the prior.

    Returns the weights (component), the drawing of each component's mean (component, band, y, x)
    and `count` random ones (component, count, band, y, x), in 0..1.
    """
    import torch

    from galpipe.models.checkpoints import load_model
    from galpipe.models.engine.arithmetic import fixed_arithmetic, seed_all

    network = load_model(workspace.place(model))
    with torch.no_grad(), fixed_arithmetic(1):
        weights = network.mixture.weights().double().numpy()
        means: Images = network.decode(network.mixture.means_CJ).numpy()
        drawn = []
        for component in range(len(weights)):
            seed_all(seed, component)
            drawn.append(network.generate(count, component).numpy())
    return weights, means, np.stack(drawn)
