import dataclasses
import math
import sys
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from common import update
from common.errors import CohortError, SettingError
from common.messages import Reason
from common.privacy.noise import Randomness
from server.rounds import RoundRecord
from simulations import engines
from simulations.engines import Job, direct, inline
from simulations.engines.inline import Fault

P = 5
D = update.length(P)


def seeded(seed: int) -> Randomness:
    return np.random.default_rng(seed).bytes


def same(one: engines.Outcome, other: engines.Outcome) -> None:
    assert torch.allclose(one[0].mean, other[0].mean, rtol=0, atol=1e-4)
    assert torch.allclose(one[0].covariance, other[0].covariance, rtol=0, atol=1e-4)
    assert one[0].privacy == other[0].privacy
    assert one[1] == other[1]


def test_messages_give_the_same_prior_as_function_calls(job: Job) -> None:
    same(direct.run(job), inline.run(job))
    assert direct.run(job)[0].mean.abs().max() > 0.1


def test_with_the_same_noise_too(private_job: Job) -> None:
    one, other = (dataclasses.replace(private_job, randomness=seeded(5)) for _ in range(2))
    same(direct.run(one), inline.run(other))


def test_noise_differs_from_run_to_run(private_job: Job) -> None:
    assert not torch.equal(inline.run(private_job)[0].mean, inline.run(private_job)[0].mean)


@pytest.mark.parametrize("nodes", [1, 5, 43])
def test_the_number_of_nodes_does_not_change_the_prior(job: Job, nodes: int) -> None:
    few = inline.run(dataclasses.replace(job, nodes=nodes))
    same(few, direct.run(job))


def test_shares_hold_everybody_once_and_differ_by_one_at_most(job: Job) -> None:
    sizes = [share.people for share in job.shares()]
    assert sum(sizes) == 43
    assert set(sizes) == {5, 6}
    assert job.people_per_node == 6
    together = torch.cat([share.features for share in job.shares()])
    assert torch.equal(together, job.evidence.features)


def test_ratings_are_gone_afterwards_also_after_an_error(job: Job) -> None:
    inline.run(job)
    assert not list(job.folder.iterdir())
    strict = dataclasses.replace(job, timeout_seconds=0.1)
    with pytest.raises(CohortError):
        inline.run(strict, fault=lambda message, reply: [])
    assert not list(job.folder.iterdir())


def altered(**change: Any) -> Callable[[Message], list[Message]]:
    def fault(reply: Message) -> list[Message]:
        record = reply.content["reply"]
        assert isinstance(record, ConfigRecord)
        changed: dict[str, Any] = {**record, **{key.replace("_", "."): value for key, value in change.items()}}
        return [with_content(reply, RecordDict({"reply": ConfigRecord(changed)}))]

    return fault


def with_content(reply: Message, content: RecordDict | Error) -> Message:
    """The same reply as Flower makes it from bytes: old metadata, other content."""
    make: Any = Message
    return cast(Message, make(content, metadata=reply.metadata))


def twice_but_different(reply: Message) -> list[Message]:
    return [reply, *altered(total=bytes(8 * D))(reply)]


FAULTS: dict[str, tuple[Callable[[Message], list[Message]], dict[Reason, int]]] = {
    "missing": (lambda reply: [], {Reason.MISSING: 1}),
    "error": (lambda reply: [with_content(reply, Error(2))], {Reason.ERROR: 1}),
    "no record": (lambda reply: [with_content(reply, RecordDict())], {Reason.MALFORMED: 1}),
    "record of another kind": (
        lambda reply: [with_content(reply, RecordDict({"reply": ArrayRecord([np.zeros(D)])}))],
        {Reason.MALFORMED: 1},
    ),
    "hostile array header": (
        lambda reply: [
            with_content(reply, RecordDict({"reply": ArrayRecord({"a": Array("O", (2**50,), "numpy.ndarray", b"x")})}))
        ],
        {Reason.MALFORMED: 1},
    ),
    "extra record": (
        lambda reply: [with_content(reply, RecordDict({**reply.content, "metrics": ConfigRecord({"n": 1})}))],
        {Reason.MALFORMED: 1},
    ),
    "nan": (altered(total=np.full(D, np.nan).tobytes(), total_dtype="<f8"), {Reason.MALFORMED: 1}),
    "nan called integers": (altered(total=np.full(D, np.nan).tobytes()), {Reason.OUT_OF_BOUND: 1}),
    "wrong dtype": (altered(total=bytes(4 * D), total_dtype="<i4"), {Reason.MALFORMED: 1}),
    "wrong shape": (altered(total=bytes(16 * D), total_shape=[2, D]), {Reason.MALFORMED: 1}),
    "oversize": (altered(total=bytes(17 * D)), {Reason.OVERSIZE: 1}),
    "stale round": (altered(round=9), {Reason.STALE: 1}),
    "another session": (altered(session="x" * 32), {Reason.STALE: 1}),
    "huge sum": (altered(total=np.full(D, 2**40).tobytes()), {Reason.OUT_OF_BOUND: 1}),
    "two different": (twice_but_different, {Reason.DUPLICATE: 2}),
}


