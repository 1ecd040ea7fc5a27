"""What a decoder leaves undrawn, as a random field: noise, clumps, arms finer than it can draw.

Shapes: N images, A bands, Y and X pixels, J latent dimensions, R ranges of brightness, Q quantiles.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from galpipe.models.flow_vae import parity
from galpipe.models.flow_vae.spectrum import fields, in_rings, of_unit_variance, power, split

FEWEST = 32  # pixels of a range in an image, to tell how strong its residuals are there
FEWEST_VALUES = 1000  # of a range, for quantiles of its own
VALUES = 400_000  # of a range, whose quantiles are taken
RIDGE = 1e-2  # of the regression of strengths on latent numbers, per image
SMALLEST = 1e-6  # of a variance, images in 0..1
LARGEST = 3.0  # of the logarithm of a strength that latent numbers tell
QUANTILES = 61
FARTHEST = 3.5  # normal scores of the first and last quantile
TUNED, TUNED_IMAGES = 3, 384  # corrections of the spectra, each by fields for so many images
LARGEST_CORRECTION = 10.0


class ResidualField(nn.Module):
    """x - decode(z) as a random field whose strength, grain and values depend on the drawing.

    A normal field of unit variance is made of R stationary ones, each with its own power spectrum,
    weighed by how near a pixel of the drawing is in brightness to each of R levels; its coarse and
    its fine grain are as much their own mirror images as those of residuals there.  Its values
    become residuals by the quantiles found at such pixels (a Gaussian copula), times the strength
    of the image there.  The logarithms of the R strengths in an image depend linearly on its latent
    numbers, with normal scatter.  Bands are drawn apart from one another.
    """

    levels: Tensor
    power: Tensor
    parities: Tensor
    quantiles: Tensor
    slopes: Tensor
    offsets: Tensor
    scatter: Tensor
    middle: Tensor

    def __init__(self, ranges: int, latent: int, bands: int, size: int) -> None:
        super().__init__()
        self.register_buffer("levels", torch.linspace(0, 1, ranges))
        self.register_buffer("power", torch.ones(ranges, bands, size, size // 2 + 1))
        self.register_buffer("parities", torch.ones(ranges, 2, 4))
        self.register_buffer("quantiles", torch.zeros(ranges, bands, QUANTILES))
        self.register_buffer("slopes", torch.zeros(latent, ranges))
        self.register_buffer("offsets", torch.zeros(ranges))
        self.register_buffer("scatter", torch.zeros(ranges, ranges))
        self.register_buffer("middle", torch.zeros(latent))

    def weights(self, drawn_NAYX: Tensor) -> Tensor:
        """How much of each range a pixel has, (N, R, Y, X), summing to 1: by its mean band."""
        brightness = drawn_NAYX.mean(1)
        if len(self.levels) == 1:
            return torch.ones_like(brightness)[:, None]
        inside = brightness.clamp(float(self.levels[0]), float(self.levels[-1]))
        upper = torch.bucketize(inside.contiguous(), self.levels, right=True)
        upper = upper.clamp(1, len(self.levels) - 1)
        low, high = self.levels[upper - 1], self.levels[upper]
        share = ((inside - low) / (high - low)).clamp(0, 1)
        found = torch.zeros(
            (len(brightness), len(self.levels), *brightness.shape[1:]), device=share.device
        )
        found.scatter_(1, (upper - 1)[:, None], (1 - share)[:, None])
        return found.scatter_(1, upper[:, None], share[:, None])

    def draw(self, latent_NJ: Tensor, drawn_NAYX: Tensor) -> Tensor:
        """Random fields for drawings, (N, A, Y, X), from torch's own random numbers."""
        told = (self.offsets + (latent_NJ - self.middle) @ self.slopes).clamp(-LARGEST, LARGEST)
        strength = torch.exp(told + torch.randn_like(told) @ self.scatter.T)
        return self._residuals(self.weights(drawn_NAYX), strength)

    def _residuals(self, weights_NRYX: Tensor, strength_NR: Tensor) -> Tensor:
        """Residuals of images with given strengths in the ranges."""
        normal = torch.zeros(
            (len(weights_NRYX), *self.power.shape[1:3], self.power.shape[2]),
            device=weights_NRYX.device,
        )
        for k, spectrum in enumerate(self.power):
            grains = split(fields(spectrum, len(weights_NRYX)))
            pairs = zip(grains, self.parities[k], strict=True)
            made: Tensor = sum(parity.shaped(grain, shares) for grain, shares in pairs)  # type: ignore[assignment]
            normal = normal + made * torch.sqrt(weights_NRYX[:, k : k + 1])
        field = torch.zeros_like(normal)
        for k in range(len(self.levels)):
            share = weights_NRYX[:, k : k + 1] * strength_NR[:, k, None, None, None]
            field = field + share * self._value(k, normal)
        return field

    def _value(self, k: int, normal_NAYX: Tensor) -> Tensor:
        """Residuals of normal scores in range k, by its quantiles."""
        place = (normal_NAYX / FARTHEST + 1) / 2 * (QUANTILES - 1)
        place = place.clamp(0, QUANTILES - 1 - 1e-4)
        low = place.long()
        part = place - low
        bands = torch.arange(normal_NAYX.shape[1], device=place.device)[:, None, None]
        table = self.quantiles[k]
        return table[bands, low] * (1 - part) + table[bands, low + 1] * part

    def _score(self, k: int, left_NAYX: Tensor) -> Tensor:
        """Normal scores of residuals in range k, the inverse of `_value`."""
        found = torch.empty_like(left_NAYX)
        step = 2 * FARTHEST / (QUANTILES - 1)
        for a, table in enumerate(self.quantiles[k]):
            values = left_NAYX[:, a].contiguous()
            low = torch.searchsorted(table, values).clamp(1, QUANTILES - 1)
            high = torch.searchsorted(table, values, right=True).clamp(1, QUANTILES - 1)
            for side in (low, high):  # the middle of a value's scores, where it has several
                below, above = table[side - 1], table[side]
                part = ((values - below) / (above - below).clamp_min(1e-12)).clamp(0, 1)
                score = (side - 1 + part) * step - FARTHEST
                found[:, a] = score if side is low else (found[:, a] + score) / 2
        return found

    @torch.no_grad()
    def fit(
        self, latent_NJ: Tensor, drawn_NAYX: Tensor, images_NAYX: Tensor, step: float = 0.0
    ) -> None:
        """Fit levels, quantiles, spectra and strengths to drawings of images at latent vectors.

        step: of the values that images are kept in, 0 where they are not integers.  The spectra
        are corrected until residuals drawn with them have, as they are kept and where images have
        that brightness, the spectra of the real residuals.  Random numbers are torch's own.
        """
        left = images_NAYX - drawn_NAYX
        self.levels.copy_(_levels(drawn_NAYX.mean(1).double().flatten(), len(self.levels)))
        weights = self.weights(drawn_NAYX)
        strength, known = self._strengths(left, weights)
        relative = left / (weights * strength.float()[:, :, None, None]).sum(1, keepdim=True)
        for k in range(len(self.levels)):
            mine = weights[:, k] > 0.5
            for a in range(left.shape[1]):
                values = relative[:, a][mine]
                if len(values) < FEWEST_VALUES:
                    values = relative[:, a].flatten()
                self.quantiles[k, a] = _quantiles(values)
        made = self._tune(relative, weights, drawn_NAYX, step)
        # What residuals of one and the same strength seem to have, for want of pixels.
        chance, _ = self._strengths(made, weights[: len(made)])
        self._regress(latent_NJ.double(), torch.log(strength), known, torch.log(chance))

    def _tune(
        self, relative_NAYX: Tensor, weights_NRYX: Tensor, drawn_NAYX: Tensor, step: float
    ) -> Tensor:
        """Fit the spectra to residuals over their strength; some residuals drawn with them."""
        normal = torch.zeros_like(relative_NAYX)
        for k in range(len(self.levels)):
            normal += weights_NRYX[:, k : k + 1] * self._score(k, relative_NAYX)
        grains = split(normal)
        wanted = []
        for k in range(len(self.levels)):
            weight = weights_NRYX[:, k : k + 1]
            self.parities[k] = torch.stack([parity.shares(grain, weight) for grain in grains])
            self.power[k] = of_unit_variance(power(normal, weight))
            wanted.append(in_rings(power(relative_NAYX, weight)))
        some, drawn = weights_NRYX[:TUNED_IMAGES], drawn_NAYX[:TUNED_IMAGES]
        even = torch.ones(some.shape[:2], device=some.device)
        made = _as_kept(drawn + self._residuals(some, even), step) - drawn
        for _ in range(TUNED):
            for k, told in enumerate(wanted):
                found = in_rings(power(made, some[:, k : k + 1]))
                ratio = told / found.clamp_min(1e-12)
                ratio = ratio.clamp(1 / LARGEST_CORRECTION, LARGEST_CORRECTION)
                self.power[k] = of_unit_variance(self.power[k] * ratio)
            made = _as_kept(drawn + self._residuals(some, even), step) - drawn
        return made

    def _strengths(self, left_NAYX: Tensor, weights_NRYX: Tensor) -> tuple[Tensor, Tensor]:
        """Each image's residuals in each range over all images', (N, R); and which are known."""
        strengths, known = [], []
        for k in range(len(self.levels)):
            weight = weights_NRYX[:, k : k + 1]
            number = weight.sum((1, 2, 3)).double() * left_NAYX.shape[1]
            squares = (weight * left_NAYX**2).sum((1, 2, 3)).double()
            enough = number >= FEWEST
            every = squares.sum() / number.sum().clamp_min(1)
            mine = torch.where(enough, squares / number.clamp_min(1), every)
            relative = torch.sqrt(mine.clamp_min(SMALLEST) / every.clamp_min(SMALLEST))
            strengths.append(torch.where(enough, relative, torch.ones_like(relative)))
            known.append(enough)
        return torch.stack(strengths, 1), torch.stack(known, 1)

    def _regress(
        self, latent_NJ: Tensor, strength_NR: Tensor, known_NR: Tensor, chance_MR: Tensor
    ) -> None:
        """Log strengths on latent numbers by ridge regression, on the images that know.

        chance: log strengths of residuals that are all equally strong, in the first M images.
        Their mean and covariance are no property of the images, and are taken off.
        """
        self.middle.copy_(latent_NJ.mean(0))
        centred = latent_NJ - latent_NJ.mean(0)
        left, chance = torch.zeros_like(strength_NR), torch.zeros_like(chance_MR)
        counted = known_NR[: len(chance_MR)]
        for k in range(strength_NR.shape[1]):
            mine = known_NR[:, k]
            if mine.sum() < 2:
                continue
            x, y = centred[mine], strength_NR[mine, k]
            middle = x.mean(0)
            gram = (x - middle).T @ (x - middle)
            ridge = RIDGE * len(x) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
            slope = torch.linalg.solve(gram + ridge, (x - middle).T @ (y - y.mean()))
            self.slopes[:, k] = slope
            left[mine, k] = y - (y.mean() + (x - middle) @ slope)
            told = chance_MR[counted[:, k], k]
            bias = told.mean() if len(told) else torch.zeros_like(y[0])
            chance[counted[:, k], k] = told - bias
            self.offsets[k] = y.mean() - middle @ slope - bias
        covariance = _covariance(left, known_NR) - _covariance(chance, counted)
        values, vectors = torch.linalg.eigh(covariance)
        self.scatter.copy_(vectors * values.clamp_min(0).sqrt())


