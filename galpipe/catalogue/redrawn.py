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


def redrawn(workspace: Workspace, model: Ref, images: Images) -> Images:
    """The model's drawings of stamps (object, band, y, x) in 0..1, in the same shape."""
    import torch

    from galpipe.models.checkpoints import load_model
    from galpipe.models.engine import fixed_arithmetic, reconstruct

    network = load_model(workspace.place(model))
    with fixed_arithmetic(1):
        drawn: Images = reconstruct(network, torch.from_numpy(images)).numpy()
    return drawn


def own_overlap(workspace: Workspace, model: Ref) -> NDArray[np.float64]:
    """Bhattacharyya overlap of the model's mixture components: (component, component)."""
    from galpipe.models.checkpoints import load_model
    from galpipe.models.components import bhattacharyya

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
    from galpipe.models.engine import fixed_arithmetic, generate

    network = load_model(workspace.place(model))
    with torch.no_grad(), fixed_arithmetic(1):
        weights = network.mixture.weights().double().numpy()
        means: Images = network.decode(network.mixture.means_CJ).numpy()
        drawn = [generate(network, count, seed, k).numpy() for k in range(len(weights))]
    return weights, means, np.stack(drawn)
