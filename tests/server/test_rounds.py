import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from common import update
from common.errors import CohortError, SettingError
from common.messages import Reason, RoundReply, RoundRequest
from common.prior import PopulationPrior
from common.privacy.accounting import noise_sigma_squared, statement
from common.privacy.fixed_point import SCALE, sensitivity
from common.privacy.settings import PrivacySettings
from server.intake import Answer
from server.population import next_prior
from server.rounds import RoundRecord, collect, run_rounds

P = 4
D = update.length(P)
PRIOR = PopulationPrior.flat(P, "a" * 64)
OPEN = PrivacySettings(epsilon=math.inf, participations=2, norm_bound=2.0, expected_people=40, minimum_people=10)
PEOPLE = dict.fromkeys(range(8), 5)
BOUND = sensitivity(OPEN.norm_bound, D)


def honest(node: int, request: RoundRequest) -> Answer:
    total = np.random.default_rng([node, request.round]).integers(-SCALE, SCALE, D)
    return Answer(node, RoundReply(session=request.session, round=request.round, total=total).to_wire())


Fault = Callable[[Answer], list[Answer]]


class Nodes:
    """Answer for the nodes; ``faults`` says what arrives instead for some of them."""

    def __init__(self, faults: Mapping[int, Fault] | None = None, until_round: int = 99) -> None:
        self.faults, self.until_round, self.asked = faults or {}, until_round, 0

    def __call__(self, requests: Mapping[int, RoundRequest]) -> Iterator[Answer]:
        self.asked += 1
        for node, request in requests.items():
            fault = self.faults.get(node) if request.round <= self.until_round else None
            yield from fault(honest(node, request)) if fault else [honest(node, request)]


def alter(**change: Any) -> Fault:
    return lambda answer: [
        Answer(answer.node, {**(answer.content or {}), **{k.replace("_", "."): v for k, v in change.items()}})
    ]


def silent(answer: Answer) -> list[Answer]:
    return []


FAULTS: dict[str, tuple[Fault, dict[Reason, int]]] = {
    "missing": (silent, {Reason.MISSING: 1}),
    "error": (lambda a: [Answer(a.node, None)], {Reason.ERROR: 1}),
    "empty": (lambda a: [Answer(a.node, {})], {Reason.MALFORMED: 1}),
    "nan": (alter(total=np.full(D, np.nan).tobytes(), total_dtype="<f8"), {Reason.MALFORMED: 1}),
    "nan called integers": (alter(total=np.full(D, np.nan).tobytes()), {Reason.OUT_OF_BOUND: 1}),
    "wrong dtype": (alter(total=bytes(4 * D), total_dtype="<i4"), {Reason.MALFORMED: 1}),
    "wrong shape": (alter(total=bytes(8 * D + 8), total_shape=[D + 1]), {Reason.MALFORMED: 1}),
    "oversize": (alter(total=bytes(17 * D)), {Reason.OVERSIZE: 1}),
    "stale round": (alter(round=7), {Reason.STALE: 1}),
    "stale session": (alter(session="x" * 32), {Reason.STALE: 1}),
    "huge sum": (alter(total=np.full(D, 2**40).tobytes()), {Reason.OUT_OF_BOUND: 1}),
    "smallest integers": (alter(total=np.full(D, -(2**63)).tobytes()), {Reason.OUT_OF_BOUND: 1}),
    "two different": (lambda a: [a, *alter(total=bytes(8 * D))(a)], {Reason.DUPLICATE: 2}),
}


def record_of(faults: Mapping[int, Fault]) -> tuple[torch.Tensor, RoundRecord]:
    requests = {
        node: RoundRequest.of(PRIOR, session="s" * 32, number=1, norm_bound=2.0, scale=SCALE, people=count)
        for node, count in PEOPLE.items()
    }
    return collect(Nodes(faults)(requests), requests, BOUND, OPEN.minimum_people)


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_reply_is_dropped_and_counted_and_the_rest_is_summed(name: str) -> None:
    fault, counted = FAULTS[name]
    total, record = record_of({2: fault})
    rest, _ = record_of({2: silent})
    assert torch.equal(total, rest)
    assert record.dropped == counted
    assert (record.asked, record.answered, record.released) == (40, 35, True)


def test_every_fault_at_once_leaves_the_one_honest_node() -> None:
    faults = dict(enumerate([fault for fault, _ in FAULTS.values()][:7]))
    total, record = record_of(faults)
    assert torch.equal(total, record_of(dict.fromkeys(range(7), silent))[0])
    assert (record.answered, record.released) == (5, False)


def test_a_repeated_reply_counts_once() -> None:
    total, record = record_of({2: lambda answer: [answer, answer, answer]})
    assert torch.equal(total, record_of({})[0])
    assert (record.answered, record.dropped) == (40, {Reason.DUPLICATE: 2})


def test_an_old_reply_beside_the_right_one_does_no_harm() -> None:
    total, record = record_of({2: lambda answer: [*alter(round=9)(answer), answer]})
    assert torch.equal(total, record_of({})[0])
    assert (record.answered, record.dropped) == (40, {Reason.STALE: 1})


def test_a_reply_nobody_asked_for_is_counted_as_stale() -> None:
    total, record = record_of({2: lambda answer: [answer, Answer(77, answer.content)]})
    assert torch.equal(total, record_of({})[0])
    assert record.dropped == {Reason.STALE: 1}


