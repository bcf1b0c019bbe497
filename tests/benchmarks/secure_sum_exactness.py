"""Is the masked sum exact whoever drops out? Whole rounds of the real stages, a given part of the members dropping out.

Each seed draws who drops out and at which of the four stages. What the server reads is compared, integer for integer,
with the sum of what the members who count really sent. Finished seeds are lines of a file, so a run that was stopped
goes on where it was::

    python tests/benchmarks/secure_sum_exactness.py --out exactness.jsonl --seeds 1000
    python tests/benchmarks/secure_sum_exactness.py --out exactness.jsonl --report

It ends with 1 if any round was not exact.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from common.rounds import KEYS, MASKED, SHARES, UNMASK
from simulations.federation import Members, terms

STAGES = (KEYS, SHARES, MASKED, UNMASK)
_FOREVER = 1_000_000  # participations, so that members and what they know of each other last for all rounds

_members: Members | None = None  # of this process


def draw(seed: int, members: int, dropped: int) -> dict[str, set[int]]:
    """Who drops out at which stage: ``dropped`` members in all, any number of them at each stage."""
    chance = random.Random(seed)
    gone = chance.sample(range(1, members + 1), dropped)
    cuts = [0, *sorted(chance.randint(0, dropped) for _ in STAGES[1:]), dropped]
    return {stage: set(gone[a:b]) for stage, a, b in zip(STAGES, cuts[:-1], cuts[1:], strict=True)}


def check(made: Members, seed: int, dropped: int) -> dict[str, Any]:
    """One round of all members; what came of it as plain values."""
    gone = draw(seed, len(made.devices), dropped)
    made.fault = lambda stage, node, content: [] if node in gone[stage] else [content]
    made.sent.clear()
    start = time.perf_counter()
    sums = made.round(seed + 1, f"{seed:032x}")
    seconds = time.perf_counter() - start
    left = set(made.devices) - gone[KEYS] - gone[SHARES] - gone[MASKED]
    exact = sums.total is not None and sums.answered == len(left) and (sums.total == made.added(left)).all()
    return {
        "seed": seed,
        "members": len(made.devices),
        "gone": [len(gone[stage]) for stage in STAGES],
        "answered": sums.answered,
        "exact": bool(exact),
        "reason": sums.reason,
        "seconds": round(seconds, 2),
    }


def lasting_members(count: int, least: int, components: int, folder: Path) -> Members:
    """Members that take part in as many rounds as are asked for."""
    agreed = terms(count, components=components, minimum_people=least, participations=_FOREVER)
    return Members(agreed, count, folder)


def _begin(count: int, least: int, components: int, ledgers: Path | None) -> None:
    global _members
    _members = lasting_members(count, least, components, Path(tempfile.mkdtemp(prefix="exactness-", dir=ledgers)))


def _one(seed: int, dropped: int) -> dict[str, Any]:
    assert _members is not None
    return check(_members, seed, dropped)


def finished(path: Path) -> dict[int, Mapping[str, Any]]:
    """The lines of a run by seed; a line cut short by a kill is left out and its seed runs again."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            values = json.loads(line)
        except ValueError:
            continue
        found[int(values["seed"])] = values
    return found


def summary(lines: Mapping[int, Mapping[str, Any]]) -> str:
    """How many of how many were exact, in one line."""
    exact = sum(bool(line["exact"]) for line in lines.values())
    wrong = [seed for seed, line in lines.items() if not line["exact"]]
    seconds = sorted(float(line["seconds"]) for line in lines.values())
    middle = f"; median {seconds[len(seconds) // 2]:.2f} s a round" if seconds else ""
    return f"exact in {exact} of {len(lines)} rounds{middle}" + (f"; not exact: seeds {wrong[:20]}" if wrong else "")


def main() -> int:
    """Run or report; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of finished seeds, one JSON object a line")
    parser.add_argument("--seeds", type=int, default=1_000)
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--dropped", type=int, help="members who drop out in each round; default 30 %%")
    parser.add_argument("--components", type=int, default=3, help="features of the map; sets the vector's length")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--ledgers", type=Path, help="folder for the members' ledgers; a memory disk is fastest")
    parser.add_argument("--report", action="store_true", help="only say what is finished")
    given = parser.parse_args()
    dropped = 3 * given.members // 10 if given.dropped is None else given.dropped
    lines = finished(given.out)
    waiting = [seed for seed in range(given.seeds) if seed not in lines]
    if given.report:
        print(summary(lines))
        return 0 if all(line["exact"] for line in lines.values()) else 1
    begin = (given.members, max(2, given.members // 2), given.components, given.ledgers)
    pool = ProcessPoolExecutor(given.processes, initializer=_begin, initargs=begin)
    with pool, given.out.open("a") as out:
        if out.tell():
            out.write("\n")  # the last line may have been cut short
        for done in as_completed([pool.submit(_one, seed, dropped) for seed in waiting]):
            line = done.result()
            lines[line["seed"]] = line
            out.write(json.dumps(line) + "\n")
            out.flush()
            print(f"\r{len(lines)}/{given.seeds}  {summary(lines)}", end="", file=sys.stderr)
    print("\n" + summary(lines))
    return 0 if all(line["exact"] for line in lines.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
