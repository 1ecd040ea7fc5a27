"""VaDE: its mathematics against closed forms, sampling and the published network's size."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from galpipe import spec, survey
from galpipe.errors import InputError
from galpipe.models.engine.arithmetic import seed_all
from galpipe.models.engine.augment import mirrored
from galpipe.models.engine.rates import rate_at
from galpipe.models.learner import Epoch
from galpipe.models.network import Batch
from galpipe.models.spec import Stack, Training, VaDE
from galpipe.models.vade import components, initialisation, schedule
from galpipe.models.vade.learner import VadeLearner, judged
from galpipe.models.vade.mixture import Mixture
from galpipe.models.vade.network import (
    Posterior,
    VadeNetwork,
    gaussian_divergence,
    mixture_divergence,
)

SMALL = VaDE(
    latent=3,
    components=4,
    encoder=(Stack(channels=4), Stack(channels=4)),
    decoder=(Stack(channels=4), Stack(channels=4)),
)


def mixture(components: int = 4, latent: int = 3, seed: int = 0, full: bool = False) -> Mixture:
    random = torch.Generator().manual_seed(seed)
    made = Mixture(components, latent, 1e-4, full)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random))
    return made


def posterior(count: int = 5, latent: int = 3, seed: int = 1) -> Posterior:
    random = torch.Generator().manual_seed(seed)
    return Posterior(
        torch.randn(count, latent, generator=random),
        torch.randn(count, latent, generator=random) - 1,
    )


@torch.no_grad()
def generated(
    network: VadeNetwork, count: int, seed: int, component: int | None = None
) -> torch.Tensor:
    seed_all(seed)
    return network.generate(count, component)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> survey.Survey:
    """AstroVaDEr as the survey file states it; the images are not needed."""
    monkeypatch.setenv("GALPIPE_DATA", "anywhere")
    folder = Path(__file__).resolve().parents[1] / "deploy" / "surveys"
    return survey.load(folder / "astrovader-paper.toml")


def test_published_network_has_the_published_number_of_parameters(
    published: survey.Survey,
) -> None:
    assert isinstance(published.model, VaDE)
    network = VadeNetwork(published.model, bands=1, size=128)
    assert sum(parameter.numel() for parameter in network.parameters()) == 871_381
    assert network.encode(torch.zeros(2, 1, 128, 128)).mean.shape == (2, 20)
    drawn = network.decode(torch.zeros(2, 20))
    assert drawn.shape == (2, 1, 128, 128)
    assert float(drawn.detach().min()) >= 0  # its last layer is rectified


def test_published_schedule(published: survey.Survey) -> None:
    assert isinstance(published.model, VaDE)
    plan = schedule.epochs(published.model.schedule)
    assert len(plan) == 350
    assert [e.phase for e in plan[:101]] == ["warm-up"] * 100 + ["annealing"]
    assert [e.phase for e in plan[100:150]] == ["annealing"] * 25 + ["static"] * 25
    assert rate_at(published.training, 0, 841, 350) == 3e-4
    assert rate_at(published.training, 349 * 841, 841, 350) == pytest.approx(1e-6, rel=0.04)
    assert not plan[99].clipped and plan[100].clipped
    assert plan[0].weight == 1
    assert plan[124].weight == pytest.approx(0.3 * 2)  # a = 1: a^3 + gamma
    assert plan[130].weight == pytest.approx(0.3)


@pytest.mark.parametrize("sampling", ["pooled", "strided"])
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("bands", [1, 3])
def test_shapes_and_gradients_reach_every_parameter(
    sampling: str, linear: bool, bands: int
) -> None:
    model = spec.load(VaDE, {**spec.dump(SMALL), "sampling": sampling, "linear": linear})
    network = VadeNetwork(model, bands, 16)
    x = torch.rand(6, bands, 16, 16)
    outcome = VadeLearner(network, Training())(Batch(x), Epoch(0, "static"))
    assert {"squared_difference", "divergence"} == outcome.sums.keys()
    outcome.loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_a_start_from_too_few_images_is_refused() -> None:
    with pytest.raises(ValueError, match="initialisation_images = 11 cannot start 12 components"):
        VaDE(initialisation_images=11)


def test_the_bound_is_that_of_samples_of_the_posterior() -> None:
    """Beside the mean over 400 samples; at the posterior's mean it would be too good."""
    torch.manual_seed(0)
    network = VadeNetwork(SMALL, 1, 16, {}).eval()
    with torch.no_grad():
        network.log_variance.bias.fill_(0.0)
        network.draw.weight.normal_(0, 0.1)
    images = torch.rand(2000, 1, 16, 16)
    figures = judged(network, [Batch(images, {})], seed=1).figures(network, Epoch(0, "warm-up"))
    with torch.no_grad():
        posterior = network.encode(images[:50])
        several = [
            ((network.decode(posterior.sample(torch.randn(50, 3))) - images[:50]) ** 2).sum()
            for _ in range(400)
        ]
        own = judged(network, [Batch(images[:50], {})], seed=1)
    bound = -SMALL.reconstruction * float(torch.stack(several).mean()) / 50
    bound -= float(gaussian_divergence(posterior).mean())
    assert figures["elbo"] == pytest.approx(bound, rel=0.02)
    at_mean = -SMALL.reconstruction * float(own.squared.mean())
    at_mean -= float(gaussian_divergence(posterior).mean())
    assert at_mean > bound + 0.05 * abs(bound)


