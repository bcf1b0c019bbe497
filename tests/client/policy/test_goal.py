import pytest
import torch

from client.policy.flow import Moved
from client.policy.goal import GoalSettings, levels
from common.errors import SettingError
from tests.client.policy.known import SPACE, Along, goal_of


def test_prices_rise_geometrically_from_safe_to_surprising() -> None:
    price = GoalSettings(safe=0.25, surprising=4.0).price(torch.tensor([0.0, 0.5, 1.0]))
    assert price.tolist() == pytest.approx([0.25, 1.0, 4.0])
    with pytest.raises(SettingError, match=r"safe=2.0, surprising=1.0 must be > 0 and rising"):
        GoalSettings(safe=2.0, surprising=1.0)


def test_variety_is_the_mean_distance_within_a_group_and_never_paid_above_that_of_random_items() -> None:
    goal = goal_of(Along())
    latents = 0.3 * SPACE.sample(6, torch.Generator().manual_seed(3))
    found = goal.variety(latents, groups=2)
    for row in range(6):
        others = [other for other in range(3 * (row // 3), 3 * (row // 3) + 3) if other != row]
        by_hand = sum(float((latents[row] - latents[other]).norm()) for other in others) / 2 / goal.apart
        assert float(found[row]) == pytest.approx(by_hand, rel=1e-5)
    assert goal.variety(50 * latents, groups=2).tolist() == [1.0] * 6
    assert float(goal.variety(latents[:1].expand(4, 6), groups=1).max()) < 1e-5


def test_variety_of_equal_items_has_a_finite_slope() -> None:
    goal = goal_of(Along())
    latents = torch.zeros(4, 6, requires_grad=True)
    goal.variety(latents, groups=1).sum().backward()  # type: ignore[no-untyped-call]
    assert latents.grad is not None
    assert bool(latents.grad.isfinite().all())


def test_the_value_is_reward_minus_priced_divergence_plus_variety() -> None:
    goal = goal_of(Along(), safe=0.5, surprising=0.5, variety=2.0)
    noise = SPACE.sample(8, torch.Generator().manual_seed(1))
    moved = Moved(noise + 1, torch.full((8,), 0.25))
    terms = goal.terms(noise, moved, groups=2)
    assert torch.allclose(terms.log_ratio, noise.sum(1) + 3 - 0.25, atol=1e-4)
    value = goal.value(terms, torch.zeros(8), groups=2)
    assert torch.allclose(value, goal.reward(noise + 1) - 0.5 * terms.log_ratio + 2 * terms.variety)


def test_levels_come_in_groups_spread_over_the_whole_range() -> None:
    found = levels(4, 3, torch.Generator().manual_seed(0)).reshape(4, 3)
    assert bool((found == found[:, :1]).all())
    assert [int(4 * level) for level in found[:, 0]] == [0, 1, 2, 3]


def test_nats_beyond_what_a_level_allows_cost_more_for_the_group_that_is_there() -> None:
    settings = GoalSettings(safe=0.5, surprising=0.5, most=4.0, nearest=1.0)
    assert settings.allowed(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([4, 2, 1])
    ratio, level = torch.tensor([1.0, 2.0, 1.0, 2.0]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert settings.cost(ratio, level, groups=2).tolist() == pytest.approx([0.5, 1.0, 1.5, 3.0])
    with pytest.raises(SettingError, match=r"most=1, nearest=2 must be > 0 and falling"):
        GoalSettings(most=1, nearest=2)
