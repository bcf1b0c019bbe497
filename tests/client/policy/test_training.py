from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from client.policy.guard import Check, Guard, GuardSettings, Tether
from client.policy.learner import Learner, LearnSettings, learner
from client.policy.reward import Reward
from client.policy.training import Training
from common.errors import RewardError
from tests.client.policy.known import Along, Of, fresh_policy, goal_of


class Until(Reward):
    """A reward that something happens to after it was asked so often."""

    differentiable = True

    def __init__(self, happens: Callable[[], object], after: int) -> None:
        self.happens, self.after, self.asked = happens, after, 0

    def __call__(self, latents: Tensor) -> Tensor:
        self.asked += 1
        if self.asked > self.after:
            self.happens()
        return latents[:, 0]


def stop() -> None:
    raise KeyboardInterrupt


def fail() -> None:
    raise ValueError("the judge has left")


def training(reward: Reward, rounds: int = 4, seed: int = 0) -> Training:
    goal, generator = goal_of(reward), torch.Generator().manual_seed(seed)
    how = LearnSettings(rounds=rounds, steps=3, batch=32, groups=4, rate=5e-3)
    return Training(
        learner("reparameterised", fresh_policy(), goal, how, generator),
        Guard(goal, None, GuardSettings(samples=64), generator),
    )


def in_two_parts(reward: Reward, decided: list[Check] | None = None) -> Training:
    """Learns something, then something else within the drift of the first."""
    work = training(reward, rounds=3)
    policy, how = work.learner.policy, replace(work.learner.settings, rounds=2)

    def again(before: Guard, check: Check) -> tuple[Learner, Guard]:
        if decided is not None:
            decided.append(check)
        goal, generator = goal_of(Of(lambda latents: latents[:, 3])), torch.Generator().manual_seed(9)
        second = learner("reparameterised", policy, goal, how, generator)
        return second, Tether(goal, before, before.drift(check), generator)

    return Training(work.learner, work.guard, again=again)


def weights(work: Training) -> Tensor:
    return torch.cat([each.flatten() for each in work.learner.policy.parameters()]).detach().clone()


@pytest.mark.parametrize(
    ("happens", "error"), [(stop, KeyboardInterrupt), (fail, RewardError)], ids=["ctrl-c", "raises"]
)
def test_whatever_ends_learning_the_last_good_policy_is_in_place(
    happens: Callable[[], object], error: type[BaseException]
) -> None:
    # asked once to be measured, once per check, three times per round: 11 is in the middle of the third round
    work, kept = training(Until(happens, 11)), []
    with pytest.raises(error):
        work.run(keep=lambda: kept.append(weights(work)))
    assert len(kept) == 2
    assert torch.equal(weights(work), kept[-1])
    assert work.rounds == 2


def test_a_training_that_was_left_goes_on_as_if_it_had_never_stopped() -> None:
    left = training(Until(stop, 11))
    with pytest.raises(KeyboardInterrupt):
        left.run()
    again = training(Until(lambda: None, 10**9), seed=5)
    again.restore(left.state(), left.stopped)
    assert again.rounds == 2
    learned = again.run()
    straight = training(Until(lambda: None, 10**9))
    straight.run()
    torch.testing.assert_close(weights(again), weights(straight))
    assert [check.round for check in learned.checks] == [0, 1, 2, 3, 4]


def test_a_warm_start_comes_after_the_first_check_and_before_the_first_round() -> None:
    work, seen = training(Along()), []
    warmed = Training(work.learner, work.guard, warm=lambda: seen.append(work.rounds))
    warmed.run()
    assert seen == [0]
    assert warmed.guard.checks[0].divergence == pytest.approx(0, abs=1e-6)


def test_a_second_part_begins_with_what_was_kept_and_drifts_no_farther() -> None:
    decided: list[Check] = []
    work = in_two_parts(Along(), decided)
    first = work.guard
    learned = work.run()
    assert [check.round for check in learned.checks] == [0, 1, 2, 3, 4, 5]
    assert decided == [learned.decided]
    assert decided[0].round == 3
    assert first.drift(learned.kept) <= first.drift(decided[0])
    assert work.finished


def test_a_second_part_that_was_left_goes_on_as_if_it_had_never_stopped() -> None:
    left = in_two_parts(Along())

    def stop_in_the_second(check: Check) -> None:
        if check.round == 5:
            raise KeyboardInterrupt

    kept: list[dict[str, Tensor]] = []
    with pytest.raises(KeyboardInterrupt):
        left.run(stop_in_the_second, lambda: kept.append(left.state()))
    whole = in_two_parts(Along())
    whole.run()
    straight = weights(whole)
    for state in kept:  # after each of the four rounds that were kept, the last of the first part among them
        again = in_two_parts(Along())
        again.restore(state)
        assert not again.finished
        again.run()
        torch.testing.assert_close(weights(again), straight)
    assert len(kept) == 4


def test_a_first_round_that_goes_a_little_too_far_is_done_again_slower() -> None:
    """A later one may end the learning; if the first did, nothing would be learned."""
    free = training(Of(lambda latents: latents[:, 0]), rounds=1)
    free.run()
    goal, generator = goal_of(Of(lambda latents: latents[:, 0])), torch.Generator().manual_seed(0)
    same = learner("reparameterised", fresh_policy(), goal, free.learner.settings, generator)
    # without a judge limits are half as wide
    guard = Guard(goal, None, GuardSettings(samples=64, divergence=2 * free.checks[1].divergence / 1.1), generator)
    learned = Training(same, guard).run()
    assert guard.drift(free.checks[1]) == pytest.approx(1.1)
    assert learned.kept.round == 1
    assert guard.drift(learned.kept) <= 1


def test_where_nothing_was_kept_there_is_no_second_part() -> None:
    work = in_two_parts(Along())
    work.guard.settings = GuardSettings(samples=64, divergence=1e-9)
    learned = work.run()
    assert work.finished
    assert learned.kept.round == 0
    assert learned.decided is None


def test_a_finished_training_has_nothing_left_to_do() -> None:
    work = training(Along(), rounds=1)
    first = work.run()
    before = weights(work)
    assert work.finished
    again = work.run()
    assert torch.equal(weights(work), before)
    assert again.checks == first.checks