def test_stamps_that_do_not_fit_are_refused_in_one_sentence() -> None:
    with pytest.raises(InputError, match="divisible by 4"):
        VadeNetwork(SMALL, 1, 18)
    with pytest.raises(InputError, match="odd"):
        VadeNetwork(
            VaDE(encoder=(Stack(channels=2, kernel=4),), decoder=(Stack(channels=2),)), 1, 8
        )


def test_gaussian_divergence_is_torchs() -> None:
    q = posterior()
    normal = torch.distributions.Normal(q.mean, torch.exp(0.5 * q.log_variance))
    truth = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(gaussian_divergence(q), truth)


def test_mixture_divergence_of_one_standard_component_is_the_gaussian_one() -> None:
    q, one = posterior(), Mixture(1, 3, 1e-4)
    for sampled in (None, q.mean):
        torch.testing.assert_close(mixture_divergence(one, q, sampled), gaussian_divergence(q))


@pytest.mark.parametrize("full", [False, True])
def test_mixture_divergence_agrees_with_sampling(full: bool) -> None:
    """KL(q(z, c) || p(z, c)) by 200,000 draws, with q(c) the expected posterior."""
    prior, q = mixture(full=full), posterior(count=2)
    draws = torch.randn(200_000, 1, 3, generator=torch.Generator().manual_seed(3))
    z = q.mean + torch.exp(0.5 * q.log_variance) * draws
    expected = prior.log_joint(q.mean, q.log_variance)
    category = torch.softmax(expected, 1)
    normal = torch.distributions.Normal(q.mean, torch.exp(0.5 * q.log_variance))
    log_q = normal.log_prob(z).sum(2)  # type: ignore[no-untyped-call]
    log_p = torch.stack([prior.log_joint(z[:, b]) for b in range(2)], 1)
    inside = (category * (torch.log(category) - log_p)).sum(2) + log_q
    torch.testing.assert_close(
        mixture_divergence(prior, q, None), inside.mean(0), rtol=0.01, atol=0.02
    )


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_expected_categories_are_the_best_ones(seed: int) -> None:
    prior, q = mixture(seed=seed), posterior(seed=seed + 1)
    z = q.sample(torch.randn(q.mean.shape, generator=torch.Generator().manual_seed(seed)))
    best, other = mixture_divergence(prior, q, None), mixture_divergence(prior, q, z)
    assert (best <= other + 1e-4).all()


