"""Starting points that act: principal axes for the linear path, a fitted mixture for the prior."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from galpipe.models.vade.mixture import Mixture
from galpipe.models.vade.network import Posterior, VadeNetwork

SMALLEST_WEIGHT = 1e-6  # of a component, so that log pi is finite
SMALLEST_SCATTER = 1e-6  # of the scores along a principal axis, images in 0..1
EXPECTATION_STEPS = 20  # of expectation-maximisation on the whole posteriors


def principal_axes(
    images_NP: NDArray[np.float32], count: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (P,), the leading `count` axes (count, P) and the scatter along them, largest first.

    Randomised range finding with power iterations (Halko et al. 2011, algorithm 4.4).  The sign of
    an axis is that of its largest entry.  Axes beyond the rank of the images have the smallest
    scatter.
    """
    average = images_NP.mean(0, dtype=np.float64).astype(np.float32)
    centred = torch.from_numpy(images_NP - average)
    generator = torch.Generator().manual_seed(seed)
    width = count + 10
    basis = torch.linalg.qr(torch.randn(centred.shape[1], width, generator=generator))[0]
    for _ in range(6):
        basis = torch.linalg.qr(centred.T @ (centred @ basis))[0]
    small = (centred @ basis).double()
    values, vectors = torch.linalg.eigh(small.T @ small / max(len(centred), 1))
    order = torch.argsort(values, descending=True, stable=True)[:count]
    axes = (basis.double() @ vectors[:, order]).T
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    axes = axes * torch.where(largest < 0, -1.0, 1.0)
    scatter = values[order].clamp_min(SMALLEST_SCATTER**2).sqrt()
    return torch.from_numpy(average), axes.float(), scatter.float()


def start_linear(
    network: VadeNetwork, images_NP: NDArray[np.float32], reconstruction: float, seed: int
) -> None:
    """Start the linear path at the principal components of training images (N, pixels) in 0..1.

    The posterior's variances start at their optimum for a linear decoder,
    1 / (1 + 2 R scatter^2), with R the weight of the squared differences.
    """
    device = network.project.weight.device
    average, axes, scatter = (
        found.to(device) for found in principal_axes(images_NP, network.spec.latent, seed)
    )
    network.start_linear(average, axes, scatter)
    with torch.no_grad():
        network.log_variance.weight.zero_()
        network.log_variance.bias.copy_(-torch.log1p(2 * reconstruction * scatter**2))


def start_mixture(mixture: Mixture, posterior: Posterior, restarts: int, seed: int) -> float:
    """Fit the prior to the posteriors of training images, (N, J); the bound on log p(z) in nats.

    k-means centres, a Gaussian mixture on the means (the likeliest of `restarts`), then
    expectation-maximisation on the whole posteriors, whose variances belong to the prior's
    (without them a dimension the images do not use has variance zero, and the first epoch
    throws the fit away).
    """
    means = posterior.mean.double().numpy()
    components = len(mixture.logits_C)
    if len(means) < components:
        raise ValueError(f"{len(means)} images cannot start {components} components")
    fits = []
    for restart in range(restarts):
        fit = GaussianMixture(
            components, covariance_type="full" if mixture.full else "diag", reg_covar=1e-4,
            random_state=seed + restart,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fits.append(fit.fit(means))
    best = max(fits, key=lambda fit: float(fit.lower_bound_))
    variance = torch.exp(posterior.log_variance.double())
    responsibility = torch.from_numpy(best.predict_proba(means))
    bound = -np.inf
    for _ in range(EXPECTATION_STEPS):
        responsibility, bound = improve(mixture, posterior.mean.double(), variance, responsibility)
    return float(bound)


def improve(
    mixture: Mixture, means_NJ: Tensor, variances_NJ: Tensor, responsibility_NC: Tensor
) -> tuple[Tensor, float]:
    """One maximisation in closed form, then the responsibilities that follow from it."""
    occupancy = responsibility_NC.sum(0).clamp_min(SMALLEST_WEIGHT * len(means_NJ))
    centre = (responsibility_NC.T @ means_NJ) / occupancy[:, None]
    share_NC = responsibility_NC / occupancy
    floor = float(np.exp(mixture.floor))
    variance = share_NC.T @ variances_NJ
    covariance = torch.diag_embed(variance)
    for c, share in enumerate(share_NC.T):
        away = means_NJ - centre[c]
        if mixture.full:
            covariance[c] += (away * share[:, None]).T @ away
        else:
            covariance[c].diagonal().add_(share @ away**2)
    covariance.diagonal(dim1=1, dim2=2).clamp_(min=floor)
    mixture.place(torch.log(occupancy / occupancy.sum()), centre, covariance)
    device = mixture.logits_C.device
    with torch.no_grad():
        joint = mixture.log_joint(means_NJ.to(device), torch.log(variances_NJ).to(device)).cpu()
    return torch.softmax(joint, 1), float(torch.logsumexp(joint, 1).mean())