def _covariance(values_NR: Tensor, known_NR: Tensor) -> Tensor:
    """Covariance of columns about 0, each pair where both are known."""
    number = known_NR.double().T @ known_NR.double()
    found: Tensor = values_NR.T @ values_NR / number.clamp_min(1)
    return found


def _as_kept(images: Tensor, step: float) -> Tensor:
    """Images as stamps keep them: within 0..1, and in steps."""
    inside = images.clamp(0, 1)
    return torch.round(inside / step) * step if step else inside


def _levels(brightness: Tensor, ranges: int) -> Tensor:
    """Levels of brightness, ascending: even in asinh from the sky to the brightest 0.1 %."""
    some = brightness[:: max(len(brightness) // 1_000_000, 1)]
    low, high = torch.quantile(some, 0.25), torch.quantile(some, 0.999)
    width = torch.maximum(high - low, torch.tensor(1e-3, dtype=some.dtype, device=some.device))
    soft = 0.1
    even = torch.linspace(0, 1, ranges, dtype=some.dtype, device=some.device)
    top = torch.asinh(torch.tensor(1 / soft, dtype=some.dtype, device=some.device))
    return low + width * soft * torch.sinh(even * top)


def _quantiles(values: Tensor) -> Tensor:
    """Values at QUANTILES even normal scores, ascending, (Q,)."""
    scores = torch.linspace(-FARTHEST, FARTHEST, QUANTILES, dtype=torch.float64)
    some = values[:: max(len(values) // VALUES, 1)].double().sort().values
    share = torch.special.ndtr(scores).to(some.device) * (len(some) - 1)
    low = share.long().clamp(0, len(some) - 2)
    part = share - low
    found: Tensor = (some[low] * (1 - part) + some[low + 1] * part).float()
    return found
