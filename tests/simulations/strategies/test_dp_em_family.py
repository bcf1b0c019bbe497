"""DP-EM and what is built on it: archetypes, ideal points, local noise, no privacy."""

import dataclasses
import math

import pytest
import torch
from scipy.stats import kstest  # type: ignore[import-untyped]
from torch import Tensor

from client.ratings import Kind
from common.errors import SettingError
from common.prior import PopulationPrior
from common.privacy.settings import PrivacySettings
from simulations.batched import train
from simulations.crowd import Answers, HeldCrowd, Items
from simulations.mechanisms import NoPrivacy
from simulations.strategies.archetypes import choose_archetypes
from simulations.strategies.base import State, Strategy, Task
from simulations.strategies.centralised import Centralised
from simulations.strategies.device_noise import DeviceNoise
from simulations.strategies.dp_em import DpEm
from simulations.strategies.dp_em_mixture import DpEmMixture
from simulations.strategies.ideal_point import IdealPoint, extended
from simulations.strategies.local_dp import LocalDp

P = 5
CENTRES = torch.tensor([[3.0, 0, 0, 0, 0], [-2, 3, 0, 0, 0], [-1, -3, 0, 0, 0]], dtype=torch.float64)


def items(count: int = 300, seed: int = 0) -> Items:
    features = torch.randn(count, P, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    features[:, -1] = 1
    return Items(features, features)


def liked(scores: Tensor, ratings: int, pool: Items, seed: int) -> HeldCrowd:
    """People with these scores ``(people, n)`` for the items of the pool, asked about random ones."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(scores.shape[1], (scores.shape[0], ratings), generator=generator)
    chance = torch.sigmoid(scores.gather(1, rows))
    value = (torch.rand(rows.shape, generator=generator, dtype=torch.float64) < chance).long()
    kind = torch.full_like(value, int(Kind.LIKE))
    return HeldCrowd(pool, Answers(kind, value, rows.unsqueeze(2), torch.ones(rows.shape, dtype=torch.float64)))


def archetypal(people: int = 450, archetypes: int = 3, ratings: int = 20) -> HeldCrowd:
    generator = torch.Generator().manual_seed(1)
    tastes = CENTRES[torch.arange(people) % archetypes]
    tastes = tastes + 0.3 * torch.randn(people, P, generator=generator, dtype=torch.float64)
    pool = items()
    return liked(tastes @ pool.features.T, ratings, pool, 2)


FLAT = PopulationPrior.flat(P, "a" * 64, 2.0)


def learned(learner: Strategy, crowd: HeldCrowd, flat: PopulationPrior = FLAT) -> State:
    mechanism = NoPrivacy(rounds=learner.rounds, norm_bound=2.0**12, people=crowd.people)
    return train(learner, crowd, mechanism, flat=flat).state


@pytest.mark.parametrize("tied", [True, False])
def test_one_archetype_is_dp_em(tied: bool) -> None:
    crowd = archetypal(120)
    one = learned(DpEmMixture(archetypes=1, rounds=3, alone=1, tied=tied, step=1.5), crowd)
    other = learned(DpEm(rounds=3, step=1.5), crowd)
    assert torch.allclose(one["mean"][0], other["mean"], rtol=0, atol=1e-3)  # updates are rounded to 1 / 4096
    assert torch.allclose(one["covariance"][0], other["covariance"], rtol=0, atol=1e-3)


def test_the_split_keeps_mean_and_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(P, P, generator=generator, dtype=torch.float64)
    for count in (1, 2, 3, 5, 9):
        learner = DpEmMixture(archetypes=count)
        state = learner.start(Task(items=items(), flat=FLAT, rounds=2, ratings=9))
        state["covariance"] = (root @ root.T + torch.eye(P)).expand(count, P, P).clone()
        split = learner._split(state)
        mean = split["weight"] @ split["mean"]
        away = split["mean"] - mean
        total = (split["weight"][:, None, None] * (split["covariance"] + away[:, :, None] * away[:, None])).sum(0)
        assert torch.allclose(mean, state["mean"][0])
        assert torch.allclose(total, state["covariance"][0])
        assert float(torch.linalg.eigvalsh(split["covariance"]).min()) > 0


@pytest.mark.parametrize("tied", [True, False])
def test_many_rounds_of_nothing_but_noise_leave_valid_archetypes(tied: bool) -> None:
    learner, generator = DpEmMixture(archetypes=3, rounds=60, tied=tied), torch.Generator().manual_seed(5)
    state = learner.start(Task(items=items(), flat=FLAT, rounds=60, ratings=9))
    numbers = 3 * (P + 1) + (1 if tied else 3) * P * (P + 1) // 2
    for number in range(1, 61):
        state = learner.advance(state, 1e3 * torch.randn(numbers, dtype=torch.float64, generator=generator), number)
    values = torch.linalg.eigvalsh(state["covariance"])
    assert float((values[:, -1] / values[:, 0]).max()) < 1.1e9
    assert float(values.min()) > 0
    assert bool(state["mean"].isfinite().all())
    assert float(state["weight"].min()) > 0


@pytest.mark.parametrize("tied", [True, False])
def test_archetypes_are_found(tied: bool) -> None:
    state = learned(DpEmMixture(archetypes=3, rounds=9, tied=tied), archetypal())
    near = torch.cdist(state["mean"], CENTRES)
    assert sorted(near.argmin(1).tolist()) == [0, 1, 2]
    if tied:  # with a covariance each, the widths of the archetypes explain some of the distances
        assert float(near.min(1).values.max()) < 0.6
        assert float((state["weight"] - 1 / 3).abs().max()) < 0.05


def test_the_number_of_archetypes_is_chosen_by_answers_not_seen() -> None:
    settings = DpEmMixture(rounds=8)
    chosen, likelihood = choose_archetypes(archetypal(), FLAT, (1, 3, 4), strategy=settings)
    assert chosen == 3
    assert likelihood[3] > likelihood[1] + 0.01
    alone, _ = choose_archetypes(archetypal(300, archetypes=1), FLAT, (1, 3), strategy=settings)
    assert alone == 1
    with pytest.raises(SettingError, match="leave none"):
        choose_archetypes(archetypal(10), FLAT, ())


def test_an_ideal_point_is_linear_in_the_longer_features() -> None:
    learner, pool = IdealPoint(leading=3), items()
    task = Task(items=pool, flat=FLAT, rounds=1, ratings=9)
    longer = extended(pool, learner.start(task)).features
    assert longer.shape == (300, P + 6)
    assert torch.equal(longer[:, -1], torch.ones(300, dtype=torch.float64))
    state = learner.start(task)
    direction = torch.zeros(P, dtype=torch.float64)
    direction[state["basis_leading"]] = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    score = -(pool.features @ direction - 0.8).square()
    for features, exactly in ((longer, True), (pool.features, False)):
        fitted = features @ torch.linalg.lstsq(features, score[:, None]).solution
        assert (float((fitted[:, 0] - score).abs().max()) < 1e-9) is exactly


def test_people_with_an_ideal_point_are_understood_better() -> None:
    pool, other = items(), items(seed=9)
    generator = torch.Generator().manual_seed(3)
    point = torch.tensor([0.9, -0.6], dtype=torch.float64)
    points = point + 0.3 * torch.randn(400, 2, generator=generator, dtype=torch.float64)

    def scores(which: Items) -> Tensor:
        away = which.features[None, :, :2] - points[:, None]
        return 2.0 - 2.0 * away.square().sum(-1)

    crowd, found = liked(scores(pool), 30, pool, 4), {}
    learners: tuple[Strategy, ...] = (IdealPoint(leading=4), DpEm())
    for learner in learners:
        state = learned(learner, crowd)
        seen = crowd.answers(0, 400).seen_as(learner.view(pool, state)).first(10)
        top = learner.scores(seen, state, other).topk(10, dim=1).indices
        found[learner.name] = float(scores(other).gather(1, top).mean())
    assert found["ideal-point"] > found["dp-em"] + 0.5


def test_local_noise_has_the_accounted_law_and_a_claim_for_one_person() -> None:
    settings = PrivacySettings(epsilon=8.0, participations=2, expected_people=450, minimum_people=1)
    crowd = archetypal()
    task = Task(items=crowd.items, flat=FLAT, rounds=2, ratings=20)
    quiet = LocalDp(own_bound=1.5, noise=DeviceNoise(seed=0))
    noisy, mechanism = quiet.keeping(settings, task)
    state = quiet.start(task)
    evidence = crowd.answers(0, 450).seen_as(quiet.view(crowd.items, state))
    told = quiet.updates(evidence, state)
    assert told.shape == (450, P)
    assert float(torch.linalg.vector_norm(told, dim=1).max()) <= 1.5
    claim = noisy.statement(P, 2)  # type: ignore[attr-defined]
    assert claim.sensitivity == 3.0
    assert claim.epsilon == 8.0
    noise = ((noisy.updates(evidence, state) - told) / (3.0 * claim.noise_multiplier)).flatten().numpy()
    for wrong, accepted in ((1.0, True), (2 / 3, False), (3 / 2, False)):
        assert bool(kstest(noise / wrong, "norm").pvalue > 1e-4) is accepted
    trained = train(noisy, crowd, mechanism, flat=FLAT)
    assert trained.statement == claim
    assert torch.allclose(trained.state["covariance"], FLAT.covariance, rtol=0, atol=1e-9)


def test_without_privacy_em_runs_until_it_stands_still() -> None:
    crowd = archetypal(100)
    state = learned(Centralised(), crowd)
    further = learned(dataclasses.replace(Centralised(), rounds=30), crowd)
    assert float((state["mean"] - further["mean"]).abs().max()) < 0.02
    assert Centralised().statement(9, 3).epsilon == math.inf
