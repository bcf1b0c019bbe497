"""The Flower ClientApps: read the ratings on their own disk, answer with one integer vector.

``app`` is for simulations: ``train.statistics`` answers a ``RoundRequest`` with a ``RoundReply``, and
``query.enrolment`` says how many people the node holds. ``device_app`` is for people's own devices, under the terms of
a federation: the stages of ``client.masking``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from client.contribution import contribution
from client.device import Device
from client.likelihood import Evidence
from client.masking import RoundMember
from common.errors import PlglError, PriorError, SettingError, UpdateError
from common.messages import Enrolment, RoundReply, RoundRequest
from common.rounds import (
    KEYS,
    MASKED,
    SHARES,
    UNMASK,
    UPDATE,
    MaskedRequest,
    Opening,
    Record,
    SharesRequest,
    UnmaskRequest,
    UpdateRequest,
)
from common.wire import Wire

_log = logging.getLogger("plgl.device")

REFUSED = 2  # Flower's code for an app that raised

_Work = Callable[[Path | None, Message, Context], Wire]


def ratings_file(folder: Path, partition: int) -> Path:
    """Where the node ``partition`` keeps what its people said."""
    return folder / f"node-{partition}.safetensors"


def client_app(ratings: Path | None = None, threads: int | None = None) -> ClientApp:
    """A ClientApp equal to ``app``, for engines that cannot pass a run configuration. Can be pickled.

    Args:
        ratings: folder of the ratings; without it the run configuration says so.
        threads: CPU threads a fit may use; without it torch's own choice.
    """
    made = ClientApp()
    made.train("statistics")(partial(_answered, _statistics, ratings, threads))
    made.query("enrolment")(partial(_answered, _enrolment, ratings, threads))
    return made


app = ClientApp()


@app.train("statistics")
def statistics(message: Message, context: Context) -> Message:
    """Answer ``content["request"]``, a ``RoundRequest``, with a ``RoundReply`` in ``content["reply"]``, or an error."""
    return _answered(_statistics, None, None, message, context)


@app.query("enrolment")
def enrolment(message: Message, context: Context) -> Message:
    """Answer with an ``Enrolment`` in ``content["reply"]``, or an error."""
    return _answered(_enrolment, None, None, message, context)


def device_app(device: Callable[[Context], Device]) -> ClientApp:
    """A ClientApp that answers for a member of a federation; see ``client.masking`` for what it refuses.

    Flower's state holds the secrets of the round under way, never a rating. Whatever goes wrong, the server learns
    only that this node refused, and the round's secrets are forgotten.

    Args:
        device: whose app this is.
    """
    made = ClientApp()
    for stage, (read, method) in _STAGES.items():
        made.train(stage)(partial(_staged, device, read, method))
    return made


_STAGES: dict[str, tuple[type[Record], str]] = {
    KEYS: (Opening, "keys"),
    SHARES: (SharesRequest, "shares"),
    MASKED: (MaskedRequest, "masked"),
    UNMASK: (UnmaskRequest, "unmask"),
    UPDATE: (UpdateRequest, "update"),
}


def _staged(
    device: Callable[[Context], Device], read: type[Record], method: str, message: Message, context: Context
) -> Message:
    state = context.state.setdefault("round", ConfigRecord())
    try:
        record = message.content.get("request")
        if not isinstance(record, ConfigRecord) or not isinstance(state, ConfigRecord):
            raise UpdateError("a message without a request")
        answer = getattr(RoundMember(device(context), state), method)(read.from_wire(record))
    except Exception as error:
        finished = state.get("finished") if isinstance(state, ConfigRecord) else None
        context.state["round"] = ConfigRecord({} if finished is None else {"finished": finished})
        _log.warning("refused %s: %s", method, error if isinstance(error, PlglError) else type(error).__name__)
        # Not even the kind of refusal leaves: that a person has given few answers is theirs to tell.
        return Message(Error(REFUSED, "refused"), reply_to=message)
    return Message(RecordDict({"reply": ConfigRecord(dict(answer.to_wire()))}), reply_to=message)


def _statistics(ratings: Path | None, message: Message, context: Context) -> Wire:
    record = message.content.get("request")
    if not isinstance(record, ConfigRecord):
        raise UpdateError("a message without a request")
    request = RoundRequest.from_wire(record)
    pack = context.node_config.get("pack", request.pack)
    if pack != request.pack:
        raise PriorError(f"asked about pack {request.pack[:12]}, the ratings here are about {str(pack)[:12]}")
    evidence = _evidence(ratings, context)
    if request.last > evidence.people:
        raise UpdateError(f"asked for people up to {request.last - 1} of {evidence.people}")
    evidence = evidence.select(slice(request.first, request.last))
    total = contribution(evidence, request.prior(), request.norm_bound, request.scale)
    return RoundReply(session=request.session, round=request.round, total=total.numpy()).to_wire()


def _enrolment(ratings: Path | None, message: Message, context: Context) -> Wire:
    return Enrolment(people=_evidence(ratings, context).people).to_wire()


def _evidence(ratings: Path | None, context: Context) -> Evidence:
    folder = ratings if ratings is not None else context.run_config.get("ratings")
    if not folder:
        raise SettingError("no folder of ratings; set ratings in the run configuration")
    partition = context.node_config.get("partition-id", 0)
    if type(partition) is not int or partition < 0:
        raise SettingError("partition-id must be a whole number from 0; set it in the node configuration")
    return Evidence.load(ratings_file(Path(str(folder)), partition))


def _answered(work: _Work, ratings: Path | None, threads: int | None, message: Message, context: Context) -> Message:
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        wire = work(ratings, message, context)
    except Exception as error:
        # Only the kind of failure leaves: a traceback or a message text could quote what lies on this disk.
        return Message(Error(REFUSED, type(error).__name__), reply_to=message)
    return Message(RecordDict({"reply": ConfigRecord(dict(wire))}), reply_to=message)
