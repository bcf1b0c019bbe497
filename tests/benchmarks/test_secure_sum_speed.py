"""What a secure sum of about 600 numbers costs: the server, one member, and the network, and how it grows.

Run ``pytest tests/benchmarks/test_secure_sum_speed.py -s`` to see the tables for 10 and 100 members, and
``python tests/benchmarks/test_secure_sum_speed.py 1000`` for as many as you like (minutes: all members run on this
machine). Nothing here asserts a wall time; what it asserts is that the sums are right and the sizes as written down.

A tenth of the members drop out after they shared their secrets, which is the dear case for the server. A member's times
are the median and the best of all members; ``floor`` is what the primitives alone take, measured beside it. The ledgers
lie in the temporary folder: with ``TMPDIR`` on a memory disk the durable write of a charge costs nothing.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import pytest

from client.masking import RoundMember
from common import secure_sum
from common.rounds import KEYS, MASKED, SHARES, UNMASK
from common.secure_sum import KeyPair
from common.shamir import coefficients, combine, split
from common.signing import SigningKey, verify
from common.wire import Wire
from simulations.federation import Members, terms

STAGES = (KEYS, SHARES, MASKED, UNMASK)
COMPONENTS = 33
NUMBERS = 630  # 34 weights: 34 + 34 * 35 / 2 of the update, and one flag


@dataclass
class Cost:
    """One round: seconds and payload bytes, without the transport's framing."""

    whole: float = 0.0
    client: dict[str, dict[int, float]] = field(default_factory=dict)
    up: dict[str, list[int]] = field(default_factory=dict)
    down: dict[str, list[int]] = field(default_factory=dict)

    @property
    def server(self) -> float:
        """Seconds that no member took."""
        return self.whole - sum(sum(found.values()) for found in self.client.values())

    def members(self, first: bool) -> list[float]:
        """Seconds of each member who answered all stages; only member 1 where the others have been there before."""
        who = [1] if first else sorted(self.client[UNMASK])
        return [sum(self.client[stage].get(member, 0.0) for stage in STAGES) for member in who]


class Measured(Members):
    """Members whose answers are timed and weighed."""

    cost = Cost()

    def ask(self, stage: str, node: int, content: Wire) -> Mapping[str, object] | None:
        start = time.perf_counter()
        answer = super().ask(stage, node, content)
        self.cost.client.setdefault(stage, {})[node] = time.perf_counter() - start
        self.cost.down.setdefault(stage, []).append(size(content))
        self.cost.up.setdefault(stage, []).append(size(answer or {}))
        return answer


def size(content: Mapping[str, object]) -> int:
    """Payload bytes of a record; whole numbers count 8."""
    return sum(
        len(value) if isinstance(value, bytes | str) else 8 * len(value) if isinstance(value, list) else 8
        for value in content.values()
    )


