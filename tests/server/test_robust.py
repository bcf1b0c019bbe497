"""What one person can do to a robust rule: the stated sensitivity against every neighbouring data set there is."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedMedian, FedTrimmedAvg, Krum, MultiKrum
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.errors import SettingError, UpdateError
from common.privacy.settings import PrivacySettings
from common.terms import Trust
from server.robust import REPLACE, ZERO_OUT, RobustSettings, Rule, krum_scores, robust_rule

RULES = ("trimmed-mean", "median", "krum", "multi-krum")
SMALL = PrivacySettings(epsilon=1.0, delta=1e-6, participations=1, minimum_people=5, expected_people=10)


def given_settings(people: int, bound: float, malicious: int = 1, **other: Any) -> RobustSettings:
    return RobustSettings(people=people, bound=bound, malicious=malicious, **other)


def largest_moves(aggregate: Callable[[Tensor], Tensor], people: int, bound: int) -> dict[str, float]:
    """By brute force over every data set of one number each: how far one person moves the result."""
    values = torch.arange(-bound, bound + 1)
    results = torch.stack(
        [aggregate(torch.tensor(data)[:, None])[0] for data in itertools.product(values.tolist(), repeat=people)]
    ).reshape((len(values),) * people)
    replace, zero_out = 0.0, 0.0
    for person in range(people):
        replace = max(replace, float((results.amax(person) - results.amin(person)).max()))
        absent = results.narrow(person, bound, 1)
        zero_out = max(zero_out, float((results - absent).abs().max()))
    return {REPLACE: replace, ZERO_OUT: zero_out}


@pytest.mark.parametrize(
    ("name", "people", "bound", "other", "sharp"),
    [
        ("trimmed-mean", 5, 2, {}, 1.0),
        ("trimmed-mean", 4, 3, {}, 1.0),
        ("trimmed-mean", 5, 2, {"malicious": 0}, 1.0),
        ("median", 5, 2, {}, 1.0),
        ("median", 4, 3, {}, 1.0),
        ("krum", 5, 2, {}, 1.0),
        ("multi-krum", 5, 2, {"chosen": 2}, 1.0),
        ("multi-krum", 5, 2, {"chosen": 3}, 0.6),
        ("multi-krum", 5, 2, {"chosen": 4}, 0.6),
        ("multi-krum", 5, 2, {"chosen": 5}, 1.0),
    ],
)
def test_no_two_neighbours_differ_by_more_than_stated_and_some_by_nearly_that(
    name: str, people: int, bound: int, other: dict[str, Any], sharp: float
) -> None:
    kept = given_settings(people, bound, **other)
    rule = robust_rule(name, kept, 1)
    moves = largest_moves(rule.aggregate, people, bound)
    for adjacency in (ZERO_OUT, REPLACE):
        stated = robust_rule(name, given_settings(people, bound, adjacency=adjacency, **other), 1).sensitivity
        assert moves[adjacency] <= stated
        assert moves[adjacency] >= sharp * stated, "a bound so loose wastes noise"


@pytest.mark.parametrize("name", ["median", "krum", "multi-krum"])
def test_the_sensitivity_of_a_mean_is_refuted_for_them(name: str) -> None:
    """The broken twin: as if these were means, where one person moves the result by the bound over n."""
    people, bound = 5, 2
    rule = robust_rule(name, given_settings(people, bound, **({"chosen": 2} if name == "multi-krum" else {})), 1)
    moves = largest_moves(rule.aggregate, people, bound)
    for adjacency, steps in ((ZERO_OUT, bound), (REPLACE, 2 * bound)):
        assert moves[adjacency] / rule.divisor > 1.9 * steps / people


def test_the_sensitivity_of_a_mean_is_refuted_for_the_trimmed_mean() -> None:
    rule = robust_rule("trimmed-mean", given_settings(5, 2), 1)
    moves = largest_moves(rule.aggregate, 5, 2)
    assert moves[REPLACE] / rule.divisor > 2 * 2 / 5
    assert moves[ZERO_OUT] / rule.divisor > 2 / 5


def within(rows: np.ndarray[Any, np.dtype[np.float64]], bound: int) -> Tensor:
    """Rows of integers whose norms are at most ``bound``: rounded towards zero."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return torch.from_numpy(np.trunc(rows * np.minimum(1, bound / np.maximum(length, 1e-9))).astype(np.int64))


