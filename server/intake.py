"""What comes back from nodes, none of which is trusted: at most one readable answer of each; the rest is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from common.errors import PlglError
from common.messages import Reason, RejectedReply
from common.wire import Wire

_T = TypeVar("_T")


@dataclass(frozen=True)
class Answer:
    """What came back from a node: the flat form of a reply, or ``None`` where it reported an error."""

    node: int
    content: Mapping[str, object] | None


Exchange = Callable[[str, Mapping[int, Wire]], Iterable[Answer]]
"""Sends each node its request of a stage; gives whatever came back before the deadline, in any order."""


def intake(
    answers: Iterable[Answer],
    asked: Iterable[int],
    read: Callable[[int, Mapping[str, object]], _T],
    most_bytes: int | None = None,
) -> tuple[dict[int, _T], Counter[Reason]]:
    """Read the answers of one stage.

    Guarantee: no answer raises, whatever it holds. A repeated answer counts once; a node that sends two different
    ones is left out, since one of them must be false.

    Args:
        answers: what came back, from anybody, in any order.
        asked: nodes that were asked.
        read: makes a value of a content; what it raises of this project's errors is counted.
        most_bytes: a content with more bytes than this is not even read.

    Returns:
        The value of each node that counts, and how many answers were left out, by reason.
    """
    waiting, dropped = set(asked), Counter[Reason]()
    heard: set[int] = set()
    first: dict[int, Mapping[str, object]] = {}
    values: dict[int, _T] = {}
    contradicted: set[int] = set()
    for answer in answers:
        heard.add(answer.node)
        try:
            if answer.node not in waiting:
                raise RejectedReply(Reason.STALE, "an answer nobody asked for")
            if answer.content is None:
                raise RejectedReply(Reason.ERROR, "the node reported an error")
            if most_bytes is not None and _size(answer.content) > most_bytes:
                raise RejectedReply(Reason.OVERSIZE, f"an answer over {most_bytes} bytes")
            value = read(answer.node, answer.content)
        except RejectedReply as rejected:
            dropped[rejected.reason] += 1
            continue
        except PlglError:
            dropped[Reason.MALFORMED] += 1
            continue
        if answer.node not in values:
            first[answer.node], values[answer.node] = answer.content, value
            continue
        dropped[Reason.DUPLICATE] += 1
        if dict(first[answer.node]) != dict(answer.content):
            contradicted.add(answer.node)
    dropped[Reason.DUPLICATE] += len(contradicted)  # the first answer goes as well
    dropped[Reason.MISSING] += len(waiting - heard)
    return {node: value for node, value in values.items() if node not in contradicted}, +dropped


def _size(content: Mapping[str, object]) -> int:
    return sum(
        len(value) if isinstance(value, bytes | str) else 8 * len(value) if isinstance(value, list) else 8
        for value in content.values()
    )
