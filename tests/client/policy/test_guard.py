import math

import pytest
import torch
from torch import Tensor

from client.policy.guard import Check, Guard, GuardSettings, Tether
from client.policy.learner import LearnSettings, learner
from client.policy.reward import Scaled
from client.policy.training import Learned, Training
from common.errors import SettingError
from tests.client.policy.known import DIRECTION, SPACE, Along, Of, fresh_policy, goal_of

SETTINGS = GuardSettings(samples=256, patience=3, rise=0.1)


def scaled(function: object) -> Scaled:
    return Scaled.measure(Of(function), SPACE, torch.Generator().manual_seed(8))  # type: ignore[arg-type]


def honest(latents: Tensor) -> Tensor:
    return latents @ DIRECTION


def loses_interest(latents: Tensor) -> Tensor:
    """Likes the direction a little and no more: what goes further is worse. The reward goes on rising."""
    along = latents @ DIRECTION
    return along - 0.5 * (along - 1).clamp(min=0).square() * 4


def run(judge: Scaled | None, settings: GuardSettings = SETTINGS, price: float = 0.05, rounds: int = 12) -> Learned:
    goal, generator = goal_of(Along(), safe=price, surprising=price), torch.Generator().manual_seed(0)
    how = LearnSettings(rounds=rounds, steps=5, batch=64, groups=4, rate=5e-3)
    work = learner("reparameterised", fresh_policy(), goal, how, generator)
    return Training(work, Guard(goal, judge, settings, generator)).run()


def test_a_learner_that_pleases_the_model_and_not_the_person_is_stopped_and_the_best_policy_kept() -> None:
    learned = run(scaled(loses_interest))
    assert learned.stopped is not None
    assert "the reward rose to" in learned.stopped
    assert "would please the model and not the person" in learned.stopped
    assert learned.kept.held_out >= 0.85 * max(check.held_out for check in learned.checks)
    assert learned.checks[-1].held_out < learned.kept.held_out
    assert learned.checks[-1].reward > learned.kept.reward


def test_an_honest_learner_goes_on_to_the_end() -> None:
    learned = run(scaled(honest), GuardSettings(samples=256, patience=3, rise=0.1, divergence=1e6, distance=1e6))
    assert learned.stopped is None
    assert len(learned.checks) == 13
    assert learned.kept.held_out == pytest.approx(learned.kept.reward, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (GuardSettings(samples=256, divergence=3.0), "divergence"),
        (GuardSettings(samples=256, distance=0.5), "distance"),
    ],
    ids=["divergence", "distance"],
)
def test_a_policy_that_drifts_is_stopped_close_to_the_limit_and_one_within_it_is_kept(
    settings: GuardSettings, word: str
) -> None:
    learned = run(scaled(honest), settings)
    assert learned.stopped is not None
    assert f"{word} " in learned.stopped
    assert "passed its limit" in learned.stopped
    reached = {"divergence": learned.checks[-1].divergence / 3.0, "distance": learned.checks[-1].distance / 0.5}
    assert 1 < reached[word] < 1.2
    assert learned.kept.divergence <= settings.divergence
    assert learned.kept.distance <= settings.distance


def test_without_a_judge_that_knows_anything_the_limits_are_half_as_wide() -> None:
    goal, generator = goal_of(Along()), torch.Generator().manual_seed(0)
    across = torch.zeros(6)
    across[3] = 1.0  # a direction the reward does not know
    deaf = Guard(goal, scaled(lambda z: z @ across), GuardSettings(divergence=8.0), generator)
    assert deaf.blind
    assert abs(deaf.informed) < 0.1
    assert Guard(goal, None, GuardSettings(), generator).blind
    sharp = Guard(goal, scaled(honest), GuardSettings(divergence=8.0), generator)
    assert not sharp.blind
    assert sharp.informed == pytest.approx(1)
    far = Check(round=1, reward=1, held_out=1, error=0.1, divergence=5.0, distance=0.1)
    assert deaf.judge(far).stop is not None
    assert sharp.judge(far).stop is None
    assert (deaf.drift(far), sharp.drift(far)) == (1.25, 0.625)


def test_a_tether_keeps_what_drifted_no_farther_than_was_allowed_and_goes_on_beyond() -> None:
    goal, generator = goal_of(Along()), torch.Generator().manual_seed(0)
    before = Guard(goal, scaled(honest), GuardSettings(divergence=8.0, distance=2.0), generator)
    tether = Tether(goal, before, 0.5, generator)
    assert tether.limits == (4.0, 1.0)
    within, far, apart = (
        Check(round=1, reward=1, held_out=math.nan, error=math.nan, divergence=divergence, distance=distance)
        for divergence, distance in ((3.9, 0.9), (4.1, 0.9), (3.9, 1.1))
    )
    assert [tether.judge(check).keep for check in (within, far, apart)] == [True, False, False]
    assert all(tether.judge(check).stop is None for check in (within, far, apart))
    lost = tether.judge(Check(**{**vars(within), "divergence": math.inf}))
    assert not lost.keep
    assert lost.stop is not None
    with pytest.raises(SettingError, match=r"allowed=0\.0 must be > 0"):
        Tether(goal, before, 0.0, generator)


def test_a_policy_that_is_no_longer_finite_is_never_kept() -> None:
    goal, policy = goal_of(Along()), fresh_policy()
    guard = Guard(goal, None, GuardSettings(), torch.Generator().manual_seed(0))
    with torch.no_grad():
        policy.couplings[0].leave.bias += math.inf  # type: ignore[operator,union-attr]
    check = guard.check(policy, 1)
    verdict = guard.judge(check)
    assert not check.finite
    assert not verdict.keep
    assert verdict.stop is not None
    assert "no longer finite" in verdict.stop


def test_the_distance_is_zero_for_the_law_itself_and_the_length_of_a_shift() -> None:
    goal, policy = goal_of(Along()), fresh_policy().requires_grad_(False)
    guard = Guard(goal, None, GuardSettings(samples=4096), torch.Generator().manual_seed(0))
    assert guard.check(policy, 0).distance < 0.1
    for coupling in list(policy.couplings)[:2]:
        bias = coupling.leave.bias  # type: ignore[union-attr]
        assert isinstance(bias, Tensor)
        bias[len(bias) // 2 :] += 2.0
    moved = guard.check(policy, 1)
    assert moved.distance == pytest.approx(2.0, abs=0.1)  # 2 in each of six numbers, over a spread of sqrt(6)
    assert moved.divergence == pytest.approx(12.0, abs=0.3)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingError, match="samples=4 must be >= 16"):
        GuardSettings(samples=4)
    with pytest.raises(SettingError, match="divergence=0 must be > 0"):
        GuardSettings(divergence=0)
