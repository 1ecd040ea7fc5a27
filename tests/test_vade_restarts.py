"""VaDE's whole trainings from several seeds, merged labels, and dead components begun anew."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from galpipe.errors import InputError
from galpipe.models.checkpoints import WEIGHTS, load_model
from galpipe.models.restarts import attempts
from galpipe.models.spec import VaDE
from galpipe.models.splits import Splits
from galpipe.models.training import train
from galpipe.models.vade import merging
from galpipe.models.vade.merging import heads, reseed
from galpipe.models.vade.mixture import Mixture
from galpipe.models.vade.network import Posterior, VadeNetwork
from galpipe.stages import Context
from galpipe.workspace import Ref, Workspace
from tests.stamped import NETWORK, TRAINING, commit, galaxies


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Ref, Ref]:
    workspace = Workspace.open(tmp_path_factory.mktemp("restarts") / "w")
    return (workspace, *commit(workspace, [galaxies(180)]))


def test_the_training_with_the_best_validation_bound_is_kept(
    ready: tuple[Workspace, Ref, Ref],
) -> None:
    workspace, stamps, catalogue = ready
    model = dataclasses.replace(NETWORK, restarts=3)
    chosen = train(Context(workspace), model, TRAINING, stamps, catalogue)
    place = workspace.place(chosen)
    told = json.loads((place / "model.json").read_text())["restarts"]
    assert [one["seed"] for one in told] == [0, 1, 2]
    bounds = []
    for number, one in enumerate(told):  # each is a training of its own, found again
        own = dataclasses.replace(TRAINING, seed=number)
        alone = train(Context(workspace), NETWORK, own, stamps, catalogue)
        assert alone.digest == one["model"]
        history = json.loads((workspace.place(alone) / "history.json").read_text())
        bounds.append(history[-1]["validation_elbo"])
    assert [one["validation_elbo"] for one in told] == bounds
    assert len(set(bounds)) == 3
    best = int(np.argmax(bounds))
    assert [one["kept"] for one in told] == [number == best for number in range(3)]
    source = workspace.place(Ref("model", told[best]["model"]))
    assert (place / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()
    assert train(Context(workspace), model, TRAINING, stamps, catalogue) == chosen
    manifest = workspace.manifest(chosen)
    assert manifest is not None and manifest["figures"]["kept_seed"] == best
    assert load_model(place).embed(torch.zeros(1, 1, 16, 16), None)["vector"].shape == (1, 3)


def test_restarts_without_a_validation_split_are_refused() -> None:
    empty = {"train": 10, "validation": 0, "test": 2}
    splits = Splits(selections={}, rows={}, digests={}, objects=empty)
    with pytest.raises(InputError, match="restarts = 1"):
        attempts(dataclasses.replace(NETWORK, restarts=2), TRAINING, splits)
    assert attempts(NETWORK, TRAINING, splits) == [(NETWORK, TRAINING)]


def planted() -> Mixture:
    """Two pairs of near duplicates and one component apart."""
    mixture = Mixture(5, 3, 1e-4)
    with torch.no_grad():
        mixture.means_CJ.copy_(
            torch.tensor([[0.0, 0, 0], [9, 0, 0], [0.1, 0, 0], [9, 0.1, 0], [0, 0, 9]])
        )
        mixture.logits_C.copy_(torch.tensor([0.1, 0.2, 0.3, 0.1, 0.0]))
    return mixture


def test_components_that_overlap_share_one_label() -> None:
    mixture = planted()
    assert merging.of_mixture(mixture, None) == (0, 1, 2, 3, 4)
    assert merging.of_mixture(mixture, 0.9) == (2, 1, 2, 1, 4)  # the heavier one's
    spec = VaDE(**{**vars(NETWORK), "components": 5, "merge": 0.9})
    network = VadeNetwork(spec, 1, 16)
    network.mixture.load_state_dict(mixture.state_dict())
    z = 4 * torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    own, shared = mixture.responsibilities(z), network.memberships(z)
    torch.testing.assert_close(shared[:, 2], own[:, 0] + own[:, 2])
    torch.testing.assert_close(shared[:, 1], own[:, 1] + own[:, 3])
    assert torch.equal(shared[:, 4], own[:, 4])
    assert float(shared[:, [0, 3]].detach().abs().max()) == 0
    torch.testing.assert_close(shared.sum(1), torch.ones(40))
    assert network.told() == {"merged": {"m00": "m02", "m03": "m01"}}


def test_a_merged_gaussian_has_the_moments_of_both() -> None:
    """A chain of three: the ends alone overlap too little, the merged middle brings one in."""
    means, ones = np.array([[0.0], [0.5], [1.7]]), np.ones((3, 1, 1))
    weights = np.array([0.5, 0.3, 0.2])
    merged_mean = (0.5 * 0 + 0.3 * 0.5) / 0.8
    merged_variance = 1 + 0.5 * 0.3 / 0.64 * 0.25
    mean = (merged_variance + 1) / 2
    apart = (1.7 - merged_mean) ** 2 / (8 * mean)
    overlap = math.exp(-apart - 0.5 * math.log(mean / math.sqrt(merged_variance)))
    assert heads(weights, means, ones, overlap - 1e-9) == (0, 0, 0)
    assert heads(weights, means, ones, overlap + 1e-9) == (0, 0, 2)


@pytest.mark.parametrize("full", [False, True])
def test_a_dead_component_begins_anew_in_the_heaviest(full: bool) -> None:
    """Four blobs, three components of which one is nowhere: afterwards all are used."""
    random = torch.Generator().manual_seed(1)
    centres = torch.tensor([[0.0, 0], [4, 0], [0, 8], [8, 8]])
    means = centres.repeat_interleave(200, 0) + 0.3 * torch.randn(800, 2, generator=random)
    posterior = Posterior(means, torch.full_like(means, -3.0))
    mixture = Mixture(4, 2, 1e-4, full)
    with torch.no_grad():
        mixture.means_CJ.copy_(torch.tensor([[2.0, 0], [0, 8], [8, 8], [500, 500]]))
        mixture.log_variances_CJ.copy_(torch.tensor([[1.4, -1], [-1, -1], [-1, -1], [0, 0]]))
    assert reseed(mixture, posterior, 0.1) == [3]
    found = mixture.responsibilities(means).argmax(1).view(4, 200)
    assert all(len(set(row.tolist())) == 1 for row in found)
    assert len(set(found[:, 0].tolist())) == 4
    before = {name: value.clone() for name, value in mixture.state_dict().items()}
    assert reseed(mixture, posterior, 0.1) == []  # the living are left alone
    assert all(torch.equal(value, before[name]) for name, value in mixture.state_dict().items())


def test_a_training_gives_its_dead_components_another_place(
    ready: tuple[Workspace, Ref, Ref], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One component is thrown far away as the mixture starts: only reseeding finds it again."""
    from galpipe.models.vade import learner

    started = learner.VadeLearner._start_mixture

    def killed(self: learner.VadeLearner, material: object) -> None:
        started(self, material)  # type: ignore[arg-type]
        with torch.no_grad():
            self.network.mixture.means_CJ[0] = 1000.0

    monkeypatch.setattr(learner.VadeLearner, "_start_mixture", killed)
    workspace = Workspace.open(tmp_path / "w")
    stamps, catalogue = commit(workspace, [galaxies(180)])
    dead = {}
    for reseeded in (False, True):
        schedule = dataclasses.replace(NETWORK.schedule, annealing=2, static=1)
        model = dataclasses.replace(NETWORK, schedule=schedule, reseed=reseeded)
        ref = train(Context(workspace), model, TRAINING, stamps, catalogue)
        manifest = workspace.manifest(ref)
        assert manifest is not None
        dead[reseeded] = manifest["figures"]["dead_components"]
    assert dead == {False: 1, True: 0}
