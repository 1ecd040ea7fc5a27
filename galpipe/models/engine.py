"""The arithmetic of training and judging: one step, one epoch, one pass without gradients."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galpipe.models.memory import keep_freed_memory
from galpipe.models.schedule import Epoch
from galpipe.models.spec import Training
from galpipe.models.vade import Network, Posterior, gaussian_divergence, mixture_divergence

Images = NDArray[Any]  # (B, A, Y, X) as stored: uint8 or float16
ACTIVE = (
    0.01  # a latent dimension is in use where its mean varies more than this (Burda et al. 2016)
)


@contextlib.contextmanager
def fixed_arithmetic(threads: int) -> Iterator[None]:
    """Deterministic kernels on a stated number of threads, which decides the last bits."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def generator(*seeds: int) -> torch.Generator:
    """Random numbers that depend on the given seeds alone."""
    state = np.random.SeedSequence(list(seeds)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


def as_brightness(stored_BAYX: Tensor, unit_scale: float) -> Tensor:
    """Stored stamps (uint8 or float16) as float32 in 0..1."""
    if stored_BAYX.dtype == torch.uint8:
        return torch.div(stored_BAYX, unit_scale)  # cast and division in one pass
    return stored_BAYX.to(torch.float32, copy=True).div_(unit_scale)


def mirrored(images_BAYX: Tensor, random: torch.Generator) -> Tensor:
    """Each image mirrored in x, in y, in both or not at all, with equal chances."""
    across, down = torch.randint(0, 2, (2, len(images_BAYX)), generator=random).bool()
    turned = images_BAYX.clone()
    turned[across] = turned[across].flip(3)
    turned[down] = turned[down].flip(2)
    return turned


def objective(
    network: Network, images_BAYX: Tensor, spec: Training, epoch: Epoch, random: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of a batch, and its two parts per image: squared differences, divergence in nats.

    R * sum (x' - x)^2 + w * KL + l2 * sum of squared parameters (AstroVaDEr: R = 1, as
    16384 * MSE is the sum over 128 x 128 pixels).
    """
    shown = images_BAYX
    if spec.noise:
        shown = images_BAYX + spec.noise * torch.randn(images_BAYX.shape, generator=random)
    posterior = network.encode(shown)
    latent = posterior.sample(torch.randn(posterior.mean.shape, generator=random))
    squared = ((network.decode(latent) - images_BAYX) ** 2).flatten(1).sum(1)
    if epoch.phase == "warm-up":
        divergence = gaussian_divergence(posterior)
    else:
        sampled = latent if network.spec.categorical == "sampled" else None
        divergence = mixture_divergence(network.mixture, posterior, sampled)
    loss = spec.reconstruction * squared.mean() + epoch.weight * divergence.mean()
    if spec.l2:
        loss = loss + spec.l2 * sum((p**2).sum() for p in network.network_parameters())
    return loss, squared.detach(), divergence.detach()


def step(
    network: Network,
    optimiser: torch.optim.Adam,
    images_BAYX: Tensor,
    spec: Training,
    epoch: Epoch,
    random: torch.Generator,
) -> tuple[float, float]:
    """One step of Adam; the sums over the batch of squared differences and of the divergence."""
    loss, squared, divergence = objective(network, images_BAYX, spec, epoch, random)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if spec.clip is not None and epoch.phase != "warm-up":
        torch.nn.utils.clip_grad_value_(network.parameters(), spec.clip)
    optimiser.step()
    return float(squared.sum()), float(divergence.sum())


def run_epoch(
    network: Network,
    optimiser: torch.optim.Adam,
    batches: Iterable[Images],
    unit_scale: float,
    spec: Training,
    epoch: Epoch,
) -> dict[str, float]:
    """Train for one epoch; squared difference and divergence (nats) per image while learning."""
    for group in optimiser.param_groups:
        group["lr"] = epoch.learning_rate
    network.train()
    random = generator(spec.seed, epoch.number)
    squared = divergence = 0.0
    count = 0
    for images in batches:
        stored = torch.from_numpy(images)
        if spec.flips:  # before the stamps become floats, four times as large
            stored = mirrored(stored, random)
        sums = step(network, optimiser, as_brightness(stored, unit_scale), spec, epoch, random)
        squared, divergence, count = squared + sums[0], divergence + sums[1], count + len(images)
    network.eval()
    return {"squared_difference": squared / count, "divergence": divergence / count}


@dataclass(frozen=True)
class Judged:
    """What a network makes of objects it is not trained on here; N objects in the order given."""

    posterior: Posterior  # (N, J) each
    squared: Tensor  # squared differences summed over an image, drawn from the mean
    variance: float  # of the pixels about the objects' mean image, summed over an image

    @torch.no_grad()
    def figures(self, network: Network, spec: Training, phase: str) -> dict[str, float]:
        """Held-out figures; `elbo` in nats per object, up to the likelihood's constant."""
        pixels = network.bands * network.size**2
        divergence = (
            gaussian_divergence(self.posterior)
            if phase == "warm-up"
            else mixture_divergence(network.mixture, self.posterior, None)
        )
        squared = float(self.squared.double().mean())
        # The decoder's answer to the spread of q(z|x) is left out: the bound is taken at the mean.
        elbo = -(spec.reconstruction * squared + float(divergence.double().mean()))
        active = (self.posterior.mean.double().var(0, correction=0) > ACTIVE).sum()
        return {
            "mse": squared / pixels,
            "explained_variance": 1 - squared / self.variance if self.variance > 0 else 0.0,
            "divergence": float(divergence.double().mean()),
            "elbo": elbo,
            "active_dimensions": float(active),
        }


@torch.no_grad()
def judge(network: Network, batches: Iterable[Images], unit_scale: float) -> Judged:
    """Encode and draw objects without gradients."""
    means, log_variances, squared = [], [], []
    total = total_squares = None
    count = 0
    for images in batches:
        x = as_brightness(torch.from_numpy(images), unit_scale)
        posterior = network.encode(x)
        squared.append(((network.decode(posterior.mean) - x) ** 2).flatten(1).sum(1))
        means.append(posterior.mean)
        log_variances.append(posterior.log_variance)
        sums, squares = x.sum(0, dtype=torch.float64), (x.double() ** 2).sum()
        total = sums if total is None else total + sums
        total_squares = squares if total_squares is None else total_squares + squares
        count += len(x)
    assert total is not None and total_squares is not None
    variance = float(total_squares / count - ((total / count) ** 2).sum())
    posterior = Posterior(torch.cat(means), torch.cat(log_variances))
    return Judged(posterior, torch.cat(squared), variance)


@torch.no_grad()
def reconstruct(network: Network, images_BAYX: Tensor) -> Tensor:
    """Images drawn from the posterior means, (B, A, Y, X); images in 0..1."""
    return network.decode(network.encode(images_BAYX).mean)


@torch.no_grad()
def generate(network: Network, count: int, seed: int, component: int | None = None) -> Tensor:
    """`count` images drawn from the prior, or from one of its components; (count, A, Y, X)."""
    random, mixture = generator(seed), network.mixture
    if component is None:
        chosen = torch.multinomial(mixture.weights(), count, replacement=True, generator=random)
    else:
        chosen = torch.full((count,), component)
    spread = torch.exp(0.5 * mixture.bounded_log_variances())[chosen]
    noise = torch.randn(count, network.spec.latent, generator=random)
    return network.decode(mixture.means_CJ[chosen] + spread * noise)


def is_finite(figures: dict[str, float]) -> bool:
    """Whether a training still makes sense."""
    return all(math.isfinite(value) for value in figures.values())
