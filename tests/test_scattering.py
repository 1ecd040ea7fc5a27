"""The scattering encoder against its definition, and networks side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from galpipe.errors import InputError
from galpipe.models.backbones.backbone import backbone_of
from galpipe.models.backbones.members import Members
from galpipe.models.backbones.scattering import ACROSS, FREQUENCY, SPREAD, ZONES
from galpipe.models.backbones.spec import PlainCnn, Scattering
from tests import sky, stamped

SIZE, SCALES, ANGLES = 32, 3, 4


def network(bands: int = 1) -> Any:
    return backbone_of(Scattering(scales=SCALES, angles=ANGLES), bands, SIZE).eval()


def drawn(count: int, bands: int = 1) -> torch.Tensor:
    images = [
        sky.galaxy(sky.KINDS[n % 3], np.random.default_rng(n))[8:40, 8:40, :bands]
        for n in range(count)
    ]
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy()).float() / 255


def by_definition(image: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Averages of |image * wavelet| and ||image * wavelet| * wavelet|, at every pixel."""
    ky, kx = np.meshgrid(*[2 * np.pi * np.fft.fftfreq(SIZE)] * 2, indexing="ij")
    y, x = (np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2) / (SIZE / 2)
    radius = np.hypot(x, y)
    zones = [radius < 1, *(np.exp(-((radius - c) ** 2) / (2 * s**2)) for c, s in ZONES)]

    def convolved(values: Any, scale: int, angle: int) -> Any:
        turn, centre, width = np.pi * angle / ANGLES, FREQUENCY / 2**scale, SPREAD / 2**scale
        u = kx * np.cos(turn) + ky * np.sin(turn)
        v = (ky * np.cos(turn) - kx * np.sin(turn)) / ACROSS
        bump = np.exp(-((u - centre) ** 2 + v**2) / (2 * width**2))
        flat = np.exp(-(u**2 + v**2) / (2 * width**2))
        wavelet = bump - flat * np.exp(-(centre**2) / (2 * width**2))
        return np.abs(np.fft.ifft2(np.fft.fft2(values) * wavelet))

    def mean(values: Any) -> Any:
        return np.array([np.average(values, weights=zone) for zone in zones])

    first = {(j, k): convolved(image, j, k) for j in range(SCALES) for k in range(ANGLES)}
    found = {"level": mean(image)}
    for j in range(SCALES):
        means = np.array([mean(first[j, k]) for k in range(ANGLES)])
        found[f"mean {j}"], found[f"scatter {j}"] = means.mean(0), means.std(0, ddof=1)
        for larger in range(j + 1, SCALES):
            for turn in range(ANGLES // 2 + 1):
                pairs = [
                    mean(convolved(first[j, k], larger, (k + side * turn) % ANGLES))
                    for k in range(ANGLES)
                    for side in (1, -1)
                ]
                found[f"{j} {larger} {turn}"] = np.mean(pairs, 0)
    return found


def test_coefficients_are_those_of_the_definition() -> None:
    """Which keeps every pixel of every modulus; the network keeps what there is to know."""
    images = drawn(3)
    found = network().coefficients(images)
    for image, mine in zip(images[:, 0].double().numpy(), found.numpy(), strict=True):
        told = np.concatenate(list(by_definition(image).values()))
        assert told.shape == mine.shape
        assert np.median(np.abs(mine / told - 1)) < 0.01
        np.testing.assert_allclose(mine, told, rtol=0.12, atol=2e-4)


def test_turned_and_mirrored_images_have_the_same_features() -> None:
    net, images = network(3), drawn(30, 3)
    features = net.coefficients(images).log()
    between = features.std(0)  # from galaxy to galaxy
    for other in (images.rot90(1, (2, 3)), images.rot90(2, (2, 3)), images.flip(3)):
        away = (net.coefficients(other).log() - features).abs().mean(0)
        assert float((away / between).median()) < 0.05


def test_what_the_eye_tells_apart_the_features_do() -> None:
    """Rings and discs of like light differ; a brighter image differs by the same in all."""
    images = torch.from_numpy(stamped.galaxies(60, size=32)).float() / 255
    found = network().coefficients(images).log()
    kind = np.arange(60) % 3
    within = torch.stack([found[kind == k].std(0) for k in range(3)]).mean(0)
    apart = (found[kind == 0].mean(0) - found[kind == 2].mean(0)).abs()
    assert int((apart > 5 * within).sum()) > 20
    brighter = network().coefficients(2 * images).log() - found
    torch.testing.assert_close(brighter, torch.full_like(brighter, np.log(2)), atol=1e-3, rtol=0)


def test_nothing_of_it_is_learnt_and_little_is_kept() -> None:
    net = network(2)
    assert not list(net.parameters())
    assert set(net.state_dict()) == {
        "norm.running_mean", "norm.running_var", "norm.num_batches_tracked",
    }  # fmt: skip
    assert net(drawn(4, 2)).shape == (4, net.features)
    with pytest.raises(InputError, match="needs stamps of 32 pixels or more"):
        backbone_of(Scattering(scales=4), 1, 16)


def test_members_answers_are_averaged_and_each_learns_by_itself() -> None:
    torch.manual_seed(0)
    encoders = (Scattering(scales=2), PlainCnn(channels=(4, 8)))
    members = Members(encoders, 1, SIZE, 2, 6, 0.0, 3).eval()
    members.fit(np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32))
    images, columns = drawn(5), torch.randn(5, 2)
    columns[0, 1] = torch.nan  # unknown
    each = members(images, columns)
    assert each.shape == (2, 5, 3)
    vector = members.averaged([images], columns)
    assert vector.shape == (5, members.features) == (5, 12)
    torch.testing.assert_close(members.score(vector), each.mean(0))
    each[0].sum().backward()
    gradients = {name.split(".")[1]: p.grad for name, p in members.named_parameters()}
    assert {which for which, grad in gradients.items() if grad is not None and grad.any()} == {"0"}
    members.start_at(torch.tensor([1.0, 2.0, 3.0]))
    assert all(head.bias.tolist() == [1, 2, 3] for head in members.heads)