def test_a_full_mixture_has_the_density_of_its_covariances() -> None:
    prior, z = mixture(full=True), posterior().mean
    normal = torch.distributions.MultivariateNormal(
        prior.means_CJ.detach().double(), prior.covariances()
    )
    truth = normal.log_prob(z.double()[:, None]) + torch.log(prior.weights())  # type: ignore[no-untyped-call]
    torch.testing.assert_close(prior.log_joint(z).double(), truth, rtol=1e-5, atol=1e-4)
    again = Mixture(4, 3, 1e-4, full=True)
    again.place(torch.log(prior.weights()), prior.means_CJ, prior.covariances())
    torch.testing.assert_close(again.log_joint(z), prior.log_joint(z), rtol=1e-5, atol=1e-4)


def test_a_full_mixture_draws_its_covariances() -> None:
    prior = mixture(full=True)
    noise = torch.randn(100_000, 3, generator=torch.Generator().manual_seed(0))
    for component, covariance in enumerate(prior.covariances()):
        drawn = prior.drawn(torch.full((len(noise),), component), noise).detach().double()
        torch.testing.assert_close(
            drawn.mean(0).float(), prior.means_CJ[component], atol=0.1, rtol=0
        )
        scale = covariance.diagonal().sqrt()
        unit = (torch.cov(drawn.T) - covariance) / torch.outer(scale, scale)
        assert float(unit.abs().max()) < 0.02  # four standard errors


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 1e4))
@settings(deadline=None, max_examples=25)
def test_weights_and_responsibilities_lie_on_the_simplex(seed: int, scale: float) -> None:
    """Also where every density underflows: log-sum-exp."""
    prior = mixture(seed=seed)
    assert float(prior.weights().detach().sum()) == pytest.approx(1, abs=1e-6)
    rows = prior.responsibilities(scale * posterior(seed=seed).mean)
    assert torch.isfinite(rows).all()
    torch.testing.assert_close(rows.sum(1), torch.ones(len(rows)))


def test_variances_have_a_floor() -> None:
    prior = Mixture(2, 3, 1e-2)
    with torch.no_grad():
        prior.log_variances_CJ.fill_(-100)
    assert float(prior.bounded_log_variances().detach().min()) == pytest.approx(math.log(1e-2))


def test_principal_axes_are_those_of_the_singular_value_decomposition() -> None:
    random = np.random.default_rng(0)
    scales = np.array([5, 3, 2, 1, 0.5])
    pixels = random.normal(size=(300, 5)) * scales @ np.linalg.qr(random.normal(size=(40, 5)))[0].T
    average, axes, scatter = initialisation.principal_axes(pixels.astype(np.float32) + 7, 3, seed=1)
    _, values, rows = np.linalg.svd(pixels - pixels.mean(0), full_matrices=False)
    np.testing.assert_allclose(average.numpy(), pixels.mean(0) + 7, atol=1e-5)
    np.testing.assert_allclose(scatter.numpy(), values[:3] / math.sqrt(300), rtol=1e-4)
    np.testing.assert_allclose(np.abs((axes.numpy() * rows[:3]).sum(1)), 1, atol=1e-4)


