import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from client.app import app, client_app, ratings_file
from client.contribution import contribution
from client.likelihood import Evidence
from common.messages import Enrolment, RoundReply, RoundRequest
from common.prior import PopulationPrior
from common.privacy.fixed_point import SCALE

P = 4
PACK = "a" * 64
PRIOR = PopulationPrior.flat(P, PACK)
SECRET = 0.123456789


@pytest.fixture
def evidence() -> Evidence:
    features = torch.randn(6, 10, 1, P, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    features[0, 0, 0, 0] = SECRET
    ones = torch.ones(6, 10, dtype=torch.int64)
    return Evidence(ones * 0, (features[..., 0, 0] > 0).long(), ones.double(), features, ones)


@pytest.fixture
def folder(tmp_path: Path, evidence: Evidence) -> Path:
    evidence.save(ratings_file(tmp_path, 3))
    return tmp_path


def send(
    to: ClientApp, wire: dict[str, Any] | None, folder: Path | None = None, kind: str = "train.statistics", **node: str
) -> Message:
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    content = RecordDict() if wire is None else RecordDict({"request": ConfigRecord(wire)})
    context = Context(
        run_id=1,
        node_id=9,
        node_config={"partition-id": 3, **node},
        state=RecordDict(),
        run_config={} if folder is None else {"ratings": str(folder)},
    )
    return to(Message(content, 9, kind), context)


def request(people: int = 6, prior: PopulationPrior = PRIOR) -> RoundRequest:
    return RoundRequest.of(prior, session="s" * 32, number=2, norm_bound=3.0, scale=SCALE, people=people)


def test_the_answer_is_the_integer_sum_and_nothing_else(folder: Path, evidence: Evidence) -> None:
    reply = send(app, request().to_wire(), folder)
    assert list(reply.content) == ["reply"]
    assert set(reply.content["reply"]) == {"version", "session", "round", "total", "total.dtype", "total.shape"}
    total = RoundReply.from_wire(reply.content["reply"], request()).total
    assert np.array_equal(total, contribution(evidence, PRIOR, 3.0, SCALE).numpy())


def test_only_the_people_asked_for_are_summed(folder: Path, evidence: Evidence) -> None:
    reply = send(app, request(people=2).to_wire(), folder)
    total = RoundReply.from_wire(reply.content["reply"], request(people=2)).total
    assert np.array_equal(total, contribution(evidence.select(slice(0, 2)), PRIOR, 3.0, SCALE).numpy())


def test_the_made_app_answers_like_the_module_s_own_also_after_a_pickle(folder: Path) -> None:
    made = pickle.loads(pickle.dumps(client_app(folder)))
    for kind, wire in (("train.statistics", request().to_wire()), ("query.enrolment", {})):
        ours, its = send(made, wire, kind=kind), send(app, wire, folder, kind=kind)
        assert dict(ours.content["reply"]) == dict(its.content["reply"])


def test_enrolment_says_how_many_people_the_node_holds(folder: Path) -> None:
    reply = send(app, {}, folder, kind="query.enrolment")
    assert Enrolment.from_wire(reply.content["reply"], most=6).people == 6


@pytest.mark.parametrize(
    "change",
    [
        {"version": 9},
        {"mean": np.full(P, np.nan).tobytes()},
        {"covariance": (-np.eye(P)).tobytes()},
        {"covariance": np.triu(np.ones((P, P))).tobytes()},
        {"thresholds": np.array([1.0, 0.0, 2.0, 3.0]).tobytes()},
        {"norm_bound": 0.0},
        {"norm_bound": -1.0},
        {"scale": 0},
        {"last": 7},
    ],
    ids=lambda change: "-".join(change),
)
def test_a_bad_request_is_refused_with_the_kind_of_error_only(folder: Path, change: dict[str, Any]) -> None:
    reply = send(app, {**request().to_wire(), **change}, folder)
    assert reply.has_error()
    assert reply.error.reason in {"UpdateError", "PriorError"}


def test_a_message_without_a_request_is_refused(folder: Path) -> None:
    assert send(app, None, folder).error.reason == "UpdateError"


def test_a_prior_of_another_size_or_pack_is_refused(folder: Path) -> None:
    assert send(app, request(prior=PopulationPrior.flat(P + 1, PACK)).to_wire(), folder).has_error()
    assert send(app, request().to_wire(), folder, pack=PACK).has_content()
    assert send(app, request().to_wire(), folder, pack="b" * 64).error.reason == "PriorError"


def test_a_node_without_readable_ratings_answers_with_an_error(folder: Path) -> None:
    assert send(app, request().to_wire()).error.reason == "SettingError"
    ratings_file(folder, 3).write_bytes(b"\xff" * 40)
    assert send(app, request().to_wire(), folder).has_error()
    ratings_file(folder, 3).unlink()
    assert send(app, request().to_wire(), folder).error.reason == "FileNotFoundError"


def test_an_error_never_quotes_what_lies_on_the_disk(folder: Path, evidence: Evidence) -> None:
    evidence.features[1, 1, 0, 1] = float("inf")
    evidence.save(ratings_file(folder, 3))
    reason = send(app, request().to_wire(), folder).error.reason
    assert reason is not None
    assert str(SECRET) not in reason
    assert str(folder) not in reason
