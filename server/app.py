"""The Flower ServerApp: waits for nodes, runs the rounds over a Grid, writes the prior.

Settings come from ``[tool.flwr.app.config]`` in ``pyproject.toml`` or ``flwr run --run-config``. The output is a prior
folder with a ``rounds.json`` in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.errors import CohortError, SettingError, UpdateError
from common.files import write_atomically
from common.messages import Enrolment, RoundRequest
from common.prior import PopulationPrior
from common.privacy.noise import Randomness, system_randomness
from common.privacy.settings import PrivacySettings
from common.wire import Wire
from server.grid import exchange, wait_for_nodes
from server.intake import Answer
from server.rounds import RoundRecord, run_rounds

_T = TypeVar("_T", int, float, str)

_KINDS = {int: "whole number", float: "number", str: "text that is not empty"}
_PRIVACY_KEYS = {
    "epsilon": float,
    "delta": float,
    "participations": int,
    "norm-bound": float,
    "expected-people": int,
    "minimum-people": int,
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a server does when it starts.

    Attributes:
        prior: where the rounds begin.
        settings: the promise.
        step: learning rate of the M-step.
        nodes: nodes to wait for; at the deadline the rounds begin with those that are there.
        people_per_node: most people one node may hold; 1 on real devices, more in simulations only.
        timeout_seconds: deadline for nodes to appear, and again for the replies of each round.
    """

    prior: PopulationPrior
    settings: PrivacySettings
    step: float
    nodes: int
    people_per_node: int = 1
    timeout_seconds: float = 600.0

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise SettingError(f"nodes={self.nodes} must be >= 1")
        if self.people_per_node < 1:
            raise SettingError(f"people-per-node={self.people_per_node} must be >= 1; it is 1 on real devices")
        if not 0 < self.timeout_seconds < math.inf:
            raise SettingError(f"timeout={self.timeout_seconds} must be > 0 and finite; try 600.0")

    @classmethod
    def from_run_config(cls, config: Mapping[str, object]) -> Plan:
        """Read a plan from Flower's run configuration.

        Raises:
            SettingError: a key is missing, of another type, or outside its range.
        """
        settings = PrivacySettings(
            **{key.replace("-", "_"): _setting(config, key, kind) for key, kind in _PRIVACY_KEYS.items()}
        )
        people_per_node = _setting(config, "people-per-node", int)
        if people_per_node < 1:
            raise SettingError(f"people-per-node={people_per_node} must be >= 1; it is 1 on real devices")
        components = _setting(config, "components", int)
        if components < 1:
            raise SettingError(f"components={components} must be >= 1; it is the number of features of the pack")
        return cls(
            prior=PopulationPrior.flat(components + 1, _setting(config, "pack", str)),
            settings=settings,
            step=_setting(config, "step", float),
            nodes=math.ceil(settings.expected_people / people_per_node),
            people_per_node=people_per_node,
            timeout_seconds=_setting(config, "timeout", float),
        )


def federate(
    grid: Grid,
    plan: Plan,
    *,
    randomness: Randomness = system_randomness,
    on_round: Callable[[RoundRecord], None] | None = None,
) -> tuple[PopulationPrior, list[RoundRecord]]:
    """Run the rounds of ``plan`` with the nodes of a Grid.

    Raises:
        CohortError: not enough people joined before the deadline (nobody is charged), or answered in any round.
        SettingError: a setting is outside its range.
    """
    people = _enrolled(grid, plan, wait_for_nodes(grid, plan.nodes, plan.timeout_seconds))
    if sum(people.values()) < plan.settings.minimum_people:
        raise CohortError(
            f"{sum(people.values())} people joined, {plan.settings.minimum_people} are needed (nodes have "
            f"{plan.timeout_seconds:g} s to appear); nobody was asked and nothing is charged"
        )
    transport = partial(_ask, grid, plan.timeout_seconds)
    return run_rounds(transport, people, plan.prior, plan.settings, plan.step, randomness=randomness, on_round=on_round)


def server_app(work: Callable[[Grid], None]) -> ServerApp:
    """A ServerApp that hands its Grid to ``work``, for engines that keep the result in memory."""
    made = ServerApp()

    @made.main()
    def main(grid: Grid, context: Context) -> None:
        work(grid)

    return made


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Read the plan from the run configuration, run it, write prior and records.

    ``rounds.json`` is written after every round, so that participations which were charged are on record even if
    nothing could be released.
    """
    output = Path(_setting(context.run_config, "output", str))
    plan = Plan.from_run_config(context.run_config)
    records: list[RoundRecord] = []

    def keep(record: RoundRecord) -> None:
        records.append(record)
        output.mkdir(parents=True, exist_ok=True)
        content = json.dumps([each.to_json() for each in records], indent=2)
        write_atomically(output / "rounds.json", content.encode() + b"\n")

    prior, _ = federate(grid, plan, on_round=keep)
    prior.save(output)


def _enrolled(grid: Grid, plan: Plan, nodes: list[int]) -> dict[int, int]:
    """People on each node. A node that does not say, or claims more than it may hold, is not asked for anything."""
    if plan.people_per_node == 1:
        return dict.fromkeys(nodes, 1)
    empty: Wire = {}
    people = {}
    for answer in exchange(grid, dict.fromkeys(nodes, empty), "query.enrolment", "0", plan.timeout_seconds):
        try:
            people[answer.node] = Enrolment.from_wire(answer.content or {}, plan.people_per_node).people
        except UpdateError:
            continue
    return {node: people[node] for node in nodes if node in people}


def _ask(grid: Grid, timeout_seconds: float, requests: Mapping[int, RoundRequest]) -> Iterator[Answer]:
    group = str(next(iter(requests.values())).round)
    contents = {node: request.to_wire() for node, request in requests.items()}
    return exchange(grid, contents, "train.statistics", group, timeout_seconds)


def _setting(config: Mapping[str, object], key: str, kind: type[_T]) -> _T:
    value = config.get(key)
    if kind is float and type(value) is int:
        return kind(value)
    if type(value) is not kind or value == "":
        raise SettingError(f"{key}={value!r} must be a {_KINDS[kind]}; set it with --run-config '{key}=...'")
    return value