def test_linear_start_draws_what_principal_components_draw() -> None:
    random = np.random.default_rng(2)
    basis = np.linalg.qr(random.normal(size=(256, 3)))[0]
    pixels = (0.5 + random.normal(size=(100, 3)) * 0.1 @ basis.T).astype(np.float32)
    network = VadeNetwork(SMALL, 1, 16)
    initialisation.start_linear(network, pixels, reconstruction=100, seed=0)
    x = torch.from_numpy(pixels).view(-1, 1, 16, 16)
    torch.testing.assert_close(network.redraw(x), x, atol=1e-4, rtol=0)
    means = network.encode(x).mean
    torch.testing.assert_close(means.std(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)


def test_mixture_start_finds_planted_components() -> None:
    random = np.random.default_rng(4)
    centres = 6 * np.eye(4, 3) - 2
    truth = random.integers(0, 4, 800)
    means = torch.from_numpy(
        (centres[truth] + random.normal(size=(800, 3)) * 0.3).astype(np.float32)
    )
    prior = Mixture(4, 3, 1e-4)
    q = Posterior(means, torch.full_like(means, math.log(0.16)))
    initialisation.start_mixture(prior, q, restarts=2, seed=0)
    found = prior.responsibilities(means).argmax(1).numpy()
    pairs = {(int(a), int(b)) for a, b in zip(truth, found, strict=True)}
    assert len(pairs) == 4
    # The prior's variance is that of the means and of the posteriors together.
    torch.testing.assert_close(
        torch.exp(prior.bounded_log_variances()), torch.full((4, 3), 0.25), rtol=0.25, atol=0
    )


def test_a_full_mixture_finds_components_that_lie_askew() -> None:
    """Two crossing bars, which a diagonal mixture of two cannot tell apart."""
    random = np.random.default_rng(5)
    along, across = random.normal(size=(2, 1000)) * np.array([[3.0], [0.2]])
    sign = np.where(np.arange(1000) % 2, 1, -1)
    turned = np.stack([along - sign * across, sign * along + across], 1) / math.sqrt(2)
    means = torch.from_numpy(turned.astype(np.float32))
    q = Posterior(means, torch.full_like(means, -8.0))
    agreed = {}
    for full in (False, True):
        prior = Mixture(2, 2, 1e-4, full)
        initialisation.start_mixture(prior, q, restarts=4, seed=0)
        found = prior.responsibilities(means).argmax(1).numpy()
        agreed[full] = max((found == (sign > 0)).mean(), (found != (sign > 0)).mean())
    assert agreed[True] > 0.9 > agreed[False]
    # of the bar along (1, 1)
    covariance = max(prior.covariances(), key=lambda one: float(one[0, 1]))
    np.testing.assert_allclose(covariance[0, 1], 4.5 - 0.02, rtol=0.15)


def test_overlap_of_two_gaussians_is_the_published_formula() -> None:
    """D_B = d^2 / 8 for equal variances of 1; and 1/2 log of the mean over the geometric mean."""
    means, ones = np.array([[0.0, 0], [2.0, 0]]), np.stack([np.eye(2)] * 2)
    overlap = components.bhattacharyya(means, ones)
    np.testing.assert_allclose(overlap, [[1, math.exp(-0.5)], [math.exp(-0.5), 1]])
    spread = components.bhattacharyya(np.zeros((2, 1)), np.array([[[1.0]], [[4.0]]]))
    assert spread[0, 1] == pytest.approx(math.sqrt(2 / 2.5))


def test_images_are_mirrored_whole_and_equally_often() -> None:
    images = torch.arange(4.0).view(1, 1, 2, 2).expand(4000, 1, 2, 2)
    seed_all(5)
    kinds, counts = np.unique(mirrored(images).flatten(1).numpy(), axis=0, return_counts=True)
    assert kinds.tolist() == [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]
    assert (abs(counts - 1000) < 120).all()  # four standard deviations


def test_dead_and_duplicate_components_are_alarmed() -> None:
    prior = Mixture(4, 2, 1e-4)
    with torch.no_grad():
        prior.means_CJ.copy_(torch.tensor([[0.0, 0], [0.0, 0.1], [30.0, 0], [0.0, 30]]))
    rows = np.tile([0.25, 0.25, 0.5, 0.0], (10, 1))
    judged = components.health(prior, rows, overlap_alarm=0.9, occupancy_alarm=0.1)
    assert judged.dead == (3,)
    assert judged.duplicates == ((0, 1),)
    assert len(judged.alarms()) == 2
    assert judged.occupied == pytest.approx(2 * math.sqrt(2), rel=1e-6)
    assert judged.effective == pytest.approx(2, rel=0.01)  # the duplicates count as one


def test_generated_images_come_from_the_component_asked_for() -> None:
    network = VadeNetwork(SMALL, 1, 16).eval()
    with torch.no_grad():
        network.mixture.means_CJ.copy_(
            torch.tensor([[5.0, 0, 0], [0, 5, 0], [0, 0, 5], [-5, 0, 0]])
        )
        network.mixture.log_variances_CJ.fill_(-9)
    one = generated(network, 3, seed=1, component=1)
    torch.testing.assert_close(
        one,
        network.decode(network.mixture.means_CJ[1:2]).detach().expand(3, -1, -1, -1),
        atol=0.05,
        rtol=0,
    )
    assert torch.equal(generated(network, 5, seed=2), generated(network, 5, seed=2))
