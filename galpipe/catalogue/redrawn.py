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
    from galpipe.models.engine import reconstruct

    network = load_model(workspace.place(model))
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
