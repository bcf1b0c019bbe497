import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from client.generators.pack import GeneratorPack
from client.lens import Lens
from client.policy import population
from client.policy.flow import FlowSettings, LatentPolicy
from client.policy.learner import LearnSettings
from client.policy.population import Popular, PopulationSettings, numbers_of, of_prior, policy_of, publish, train
from common.errors import PriorError, SettingError
from common.population_policy import PopulationPolicy
from common.prior import PopulationPrior
from common.privacy.statement import PrivacyStatement

K = 4
QUICK = PopulationSettings(couplings=2, width=8, warm=10, learn=LearnSettings(rounds=2, steps=5, batch=64, groups=4))


@pytest.fixture(scope="module")
def pack() -> GeneratorPack:
    return GeneratorPack.open("art")


@pytest.fixture(scope="module")
def mean() -> Tensor:
    return torch.tensor([1.5, 0, 0, 0, 0.3])


@pytest.fixture(scope="module")
def policy(pack: GeneratorPack, mean: Tensor) -> LatentPolicy:
    return train(pack, mean, settings=QUICK).policy


def test_what_is_raised_is_the_chance_that_somebody_of_the_population_likes_an_item(pack: GeneratorPack) -> None:
    generator = torch.Generator().manual_seed(0)
    mean, root = torch.randn(K + 1, generator=generator), torch.randn(K + 1, K + 1, generator=generator)
    covariance = root @ root.T
    lens, latents = Lens(pack, K), pack.latents.sample(50, generator)
    tastes = mean + torch.randn(20_000, K + 1, generator=generator) @ root.T
    with torch.no_grad():
        chance = torch.sigmoid(lens(latents).features @ tastes.T).mean(1)
        told = torch.sigmoid(Popular(lens, mean, covariance)(latents))
        blunt = torch.sigmoid(Popular(lens, mean)(latents))
    assert float((told - chance).abs().max()) < 0.03
    assert float((blunt - chance).abs().max()) > 0.1  # the mean taste alone says something else


def test_a_stream_has_more_of_what_a_population_likes_the_safer_it_is(
    pack: GeneratorPack, mean: Tensor, policy: LatentPolicy
) -> None:
    reward, generator = Popular(Lens(pack, K), mean), torch.Generator().manual_seed(1)
    with torch.no_grad():
        own = reward(pack.latents.sample(500, generator))
        safe, surprising = (reward(policy.draw(500, level, generator)) for level in (0.0, 1.0))
    assert float(safe.mean() - own.mean()) > 0.8 * float(own.std())
    assert float(safe.mean()) > float(surprising.mean())
    assert float(safe.std()) > 0.2 * float(own.std())


def test_a_law_that_likes_nothing_better_gives_the_generator_itself(pack: GeneratorPack) -> None:
    flat = PopulationPrior.flat(K + 1, pack.hash)
    learned = of_prior(pack, flat, QUICK)
    noise = torch.randn(20, pack.latents.dimension, generator=torch.Generator().manual_seed(0))
    assert torch.equal(learned.policy(noise, torch.full((20,), 0.2)).places, noise)
    assert len(learned.checks) == 1
    assert math.isnan(learned.kept.reward)


def test_the_same_law_gives_the_same_policy_and_another_one_another(
    pack: GeneratorPack, mean: Tensor, policy: LatentPolicy
) -> None:
    again = train(pack, mean, settings=QUICK).policy
    assert all(torch.equal(again.state_dict()[name], value) for name, value in policy.state_dict().items())
    other = train(pack, -mean, settings=QUICK).policy
    assert not torch.equal(other.couplings[0].leave.weight, policy.couplings[0].leave.weight)  # type: ignore[union-attr,arg-type]


def test_what_is_published_draws_the_same_items_elsewhere(
    pack: GeneratorPack, policy: LatentPolicy, tmp_path: Path
) -> None:
    statement = PrivacyStatement.not_private(2)
    publish(policy, pack, statement, 2).save(tmp_path)
    published = PopulationPolicy.load(tmp_path, pack=pack.hash)
    found = policy_of(published, pack)
    one, other = (each.draw(30, 0.4, torch.Generator().manual_seed(2)) for each in (found, policy))
    assert torch.equal(one, other)
    assert (published.privacy, published.rounds) == (statement, 2)


def without_a_weight(published: PopulationPolicy) -> PopulationPolicy:
    return dataclasses.replace(published, weights=dict(list(published.weights.items())[1:]))


def with_another_width(published: PopulationPolicy) -> PopulationPolicy:
    return dataclasses.replace(published, size={**published.size, "width": 9})


def with_a_strange_size(published: PopulationPolicy) -> PopulationPolicy:
    return dataclasses.replace(published, size={**published.size, "depth": 9})


def with_a_size_that_fills_memory(published: PopulationPolicy) -> PopulationPolicy:
    return dataclasses.replace(published, size={**published.size, "width": 4096, "couplings": 64})


def with_a_huge_size(published: PopulationPolicy) -> PopulationPolicy:
    return dataclasses.replace(published, size={**published.size, "width": 1 << 40})


@pytest.mark.parametrize(
    "spoil",
    [without_a_weight, with_another_width, with_a_strange_size, with_a_size_that_fills_memory, with_a_huge_size],
    ids=lambda f: f.__name__,
)
def test_weights_of_another_size_are_refused(
    pack: GeneratorPack, policy: LatentPolicy, spoil: Callable[[PopulationPolicy], PopulationPolicy]
) -> None:
    published = spoil(publish(policy, pack, PrivacyStatement.public(), 0))
    with pytest.raises(PriorError, match="of another size than it says"):
        policy_of(published, pack)


@pytest.mark.parametrize(("dimension", "couplings", "width"), [(5, 3, 7), (24, 6, 64), (2, 2, 1)], ids=str)
def test_the_size_of_a_policy_is_known_before_it_is_made(dimension: int, couplings: int, width: int) -> None:
    size = FlowSettings(dimension=dimension, couplings=couplings, width=width)
    assert numbers_of(size) == LatentPolicy(size).parameters_in_all


def test_policies_and_priors_of_other_generators_are_refused(pack: GeneratorPack, policy: LatentPolicy) -> None:
    published = publish(policy, pack, PrivacyStatement.public(), 0)
    with pytest.raises(PriorError, match="draws for pack bbbb"):
        policy_of(dataclasses.replace(published, pack="b" * 64), pack)
    small = LatentPolicy(FlowSettings(dimension=6, couplings=2, width=4))
    with pytest.raises(PriorError, match="draws 6 numbers, art takes 24"):
        policy_of(publish(small, pack, PrivacyStatement.public(), 0), pack)
    with pytest.raises(PriorError, match="was learned on pack bbbb"):
        of_prior(pack, PopulationPrior.flat(K + 1, "b" * 64), QUICK)


@pytest.mark.parametrize(
    ("mean", "covariance", "message"),
    [
        (torch.tensor([1.0, math.nan]), None, "NaN or infinite"),
        (torch.ones(3), torch.full((3, 3), math.inf), "NaN or infinite"),
        (torch.ones(3), torch.ones(2, 2), "shapes"),
        (torch.ones(200), None, "a law of 199 features is not for pack 'art'"),
        (torch.ones(1), None, "a law of 0 features"),
    ],
    ids=["nan", "infinite", "shapes", "many", "none"],
)
def test_a_broken_law_is_refused(pack: GeneratorPack, mean: Tensor, covariance: Tensor | None, message: str) -> None:
    with pytest.raises(PriorError, match=message):
        train(pack, mean, covariance, QUICK)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingError, match="warm=-1"):
        population.PopulationSettings(warm=-1)