def measure(count: int, folder: Path, rounds: int) -> list[Cost]:
    """The first round, in which member 1 has seen nobody before, and later ones."""
    made = Measured(terms(count, components=COMPONENTS, minimum_people=count // 2), count, folder)
    gone = set(range(count - count // 10 + 1, count + 1))
    made.fault = lambda stage, node, content: [] if stage == MASKED and node in gone else [content]
    if count > 100:  # what all the others checked is the same; only member 1 is timed in the first round
        shared = made.devices[2].checked
        for number in range(3, count + 1):
            object.__setattr__(made.devices[number], "checked", shared)
    costs = []
    for number in range(1, rounds + 1):
        made.cost = Cost()
        start = time.perf_counter()
        sums = made.round(number)
        made.cost.whole = time.perf_counter() - start
        assert (sums.released() == made.added(set(made.devices) - gone)).all()
        costs.append(made.cost)
    return costs


def best(work: Callable[[], object], times: int) -> float:
    """Seconds of one call: the best of five groups."""

    def group() -> float:
        start = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - start) / times

    return min(group() for _ in range(5))


def primitives(count: int) -> dict[str, float]:
    """Seconds of each primitive a member or the server uses."""
    key, pair, other = SigningKey.generate(), KeyPair.generate(), KeyPair.generate().public
    signature, secret, box = key.sign("p", bytes(104)), os.urandom(32), secure_sum.seal(bytes(32), 1, 2, bytes(132))
    holders = range(1, secure_sum.degree(count) + 2)
    least = secure_sum.threshold(count)
    shares, weights = split(secret, least, holders), coefficients(holders[:least])
    return {
        "verify": best(lambda: verify(key.public, "p", bytes(104), signature), 40),
        "agree": best(lambda: pair.agree(other), 40),
        "derive": best(lambda: secure_sum.derive(secret, secret, "mask", 1, 2), 100),
        "expand": best(lambda: secure_sum.expand(secret, NUMBERS), 100),
        "seal": best(lambda: secure_sum.seal(secret, 1, 2, bytes(132)), 100),
        "unseal": best(lambda: secure_sum.unseal(bytes(32), 1, 2, box), 100),
        "split": best(lambda: split(secret, least, holders), 4),
        "combine": best(lambda: combine(shares, weights), 100),
    }


def floors(count: int, cost: Mapping[str, float]) -> tuple[float, float, float]:
    """Seconds the primitives alone take: a member's first round, a later one, and the server's."""
    k, dead = secure_sum.degree(count), count // 10
    sums = k * (2 * cost["agree"] + 3 * cost["derive"] + cost["expand"] + cost["seal"] + cost["unseal"])
    later = count * cost["verify"] + sums + 2 * cost["split"]
    server = 2 * count * cost["verify"] + count * cost["combine"] + (count - dead) * cost["expand"]
    return count * cost["verify"] + later, later, server + dead * k * (cost["agree"] + cost["derive"] + cost["expand"])


def once(folder: Path) -> tuple[float, float]:
    """Seconds a member spends once a round whoever else is there: its durable charge, and its vector with the noise."""
    made = Members(terms(2, components=COMPONENTS, participations=1_000_000), 2, folder)
    number, device = itertools.count(1), made.devices[1]
    member = Vector(device, {})
    member.keys(made.opening())

    def charge() -> None:
        device.ledger.charge(federation=made.terms.federation, session="s", round=next(number), limit=1_000_000)

    return best(charge, 3), best(member.vector, 2)


class Vector(RoundMember):
    """A member whose vector can be asked for alone."""

    def vector(self) -> object:
        """The work of the third stage without masks."""
        return self._vector()


def table(counts: list[int], rounds: int = 4) -> None:
    """Print what rounds of so many members cost, in turn."""
    print(f"\n{NUMBERS} numbers, a tenth dropping out after the second stage; floor: the primitives alone")
    print(f"{'members':>8} {'server s':>9} {'floor':>7} | {'first ms':>9} {'floor':>7} | "
          f"{'later ms':>9} {'best':>7} {'floor':>7} | stages of a later round, ms")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        charge, vector = once(Path(folder))
    weighed = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            costs = measure(count, Path(folder), 2 if count > 200 else rounds)
        first_floor, later_floor, server_floor = floors(count, primitives(count))
        first = costs[0].members(first=count > 100)
        later = [each for cost in costs[1:] for each in cost.members(first=False)]
        stages = "  ".join(
            f"{stage.removeprefix('round_')} "
            f"{1e3 * statistics.median(each for cost in costs[1:] for each in cost.client[stage].values()):.1f}"
            for stage in STAGES
        )
        print(f"{count:8,} {min(cost.server for cost in costs):9.3f} {server_floor:7.3f} | "
              f"{1e3 * statistics.median(first):9.1f} {1e3 * first_floor:7.1f} | {1e3 * statistics.median(later):9.1f} "
              f"{1e3 * min(later):7.1f} {1e3 * later_floor:7.1f} | {stages}")  # fmt: skip
        weighed.append((count, costs[-1]))
    print(f"a later round holds a durable charge of {1e3 * charge:.1f} ms and a fit, rounding and noise of "
          f"{1e3 * vector:.1f} ms, whoever else is there")  # fmt: skip
    print(f"\n{'members':>8} {'up':>9} {'down':>11} {'server in':>12} {'server out':>13} | up and down by stage, bytes")
    for count, cost in weighed:
        up, down = ({stage: max(found[stage]) for stage in STAGES} for found in (cost.up, cost.down))
        stages = "  ".join(f"{stage.removeprefix('round_')} {up[stage]:,} {down[stage]:,}" for stage in STAGES)
        print(f"{count:8,} {sum(up.values()):9,} {sum(down.values()):11,} {sum(map(sum, cost.up.values())):12,} "
              f"{sum(map(sum, cost.down.values())):13,} | {stages}")  # fmt: skip
        assert max(up[MASKED], 1) < 6 * NUMBERS + 100  # at most 46 bits a number
        boxes = secure_sum.degree(count) * (secure_sum.SEALED_BYTES + 8)
        assert boxes < up[SHARES] < boxes + 200
        assert down[SHARES] < 1_000 * count + 200  # the roster: what grows with the members


@pytest.mark.parametrize("counts", [[10, 100]])
def test_what_a_round_costs(counts: list[int]) -> None:
    table(counts, rounds=3)


if __name__ == "__main__":
    table([int(each) for each in sys.argv[1:]] or [10, 100])