@settings(deadline=None, max_examples=250)
@given(
    name=st.sampled_from(RULES),
    adjacency=st.sampled_from([ZERO_OUT, REPLACE]),
    people=st.integers(5, 12),
    numbers=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.01, 0.3, 1.0, 5.0]),
    chosen=st.integers(0, 5),
)
def test_the_bound_holds_in_every_dimension(
    name: str, adjacency: Any, people: int, numbers: int, seed: int, spread: float, chosen: int
) -> None:
    bound, random = 1000, np.random.default_rng(seed)
    # two camps and people in between: where a choice can tip over
    camps = random.choice([-1.0, 1.0], (people, 1)) * random.normal(size=(1, numbers))
    rows = within((camps + spread * random.normal(size=(people, numbers))) * bound, bound)
    other = rows.clone()
    person = random.integers(people)
    other[person] = 0 if adjacency == ZERO_OUT else within(bound * random.normal(size=(1, numbers)), bound)[0]
    rule = robust_rule(name, given_settings(people, bound, adjacency=adjacency, chosen=chosen), numbers)
    moved = (rule.aggregate(rows) - rule.aggregate(other)).double()
    assert float(torch.linalg.vector_norm(moved)) <= rule.sensitivity


def test_the_bound_of_a_trimmed_mean_does_not_grow_with_the_dimension() -> None:
    """One person cannot move all coordinates by the whole range at once, because the norm of all of them is bounded."""
    assert robust_rule("trimmed-mean", given_settings(100, 500.0, 10), 1000).sensitivity == 500.0


def test_one_person_tips_krum_from_one_camp_to_the_other() -> None:
    bound = 100
    rule = robust_rule("krum", given_settings(9, bound, 2), 3)
    camp = torch.tensor([[bound, 0, 0]])
    rows = torch.cat([camp, camp, camp, camp, -camp, -camp, -camp, -camp])
    moved = rule.aggregate(torch.cat([rows, camp])) - rule.aggregate(torch.cat([rows, -camp]))
    assert float(moved.double().norm()) == 2 * bound == rule.sensitivity


def test_people_who_did_not_answer_are_rows_of_zeros() -> None:
    rows = torch.tensor([[5, 1], [4, -2], [6, 0]])
    for name in RULES:
        rule = robust_rule(name, given_settings(5, 10), 2)
        full = torch.cat([rows, torch.zeros(2, 2, dtype=torch.int64)])
        assert torch.equal(rule.aggregate(rows), rule.aggregate(full))
        assert torch.equal(rule.aggregate(rows[:0]), torch.zeros(2, dtype=torch.int64))


def replies(rows: Tensor) -> list[Message]:
    # Message() asks for these; in a deployment the process that runs an app sets them
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    messages = []
    for node, row in enumerate(rows):
        asked = Message(RecordDict({"arrays": ArrayRecord([np.zeros(1)])}), dst_node_id=node + 1, message_type="train")
        content = RecordDict(
            {"arrays": ArrayRecord([row.double().numpy()]), "metrics": MetricRecord({"num-examples": 1})}
        )
        messages.append(Message(content, reply_to=asked))
    return messages


@pytest.mark.parametrize("people", [11, 12])
@pytest.mark.parametrize(
    ("name", "flowers"),
    [
        ("trimmed-mean", lambda n: FedTrimmedAvg(beta=2.5 / n)),
        ("median", lambda n: FedMedian()),
        ("krum", lambda n: Krum(num_malicious_nodes=2)),
        ("multi-krum", lambda n: MultiKrum(num_malicious_nodes=2, num_nodes_to_select=4)),
    ],
)
def test_the_values_are_those_of_flowers_strategy(name: str, flowers: Callable[[int], Any], people: int) -> None:
    for seed in range(5):
        rows = within(300 * np.random.default_rng(seed).normal(size=(people, 7)), 1000)
        rule = robust_rule(name, given_settings(people, 1000, 2, chosen=4), 7)
        arrays, _ = flowers(people).aggregate_train(1, replies(rows))
        theirs = arrays.to_numpy_ndarrays()[0]
        np.testing.assert_allclose(
            (rule.aggregate(rows).double() / rule.divisor).numpy(), theirs, rtol=1e-12, atol=1e-12
        )