def from_node(node: int, fault: Callable[[Message], list[Message]]) -> Fault:
    """The fault on what one node (0 for the first) answers to a request for statistics."""

    def apply(message: Message, reply: Message) -> list[Message]:
        hit = message.metadata.message_type == "train.statistics" and message.metadata.dst_node_id == node + 2
        return fault(reply) if hit else [reply]

    return apply


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_reply_is_dropped_counted_and_never_fatal(job: Job, name: str) -> None:
    fault, counted = FAULTS[name]
    impatient = dataclasses.replace(job, timeout_seconds=0.3 if name == "missing" else 60.0)
    prior, records = inline.run(impatient, from_node(7, fault))
    people = [share.people for share in job.shares()]
    assert [record.dropped for record in records] == [counted, counted]
    assert [record.answered for record in records] == [43 - people[7]] * 2
    seven = dataclasses.replace(job, evidence=job.evidence.select(slice(0, 43 - people[7])), nodes=7)
    rest, _ = direct.run(seven)
    assert torch.allclose(prior.mean, rest.mean, rtol=0, atol=1e-4)
    assert torch.allclose(prior.covariance, rest.covariance, rtol=0, atol=1e-4)


def test_a_repeated_reply_changes_nothing(job: Job) -> None:
    prior, records = inline.run(job, from_node(7, lambda reply: [reply, reply]))
    assert torch.equal(prior.mean, inline.run(job)[0].mean)
    assert records[0].dropped == {Reason.DUPLICATE: 1}


def test_too_few_answers_abort_the_rounds_and_are_charged(job: Job) -> None:
    records: list[RoundRecord] = []
    watched = dataclasses.replace(
        job, settings=dataclasses.replace(job.settings, minimum_people=40), on_round=records.append
    )
    with pytest.raises(CohortError, match="2 participations are spent"):
        inline.run(watched, from_node(0, altered(round=9)))
    assert [(record.answered, record.released) for record in records] == [(38, False), (38, False)]


def test_a_node_that_claims_too_many_people_is_not_asked(job: Job) -> None:
    def boast(message: Message, reply: Message) -> list[Message]:
        hit = message.metadata.message_type == "query.enrolment" and message.metadata.dst_node_id == 2
        return altered(people=10**6)(reply) if hit else [reply]

    _, records = inline.run(job, boast)
    assert records[0].asked == 43 - next(job.shares()).people


def test_too_few_people_to_begin_with_charge_nobody(job: Job) -> None:
    asked: list[RoundRecord] = []
    settings = dataclasses.replace(job.settings, minimum_people=44, expected_people=44)
    with pytest.raises(CohortError, match="nothing is charged"):
        inline.run(dataclasses.replace(job, settings=settings, on_round=asked.append))
    assert not asked


@pytest.mark.parametrize("nodes", [0, 44])
def test_a_number_of_nodes_that_cannot_be_filled_is_refused(job: Job, nodes: int) -> None:
    with pytest.raises(SettingError, match="between 1 and"):
        dataclasses.replace(job, nodes=nodes)


def arguments(job: Job) -> dict[str, Any]:
    names = ("evidence", "prior", "settings", "step", "nodes", "folder")
    return {name: getattr(job, name) for name in names}


def test_engines_are_chosen_by_name(job: Job) -> None:
    same(engines.run("inline", **arguments(job)), engines.run("direct", **arguments(job)))
    with pytest.raises(SettingError, match="direct, inline, ray"):
        engines.run("spark", **arguments(job))


def test_without_ray_the_message_names_what_to_install(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingError, match=r"pip install \"plgl\[simulation\]\""):
        engines.run("ray", **arguments(job))


def test_the_statement_is_that_of_the_settings(private_job: Job) -> None:
    prior, _ = inline.run(private_job)
    assert prior.privacy.epsilon == 1.0
    assert prior.privacy.participations == 2
    assert not math.isinf(prior.privacy.epsilon)