def test_without_the_bound_a_poisoned_sum_would_go_through() -> None:
    requests = {0: RoundRequest.of(PRIOR, session="s" * 32, number=1, norm_bound=2.0, scale=SCALE, people=40)}
    poison = FAULTS["huge sum"][0](honest(0, requests[0]))
    guarded, _ = collect(poison, requests, BOUND, 1)
    open_door, record = collect(poison, requests, math.inf, 1)
    assert not guarded.any()
    assert record.answered == 40
    assert open_door.double().norm() > 1e6 * BOUND


def test_a_sum_at_the_bound_passes_and_one_a_thousandth_longer_does_not() -> None:
    request = RoundRequest.of(PRIOR, session="s" * 32, number=1, norm_bound=2.0, scale=SCALE, people=100)
    for factor, answered in ((1.0, 100), (1.001, 0)):
        total = np.zeros(D, dtype=np.int64)
        total[0] = math.floor(100 * BOUND * factor)
        reply = RoundReply(session="s" * 32, round=1, total=total)
        assert collect([Answer(0, reply.to_wire())], {0: request}, BOUND, 1)[1].answered == answered


def test_the_prior_is_that_of_the_mean_over_a_fixed_number_of_people() -> None:
    one = dataclasses.replace(OPEN, participations=1)
    prior, records = run_rounds(Nodes(dict.fromkeys(range(4), silent)), PEOPLE, PRIOR, one, 1.5)
    total = record_of(dict.fromkeys(range(4), silent))[0]
    expected = next_prior(PRIOR, total.double() / SCALE / 40, 1.5)
    assert torch.equal(prior.mean, expected.mean)
    assert torch.equal(prior.covariance, expected.covariance)
    assert (records[0].asked, records[0].answered) == (40, 20)


def test_too_few_answers_abort_every_round_and_all_are_charged() -> None:
    nodes = Nodes(dict.fromkeys(range(1, 8), silent))
    records: list[RoundRecord] = []
    with pytest.raises(CohortError, match="2 participations are spent"):
        run_rounds(nodes, PEOPLE, PRIOR, OPEN, 1.5, on_round=records.append)
    assert nodes.asked == OPEN.participations
    assert [(r.number, r.answered, r.released) for r in records] == [(1, 5, False), (2, 5, False)]


@pytest.mark.parametrize("epsilon", [math.inf, 1.0])
def test_an_aborted_round_uses_up_its_participation(epsilon: float) -> None:
    settings = dataclasses.replace(OPEN, epsilon=epsilon)
    nodes = Nodes(dict.fromkeys(range(1, 8), silent), until_round=1)
    prior, records = run_rounds(nodes, PEOPLE, PRIOR, settings, 1.5)
    assert [record.released for record in records] == [False, True]
    assert nodes.asked == 2
    assert prior.rounds == 1
    assert prior.privacy == statement(settings, D, 1)
    if settings.private:
        assert prior.privacy.participations == 2


def test_noise_has_the_accounted_scale_however_many_answer() -> None:
    """Zero updates leave the noise alone; two thirds and one and a half of its scale would be rejected."""
    settings = dataclasses.replace(OPEN, epsilon=1.0, participations=1)
    sigma = math.sqrt(noise_sigma_squared(settings, D)) / SCALE / settings.expected_people

    def zeros(requests: Mapping[int, RoundRequest]) -> list[Answer]:
        some = list(requests.items())[:3]
        wires = {
            n: RoundReply(session=r.session, round=1, total=np.zeros(D, dtype=np.int64)).to_wire() for n, r in some
        }
        return [Answer(node, wire) for node, wire in wires.items()]

    means = [run_rounds(zeros, PEOPLE, PRIOR, settings, 1.0)[0].mean for _ in range(150)]
    drawn = torch.cat([PRIOR.whitener() @ mean for mean in means]) / sigma
    assert 0.85 < float(drawn.std()) < 1.15  # five standard errors of 600 draws
    assert abs(float(drawn.mean())) < 0.25


def test_without_privacy_nothing_is_added_and_the_prior_says_so() -> None:
    first, second = (run_rounds(Nodes(), PEOPLE, PRIOR, OPEN, 1.5)[0] for _ in range(2))
    assert torch.equal(first.covariance, second.covariance)
    assert math.isinf(first.privacy.epsilon)


def test_a_prior_learned_from_people_cannot_be_the_start() -> None:
    learned, _ = run_rounds(Nodes(), PEOPLE, PRIOR, dataclasses.replace(OPEN, epsilon=1.0), 1.5)
    with pytest.raises(SettingError, match="public"):
        run_rounds(Nodes(), PEOPLE, learned, OPEN, 1.5)


@pytest.mark.parametrize("step", [0.0, -1.0, math.nan, math.inf])
def test_a_bad_step_is_refused_before_anybody_is_asked(step: float) -> None:
    nodes = Nodes()
    with pytest.raises(SettingError):
        run_rounds(nodes, PEOPLE, PRIOR, OPEN, step)
    assert nodes.asked == 0


def test_a_federation_of_nobody_is_refused() -> None:
    with pytest.raises(CohortError, match="nothing is charged"):
        run_rounds(Nodes(), {}, PRIOR, OPEN, 1.5)


def test_a_bound_that_could_overflow_the_sum_is_refused() -> None:
    with pytest.raises(SettingError, match="too large"):
        run_rounds(Nodes(), PEOPLE, PRIOR, dataclasses.replace(OPEN, norm_bound=1e14), 1.5)