def test_scores_of_krum_are_those_of_a_plain_loop() -> None:
    rows = within(50 * np.random.default_rng(3).normal(size=(8, 3)), 200)
    for person, score in enumerate(krum_scores(rows, 4)):
        distances = sorted(float((rows[person] - row).square().sum()) for i, row in enumerate(rows) if i != person)
        assert float(score) == sum(distances[:4])


@pytest.mark.parametrize("name", ["trimmed-mean", "median"])
def test_attackers_cannot_push_a_number_beyond_what_honest_people_sent(name: str) -> None:
    people, malicious, bound = 50, 10, 1000
    random = np.random.default_rng(1)
    honest = within(np.array([[200.0, -100.0, 0.0]]) + random.normal(0, 10, (people - malicious, 3)), bound)
    attack = within(np.tile([[-1.0, 1.0, 1.0]], (malicious, 1)) * bound, bound)
    rows = torch.cat([honest, attack])
    rule = robust_rule(name, given_settings(people, bound, malicious), 3)
    result = rule.aggregate(rows) / rule.divisor
    assert bool((honest.amin(0) <= result).all())
    assert bool((result <= honest.amax(0)).all())
    robust = float((result - honest.double().mean(0)).norm())
    mean = float((rows.double().mean(0) - honest.double().mean(0)).norm())
    assert robust < 20
    assert 180 < mean <= 2 * malicious * bound / people  # clipping alone bounds the harm, ten times further out


def test_without_a_trim_the_attack_works() -> None:
    """The twin of the test above with the control switched off."""
    honest = torch.full((40, 1), 200, dtype=torch.int64)
    rows = torch.cat([honest, torch.full((10, 1), -1000, dtype=torch.int64)])
    off = robust_rule("trimmed-mean", given_settings(50, 1000.0, 0), 1)
    on = robust_rule("trimmed-mean", given_settings(50, 1000.0, 10), 1)
    assert float(off.aggregate(rows) / off.divisor) == -40
    assert float(on.aggregate(rows) / on.divisor) == 200


def test_noise_is_sized_for_the_rule_and_not_for_a_mean() -> None:
    bound = 8.0 * 4096
    rules = {name: robust_rule(name, given_settings(101, bound, 5), 20) for name in RULES}

    def noise(rule: Rule) -> float:
        return math.sqrt(rule.sigma_squared(SMALL)) / rule.divisor

    plain = robust_rule("trimmed-mean", given_settings(101, bound, 0), 20)
    assert noise(rules["trimmed-mean"]) / noise(plain) == pytest.approx(101 / 91, rel=1e-9)
    assert noise(rules["median"]) / noise(plain) == pytest.approx(101, rel=1e-9)
    assert noise(rules["krum"]) / noise(plain) == pytest.approx(202, rel=1e-9)
    assert [name for name in RULES if rules[name].note] == ["median", "krum"]
    zeros = torch.zeros(0, 20, dtype=torch.int64)
    many = torch.stack([rules["trimmed-mean"].release(zeros, SMALL) for _ in range(100)])
    expected = noise(rules["trimmed-mean"]) / 4096
    assert float(many.std()) == pytest.approx(expected, rel=0.1)  # 2,000 draws: 6 standard errors


@pytest.mark.parametrize(
    ("name", "other", "reason"),
    [
        ("bulyan", {}, "refused"),
        ("fedavg", {}, "must be one of"),
        ("krum", {"trust": Trust.DISTRIBUTED}, "shows the server no single update"),
        ("median", {"trust": Trust.LOCAL}, "shows the server no single update"),
        ("krum", {"people": 6, "malicious": 2}, "2 malicious"),
        ("trimmed-mean", {"malicious": 5}, "half"),
        ("krum", {"bound": 2.0**30}, "exact distances"),
        ("median", {"people": 2, "malicious": 0}, ">= 3"),
        ("median", {"adjacency": "both"}, "must be"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(name: str, other: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingError, match=reason):
        robust_rule(name, RobustSettings(**{"people": 10, "bound": 100.0, "malicious": 1, **other}), 4)


@pytest.mark.parametrize(
    "rows",
    [
        torch.full((3, 2), 90, dtype=torch.int64),
        torch.zeros(6, 2, dtype=torch.int64),
        torch.zeros(3, 3, dtype=torch.int64),
        torch.zeros(3, 2),
    ],
)
def test_rows_the_proof_does_not_cover_are_refused(rows: Tensor) -> None:
    with pytest.raises(UpdateError):
        robust_rule("median", given_settings(5, 100), 2).aggregate(rows)
