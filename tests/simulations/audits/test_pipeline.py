"""The audited pipeline is the one that ships, and each broken build differs in what its name says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from common.errors import SettingError
from common.privacy.settings import PrivacySettings
from simulations import engines
from simulations.audits.builds import BROKEN, BUILDS, HONEST, Build, exact_noise, repeatable
from simulations.audits.canaries import canaries, flat_prior, ordinary
from simulations.audits.pipeline import Group, claimed_mu, summands, train

SETTINGS = PrivacySettings(epsilon=2.0, participations=2, norm_bound=3.0, expected_people=12, minimum_people=1)


def named(name: str) -> Build:
    return next(build for build in BUILDS if build.name == name)


def test_the_honest_build_gives_bit_for_bit_the_prior_of_the_server(tmp_path: Path) -> None:
    evidence = ordinary(12, 5, 8, torch.Generator().manual_seed(0))
    prior = flat_prior(5)
    shipped, _ = engines.run(
        "direct", evidence, prior, SETTINGS, step=1.5, nodes=3, folder=tmp_path, randomness=repeatable(1)
    )
    audited, releases = train([Group(evidence)], prior, SETTINGS, 1.5, HONEST, exact_noise(repeatable(1)))
    assert torch.equal(audited.mean, shipped.mean)
    assert torch.equal(audited.covariance, shipped.covariance)
    assert [release.number for release in releases] == [1, 2]


@pytest.mark.parametrize("build", BROKEN, ids=lambda build: build.name)
def test_a_broken_build_gives_another_prior(build: Build) -> None:
    loud = Group(canaries(12, 5, torch.Generator().manual_seed(0)), claimed=10)
    priors = [
        train([loud], flat_prior(5), SETTINGS, 1.5, used, exact_noise(repeatable(1)))[0] for used in (HONEST, build)
    ]
    assert not torch.equal(priors[0].mean, priors[1].mean)


def test_only_the_honest_clip_and_weights_keep_a_loud_person_within_the_bound() -> None:
    loud, claimed = torch.full((1, 20), 100.0), torch.tensor([10])
    lengths = {
        build.name: float(torch.linalg.vector_norm(summands(loud, claimed, 3.0, build).double())) / 4096
        for build in BUILDS
    }
    assert lengths["honest"] <= 3.01
    assert lengths["no-clip"] == pytest.approx(100 * math.sqrt(20))
    assert lengths["weights-trusted"] == pytest.approx(30, rel=1e-3)


def test_a_round_that_is_run_twice_starts_twice_from_the_same_prior() -> None:
    people = [Group(ordinary(12, 5, 8, torch.Generator().manual_seed(0)))]
    _, releases = train(people, flat_prior(5), SETTINGS, 1.5, named("round-twice"), exact_noise(repeatable(1)))
    assert [release.number for release in releases] == [1, 1, 2, 2]
    assert releases[0].prior is releases[1].prior
    assert not torch.equal(releases[0].total, releases[1].total)


def test_canaries_are_loud_and_nearly_orthogonal() -> None:
    from client.contribution import updates_of

    updates = updates_of(canaries(100, 48, torch.Generator().manual_seed(0)), flat_prior(48))
    lengths = torch.linalg.vector_norm(updates, dim=1)
    assert float(lengths.min()) > 2 * 8.0
    directions = updates / lengths[:, None]
    overlap = directions @ directions.T - torch.eye(100)
    assert float(overlap.abs().mean()) < 0.05


def test_the_claimed_mu_counts_all_participations() -> None:
    once = claimed_mu(PrivacySettings(epsilon=1.0, participations=1), 594)
    assert once == pytest.approx(1 / 4.225, rel=1e-3)
    assert claimed_mu(PrivacySettings(epsilon=1.0, participations=4), 594) == pytest.approx(once, rel=1e-5)


def test_nothing_claimed_is_nothing_to_audit() -> None:
    with pytest.raises(SettingError, match="epsilon=inf claims nothing"):
        claimed_mu(PrivacySettings(epsilon=math.inf), 594)
