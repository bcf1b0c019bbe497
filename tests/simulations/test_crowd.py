import torch

from client.ratings import Kind
from simulations.crowd import HeldCrowd, Items, pairs
from simulations.people import AnswerNoise

SURE = AnswerNoise(sharpness=1e6, tie=0.0, pickiness=0.0)


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_who_is_asked_of_pairs_sees_no_item_twice_and_prefers_what_they_like_better() -> None:
    utilities = 100 + 7 * torch.randn(5, 40, generator=draws())
    said = pairs(utilities, 20, SURE, draws())
    assert said.items.shape == (5, 20, 2)
    assert all(len(set(row)) == 40 for row in said.items.flatten(1).tolist())
    felt = utilities.gather(1, said.items.flatten(1)).reshape(said.items.shape)
    assert torch.equal(said.value, (felt[..., 1] > felt[..., 0]).long())
    assert bool((said.kind == int(Kind.CHOICE)).all())
    assert bool((said.weight == 1).all())


def test_people_differ_in_what_they_are_asked_and_doubt_what_is_nearly_alike() -> None:
    utilities = torch.randn(200, 60, generator=draws())
    said = pairs(utilities, 10, AnswerNoise(), draws())
    assert not torch.equal(said.items[0], said.items[1])
    felt = utilities.gather(1, said.items.flatten(1)).reshape(said.items.shape)
    gap = (felt[..., 0] - felt[..., 1]).abs()
    undecided = said.value > 1  # both or neither
    assert float(gap[undecided].mean()) < float(gap[~undecided].mean()) / 1.5
    wrong = ~undecided & (said.value != (felt[..., 1] > felt[..., 0]).long())
    assert 0 < float(wrong.double().mean()) < 0.2


def test_a_crowd_of_such_answers_gives_those_of_any_people() -> None:
    said = pairs(torch.randn(6, 20, generator=draws()), 3, AnswerNoise(), draws())
    crowd = HeldCrowd(Items(torch.ones(20, 4), torch.zeros(20, 2)), said)
    assert torch.equal(crowd.answers(2, 5).items, said.items[2:5])
    assert torch.equal(crowd.answers_of(torch.tensor([0, 4])).value, said.value[[0, 4]])
