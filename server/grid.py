"""Questions and answers over a Flower Grid, with a deadline and our own short polls."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.superlink.grid import http_grid

from common.wire import Wire
from server.intake import Answer, Exchange

POLL_SECONDS = 0.2  # Flower's own loop waits 3 s between looks
PATIENCE_SECONDS = 4.0


def exchange(
    grid: Grid, contents: Mapping[int, Wire], message_type: str, group: str, timeout_seconds: float
) -> Iterator[Answer]:
    """Send one message to each node; give what comes back until all have answered or the deadline has passed."""
    messages = [
        Message(
            RecordDict({"request": ConfigRecord(dict(content))}),
            node,
            message_type,
            ttl=timeout_seconds,
            group_id=group,
        )
        for node, content in contents.items()
    ]
    grid.push_messages(messages)
    asked = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
    waiting = set(asked)
    deadline = time.monotonic() + timeout_seconds
    while True:
        for reply in grid.pull_messages(waiting):
            sent = reply.metadata.reply_to_message_id
            waiting.discard(sent)
            yield Answer(asked.get(sent, -1), _content(reply))
        if not waiting or time.monotonic() >= deadline:
            return
        time.sleep(POLL_SECONDS)


def limit_patience(seconds: float = PATIENCE_SECONDS) -> None:
    """Make Flower's Grid give up an answer that was announced but whose content does not come.

    A device that dies while it sends, or a malicious one that never means to, would otherwise hold up the whole run: in
    Flower 1.41 a Grid waits for minutes, and deaf to all others. Such an answer then counts as an error of its node.
    For the process of a ServerApp, which ends with its run.
    """
    impatient = partial(pull_objects, max_time=seconds, initial_backoff=0.2, backoff_cap=1.0)
    vars(http_grid)["pull_objects"] = impatient  # the Grid takes no such setting


def stages(grid: Grid, stage_seconds: float) -> Exchange:
    """The stages of a deployed round: each has the same deadline."""
    return lambda stage, contents: exchange(grid, contents, f"train.{stage}", stage, stage_seconds)


def wait_for_nodes(grid: Grid, wanted: int, seconds: float) -> list[int]:
    """Nodes online, ascending: as soon as there are ``wanted``, or those there are after ``seconds``."""
    deadline = time.monotonic() + seconds
    while len(nodes := sorted(grid.get_node_ids())) < wanted and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return nodes


def _content(reply: Message) -> Mapping[str, object] | None:
    """The flat form in a reply; empty, and so malformed, where there is anything else than one."""
    if not reply.has_content():
        return None
    record = reply.content.get("reply")
    return dict(record) if isinstance(record, ConfigRecord) and len(reply.content) == 1 else {}
