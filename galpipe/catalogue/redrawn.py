"""What a trained model makes of stamps, and what it says of its own components.

The only room of this wing that loads torch, and only where there is a model.
"""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from galpipe.workspace import Ref, Workspace

Images = NDArray[np.float32]


def view_of(workspace: Workspace, model: Ref) -> str:
    """The array of stamps that a model sees: `image` or `image_unmasked`."""
    facts = json.loads((workspace.place(model) / "model.json").read_text())
    return "image_unmasked" if facts["model"]["view"] == "unmasked" else "image"


def can(workspace: Workspace, model: Ref, ability: str) -> bool:
    """Whether a model can "redraw" stamps, "generate" new ones or tells its own "mixture"."""
    facts = json.loads((workspace.place(model) / "model.json").read_text())
    return ability in facts["abilities"]


def redrawn(workspace: Workspace, model: Ref, images: Images) -> Images:
    """The model's drawings of stamps (object, band, y, x) in 0..1, in the same shape."""
    import torch

    from galpipe.models.checkpoints import load_model
    from galpipe.models.engine.arithmetic import fixed_arithmetic

    network = load_model(workspace.place(model))
    with torch.no_grad(), fixed_arithmetic(1):
        drawn: Images = network.redraw(torch.from_numpy(images)).numpy()
    return drawn


def own_overlap(workspace: Workspace, model: Ref) -> NDArray[np.float64]:
    """Bhattacharyya overlap of the model's mixture components: (component, component)."""
    from galpipe.models.checkpoints import load_model
    from galpipe.models.vade.components import bhattacharyya

    mixture = load_model(workspace.place(model)).mixture
    means = mixture.means_CJ.double().numpy()
    variances = np.exp(mixture.bounded_log_variances().double().numpy())
    return bhattacharyya(means, variances)


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
