"""FedRep: a representation that everybody shares, a head that is each person's own.

Collins et al. 2021 ("Exploiting shared representations for personalized federated learning", algorithm 1): a device
first fits its head to the shared body, then moves the body with that head, and sends only the change of the body. What
the paper lacks is a head for somebody without answers. Here the mean head is shared as well, as part of the same
clipped vector: it is where devices start their heads, and what a new person begins with. That can only help FedRep.

Nor does a new person with a few answers get a head as in the paper: its posterior mode around the mean head understood
invented people 10 to 20 percentile points less than the mean head beside a taste over the features did, and a mixture
of all three less as well (``simulations.strategies.newcomers``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from client.likelihood import Evidence
from common.errors import SettingError
from simulations.crowd import Items
from simulations.strategies.base import State, Task
from simulations.strategies.classifiers import Perceptron
from simulations.strategies.local_training import Lesson, Network, train_network
from simulations.strategies.newcomers import known, looked_at, own_scores


@dataclass(frozen=True, kw_only=True)
class FedRep:
    """Settings of the strategy; see ``simulations.strategies.base.Strategy``.

    The state holds ``body`` ``(h, q)`` and ``head`` ``(h + 1,)`` of the network and what ``newcomers.known`` gives, all
    float64.

    Attributes:
        hidden: size h of the representation.
        norm_bound: clip norm of the change of body and mean head together.
        rounds: releases.
        head_steps: local gradient steps on the head, before body_steps on the body; rate: their length.
        body_steps: see above.
        rate: see above.
        server_rate: the server moves by the mean change times this.
    """

    hidden: int = 16
    norm_bound: float = 1.0
    rounds: int = 10
    head_steps: int = 10
    body_steps: int = 5
    rate: float = 0.5
    server_rate: float = 1.0
    name: str = "fedrep"
    label: str = "FedRep"

    def __post_init__(self) -> None:
        if min(self.head_steps, self.body_steps) < 1 or not self.rate > 0:
            raise SettingError(
                f"head_steps={self.head_steps} and body_steps={self.body_steps} must be >= 1, rate={self.rate} > 0"
            )

    def start(self, task: Task) -> State:
        """A random network, drawn from the task's public seed."""
        generator = torch.Generator().manual_seed(task.seed)
        features = task.items.latents.shape[1] + 1
        network = Network.of(Perceptron(hidden=self.hidden).start(features, generator), features)
        return {"body": network.body, "head": network.head, **known(task.flat)}

    def view(self, items: Items, state: State) -> Tensor:
        """``(n, d + 1 + p)`` latents, a constant 1, and features for newcomers, in the dtype of the latents."""
        return looked_at(items)

    def updates(self, evidence: Evidence, state: State) -> Tensor:
        """``(people, h q + h + 1)``: change of the body, then how the person's head differs from the mean one."""
        shared = _network(state)
        seen = evidence.with_features(evidence.features[..., : shared.body.shape[1]])
        lesson = Lesson.of(seen, state["thresholds"])
        moved = train_network(lesson, shared, steps=self.head_steps, rate=self.rate, body=False)
        change = moved[:, shared.body.numel() :]
        own = Network(body=shared.body, head=shared.head.to(change) + change)
        body = train_network(lesson, own, steps=self.body_steps, rate=self.rate, head=False)
        return torch.cat([body[:, : shared.body.numel()], change], dim=1)

    def advance(self, state: State, mean: Tensor, round: int) -> State:
        """Body and mean head move by the mean."""
        body, head = torch.split(mean, [state["body"].numel(), state["head"].numel()])
        moved = {"body": body.reshape(state["body"].shape), "head": head}
        return {**state, **{name: state[name] + self.server_rate * change for name, change in moved.items()}}

    def scores(self, evidence: Evidence, state: State, items: Items) -> Tensor:
        """Of body and mean head and the person's own answers; see ``simulations.strategies.newcomers``."""
        return own_scores(evidence, _network(state).scores, state, items)


def _network(state: State) -> Network:
    return Network(body=state["body"], head=state["head"])
