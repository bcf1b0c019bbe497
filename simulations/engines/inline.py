"""Flower in one process: the very ServerApp and ClientApp, with a Grid that calls the client at once.

No processes, no ports, no start-up; faults can be injected one message at a time, the same way in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from client.app import REFUSED, client_app
from server.app import Plan, federate, server_app
from simulations.engines import Job, Outcome, ratings_on_disk

Fault = Callable[[Message, Message], list[Message]]
"""From a message and its honest reply, the replies that arrive: none, an altered one, several."""

_RUN, _SERVER, _FIRST_NODE = 1, 1, 2


class InlineGrid(Grid):
    """A Grid whose nodes live in this process.

    Args:
        app: what every node runs.
        nodes: how many there are; node ``i`` has the partition-id ``i`` and a Flower context of its own.
        fault: applied to each exchange.
    """

    def __init__(self, app: ClientApp, nodes: int, fault: Fault | None = None) -> None:
        # Message() asks for these; in a deployment the process that runs an app sets them.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, _RUN, _SERVER
        self._run = Run.create_empty(run_id=_RUN)
        self._app, self._fault = app, fault
        self._waiting: list[Message] = []
        self._contexts = {
            _FIRST_NODE + node: Context(
                run_id=_RUN,
                node_id=_FIRST_NODE + node,
                node_config={"partition-id": node, "num-partitions": nodes},
                state=RecordDict(),
                run_config={},
            )
            for node in range(nodes)
        }

    @property
    def run(self) -> Run:
        """Run information."""
        return self._run

    def set_run(self, run: Run) -> None:
        """Set run information."""
        self._run = run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message; Flower's older way."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """All nodes, always."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Deliver each message at once and keep what comes back."""
        sent = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid4())
            sent.append(message.metadata.message_id)
            reply = self._reply(message)
            self._waiting += [reply] if self._fault is None else self._fault(message, reply)
        return sent

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies to these messages that were not pulled before."""
        wanted = set(message_ids)
        ready = [reply for reply in self._waiting if reply.metadata.reply_to_message_id in wanted]
        self._waiting = [reply for reply in self._waiting if reply.metadata.reply_to_message_id not in wanted]
        return ready

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push, then pull."""
        return self.pull_messages(self.push_messages(messages))

    def _reply(self, message: Message) -> Message:
        try:
            reply = self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:  # as Flower does: an app that raises is an error reply
            reply = Message(Error(REFUSED, type(error).__name__), reply_to=message)
        reply.metadata.__dict__["_message_id"] = str(uuid4())
        return reply


def run(job: Job, fault: Fault | None = None) -> Outcome:
    """Run a job through Flower messages in this process; errors as for ``server.rounds.run_rounds``."""
    outcome: list[Outcome] = []
    plan = plan_of(job)
    with ratings_on_disk(job) as folder:
        grid = InlineGrid(client_app(folder), job.nodes, fault)
        server = server_app(
            lambda grid: outcome.append(federate(grid, plan, randomness=job.randomness, on_round=job.on_round))
        )
        context = Context(run_id=_RUN, node_id=_SERVER, node_config={}, state=RecordDict(), run_config={})
        server(grid=grid, context=context)
    return outcome[0]


def plan_of(job: Job) -> Plan:
    """What the server is told about a job: everything but the ratings."""
    return Plan(
        prior=job.prior,
        settings=job.settings,
        step=job.step,
        nodes=job.nodes,
        people_per_node=job.people_per_node,
        timeout_seconds=job.timeout_seconds,
    )
