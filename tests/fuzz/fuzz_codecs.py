"""Coverage-guided fuzzing of what a federation reads from strangers. Not part of the test run; needs ``atheris``::

    python tests/fuzz/fuzz_codecs.py TARGET -max_total_time=120

with TARGET one of roster, invite, packed, document, terms, certificate, wire. It stops at the first exception that is
not one of ours.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["common"]):
    from common import rounds
    from common.enrolment import MemberCertificate
    from common.errors import PlglError
    from common.invite import PREFIX, Invite
    from common.privacy.promise import promise
    from common.secure_sum import Roster
    from common.signing import read_document
    from common.terms import Terms

RECORDS = (
    *(rounds.Opening, rounds.Keys, rounds.SharesRequest, rounds.Shares, rounds.MaskedRequest, rounds.Masked),
    *(rounds.UnmaskRequest, rounds.Unmasked, rounds.Update),
)


def packed(data: bytes) -> None:
    """An invitation with a right checksum."""
    squeezed = zlib.compress(data)
    whole = hashlib.sha256(squeezed).digest()[:8] + squeezed
    Invite.from_text(PREFIX + base64.urlsafe_b64encode(whole).decode())


def terms(data: bytes) -> None:
    """Terms and what they promise."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return
    promise(Terms.from_json(values))


def certificate(data: bytes) -> None:
    """A member's certificate."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return
    MemberCertificate.from_json(values)


def wire(data: bytes) -> None:
    """A record whose fields are drawn from the data."""
    give = atheris.FuzzedDataProvider(data)
    record = RECORDS[give.ConsumeIntInRange(0, len(RECORDS) - 1)]
    values: dict[str, object] = {"version": 1}
    for name in record.__dataclass_fields__:
        kind = give.ConsumeIntInRange(0, 3)
        size = give.ConsumeIntInRange(0, 512)
        values[name] = (
            give.ConsumeInt(8),
            give.ConsumeUnicode(size),
            give.ConsumeBytes(size),
            [give.ConsumeInt(4) for _ in range(size % 8)],
        )[kind]
    made = record.from_wire(values)
    if isinstance(made, rounds.Opening):
        made.starting_prior("a" * 64)
    elif isinstance(made, rounds.Keys):
        made.entry()


TARGETS: dict[str, Callable[[bytes], object]] = {
    "roster": Roster.from_bytes,
    "invite": lambda data: Invite.from_text(data.decode("utf-8", "surrogateescape")),
    "packed": packed,
    "document": lambda data: read_document(data, bytes(32), "release"),
    "terms": terms,
    "certificate": certificate,
    "wire": wire,
}


def main() -> None:
    """Run one target; the other arguments are libFuzzer's."""
    target = TARGETS[sys.argv.pop(1)]

    def once(data: bytes) -> None:
        with contextlib.suppress(PlglError):
            target(data)

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
