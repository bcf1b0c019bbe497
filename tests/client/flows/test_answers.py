import pytest
import torch
from torch import Tensor

from client.flows.answers import Answers, PickReward
from common.errors import RewardError, SettingError


def draw(n: int, seed: int) -> Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed)) * torch.tensor([2.0, 1.0, 1.0, 0.5, 0.1])


def same(media: Tensor) -> Tensor:
    return media


def answered(sets: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Picks of somebody who likes the first column high and the second one low."""
    shown = draw(4 * sets, seed).view(sets, 4, 5)
    return shown, (shown[..., 0] - shown[..., 1]).argmax(1)


def test_winners_and_pairs_are_what_was_picked_and_what_was_beside_it() -> None:
    answers = Answers(*answered(6))
    winners, losers = answers.pairs()
    assert len(answers) == 6
    assert winners.shape == losers.shape == (18, 5)
    assert torch.equal(winners[::3], answers.winners)
    for index, pick in enumerate(answers.picked.tolist()):
        assert torch.equal(answers.winners[index], answers.shown[index, pick])
        beside = [row for place, row in enumerate(answers.shown[index]) if place != pick]
        assert torch.equal(losers[3 * index : 3 * index + 3], torch.stack(beside))


def test_the_reward_follows_what_was_picked_and_answers_of_chance_say_little() -> None:
    typical, fresh = draw(200, 2), draw(500, 3)
    wanted = fresh[:, 0] - fresh[:, 1]
    shown, picked = answered(40)
    reward = PickReward.fit(same, typical, shown, picked)
    assert float(torch.corrcoef(torch.stack([reward(fresh), wanted]))[0, 1]) > 0.85
    luck = torch.randint(4, (40,), generator=torch.Generator().manual_seed(4))
    blind = PickReward.fit(same, typical, shown, luck)
    assert float(blind.utility(fresh).std()) < 0.5 * float(reward.utility(fresh).std())


def test_the_reward_is_a_chance_and_about_a_half_for_a_typical_sample_without_caution() -> None:
    typical = draw(300, 2)
    reward = PickReward.fit(same, typical, *answered(20), caution=0)
    assert float(reward(typical).mean()) == pytest.approx(0.5, abs=0.01)
    assert 0 <= float(reward(draw(500, 5)).min()) < float(reward(draw(500, 5)).max()) <= 1


def test_a_direction_no_answer_told_of_is_worth_little() -> None:
    shown, _ = answered(20)
    shown[..., 1] = 0
    reward = PickReward.fit(same, draw(300, 2), shown, shown[..., 0].argmax(1))
    bold = PickReward.fit(same, draw(300, 2), shown, shown[..., 0].argmax(1), caution=0)
    told, untold = torch.tensor([[3.0, 0, 0, 0, 0]]), torch.tensor([[3.0, 2.0, 0, 0, 0]])
    assert float(reward(told)) > 0.8
    assert float(reward(told)) - float(reward(untold)) > 2 * abs(float(bold(told)) - float(bold(untold))) + 0.05


def test_what_is_unlike_everything_the_flow_draws_is_worth_nothing() -> None:
    reward = PickReward.fit(same, draw(300, 2), *answered(20))
    best = torch.tensor([[4.0, -2.0, 0.0, 0.0, 0.0]])
    assert float(reward(best)) > 0.9
    assert float(reward(3 * best)) == 0
    assert float(reward(best + torch.tensor([0, 0, 0, 0, 1.5]))) == 0  # a direction in which the flow hardly varies
    assert float(reward.utility(3 * best)) > float(reward.utility(best))


def test_the_fit_is_where_the_posterior_is_highest() -> None:
    shown, picked = answered(8)
    reward = PickReward.fit(same, draw(200, 2), shown, picked, spread=1.5)
    features = reward._scale.along(shown.double())

    def loss(weight: Tensor) -> Tensor:
        chances = (features @ weight).log_softmax(1)
        return -chances[torch.arange(8), picked].sum() + weight.square().sum() / (2 * 1.5**2)

    gradient = torch.autograd.functional.jacobian(loss, reward._weight)  # type: ignore[no-untyped-call]
    second = torch.autograd.functional.hessian(loss, reward._weight)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(reward._covariance, torch.linalg.inv(second))
    assert float(gradient.norm()) < 1e-6
    assert float(reward._weight.norm()) > 0.5


def test_nothing_picked_and_features_that_say_nothing_are_refused() -> None:
    shown, picked = answered(3)
    with pytest.raises(RewardError, match="pick at least one"):
        PickReward.fit(same, draw(20, 2), shown[:0], picked[:0])
    with pytest.raises(RewardError, match="the same or not finite"):
        PickReward.fit(torch.zeros_like, draw(20, 2), shown, picked)
    with pytest.raises(SettingError, match="k >= 2"):
        Answers(shown[:, :1], picked)
    with pytest.raises(SettingError, match="between 0 and 3"):
        Answers(shown, picked + 9)
