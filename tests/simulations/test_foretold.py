import math

import pytest
import torch

from client.fit import Posterior
from client.likelihood import Evidence
from client.ratings import Best, Choice, Like, Rating, Stars
from common.prior import DEFAULT_THRESHOLDS
from simulations.foretold import foretold, guessing

FEATURES = torch.tensor([[-1.0, 1.0], [0.5, 1.0], [2.0, 1.0]], dtype=torch.float64)
TASTE = torch.tensor([1.5, 0.2], dtype=torch.float64)
SCORES = (FEATURES @ TASTE).tolist()  # -1.3, 0.95, 3.2


def certain(taste: torch.Tensor) -> Posterior:
    """Somebody whose taste is known."""
    return Posterior(
        taste.reshape(1, 1, 2), 1e-12 * torch.eye(2).double().reshape(1, 1, 2, 2), torch.ones(1, 1).double()
    )


def look(ratings: list[Rating], taste: torch.Tensor = TASTE) -> tuple[float, float]:
    right, likelihood = foretold(Evidence.of(ratings, FEATURES), certain(taste), torch.zeros(1, 2).double())
    return float(right), float(likelihood)


def test_each_kind_counts_as_right_what_the_taste_makes_most_likely() -> None:
    low, _, high = SCORES
    assert look([Like(2, True)]) == pytest.approx((1, -math.log1p(math.exp(-high))), abs=1e-6)
    assert look([Like(2, False)]) == pytest.approx((0, -math.log1p(math.exp(high))), abs=1e-6)
    assert look([Choice(0, 2, "b")]) == pytest.approx((1, -math.log1p(math.exp(low - high))), abs=1e-6)
    total = math.log(sum(map(math.exp, SCORES)))
    assert look([Best((0, 1, 2), 2)]) == pytest.approx((1, high - total), abs=1e-6)
    assert look([Best((0, 1, 2), 1)])[0] == 0
    assert look([Best((0, 1, 2), 0, worst=True)])[0] == 1
    cuts = [-math.inf, *DEFAULT_THRESHOLDS, math.inf]
    stars = [1 / (1 + math.exp(low - cuts[s])) - 1 / (1 + math.exp(low - cuts[s - 1])) for s in range(1, 6)]
    likeliest = 1 + max(range(5), key=lambda s: stars[s])
    assert look([Stars(0, likeliest)]) == pytest.approx((1, math.log(stars[likeliest - 1])), abs=1e-6)
    assert look([Stars(0, 5)])[0] == 0


def test_kinds_may_be_mixed_and_both_or_neither_is_not_counted_as_right_or_wrong() -> None:
    mixed: list[Rating] = [Like(2, True), Choice(0, 2, "a"), Best((0, 1, 2), 2), Choice(1, 2, "both")]
    right, likelihood = look(mixed)
    assert right == pytest.approx(2 / 3)
    assert likelihood == pytest.approx(sum(look([rating])[1] for rating in mixed) / 4)
    assert math.isnan(look([Choice(1, 2, "neither")])[0])


def test_nothing_known_is_a_blind_guess_wherever_the_chosen_one_is_listed() -> None:
    nothing = torch.zeros(2, dtype=torch.float64)
    for chosen in range(3):
        assert look([Best((0, 1, 2), chosen)], nothing)[0] == pytest.approx(1 / 3)
    assert look([Choice(0, 2, "a")], nothing)[0] == pytest.approx(1 / 2)


def test_a_blind_guess_is_right_as_often_as_there_are_ways_to_answer() -> None:
    mixed: list[Rating] = [Like(2, True), Choice(0, 2, "a"), Best((0, 1, 2), 2), Choice(1, 2, "both"), Stars(0, 2)]
    assert guessing(Evidence.of(mixed, FEATURES)) == pytest.approx((1 / 2 + 1 / 2 + 1 / 3 + 1 / 5) / 4)
