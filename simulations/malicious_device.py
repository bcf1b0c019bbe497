"""A device of a member that does not keep to the rules: another lie in each round. For the demonstration.

It is a properly enrolled member with the real edge process; only its answers are altered before they leave.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.agent import Agent, run_until_stopped
from client.app import device_app
from client.membership import memberships
from common.rounds import KEYS, MASKED, SHARES, UNMASK
from common.signing import SigningKey
from common.wire import Wire


def forged_keys(answer: Wire) -> Wire:
    """Round keys that somebody else signed."""
    return {**answer, "signature": SigningKey.generate().sign("round keys", b"whatever")}


def short_vector(answer: Wire) -> Wire:
    """A vector that is cut short."""
    return {**answer, "total": bytes(answer["total"])[:-7]}  # type: ignore[arg-type]


def false_shares(answer: Wire) -> Wire:
    """Shares with a bit turned round."""
    shares = bytearray(answer["seeds"])  # type: ignore[arg-type]
    for last in range(65, len(shares), 66):
        shares[last] ^= 1
    return {**answer, "seeds": bytes(shares)}


def strange_recipients(answer: Wire) -> Wire:
    """Shares for members who are not in the round."""
    return {**answer, "recipients": [77, 78, 79]}


LIES: list[tuple[str, Callable[[Wire], Wire]]] = [
    (KEYS, forged_keys),
    (MASKED, short_vector),
    (UNMASK, false_shares),
    (SHARES, strange_recipients),
]


def lying_app(honest: ClientApp) -> ClientApp:
    """An app that alters one answer of each round; the rounds take turns."""
    made = ClientApp()
    rounds = {"seen": 0}

    def handler(stage: str) -> Callable[[Message, Context], Message]:
        def handle(message: Message, context: Context) -> Message:
            if stage == KEYS:
                rounds["seen"] += 1
            reply = honest(message, context)
            where, lie = LIES[(rounds["seen"] - 1) % len(LIES)]
            if stage != where or not reply.has_content():
                return reply
            print(f"lies in round {rounds['seen']}: {lie.__name__}", flush=True)
            record = reply.content["reply"]
            assert isinstance(record, ConfigRecord)
            altered = ConfigRecord(dict(lie(dict(record))))  # type: ignore[arg-type]
            return Message(RecordDict({"reply": altered}), reply_to=message)

        return handle

    for stage in (KEYS, SHARES, MASKED, UNMASK):
        made.train(stage)(handler(stage))
    return made


def main(home: Path) -> None:
    """Take part, and lie."""
    member = memberships(home / "member")[0]
    passphrase = (home / "passphrase").read_text().strip()
    device = member.device(passphrase)
    app = lying_app(device_app(lambda context: device))
    run_until_stopped(Agent(member, passphrase=passphrase, app=app, say=lambda line: print(line, flush=True)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
