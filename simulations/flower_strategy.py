"""Any strategy and mechanism of the lab as a Flower strategy, with the ClientApp that answers it.

``simulations.batched.train`` is fast because nothing travels. Here the same functions run as they would in a
deployment: the state goes out in a Flower message, each node sends the integer sum of its people's clipped and rounded
vectors, the server adds noise to the sum of sums. Both give the same state up to the rounding of a fit (a test).

::

    strategy, mechanism = arrange(DpEm(), settings, task)
    federated = FlowerStrategy(strategy, mechanism, task, people=crowd.people, nodes=40)
    federated.start(grid, federated.initial, num_rounds=mechanism.rounds)
    federated.state, federated.statement

Replies are not trusted beyond what they are bounded to: a sum that is missing, broken, of the wrong shape or longer
than its people could make it is left out and counted, as in ``server.rounds``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlwrStrategy
from torch import Tensor

from common.errors import CohortError, SettingError
from common.prior import PopulationPrior
from common.privacy.clip import clip
from common.privacy.fixed_point import SCALE, dequantise, quantise, sensitivity
from common.privacy.statement import PrivacyStatement
from server.app import server_app
from server.grid import wait_for_nodes
from simulations.batched import CHUNK
from simulations.crowd import Crowd
from simulations.engines.inline import InlineGrid
from simulations.engines.ray import cluster, quiet, require
from simulations.mechanisms import Mechanism
from simulations.strategies.base import State, Strategy, Task, statement_of

ENGINES = ("inline", "ray")
_TRAIN = "train.sum"
_APPEAR_SECONDS = 60.0  # for all nodes to be there before the first round; later ones do not wait
_REFUSED = 2  # Flower's code for an app that raised
_log = logging.getLogger("plgl.flower")


class FlowerStrategy(FlwrStrategy):
    """A strategy and a mechanism of the lab, run by ``flwr.serverapp.strategy.Strategy.start``.

    Attributes:
        initial: the arrays to start with.
        state: after the last round.
        left_out: replies that did not enter a sum.

    Args:
        strategy: what people send and what the server makes of it.
        mechanism: who takes part, and the noise.
        task: what is public beforehand.
        people: how many there are on all nodes together.
        nodes: devices; each holds an even share of the people, by its partition-id.
    """

    def __init__(self, strategy: Strategy, mechanism: Mechanism, task: Task, *, people: int, nodes: int) -> None:
        if not 1 <= nodes <= people:
            raise SettingError(f"nodes={nodes} must be between 1 and the number of people, {people}")
        self._strategy, self._mechanism = strategy, mechanism
        self._people, self._nodes = people, nodes
        self._numbers = self._rounds = 0
        self.left_out = 0
        self.state = strategy.start(task)
        self.initial = arrays_of(self.state)

    @property
    def statement(self) -> PrivacyStatement:
        """The claim for the state."""
        return statement_of(self._strategy, self._mechanism, max(self._numbers, 1), self._rounds)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The state to every node, with the clip bound and who takes part."""
        chosen = self._mechanism.takes_part(0, self._people, server_round)
        request = ConfigRecord(
            {
                "round": server_round,
                "norm_bound": self._mechanism.norm_bound,
                "chosen": b"" if chosen is None else np.packbits(chosen.cpu().numpy()).tobytes(),
            }
        )
        content = RecordDict({"arrays": arrays, "request": request})
        nodes = wait_for_nodes(grid, self._nodes, _APPEAR_SECONDS if server_round == 1 else 0.0)
        return [Message(content, node, _TRAIN, group_id=str(server_round)) for node in nodes]

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord, MetricRecord]:
        """Add up, add noise, move on.

        Raises:
            CohortError: no node sent anything usable.
        """
        sums: dict[int, Tensor] = {}
        for reply in replies:
            total = self._checked(reply)
            node = reply.metadata.src_node_id
            if total is None or node in sums:
                self.left_out += 1
            else:
                sums[node] = total
        if not sums or len({total.shape for total in sums.values()}) != 1:
            raise CohortError(f"no usable sum in round {server_round}; nothing was released, look at the nodes' logs")
        total = torch.stack(list(sums.values())).sum(0)
        noise = self._mechanism.noise(total.numel(), server_round)
        noised = total if noise is None else total + noise
        self.state = self._strategy.advance(
            self.state, dequantise(noised, SCALE) / self._mechanism.denominator, server_round
        )
        self._numbers, self._rounds = total.numel(), server_round
        return arrays_of(self.state), MetricRecord({"nodes": len(sums), "numbers": total.numel()})

    def _checked(self, reply: Message) -> Tensor | None:
        if not reply.has_content():
            return None
        record = reply.content.get("sum")
        array = record.get("total") if isinstance(record, ArrayRecord) else None
        if not isinstance(array, Array) or array.dtype != "int64" or len(array.shape) != 1 or array.shape[0] < 1:
            return None
        total = torch.from_numpy(array.numpy().copy())
        most = sensitivity(self._mechanism.norm_bound, total.numel(), SCALE) * -(-self._people // self._nodes)
        return total if float(torch.linalg.vector_norm(total.double())) <= most * (1 + 1e-9) else None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing: strategies are compared on new people, not on those who trained."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing."""
        return None

    def summary(self) -> None:
        """Log what will run."""
        _log.info("%s, %d people on %d nodes", self._strategy.label, self._people, self._nodes)


def strategy_app(strategy: Strategy, crowd: Crowd, nodes: int, *, threads: int | None = None) -> ClientApp:
    """The ClientApp of every node: the people of its partition answer a ``FlowerStrategy``.

    Args:
        strategy: the same as the server's.
        crowd: everybody; each node looks only at its own share.
        nodes: how many there are.
        threads: CPU threads a node may use; without it torch's own choice.
    """
    app = ClientApp()
    app.train("sum")(partial(_answer, strategy, crowd, nodes, threads))
    return app


def _answer(
    strategy: Strategy, crowd: Crowd, nodes: int, threads: int | None, message: Message, context: Context
) -> Message:
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        node = context.node_config["partition-id"]
        first, last = (crowd.people * edge // nodes for edge in (int(node), int(node) + 1))
        total = _sum(strategy, crowd, (first, last), message.content)
    except Exception as error:
        _log.warning("refused: %s", type(error).__name__)
        return Message(Error(_REFUSED, type(error).__name__), reply_to=message)
    return Message(RecordDict({"sum": ArrayRecord({"total": Array(total.numpy())})}), reply_to=message)


def _sum(strategy: Strategy, crowd: Crowd, share: tuple[int, int], content: RecordDict) -> Tensor:
    request, arrays = content.config_records["request"], content.array_records["arrays"]
    state, packed = state_of(arrays), bytes(request["chosen"])  # type: ignore[arg-type]
    round, bound = int(request["round"]), float(request["norm_bound"])  # type: ignore[arg-type]
    view = strategy.view(crowd.items, state)
    bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=crowd.people) if packed else np.ones(crowd.people)
    chosen = torch.from_numpy(bits).bool().to(view.device)
    sums = []
    for first in range(share[0], share[1], CHUNK):
        last = min(first + CHUNK, share[1])
        answers = crowd.answers(first, last, round)
        there = (answers.weight > 0).any(1) & chosen[first:last]
        steps = quantise(clip(strategy.updates(answers.seen_as(view), state), bound), SCALE)
        sums.append((steps * there[:, None]).sum(0))
    return torch.stack(sums).sum(0).cpu()


def arrays_of(state: State) -> ArrayRecord:
    """A state as Flower sends it."""
    return ArrayRecord({name: Array(value.cpu().numpy()) for name, value in state.items()})


def state_of(arrays: ArrayRecord) -> State:
    """The state that ``arrays_of`` packed."""
    return {name: torch.from_numpy(array.numpy().copy()) for name, array in arrays.items()}


def train(
    strategy: Strategy,
    crowd: Crowd,
    mechanism: Mechanism,
    *,
    flat: PopulationPrior,
    nodes: int,
    engine: str = "inline",
    seed: int = 0,
) -> FlowerStrategy:
    """What ``simulations.batched.train`` does, through Flower messages.

    Args:
        strategy: what people send and what the server makes of it.
        crowd: who takes part.
        mechanism: who is asked in a round, and the noise.
        flat: the prior of somebody who knows nobody.
        nodes: simulated devices.
        engine: ``"inline"``, Flower in this process; ``"ray"``, its own simulation engine.
        seed: of anything the strategy draws in public.

    Raises:
        SettingError: an unknown engine, or a setting outside its range.
        CohortError: a round without any usable reply.
    """
    if engine not in ENGINES:
        raise SettingError(f"engine={engine!r} must be one of {', '.join(ENGINES)}")
    ratings = crowd.answers(0, 1).kind.shape[1]
    task = Task(items=crowd.items, flat=flat, rounds=mechanism.rounds, ratings=ratings, seed=seed)
    federated = FlowerStrategy(strategy, mechanism, task, people=crowd.people, nodes=nodes)

    def work(grid: Grid) -> None:
        federated.start(grid, federated.initial, num_rounds=mechanism.rounds)

    with quiet():
        if engine == "inline":
            work(InlineGrid(strategy_app(strategy, crowd, nodes), nodes))
            return federated
        require()
        from flwr.simulation import run_simulation

        with cluster(nodes):
            run_simulation(
                server_app=server_app(work),
                client_app=strategy_app(strategy, crowd, nodes, threads=1),
                num_supernodes=nodes,
                backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
            )
    return federated
