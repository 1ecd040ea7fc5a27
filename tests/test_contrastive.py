"""The self-supervised encoder: its views, its objectives, and what it finds out without labels."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.ndimage import gaussian_filter

from galpipe.classes import gather
from galpipe.classes.embedding import embed
from galpipe.errors import InputError
from galpipe.models import kinds
from galpipe.models.backbones.grid import resampled
from galpipe.models.backbones.pooling import Pooled, moments, scales
from galpipe.models.backbones.spec import ConvNext, PlainCnn, Residual, Stage
from galpipe.models.contrastive.learner import ContrastiveLearner, effective_dimensions
from galpipe.models.contrastive.objectives import found_again, nt_xent, vicreg
from galpipe.models.contrastive.spec import Contrastive, NtXent, VicReg, Views
from galpipe.models.contrastive.views import blurred, view
from galpipe.models.engine.spec import Augmentation, OneCycle, Training
from galpipe.models.learner import Epoch
from galpipe.models.network import Batch
from galpipe.models.spec import Embedding
from galpipe.models.training import train
from galpipe.stages import Context
from galpipe.workspace import Ref, Workspace
from tests import stamped

STILL = Views(
    rotate=False, mirror=False, shift=0, zoom=0, brightness=0, colour=0, noise=0, blur=0
)  # fmt: skip
SMALL = Contrastive(
    pixels=None, encoder=PlainCnn(channels=(8, 16)), hidden=32, projection=16, views=Views(blur=0.4)
)
TRAINING = Training(
    batch=64, epochs=6, threads=1, buffer=2, optimiser="adamw", learning_rate=5e-3, rate=OneCycle(),
    augment=Augmentation(flips=False),
)  # fmt: skip


def blob(size: int = 32, radius: float = 4.0, bands: int = 1) -> torch.Tensor:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    image = np.exp(-0.5 * (x**2 + y**2) / radius**2).astype(np.float32)
    return torch.from_numpy(image).expand(1, bands, size, size).clone()


def many(image: torch.Tensor, count: int = 64) -> torch.Tensor:
    return image.expand(count, *image.shape[1:]).clone()


def test_a_view_without_changes_is_the_image() -> None:
    images = torch.rand(3, 2, 16, 16)
    torch.testing.assert_close(view(images, STILL, 16), images, atol=1e-5, rtol=0)
    assert resampled(images, 16) is images
    torch.testing.assert_close(view(images, STILL, 8), resampled(images, 8))
    # Half as many pixels lie on the corners of four: their mean.
    torch.testing.assert_close(
        resampled(images, 8), torch.nn.functional.avg_pool2d(images, 2), atol=1e-5, rtol=0
    )


def test_views_differ_and_the_seed_decides_how() -> None:
    images = torch.rand(4, 3, 16, 16)
    torch.manual_seed(5)
    first, second = view(images, Views(), 16), view(images, Views(), 16)
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    assert torch.equal(first, view(images, Views(), 16))


@pytest.mark.parametrize("change", [{"rotate": True}, {"mirror": True}])
def test_a_round_galaxy_looks_the_same_at_every_angle(change: dict[str, Any]) -> None:
    seen = view(many(blob()), dataclasses.replace(STILL, **change), 32)
    assert (seen - blob()).abs().max() < 0.02
    lopsided = blob()
    lopsided[..., :16] *= 0.5
    seen = view(many(lopsided), dataclasses.replace(STILL, **change), 32)
    assert (seen - lopsided).abs().amax((1, 2, 3)).max() > 0.2
    # The light neither grows nor shrinks.
    assert (seen.sum((1, 2, 3)) / lopsided.sum() - 1).abs().max() < 0.02


def test_shift_zoom_brightness_colour_and_noise_stay_within_their_limits() -> None:
    torch.manual_seed(0)
    image = blob(bands=2)
    along = torch.arange(32.0) - 15.5

    def seen(**change: Any) -> torch.Tensor:
        return view(many(image, 400), dataclasses.replace(STILL, **change), 32)

    moved = seen(shift=0.1)
    total = moved.sum((1, 2, 3))
    for axis in (3, 2):
        centre = (moved.sum((1, 5 - axis)) * along).sum(1) / total
        assert 2.9 < centre.abs().max() < 3.3 and abs(centre.mean()) < 0.3

    zoomed = seen(zoom=0.25)
    growth = torch.sqrt(zoomed.sum((1, 2, 3)) / image.sum())
    assert 1.2 < growth.max() < 1.27 and 0.78 < growth.min() < 0.83

    factor = seen(brightness=0.3).sum((1, 2, 3)) / image.sum()
    assert 1.27 < factor.max() <= 1.301 and 0.699 <= factor.min() < 0.73

    coloured = seen(colour=0.1).sum((2, 3)) / image.sum((2, 3))
    ratio = coloured[:, 0] / coloured[:, 1]
    assert 1.1 < ratio.max() < 1.1 / 0.9 + 1e-3 and coloured.min() > 0.899

    noise = (seen(noise=0.05) - image).std((1, 2, 3))
    assert 0.045 < noise.max() < 0.053 and noise.min() < 0.005


def test_the_blur_is_a_gaussian_psf() -> None:
    images = torch.rand(2, 3, 20, 20)
    wanted = gaussian_filter(
        images.numpy().astype(np.float64), (0, 0, 1.3, 1.3), mode="nearest", truncate=4 / 1.3
    )
    np.testing.assert_allclose(blurred(images, 1.3).numpy(), wanted, atol=1e-5)


def test_nt_xent_is_the_papers_equation() -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(size=(2, 5, 4))
    z = np.concatenate([first, second])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    terms = []
    for i in range(10):
        scores = {k: math.exp(z[i] @ z[k] / 0.3) for k in range(10) if k != i}
        terms.append(-math.log(scores[(i + 5) % 10] / sum(scores.values())))
    found = nt_xent(torch.from_numpy(first), torch.from_numpy(second), 0.3)
    assert float(found) == pytest.approx(np.mean(terms), rel=1e-10)
    same = torch.ones(6, 3)
    assert float(nt_xent(same, same, 0.5)) == pytest.approx(math.log(11), rel=1e-6)  # by chance
    apart = torch.eye(6)
    assert float(nt_xent(apart, apart, 0.02)) < 1e-6


def test_vicreg_is_the_papers_equation() -> None:
    random = np.random.default_rng(0)
    pair = random.normal(size=(2, 7, 3)) * [0.1, 1.0, 2.0]
    spec = VicReg(invariance=20, variance=10, covariance=2)
    wanted = 20 * np.mean((pair[0] - pair[1]) ** 2)
    for z in pair:
        covariance = np.cov(z.T)
        scatter = np.sqrt(np.diag(covariance) + 1e-4)
        wanted += 10 * np.maximum(0, 1 - scatter).mean() / 2
        wanted += 2 * (covariance[~np.eye(3, dtype=bool)] ** 2).sum() / 3
    found = vicreg(*torch.from_numpy(pair), spec)
    assert float(found) == pytest.approx(wanted, rel=1e-6)


def test_partners_that_are_found_again() -> None:
    first = torch.eye(4)
    second = first[[0, 1, 3, 2]]
    assert found_again(first, second).tolist() == [True, True, False, False]


def test_effective_dimensions_count_those_in_use() -> None:
    random = torch.Generator().manual_seed(0)
    three = torch.randn(5000, 3, generator=random)
    wide = torch.cat([three, torch.zeros(5000, 5)], 1) + 7
    assert effective_dimensions(wide) == pytest.approx(3, abs=0.02)
    assert effective_dimensions(torch.ones(10, 4)) == 0.0
    assert effective_dimensions(torch.rand(50, 1) * torch.ones(1, 6)) == pytest.approx(1)


def test_scales_are_pooled_one_by_one() -> None:
    encoder = Residual(stem=4, stages=(Stage(channels=6, blocks=2), Stage(channels=10, blocks=1)))
    torch.manual_seed(0)
    pooled = Pooled(encoder, "scales", 3, 16).eval()
    images = torch.rand(5, 3, 16, 16)
    maps = scales(pooled.backbone, images)
    assert [tuple(one.shape[1:]) for one in maps] == [(6, 8, 8), (10, 4, 4)]
    torch.testing.assert_close(maps[-1], pooled.backbone.maps(images))
    assert pooled.features == 2 * (6 + 10)
    found = pooled(images)
    torch.testing.assert_close(found[:, 12:22], pooled.backbone(images), atol=1e-4, rtol=1e-4)
    wanted = maps[0].flatten(2).std(2, correction=0)
    torch.testing.assert_close(found[:, 6:12], wanted, atol=1e-3, rtol=1e-3)
    learning = pooled.train()(images)
    torch.testing.assert_close(learning.mean(0), torch.zeros(32), atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("shape", [(5, 6, 8, 8), (1, 3, 7, 5), (4, 2, 1, 1)])
def test_moments_and_their_slope_are_those_of_the_maps(
    shape: tuple[int, ...], dtype: torch.dtype, within: float, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    maps = (torch.rand(shape) + 3).to(dtype).contiguous(memory_format=layout).requires_grad_()
    found = moments(maps)
    flat = maps.float().flatten(2)
    scatter = torch.sqrt(flat.var(2, correction=0) + 1e-5)
    torch.testing.assert_close(found, torch.cat([flat.mean(2), scatter], 1), atol=1e-5, rtol=0)
    slope = torch.randn_like(found)
    wanted = torch.autograd.grad(torch.cat([flat.mean(2), scatter], 1), maps, slope)[0]
    got = torch.autograd.grad(found, maps, slope)[0]
    assert got.dtype == dtype
    largest = float(wanted.abs().max())
    torch.testing.assert_close(got, wanted, atol=3 * within * largest, rtol=within)


def test_the_features_may_be_the_encoders_own() -> None:
    assert Pooled(ConvNext(), "mean", 3, 32).features == 160
    with pytest.raises(InputError, match="'convnext' are not pooled scale by scale; take pooling"):
        Pooled(ConvNext(), "scales", 3, 32)


def test_turns_and_mirrors_leave_the_embedding_as_it_is() -> None:
    torch.manual_seed(0)
    network = kinds.network_of(SMALL, 1, 16, {}).eval()
    images = torch.rand(4, 1, 16, 16)
    with torch.no_grad():
        plain = network.embed(images, None)["vector"]
        for other in (images.rot90(1, (2, 3)), images.flip(2), images.rot90(2, (2, 3)).flip(3)):
            torch.testing.assert_close(network.embed(other, None)["vector"], plain)
        assert (network.encoder(images) - network.encoder(images.flip(2))).abs().max() > 1e-3


def learner(model: Contrastive) -> ContrastiveLearner:
    torch.manual_seed(0)
    made = kinds.learner_of(kinds.network_of(model, 1, 16, {}), TRAINING)
    assert isinstance(made, ContrastiveLearner)
    return made


def test_measured_columns_are_told_as_normal_scores() -> None:
    """The error of a network that tells nothing is their square; unknown values do not count."""
    model = Contrastive(encoder=PlainCnn(channels=(4,)), pixels=None, measured=("a", "b"))
    made = learner(model).train()
    values = np.random.default_rng(0).normal(size=(1001, 2)) ** 3 * [100, 1e-3]
    made.network.ranks.fit(values.astype(np.float32))
    with torch.no_grad():
        made.network.tell.weight.zero_()
        made.network.tell.bias.zero_()
    images = torch.rand(4, 1, 16, 16)
    up, down = np.quantile(values, [0.8413447, 0.0227501], axis=0)  # one sigma up, two down
    measured = torch.tensor([[up[0], up[1]], [down[0], np.nan], [np.nan, up[1]], [up[0], down[1]]])
    sums = made(Batch(images, {"measured": measured.float()}), Epoch(0)).sums
    assert float(sums["measured_error"]) / 4 == pytest.approx((4 * 1 + 2 * 4) / 6, rel=0.05)
    unknown = torch.full((4, 2), torch.nan)
    outcome = made(Batch(images, {"measured": unknown}), Epoch(0))
    assert torch.isfinite(outcome.loss) and float(outcome.sums["measured_error"]) == 0


def planted(folder: Path, count: int = 600) -> tuple[Workspace, Ref, Ref]:
    """Turned discs, needles and rings, and what a measurement would say of them."""
    random = np.random.default_rng(0)
    images = stamped.galaxies(count)
    for n in range(count):
        images[n] = np.rot90(images[n], random.integers(4), (1, 2))
    workspace = Workspace.open(folder / "workspace")
    stamps, catalogue = stamped.commit(workspace, [images])
    path = workspace.place(catalogue) / "catalogue.parquet"
    bright = images.mean((1, 2, 3)) + np.where(np.arange(count) % 9 == 0, np.nan, 0)
    table = pq.read_table(path).append_column("input_bright", pa.array(bright))
    pq.write_table(table, path)
    return workspace, stamps, catalogue


def vectors_of(planted: tuple[Workspace, Ref, Ref], ref: Ref) -> Any:
    workspace, stamps, _ = planted
    made = embed(Context(workspace), Embedding(threads=1, micro_batch=64), ref, stamps)
    vectors = gather.embedded(workspace, made, "vector")
    assert vectors is not None
    return np.asarray(vectors, np.float64)


@pytest.mark.parametrize("objective", [NtXent(), VicReg()])
def test_kinds_are_found_out_without_being_told(tmp_path: Path, objective: Any) -> None:
    """Nearest neighbours in the embedding are of the same kind, whatever the angle."""
    given = planted(tmp_path)
    model = dataclasses.replace(SMALL, objective=objective, measured=("bright",))
    ref = train(Context(given[0]), model, TRAINING, *given[1:])
    vectors = vectors_of(given, ref)
    kind = np.arange(len(vectors)) % 3
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T - 9 * np.eye(len(vectors))
    nearest = np.argsort(-cosines, axis=1)[:, :5]
    assert (kind[nearest] == kind[:, None]).mean() > 0.97
    manifest = given[0].manifest(ref)
    assert manifest is not None and manifest["alarms"] == []
    figures = manifest["figures"]
    assert 1.1 < figures["effective_dimensions"] < 48 and figures["measured_error"] < 0.8
    history = json.loads((given[0].place(ref) / "history.json").read_text())
    for name in ("train_loss", "train_measured_error"):
        assert history[-1][name] < 0.9 * history[0][name], name


def test_what_cannot_be_learnt_from_is_told(tmp_path: Path) -> None:
    few = planted(tmp_path / "few", 6)
    with pytest.raises(InputError, match="usable stamps in the training split are too few to be"):
        train(Context(few[0]), SMALL, TRAINING, *few[1:])
    given = planted(tmp_path / "given", 60)
    deep = dataclasses.replace(SMALL, pixels=8, encoder=PlainCnn(channels=(4,) * 4))
    with pytest.raises(InputError, match="needs stamps of 16 pixels or more, and these have 8"):
        train(Context(given[0]), deep, TRAINING, *given[1:])
