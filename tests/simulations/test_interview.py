import pytest
import torch
from torch import Tensor

from client.propose import PROPOSERS, Proposer
from client.ratings import Kind
from common.prior import PopulationPrior
from simulations.interview import WIDTH, Interview, Learner, interview
from simulations.people import AnswerNoise

P, PEOPLE = 6, 40


def world(seed: int, mean: Tensor, spread: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Items with linear utilities: features and utilities of a pool and of unseen items."""
    generator = torch.Generator().manual_seed(seed)
    pool, unseen = (torch.randn(n, P + 1, dtype=torch.float64, generator=generator) for n in (600, 800))
    pool[:, -1] = unseen[:, -1] = 1
    tastes = mean + spread * torch.randn(PEOPLE, P, dtype=torch.float64, generator=generator)
    tastes = tastes / tastes.norm(dim=1, keepdim=True)
    return pool, unseen, (tastes @ pool[:, :-1].T).float(), (tastes @ unseen[:, :-1].T).float()


def ask(learner: Learner, pool: Tensor, unseen: Tensor, kind: Kind = Kind.CHOICE, how: Proposer = "eubo") -> Interview:
    return interview(
        learner, pool, unseen, kind=kind, proposer=how, noise=AnswerNoise(), points=(0, 5, 15), seed=3,
        advance=lambda _: None,
    )  # fmt: skip


FLAT = PopulationPrior.flat(P + 1, "pack", 2.0)


@pytest.mark.parametrize("kind", list(WIDTH))
@pytest.mark.parametrize("how", PROPOSERS)
def test_every_kind_and_proposer_learns(kind: Kind, how: Proposer) -> None:
    pool, unseen, in_pool, in_unseen = world(1, torch.zeros(P).double(), 1.0)
    result = ask(Learner(pool=pool, unseen=unseen, flat=FLAT), in_pool, in_unseen, kind, how)
    percentile = result.percentile.mean(0)
    assert 0.35 < float(percentile[0]) < 0.65, "nothing is known yet, so this is chance"
    assert float(percentile[2]) > 0.75
    assert result.items.shape == (PEOPLE, 15, WIDTH[kind])
    for person in range(PEOPLE):
        shown = result.items[person].flatten().tolist()
        assert len(set(shown)) == len(shown), "nothing is shown twice"


def test_a_good_prior_helps_and_a_wrong_one_is_outvoted() -> None:
    mean = torch.tensor([2.0, 0, 0, 0, 0, 0], dtype=torch.float64)
    pool, unseen, in_pool, in_unseen = world(2, mean, 0.4)

    def prior(direction: float) -> PopulationPrior:
        return PopulationPrior(
            mean=torch.cat([direction * 1.5 * mean, torch.zeros(1).double()]),
            covariance=torch.eye(P + 1, dtype=torch.float64) * 0.2,
            thresholds=FLAT.thresholds,
            pack="pack",
            privacy=FLAT.privacy,
        )

    alone, helped, misled = (
        ask(Learner(pool=pool, unseen=unseen, flat=FLAT, prior=p), in_pool, in_unseen).percentile.mean(0)
        for p in (None, prior(1.0), prior(-1.0))
    )
    assert float(helped[0]) > 0.9 > 0.1 > float(misled[0])
    assert float(helped[1]) > float(alone[1])
    assert float(misled[2]) > float(alone[2]) - 0.05, "after 15 ratings the wrong prior has lost its say"


def test_a_seed_decides_everything() -> None:
    pool, unseen, in_pool, in_unseen = world(3, torch.zeros(P).double(), 1.0)
    first, second = (ask(Learner(pool=pool, unseen=unseen, flat=FLAT), in_pool, in_unseen) for _ in range(2))
    assert torch.equal(first.percentile, second.percentile)
    assert torch.equal(first.items, second.items)
