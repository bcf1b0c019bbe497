"""The Flower ClientApp: reads the ratings on its own disk, answers with one integer vector.

``train.statistics`` answers a ``RoundRequest`` with a ``RoundReply``. ``query.enrolment`` says how many people the node
holds; servers ask it only of nodes that hold several, which exist in simulations alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from client.contribution import contribution
from client.likelihood import Evidence
from common.errors import PriorError, SettingError, UpdateError
from common.messages import Enrolment, RoundReply, RoundRequest
from common.wire import Wire

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
