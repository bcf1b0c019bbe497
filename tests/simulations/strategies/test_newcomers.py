"""What a new person makes of a model that tells everybody the same."""

import torch
from torch import Tensor

from client.ratings import Kind
from common.prior import PopulationPrior
from simulations.crowd import Answers, Items
from simulations.strategies.base import Task
from simulations.strategies.local_only import LocalOnly
from simulations.strategies.newcomers import known, looked_at, own_scores

P, D, PEOPLE = 5, 3, 200
FLAT = PopulationPrior.flat(P, "a" * 64, 2.0)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def items(count: int, seed: int) -> Items:
    """Features and latents that know nothing of each other."""
    features = torch.randn(count, P, generator=generator(seed), dtype=torch.float64)
    features[:, -1] = 1
    return Items(features, torch.randn(count, D, generator=generator(seed + 1), dtype=torch.float64))


POOL, UNSEEN = items(400, 0), items(300, 2)
COMMON = torch.tensor([1.5, -2.0, 0.5, 0.3], dtype=torch.float64)  # of the latents; the last is the bias
TASTES = 0.8 * torch.randn(PEOPLE, P, generator=generator(4), dtype=torch.float64)


def common(latents: Tensor) -> Tensor:
    return latents @ COMMON.to(latents)


def felt(things: Items, together: float) -> Tensor:
    """What everybody feels: a taste of their own, and by so much what the shared model says."""
    return TASTES @ things.features.T + together * (things.latents @ COMMON[:-1])


def answers(together: float, count: int) -> Answers:
    rows = torch.randint(400, (PEOPLE, count), generator=generator(5))
    chance = torch.sigmoid(felt(POOL, together).gather(1, rows))
    value = (torch.rand(rows.shape, generator=generator(6), dtype=torch.float64) < chance).long()
    return Answers(torch.full_like(value, int(Kind.LIKE)), value, rows.unsqueeze(2), torch.ones(rows.shape).double())


def right(scores: Tensor, together: float) -> float:
    """Mean correlation of scores with what people feel."""
    truth = felt(UNSEEN, together)
    return float(
        torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(scores, truth, strict=True)]).mean()
    )


def beside(together: float, count: int, sign: float = 1.0) -> Tensor:
    said = answers(together, count).seen_as(looked_at(POOL))
    return own_scores(said, lambda latents: sign * common(latents), known(FLAT), UNSEEN)


def alone(together: float, count: int) -> Tensor:
    learner = LocalOnly()
    state = learner.start(Task(items=POOL, flat=FLAT, rounds=1, ratings=count))
    return learner.scores(answers(together, count).seen_as(learner.view(POOL, state)), state, UNSEEN)


def test_without_answers_items_are_in_the_order_of_the_shared_model() -> None:
    found = beside(1.0, 0)
    assert found.shape == (PEOPLE, 300)
    assert torch.equal(found.argsort(1), (UNSEEN.latents @ COMMON[:-1]).argsort().expand(PEOPLE, -1))


def test_a_shared_model_that_says_nothing_leaves_what_one_learns_alone() -> None:
    said = answers(1.0, 6).seen_as(looked_at(POOL))
    found = own_scores(said, lambda latents: torch.zeros_like(latents[..., 0]), known(FLAT), UNSEEN)
    torch.testing.assert_close(found, alone(1.0, 6), rtol=0, atol=1e-6)


def test_a_true_model_helps_and_a_false_one_is_dropped_when_answers_contradict_it() -> None:
    assert right(beside(1.0, 10), 1.0) > right(alone(1.0, 10), 1.0) + 0.1
    lost = {count: right(alone(1.0, count), 1.0) - right(beside(1.0, count, -1.0), 1.0) for count in (3, 40)}
    assert lost[3] > 0.1  # few answers cannot tell, so the model matters: what is dropped below was there
    assert lost[40] < 0.0  # and by how much it is wrong is worth knowing


def test_people_who_share_nothing_lose_little_by_a_model_of_others() -> None:
    lost = right(alone(0.0, 20), 0.0) - right(beside(0.0, 20), 0.0)
    assert lost < 0.03
    assert right(alone(0.0, 20), 0.0) > 0.5
