import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from client.fit import Posterior
from client.propose import PROPOSERS, Proposer, eubo, propose
from common.errors import SettingError


def posterior(people: int = 3, p: int = 4) -> Posterior:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(people, 2, p, dtype=torch.float64, generator=generator)
    root = torch.randn(people, 2, p, p, dtype=torch.float64, generator=generator)
    covariance = root @ root.mT / p + 0.1 * torch.eye(p, dtype=torch.float64)
    return Posterior(mean, covariance, torch.tensor([0.7, 0.3], dtype=torch.float64).expand(people, 2))


def candidates(n: int = 200, p: int = 4) -> Tensor:
    return torch.randn(n, p, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", PROPOSERS)
def test_items_differ_are_new_and_keep_their_distance(method: Proposer) -> None:
    taken = torch.rand(3, 200, generator=torch.Generator().manual_seed(2)) < 0.3
    items = candidates()
    chosen = propose(
        method,
        posterior().over(items),
        5,
        torch.Generator().manual_seed(3),
        positions=items,
        minimum_distance=0.8,
        taken=taken,
    )
    assert chosen.shape == (3, 5)
    for person in range(3):
        assert len(set(chosen[person].tolist())) == 5
        assert not bool(taken[person, chosen[person]].any())
        assert float(torch.pdist(items[chosen[person]]).min()) >= 0.8


@pytest.mark.parametrize("method", PROPOSERS)
def test_a_seed_decides(method: Proposer) -> None:
    first, second = (
        propose(method, posterior().over(candidates()), 3, torch.Generator().manual_seed(4)) for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("method", PROPOSERS)
def test_too_few_candidates_are_refused(method: Proposer) -> None:
    with pytest.raises(SettingError, match="count=5"):
        propose(method, posterior().over(candidates(4)), 5, torch.Generator().manual_seed(0))


def test_crowded_candidates_are_used_when_nothing_else_is_left() -> None:
    items, generator = candidates(4), torch.Generator().manual_seed(0)
    chosen = propose("optimistic", posterior().over(items), 4, generator, positions=items, minimum_distance=100.0)
    assert sorted(chosen[0].tolist()) == [0, 1, 2, 3]


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(SettingError, match="'greedy' is unknown"):
        propose("greedy", posterior().over(candidates()), 1, torch.Generator())  # type: ignore[arg-type]
    assert get_args(Proposer) == PROPOSERS


def test_eubo_is_the_expected_maximum() -> None:
    single = posterior()
    single = Posterior(single.mean[:, :1], single.covariance[:, :1], torch.ones(3, 1, dtype=torch.float64))
    items = candidates(20)
    rows = torch.tensor([0, 1, 2])
    against, value = items[rows], eubo(single.over(items), rows)
    tastes = single.sample(200_000, torch.Generator().manual_seed(5))
    expected = torch.maximum(tastes @ items.T, (tastes * against.unsqueeze(1)).sum(-1, keepdim=True)).mean(1)
    torch.testing.assert_close(value, expected, atol=0.02, rtol=0)


def test_information_prefers_what_is_uncertain() -> None:
    """Two items with the same expected score: the one the model knows less about teaches more."""
    covariance = torch.diag(torch.tensor([4.0, 0.01])).double()
    known = Posterior(torch.zeros(1, 1, 2).double(), covariance[None, None], torch.ones(1, 1).double())
    chosen = propose("information", known.over(torch.eye(2).double()), 1, torch.Generator().manual_seed(0))
    assert chosen.tolist() == [[0]]


def test_information_is_the_mutual_information_of_a_like() -> None:
    from client.propose import _information

    deviation = 1.5
    simple = Posterior(
        torch.full((1, 1, 1), 0.8).double(), torch.full((1, 1, 1, 1), deviation**2).double(), torch.ones(1, 1).double()
    )
    scores = 0.8 + deviation * torch.randn(400_000, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    chance = scores.sigmoid()

    def entropy(q: Tensor) -> Tensor:
        return -(q * q.log() + (1 - q) * (1 - q).log())

    exact = float(entropy(chance.mean()) - entropy(chance.clamp(1e-12, 1 - 1e-12)).mean())
    found = float(_information(simple.over(torch.ones(1, 1).double()), torch.Generator()))
    assert found == pytest.approx(exact, rel=0.1)
    assert found < math.log(2)
