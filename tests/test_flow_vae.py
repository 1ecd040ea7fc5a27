"""The β-VAE with a flow: densities against integrals, β, and the field of what is left undrawn."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from galpipe import spec
from galpipe.errors import InputError
from galpipe.models.beta import Rise, beta_at, last_beta
from galpipe.models.checkpoints import load_model
from galpipe.models.convolutions.spec import Layers
from galpipe.models.divergence import per_dimension, weighed
from galpipe.models.engine.spec import OneCycle, Training
from galpipe.models.flow_vae import parity
from galpipe.models.flow_vae.flow import LatentFlow
from galpipe.models.flow_vae.learner import FlowVaeLearner
from galpipe.models.flow_vae.network import FlowVaeNetwork
from galpipe.models.flow_vae.residual import ResidualField
from galpipe.models.flow_vae.spec import Flow, FlowVae, NoResidual, Normal
from galpipe.models.flow_vae.spectrum import split
from galpipe.models.learner import Epoch
from galpipe.models.network import Batch
from galpipe.models.training import train
from galpipe.stages import Context
from galpipe.workspace import Ref, Workspace
from tests import stamped

FAMILIES: tuple[Literal["realnvp", "maf", "spline"], ...] = ("realnvp", "maf", "spline")
LAYERS = Layers(channels=(4, 8))
SMALL = FlowVae(latent=3, layers=LAYERS, prior=Flow(width=8, steps=30))
TRAINING = Training(
    batch=32, epochs=6, threads=1, buffer=2, learning_rate=2e-3, rate=OneCycle()
)  # fmt: skip


def flow(family: Any, latent: int = 2, conditions: int = 0, seed: int = 0) -> LatentFlow:
    """A flow with random weights, off the origin and of unequal scatter."""
    torch.manual_seed(seed)
    facts = {"mean": [2.0] * conditions, "scatter": [0.5] * conditions}
    made = LatentFlow(Flow(family=family, transforms=2, width=8), latent, facts)
    with torch.no_grad():
        made.middle.copy_(torch.linspace(-1, 1, latent))
        made.scatter.copy_(torch.linspace(0.5, 1.5, latent))
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return made


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("conditions", [0, 2])
@torch.no_grad()
def test_a_density_integrates_to_one_and_is_that_of_its_draws(family: Any, conditions: int) -> None:
    made = flow(family, conditions=conditions)
    step = 0.05
    axis = torch.arange(-12, 12, step)
    points = torch.cartesian_prod(axis, axis)
    given = torch.tensor([[2.4, 1.9]]) if conditions else None

    def told(number: int) -> Tensor | None:
        return None if given is None else given.expand(number, -1)

    density = made.log_density(points, told(len(points))).exp()
    assert float(density.sum() * step**2) == pytest.approx(1, abs=2e-3)
    torch.manual_seed(1)
    drawn = made.draw(20_000, told(20_000))
    mean = (density[:, None] * points).sum(0) * step**2
    spread = torch.sqrt((density[:, None] * (points - mean) ** 2).sum(0) * step**2)
    assert torch.allclose(drawn.mean(0), mean, atol=0.05)
    assert torch.allclose(drawn.std(0), spread, rtol=0.05)
    # The mean of -log p over draws is the entropy.
    entropy = -(density * density.clamp_min(1e-30).log()).sum() * step**2
    surprise = -made.log_density(drawn, told(20_000)).mean()
    assert float(surprise) == pytest.approx(float(entropy), abs=0.05)


@torch.no_grad()
def test_conditions_change_what_is_drawn_and_are_raw_values() -> None:
    made = flow("maf", conditions=1)
    points = torch.randn(5, 2)
    one, other = torch.full((5, 1), 1.0), torch.full((5, 1), 3.0)
    assert not torch.allclose(made.log_density(points, one), made.log_density(points, other))
    bare = made.flow((one - 2.0) / 0.5).log_prob((points - made.middle) / made.scatter)
    expected = bare - torch.log(made.scatter).sum()
    assert torch.allclose(made.log_density(points, one), expected)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Ref, Ref]:
    """450 discs, needles and rings, with their mean brightness in a column."""
    workspace = Workspace.open(tmp_path_factory.mktemp("flow_vae") / "workspace")
    images = stamped.galaxies(450)
    stamps, catalogue = stamped.commit(workspace, [images])
    path = workspace.place(catalogue) / "catalogue.parquet"
    bright = pa.array(images.mean((1, 2, 3)).astype(np.float64))
    pq.write_table(pq.read_table(path).append_column("input_light", bright), path)
    return workspace, stamps, catalogue


def trained(planted: tuple[Workspace, Ref, Ref], model: FlowVae) -> tuple[Any, dict[str, Any]]:
    """The network and its held-out figures."""
    workspace, stamps, catalogue = planted
    ref = train(Context(workspace), model, TRAINING, stamps, catalogue)
    manifest = workspace.manifest(ref)
    assert manifest is not None
    return load_model(workspace.place(ref)), manifest["figures"]


# β.


def test_beta_is_a_number_an_array_or_rises_and_stays() -> None:
    assert beta_at(0.5, 7, 10) == 0.5
    assert beta_at((1.0, 2.0), 7, 10) == (1.0, 2.0)
    once = Rise(first=0.2, last=1.2, epochs=5)
    told = [beta_at(once, epoch, 20) for epoch in range(20)]
    assert told[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.2])
    assert set(told[5:]) == {1.2} and last_beta(once) == 1.2
    twice = dataclasses.replace(once, cycles=2)
    assert [beta_at(twice, epoch, 20) for epoch in range(20)] == 2 * told[:10]


def test_a_divergence_is_that_of_normal_distributions_and_weighed_by_dimension() -> None:
    mean, log_variance = torch.randn(4, 3), torch.randn(4, 3)
    normal = torch.distributions.Normal
    exact = torch.distributions.kl_divergence(
        normal(mean, torch.exp(0.5 * log_variance)), normal(0.0, 1.0)
    )
    found = per_dimension(mean, log_variance)
    assert torch.allclose(found, exact, atol=1e-5)
    assert torch.allclose(weighed(found, 2.0), 2 * exact.sum(1), atol=1e-5)
    weights = torch.tensor([0.0, 1.0, 3.0])
    assert torch.allclose(weighed(found, (0.0, 1.0, 3.0)), (exact * weights).sum(1), atol=1e-5)


def test_a_larger_beta_on_a_dimension_costs_it_its_information(
    planted: tuple[Workspace, Ref, Ref],
) -> None:
    """Two dimensions out of three are priced out of use."""
    dear = dataclasses.replace(SMALL, beta=(1.0, 1000.0, 1000.0), prior=Normal())
    network, _ = trained(planted, dear)
    with torch.no_grad():
        posterior = network.encode(torch.from_numpy(stamped.galaxies(90, 5)).float() / 255)
    told = per_dimension(*posterior).mean(0)
    assert told[0] > 2.0 and told[1] < 0.5 and told[2] < 0.5


def test_the_bound_against_a_flow_is_that_against_the_same_normal_prior() -> None:
    """Where the flow is the standard normal, samples of log q - log p average to the divergence."""
    joint = dataclasses.replace(SMALL, prior=Flow(fitted="jointly", width=8))
    network = FlowVaeNetwork(joint, 1, 16)
    assert network.flow is not None
    with torch.no_grad():
        for parameter in network.flow.parameters():
            parameter.zero_()
        network.log_variance.bias.fill_(-2.0)
    exact = FlowVaeLearner(FlowVaeNetwork(SMALL, 1, 16), TRAINING)
    exact.network.load_state_dict(network.state_dict())
    learner = FlowVaeLearner(network, TRAINING)
    batch = Batch(torch.from_numpy(np.repeat(stamped.galaxies(3), 3000, 0)).float() / 255)
    torch.manual_seed(0)
    with torch.no_grad():
        one = learner(batch, Epoch(0)).sums["divergence"] / len(batch.images)
        other = exact(batch, Epoch(0)).sums["divergence"] / len(batch.images)
    assert float(one) == pytest.approx(float(other), rel=0.02)


# Training and what is fitted afterwards.


@pytest.mark.parametrize("fitted", ["jointly", "after"])
def test_a_flow_fits_held_out_posteriors_better_than_a_normal_distribution(
    planted: tuple[Workspace, Ref, Ref], fitted: Any
) -> None:
    """Three kinds of galaxies fill three clouds, which one normal distribution joins."""
    model = dataclasses.replace(SMALL, prior=Flow(fitted=fitted, width=32, steps=400))
    network, figures = trained(planted, model)
    if fitted == "after":
        assert figures["flow_loss"] < figures["normal_loss"] - 0.5
    told = torch.from_numpy(stamped.galaxies(90, 5)).float() / 255
    with torch.no_grad():
        latent = network.encode(told).mean
        torch.manual_seed(0)
        near = torch.cdist(network.flow.draw(300), latent).min(1).values
        spread = latent.mean(0) + latent.std(0) * torch.randn(300, 3)
        far = torch.cdist(spread, latent).min(1).values
    assert near.median() < far.median()


def test_a_flow_draws_galaxies_of_the_stated_light(planted: tuple[Workspace, Ref, Ref]) -> None:
    model = dataclasses.replace(
        SMALL, conditions=("light",), prior=Flow(width=32, steps=400), undrawn=NoResidual()
    )
    network, _ = trained(planted, model)
    assert network.facts["condition"]["columns"] == ["light"]
    mean, scatter = (network.facts["condition"][name][0] for name in ("mean", "scatter"))
    light = []
    for value in (mean - scatter, mean, mean + scatter):
        torch.manual_seed(0)
        drawn = network.generate(200, conditions_BK=torch.full((200, 1), value))
        light.append(255 * float(drawn.mean()))
    asked = np.array([mean - scatter, mean, mean + scatter])
    assert np.allclose(light, asked, atol=0.4 * scatter), (light, asked)
    assert "log_density" not in {output.name for output in network.outputs()}


@torch.no_grad()
def test_new_galaxies_are_stamps_and_have_no_components() -> None:
    network = FlowVaeNetwork(SMALL, 2, 16)
    drawn = network.generate(5)
    assert drawn.shape == (5, 2, 16, 16)
    assert float(drawn.min()) >= 0 and float(drawn.max()) <= 1
    with pytest.raises(InputError, match="a flow_vae has no components"):
        network.generate(5, component=0)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "numbers": ({"latent": 3, "beta": [1.0, 2.0]}, "beta has 2 numbers for 3 latent dimensions"),
    "joint": (
        {"latent": 2, "beta": [1.0, 2.0], "prior": {"kind": "flow", "fitted": "jointly"}},
        "no divergence per dimension",
    ),
    "conditions": (
        {"conditions": ["r50"], "prior": {"kind": "flow", "fitted": "jointly"}},
        'prior.fitted = "after"',
    ),
    "no flow": ({"conditions": ["r50"], "prior": {"kind": "normal"}}, 'prior.fitted = "after"'),
}


@pytest.mark.parametrize("case", WRONG)
def test_settings_that_do_not_go_together_are_one_sentence(case: str) -> None:
    given, expected = WRONG[case]
    with pytest.raises(InputError, match=expected):
        spec.load(FlowVae, given)


# The field of what is left undrawn.

SIDE = 32


def profile(count: int) -> Tensor:
    """Drawings: a round galaxy on a dark sky, (count, 1, SIDE, SIDE)."""
    axis = torch.arange(SIDE) - (SIDE - 1) / 2
    radius = torch.hypot(axis[:, None], axis[None])
    return (0.1 + 0.6 * torch.exp(-radius / 5)).expand(count, 1, SIDE, SIDE).clone()


def grain(count: int, width: float) -> Tensor:
    """White noise smoothed by a Gaussian of `width` pixels, of unit variance, on a torus."""
    wave = torch.fft.fftfreq(SIDE)
    power = torch.exp(-((2 * math.pi * width) ** 2) * (wave[:, None] ** 2 + wave[None] ** 2))
    white = torch.fft.fft2(torch.randn(count, 1, SIDE, SIDE))
    return torch.fft.ifft2(white * torch.sqrt(power / power.mean())).real


def neighbours(field: Tensor) -> float:
    """The correlation of horizontal neighbours."""
    one, other = field[..., :-1].flatten(), field[..., 1:].flatten()
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])


def test_a_field_is_drawn_as_it_was_found() -> None:
    """Fine weak noise in the sky, coarse strong structure in the galaxy, skewed values."""
    torch.manual_seed(0)
    count = 400
    drawings, latent = profile(count), torch.randn(count, 2)
    bright = drawings > 0.3
    rough = torch.expm1(0.5 * grain(count, 1.5))
    left = torch.where(bright, 0.03 * (rough - rough.mean()), 0.01 * grain(count, 0.3))
    field = ResidualField(6, 2, 1, SIDE)
    field.fit(latent, drawings, drawings + left)
    drawn = field.draw(latent, drawings)
    inner, outer = bright[0, 0], ~(drawings > 0.2)[0, 0]
    core = slice(13, 19)
    for mask in (inner, outer):
        assert float(drawn[..., mask].std()) == pytest.approx(float(left[..., mask].std()), rel=0.1)
    for part in ((slice(None), slice(None), core, core), (..., slice(0, 4))):
        assert neighbours(drawn[part]) == pytest.approx(neighbours(left[part]), abs=0.1)
    quantiles = torch.tensor([0.05, 0.5, 0.95, 0.99])
    found, told = (torch.quantile(one[..., inner].flatten(), quantiles) for one in (drawn, left))
    assert torch.allclose(found, told, atol=0.01)  # a normal field misses by 0.02


def test_the_strength_of_a_field_follows_from_the_latent_numbers_with_scatter() -> None:
    torch.manual_seed(1)
    count = 600
    drawings, latent = profile(count), torch.randn(count, 2)
    logarithm = 0.4 * latent[:, 0] + 0.2 * torch.randn(count)
    left = 0.02 * torch.exp(logarithm)[:, None, None, None] * torch.randn(count, 1, SIDE, SIDE)
    field = ResidualField(3, 2, 1, SIDE)
    field.fit(latent, drawings, drawings + left)
    drawn = field.draw(latent, drawings)
    told = torch.log(drawn.flatten(1).std(1))
    truth = torch.log(left.flatten(1).std(1))
    for values in (told, truth):
        slope = torch.cov(torch.stack([latent[:, 0], values]))[0, 1]
        assert float(slope) == pytest.approx(0.4, abs=0.05)
        assert float((values - 0.4 * latent[:, 0]).std()) == pytest.approx(0.2, abs=0.04)
    assert float(told.mean()) == pytest.approx(float(truth.mean()), abs=0.05)


def test_a_field_is_as_much_its_own_mirror_image_as_was_found() -> None:
    torch.manual_seed(2)
    white = torch.randn(300, 1, SIDE, SIDE)
    assert torch.allclose(parity.shares(white, torch.ones(1)), torch.ones(4), atol=0.02)
    told = torch.tensor([2.5, 0.5, 0.25, 0.75])
    assert torch.allclose(parity.shares(parity.shaped(white, told), torch.ones(1)), told, rtol=0.03)
    drawings = profile(300)
    turned = white + white.flip((2, 3))  # every residual has its like opposite the centre
    field = ResidualField(2, 2, 1, SIDE)
    field.fit(torch.randn(300, 2), drawings, drawings + 0.01 * turned)
    drawn = field.draw(torch.zeros(300, 2), drawings)
    pair = torch.stack([drawn.flatten(), drawn.flip((2, 3)).flatten()])
    assert float(torch.corrcoef(pair)[0, 1]) > 0.9


def test_a_field_is_the_sum_of_its_coarse_and_its_fine_grain() -> None:
    axis = torch.arange(SIDE)
    slow, fast = (torch.cos(2 * math.pi * axis / period) for period in (16, 4))
    coarse, fine = split((slow + 3 * fast).expand(1, 1, SIDE, SIDE))
    assert torch.allclose(coarse[0, 0, 0], slow, atol=1e-5)
    assert torch.allclose(fine[0, 0, 0], 3 * fast, atol=1e-5)


def test_a_field_is_nothing_where_nothing_is_left() -> None:
    drawings, latent = profile(40), torch.randn(40, 2)
    field = ResidualField(4, 2, 1, SIDE)
    field.fit(latent, drawings, drawings)
    assert float(field.draw(latent, drawings).abs().max()) < 1e-3
