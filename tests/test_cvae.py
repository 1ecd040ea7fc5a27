"""The conditional VAEs: their published layers, where conditions come in, and what is alarmed.

The contract of all kinds is in test_models.py, the planted trend in test_conditions.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from galpipe import spec
from galpipe.errors import InputError
from galpipe.models.cvae.judging import drawn_at, losses
from galpipe.models.cvae.learner import CvaeLearner
from galpipe.models.cvae.network import CvaeNetwork
from galpipe.models.cvae.spec import Convolved, Cvae, Cvae2, FancyCvae, Vae
from galpipe.models.divergence import covariance
from galpipe.models.engine.spec import Training
from galpipe.models.network import Batch
from galpipe.models.training import train
from galpipe.stages import Context
from galpipe.workspace import Workspace
from tests import stamped

FACTS: Mapping[str, Any] = {"condition": {"columns": ["redshift"], "mean": [0.6], "scatter": [0.2]}}
SMALL: Mapping[str, Any] = {"latent": 3, "widths": (4, 8), "bottleneck": 2}
CONDITIONED = (Cvae, Cvae2, FancyCvae)


def network(kind: type[Convolved], size: int = 16, bands: int = 1, **fields: Any) -> CvaeNetwork:
    torch.manual_seed(0)
    return CvaeNetwork(kind(**{**SMALL, **fields}), bands, size, FACTS).eval()


def parameters(kind: type[Convolved], size: int, latent: int) -> int:
    made = CvaeNetwork(kind(latent=latent, bottleneck=1), 1, size, FACTS)
    return sum(parameter.numel() for parameter in made.parameters())


# By hand.  158 pixels, one way: 4*4*1*64 + 3*3*64*128 + 4*4*128*256 + 4*4*256*512 + 4*4*512*1
# = 2,704,384 weights, and as many on the way back; batch normalisation 2 (128 + 256 + 512) and
# 2 (512 + 256 + 128 + 64); three linear layers of 25 * 25 + 25.  Of 128 pixels the second kernel is
# 4 and the last is 5: 2,766,336 one way; linear layers of 16 * 16 + 16.
PLAIN = {
    158: 2 * 2_704_384 + 1_792 + 1_920 + 3 * 650,
    128: 2 * 2_766_336 + 1_792 + 1_920 + 3 * 272,
}
FIRST_PLANE, LAST_PLANE = 4 * 4 * 64, {158: 4 * 4 * 512, 128: 5 * 5 * 512}
LATENT = {158: 25, 128: 16}


@pytest.mark.parametrize("size", [158, 128])
def test_the_published_layers_have_so_many_parameters(size: int) -> None:
    latent, plain = LATENT[size], PLAIN[size]
    planes = FIRST_PLANE + LAST_PLANE[size]
    assert plain == {158: 5_414_430, 128: 5_537_200}[size]
    assert parameters(Vae, size, latent) == plain
    assert parameters(Cvae, size, latent) == plain + planes
    assert parameters(Cvae2, size, latent) == plain + 3 * latent
    assert parameters(FancyCvae, size, latent) == plain + planes + FIRST_PLANE


@pytest.mark.parametrize(
    ("size", "sides"),
    [(158, [79, 40, 20, 10, 5]), (128, [64, 32, 16, 8, 4]), (64, [32, 16, 8, 4, 4])],
)
def test_the_published_images_on_the_way(size: int, sides: list[int]) -> None:
    made = CvaeNetwork(Vae(bottleneck=1, widths=(2, 2, 2, 2)), 1, size, {}).eval()
    seen: list[int] = []
    for layer in made.encoder:
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda _, __, found: seen.append(found.shape[-1]))
    posterior = made.encode(torch.rand(2, 1, size, size), torch.zeros(2, 0))
    assert seen == sides
    drawn = made.decode(posterior.mean, torch.zeros(2, 0)).images
    assert drawn.shape == (2, 1, size, size)


@pytest.mark.parametrize(("size", "width"), [(158, 25), (128, 16)])
def test_no_more_latent_numbers_than_the_bottleneck_has(size: int, width: int) -> None:
    """The published networks draw 32 from 25 or 16; wider ones are an own setting."""
    with pytest.raises(InputError, match=f"32 latent numbers .* bottleneck of {width} .*= 2"):
        CvaeNetwork(Vae(latent=32, bottleneck=1), 1, size, {})
    assert CvaeNetwork(Vae(latent=32, bottleneck=2), 1, size, {}).latent == 32


def test_stamps_that_cannot_be_halved_so_often_are_refused() -> None:
    with pytest.raises(InputError, match="4 widths halve stamps of 16 pixels to nothing"):
        CvaeNetwork(Vae(latent=1), 1, 16, {})


def test_settings_that_contradict_are_refused() -> None:
    for values, said in (
        ({"conditions": ["redshift", "redshift"]}, "twice"),
        ({"conditions": []}, "at least 1"),
        ({"beta": [0.1, 0.2]}, "2 numbers for 16 latent"),
        ({"independence": -1.0}, "greater than or equal to 0"),
    ):
        with pytest.raises(InputError, match=said):
            spec.load(Cvae, values)
    with pytest.raises(InputError, match="conditions"):
        spec.load(Vae, {"conditions": ["redshift"]})


@pytest.mark.parametrize("kind", CONDITIONED)
def test_conditions_reach_the_encoder_and_the_decoder(kind: type[Convolved]) -> None:
    made = network(kind, bands=3)
    images = torch.rand(5, 3, 16, 16)
    low, high = torch.full((5, 1), 0.4), torch.full((5, 1), 0.8)
    one, two = made.standard(low, images), made.standard(high, images)
    assert one.flatten().tolist() == pytest.approx([-1.0] * 5, abs=1e-5)
    assert not torch.allclose(made.encode(images, one).mean, made.encode(images, two).mean)
    latent = torch.zeros(5, 3)
    drawn, other = made.decode(latent, one), made.decode(latent, two)
    assert not torch.allclose(drawn.images, other.images)
    assert (drawn.conditions is not None) == (kind is FancyCvae)
    if drawn.conditions is not None:
        assert drawn.conditions.shape == (5, 1)


def test_a_plain_vae_takes_no_notice_of_conditions() -> None:
    made, images = network(Vae), torch.rand(4, 1, 16, 16)
    assert torch.equal(made.redraw(images), made.redraw(images, torch.rand(4, 1)))
    assert "condition" not in made.embed(images, None)


@pytest.mark.parametrize("kind", CONDITIONED)
def test_a_condition_that_is_not_known_is_the_mean(kind: type[Convolved]) -> None:
    made, images = network(kind), torch.rand(3, 1, 16, 16)
    unknown, mean = torch.full((3, 1), torch.nan), torch.full((3, 1), 0.6)
    for given in (unknown, None):
        found = made.embed(images, given)
        assert torch.equal(found["vector"], made.embed(images, mean)["vector"])
        assert found["condition"].isnan().all()
    far, farther = torch.full((3, 1), 0.6 + 5 * 0.2), torch.full((3, 1), 1e6)
    assert torch.allclose(made.redraw(images, far), made.redraw(images, farther), atol=1e-6)


def test_a_column_of_one_value_says_nothing() -> None:
    """Its scatter is rounding alone; what is drawn does not hang on the last bits."""
    facts = {"condition": {"columns": ["redshift"], "mean": [0.8], "scatter": [1e-12]}}
    made = CvaeNetwork(Cvae2(**SMALL), 1, 16, facts).eval()
    images = torch.rand(3, 1, 16, 16)
    near = torch.full((3, 1), 0.8) * (1 + 2**-23)
    assert torch.allclose(made.redraw(images, near), made.redraw(images, None), atol=1e-2)


@pytest.mark.parametrize("kind", CONDITIONED)
def test_new_galaxies_have_stated_conditions(kind: type[Convolved]) -> None:
    made = network(kind)
    torch.manual_seed(1)
    drawn = made.generate(6, conditions_BK=torch.full((6, 1), 0.5))
    assert drawn.shape == (6, 1, 16, 16) and drawn.min() >= 0 and drawn.max() <= 1
    with pytest.raises(InputError, match="stated redshift"):
        made.generate(6)
    with pytest.raises(InputError, match="no components"):
        made.generate(6, component=1, conditions_BK=torch.zeros(6, 1))


def test_the_loss_is_the_formula_and_a_copied_condition_costs() -> None:
    """sum (x'-x)^2 + beta KL + k sum (c'-c)^2, from the same random numbers."""
    images, conditions = torch.rand(8, 1, 16, 16), torch.rand(8, 1)
    batch = Batch(images, {"condition": conditions})
    made = network(FancyCvae, beta=0.3, repeated=7.0, independence=2.0)
    learner = CvaeLearner(made, Training(epochs=1))
    torch.manual_seed(5)
    outcome = learner(batch, learner.epochs()[0])
    torch.manual_seed(5)
    given = (conditions - 0.6) / 0.2
    posterior = made.encode(images, given)
    scatter = (posterior.log_variance / 2).exp()
    drawing = made.decode(posterior.mean + scatter * torch.randn(8, 3), given)
    own = torch.distributions.Normal(posterior.mean, scatter)
    standard = torch.distributions.Normal(0.0, 1.0)
    expected = ((drawing.images - images) ** 2).sum() / 8
    expected += 0.3 * torch.distributions.kl_divergence(own, standard).sum() / 8
    assert drawing.conditions is not None
    expected += 7.0 * ((drawing.conditions - given) ** 2).sum() / 8
    together = torch.cov(torch.cat([posterior.mean, given], 1).T, correction=0)[-1, :-1]
    expected += 2.0 * 0.256 * (together**2).sum()  # 256 pixels
    assert outcome.loss.item() == pytest.approx(expected.item(), rel=1e-4)
    judged = learner.judge([batch], learner.epochs()[0])
    assert judged["squared_difference"] + 0.3 * judged["divergence"] + 7.0 * judged[
        "condition_difference"
    ] == pytest.approx(judged["loss"], rel=1e-5)


def test_squared_covariances() -> None:
    given = torch.tensor([[-1.0], [0.0], [1.0]])
    mean = torch.cat([3 * given + 2, torch.tensor([[1.0], [-2.0], [1.0]]), torch.ones(3, 1)], 1)
    assert covariance(mean, given).item() == pytest.approx(4.0)
    assert covariance(mean[:1], given[:1]).item() == 0


def test_one_beta_for_each_latent_dimension() -> None:
    made = network(Cvae2, beta=(0.0, 1.0, 0.0), independence=0.0)
    learner = CvaeLearner(made, Training(epochs=2))
    batch = Batch(torch.rand(4, 1, 16, 16), {"condition": torch.rand(4, 1)})
    torch.manual_seed(2)
    outcome = learner(batch, learner.epochs()[0])
    given = made.standard(batch.targets["condition"], batch.images)
    mean, log_variance = made.encode(batch.images, given)
    second = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)[:, 1]
    expected = outcome.sums["squared_difference"] / 4 + second.mean()
    assert outcome.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_losses_under_other_conditions() -> None:
    made, images = network(Cvae2), torch.rand(40, 1, 16, 16)
    conditions = torch.rand(40, 1)
    found = losses(made, images, conditions, 3, seed=1)
    assert found.shuffled.shape == (3, 40)
    again = losses(made, images, conditions, 3, seed=1)
    assert torch.equal(found.own, again.own) and torch.equal(found.shuffled, again.shuffled)
    same = losses(made, images, torch.full((40, 1), 0.6), 2, seed=1)
    assert torch.equal(same.own, same.shuffled[0])
    assert torch.allclose(same.own, same.unknown, atol=1e-6)
    assert torch.allclose(found.unknown, same.unknown)


def test_drawn_at_its_own_value_a_galaxy_is_redrawn() -> None:
    made, images = network(Cvae), torch.rand(5, 1, 16, 16)
    own = torch.full((5, 1), 0.7)
    drawn = drawn_at(made, images, own, 0, torch.tensor([0.4, 0.7]))
    assert drawn.shape == (2, 5, 1, 16, 16)
    assert torch.allclose(drawn[1], made.redraw(images, own), atol=1e-6)
    assert not torch.allclose(drawn[0], drawn[1], atol=1e-4)


@pytest.mark.parametrize("beta", [1e4, 1e-3])
def test_a_collapsed_network_is_alarmed(tmp_path: Path, beta: float) -> None:
    workspace = Workspace.open(tmp_path / "workspace")
    stamps, catalogue = stamped.commit(workspace, [stamped.galaxies(150)])
    training = Training(batch=16, threads=1, buffer=2, epochs=8, learning_rate=3e-3)
    model = Vae(latent=2, widths=(4, 8), beta=beta)
    ref = train(Context(workspace), model, training, stamps, catalogue)
    manifest = workspace.manifest(ref)
    assert manifest is not None
    collapsed = beta > 1
    assert (manifest["figures"]["active_dimensions"] == 0) == collapsed
    assert any("no latent dimension is in use" in alarm for alarm in manifest["alarms"]) == (
        collapsed
    )
    assert math.isfinite(manifest["figures"]["loss"])
