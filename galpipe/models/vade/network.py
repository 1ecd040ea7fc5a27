"""VaDE: a variational autoencoder whose prior is a mixture of Gaussians.

Jiang et al. 2017 (IJCAI, arXiv:1611.05148); for galaxies AstroVaDEr, Spindler et al. 2021 (MNRAS
502, 985).  Shapes: B images, A bands, Y and X pixels, J latent dimensions, C components.
Unlike the released AstroVaDEr: the component weights lie on the simplex, variances have a floor,
responsibilities go through log-sum-exp, and labels are taken at the posterior mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from galpipe.errors import InputError
from galpipe.models.network import Network, Output
from galpipe.models.vade.mixture import LARGEST_LOG_VARIANCE, LOG_2PI, Mixture
from galpipe.models.vade.spec import Stack, VaDE


class Posterior(NamedTuple):
    """q(z|x) of a batch: a diagonal Gaussian each."""

    mean: Tensor  # (B, J)
    log_variance: Tensor  # (B, J)

    def sample(self, noise_BJ: Tensor) -> Tensor:
        """z = mean + sigma * noise, (B, J); `noise_BJ` is standard normal."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise_BJ


class VadeNetwork(Network):
    """Encoder, decoder and mixture prior for images of (bands, size, size) in 0..1."""

    abilities: ClassVar[frozenset[str]] = frozenset({"redraw", "generate", "mixture"})
    spec: VaDE

    def __init__(
        self, spec: VaDE, bands: int, size: int, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(spec, bands, size, facts or {})
        halvings = len(spec.encoder)
        if size % 2**halvings or len(spec.decoder) != halvings:
            raise InputError(
                f"model: {halvings} encoder and {len(spec.decoder)} decoder stacks do not fit "
                f"stamps of {size} pixels; give as many of both and a size divisible by "
                f"{2**halvings}."
            )
        if any(stack.kernel % 2 == 0 for stack in (*spec.encoder, *spec.decoder)):
            raise InputError("model: the kernels of encoder and decoder must be odd.")
        side = size // 2**halvings
        last, first = spec.encoder[-1].channels, spec.decoder[0].channels
        self.encoder = _encoder(spec, bands)
        self.mean = nn.Linear(last * side**2, spec.latent)
        self.log_variance = nn.Linear(last * side**2, spec.latent)
        self.expand = nn.Sequential(
            nn.Linear(spec.latent, first * side**2),
            nn.LeakyReLU(spec.slope),
            nn.Unflatten(1, (first, side, side)),
        )
        self.decoder = _decoder(spec, bands)
        if spec.linear:  # principal components, beside which the convolutions learn the rest
            self.project = nn.Linear(bands * size**2, spec.latent)
            self.draw = nn.Linear(spec.latent, bands * size**2)
        self.mixture = Mixture(
            spec.components, spec.latent, spec.variance_floor, spec.covariance == "full"
        )
        if spec.channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def latent(self) -> int:
        return self.spec.latent

    def outputs(self) -> tuple[Output, ...]:
        return (
            Output("vector", (self.spec.latent,), ("latent",)),
            Output("responsibility", (self.spec.components,), ("component",)),
            Output("reconstruction_error"),
        )

    def embed(self, images_BAYX: Tensor, conditions_BK: Tensor | None) -> dict[str, Tensor]:
        """Posterior mean, p(c|z) at that mean, mean squared difference of stamp and drawing."""
        mean = self.encode(images_BAYX).mean
        difference = self.decode(mean).sub_(images_BAYX).flatten(1)
        error = torch.linalg.vector_norm(difference, dim=1) ** 2 / difference.shape[1]
        return {
            "vector": mean,
            "responsibility": self.memberships(mean),
            "reconstruction_error": error,
        }

    def heads(self) -> tuple[int, ...]:
        """For each component the one whose label it shares (`merge`)."""
        from galpipe.models.vade.merging import of_mixture

        return of_mixture(self.mixture, self.spec.merge)

    def told(self) -> dict[str, Any]:
        """`merged`: components that have no label of their own, and whose they share."""
        merged = {_name(c): _name(head) for c, head in enumerate(self.heads()) if head != c}
        return {"merged": merged} if merged else {}

    def memberships(self, latent_BJ: Tensor) -> Tensor:
        """p(label|z), (B, C): that of merged components is with their head, and 0 at their own."""
        responsibility_BC = self.mixture.responsibilities(latent_BJ)
        if self.spec.merge is None:
            return responsibility_BC
        heads = torch.tensor(self.heads(), device=responsibility_BC.device)
        of = [responsibility_BC[:, heads == c].sum(1) for c in range(len(heads))]
        return torch.stack(of, 1)

    def redraw(self, images_BAYX: Tensor, conditions_BK: Tensor | None = None) -> Tensor:
        return self.decode(self.encode(images_BAYX).mean)

    def generate(
        self, count: int, component: int | None = None, conditions_BK: Tensor | None = None
    ) -> Tensor:
        """`count` images drawn from the prior, or from one of its components; (count, A, Y, X).

        Components are those of the prior, before any are merged.
        """
        mixture = self.mixture
        if component is None:
            chosen = torch.multinomial(mixture.weights(), count, replacement=True)
        else:
            chosen = torch.full((count,), component)
        return self.decode(mixture.drawn(chosen, torch.randn(count, self.spec.latent)))

    def encode(self, images_BAYX: Tensor) -> Posterior:
        """q(z|x): mean and log variance, (B, J) each; images in 0..1."""
        ordered = images_BAYX
        if self.spec.channels_last:
            ordered = images_BAYX.contiguous(memory_format=torch.channels_last)
        flat = self.encoder(ordered).flatten(1)
        floor = math.log(self.spec.variance_floor)
        mean = self.mean(flat)
        if self.spec.linear:
            mean = mean + self.project(images_BAYX.flatten(1))
        log_variance = self.log_variance(flat).clamp(floor, LARGEST_LOG_VARIANCE)
        return Posterior(mean, log_variance)

    def decode(self, latent_BJ: Tensor) -> Tensor:
        """The images of latent vectors, (B, A, Y, X), about 0..1."""
        images: Tensor = self.decoder(self.expand(latent_BJ))
        if self.spec.linear:
            images = images + self.draw(latent_BJ).view_as(images)
        match self.spec.output:
            case "relu":
                return functional.relu(images)
            case "sigmoid":
                return torch.sigmoid(images)
            case "linear":
                return images

    def start_linear(self, average: Tensor, axes_JP: Tensor, scatter_J: Tensor) -> None:
        """Set the linear path to principal components, and the convolutions to add nothing yet.

        `average` (pixels), `axes_JP` orthonormal, `scatter_J` standard deviations along the axes:
        the posterior means start as scores of unit variance.
        """
        with torch.no_grad():
            self.project.weight.copy_(axes_JP / scatter_J[:, None])
            self.project.bias.copy_(-(self.project.weight @ average))
            self.draw.weight.copy_((axes_JP * scatter_J[:, None]).T)
            self.draw.bias.copy_(average)
            last = [layer for layer in self.decoder if isinstance(layer, nn.Conv2d)][-1]
            for layer in (self.mean, last):
                layer.weight.zero_()
                assert layer.bias is not None
                layer.bias.zero_()

    def layer_parameters(self) -> list[nn.Parameter]:
        """Weights and biases of encoder and decoder, without the mixture's."""
        mixture = {id(parameter) for parameter in self.mixture.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in mixture]


def gaussian_divergence(posterior: Posterior) -> Tensor:
    """KL(q(z|x) || N(0, I)) per image in nats, (B,)."""
    mean, log_variance = posterior
    return -0.5 * (1 + log_variance - mean**2 - torch.exp(log_variance)).sum(1)


def mixture_divergence(mixture: Mixture, posterior: Posterior, sampled_BJ: Tensor | None) -> Tensor:
    """KL(q(z, c|x) || p(z, c)) per image in nats, (B,): AstroVaDEr's L_GMM.

    -E_q(c) E_q(z) log p(z, c) + sum_c q(c) log q(c) - H(q(z)).  q(c|x) is p(c|z) at `sampled_BJ`,
    or, where that is None, its optimum softmax_c E_q(z) log p(z, c).
    """
    expected = mixture.log_joint(posterior.mean, posterior.log_variance)
    if sampled_BJ is None:
        cross = -torch.logsumexp(expected, 1)
    else:
        log_q = torch.log_softmax(mixture.log_joint(sampled_BJ), 1)
        cross = (log_q.exp() * (log_q - expected)).sum(1)
    entropy = 0.5 * (1 + LOG_2PI + posterior.log_variance).sum(1)
    return cross - entropy


def _name(component: int) -> str:
    """A component as figures and labels call it."""
    return f"m{component:02d}"


def _encoder(spec: VaDE, bands: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = bands
    for stack in spec.encoder:
        for layer in range(stack.layers):
            stride = 2 if spec.sampling == "strided" and layer == 0 else 1
            layers += [
                _convolution(channels, stack.channels, stack, stride),
                nn.LeakyReLU(spec.slope),
            ]
            channels = stack.channels
        if spec.sampling == "pooled":
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _decoder(spec: VaDE, bands: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = spec.decoder[0].channels
    following = [stack.channels for stack in spec.decoder[1:]] + [bands]
    for stack, after in zip(spec.decoder, following, strict=True):
        convolutions = stack.layers if spec.sampling == "pooled" else stack.layers - 1
        for _ in range(convolutions):
            layers += [_convolution(channels, stack.channels, stack), nn.LeakyReLU(spec.slope)]
            channels = stack.channels
        if spec.sampling == "pooled":
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
        else:  # sub-pixel convolution (Shi et al. 2016): four times the channels, folded out
            layers += [_convolution(channels, 4 * after, stack), nn.PixelShuffle(2)]
            layers.append(nn.LeakyReLU(spec.slope))
            channels = after
    if spec.sampling == "pooled":
        layers.append(_convolution(channels, bands, Stack(channels=bands, kernel=3)))
    else:
        layers.pop()  # the last layer's shape is `output`'s to decide
    return nn.Sequential(*layers)


def _convolution(inputs: int, outputs: int, stack: Stack, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, stack.kernel, stride, padding=stack.kernel // 2)
