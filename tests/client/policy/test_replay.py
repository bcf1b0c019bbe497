import math

import pytest
import torch
from torch import Tensor

from client.policy.flow import LatentPolicy, log_ratio
from client.policy.goal import levels
from client.policy.replay import (
    EFFECTIVE,
    LARGEST,
    WARM_EFFECTIVE,
    Replay,
    Scored,
    effective_share,
    warm_start,
    weigh,
)
from common.errors import SettingError
from tests.client.policy.known import DIRECTION, SPACE, Along, fresh_policy, goal_of


def drawn_from_law(count: int = 500) -> Scored:
    latents = SPACE.sample(count, torch.Generator().manual_seed(0))
    level = levels(4, count // 4, torch.Generator().manual_seed(1))
    return Scored(latents, level, latents @ DIRECTION, torch.zeros(count))


def shifted(by: float) -> LatentPolicy:
    """A policy that moves every number it can by the same."""
    policy = fresh_policy().requires_grad_(False)
    for coupling in list(policy.couplings)[:2]:
        bias = coupling.leave.bias  # type: ignore[union-attr]
        assert isinstance(bias, Tensor)
        bias[len(bias) // 2 :] += by
    return policy


def test_weights_are_ratios_of_densities_and_never_above_the_limit() -> None:
    scored, policy = drawn_from_law(), shifted(0.8)
    found = weigh(policy, scored)
    by_hand = (0.8 * scored.latents.sum(1) - 0.5 * 6 * 0.8**2).exp()  # N(0.8, 1) over N(0, 1), six times
    assert torch.allclose(found.weight, by_hand.clamp(max=LARGEST), rtol=1e-3)
    assert float(by_hand.max()) > LARGEST
    assert float(weigh(shifted(0.0), scored).weight.sub(1).abs().max()) < 1e-5


def test_the_effective_share_is_one_for_equal_weights_and_one_in_n_for_a_single_one() -> None:
    assert effective_share(torch.full((8,), 0.3)) == pytest.approx(1)
    assert effective_share(torch.tensor([0.0, 0.0, 5.0, 0.0])) == pytest.approx(0.25)
    assert effective_share(torch.zeros(3)) == 0


def test_times_that_say_too_little_about_the_policy_of_now_are_not_used() -> None:
    replay = Replay(2)
    replay.add(drawn_from_law())
    assert len(list(replay.weighed(shifted(0.2)))) == 1
    assert list(replay.weighed(shifted(3.0))) == []
    assert weigh(shifted(3.0), drawn_from_law()).effective < EFFECTIVE
    for _ in range(3):
        replay.add(drawn_from_law())
    assert len(replay.times) == 2
    with pytest.raises(SettingError, match="times=-1"):
        Replay(-1)


def test_a_warm_start_moves_the_policy_towards_the_best_items_and_more_so_where_it_is_safe() -> None:
    goal, policy = goal_of(Along(), safe=0.7, surprising=3.0), fresh_policy()
    replayed = warm_start(policy, goal, torch.Generator().manual_seed(0), samples=2000, steps=60)
    noise = SPACE.sample(2000, torch.Generator().manual_seed(2))
    with torch.no_grad():
        safe, surprising = (
            float(goal.reward(policy(noise, torch.full((2000,), level)).places).mean()) for level in (0.0, 1.0)
        )
    assert safe > surprising + 0.3
    assert 0.5 < safe < 2.5
    assert replayed > 0.3


def test_a_warm_start_never_leans_on_a_handful_of_samples() -> None:
    """At a price of nearly nothing the tilt would be one single item."""
    goal, policy = goal_of(Along(), safe=1e-3, surprising=1e-3), fresh_policy()
    replayed = warm_start(policy, goal, torch.Generator().manual_seed(0), samples=1000, steps=1)
    law = SPACE.sample(1000, torch.Generator().manual_seed(0))
    best = float(goal.reward(law).sort(descending=True).values[: math.ceil(1000 * WARM_EFFECTIVE)].mean())
    assert replayed < 1.2 * best
    assert replayed < float(goal.reward(law).max())


def test_a_warm_start_keeps_the_policy_close_when_the_price_is_high() -> None:
    goal, policy = goal_of(Along(), safe=50.0, surprising=50.0), fresh_policy()
    warm_start(policy, goal, torch.Generator().manual_seed(0), samples=1000, steps=30)
    noise = SPACE.sample(1000, torch.Generator().manual_seed(3))
    with torch.no_grad():
        ratio = log_ratio(noise, policy(noise, torch.zeros(1000)))
    assert float(ratio.mean()) < 0.2
