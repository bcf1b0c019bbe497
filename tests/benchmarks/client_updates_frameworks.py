"""One framework does the common work of ``client_updates.py`` in a process of its own, and says what it cost.

The work: people with 30 binary answers about 100 latents and a constant; everybody trains from the global model by
five full-batch gradient steps of the mean logistic loss; changes are clipped, added, noised and averaged. Half of the
people are clipped in the first round. Noise has the scale zero, so that every framework can be held against the same
reference and still pays for adding it.

Only NumPy is needed to load this file; each framework brings what else it needs.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ANSWERS, LATENTS, HIDDEN, STEPS, RATE = 30, 100, 64, 5, 0.5
Mark = Callable[[Any], None]


class Work:
    """The people, where the model starts, and the clip bound."""

    def __init__(self, model: str, people: int) -> None:
        self.model, self.people, self.hidden = model, people, HIDDEN if model == "mlp" else 0
        draw = np.random.default_rng(7)
        self.x = draw.standard_normal((people, ANSWERS, LATENTS + 1), dtype=np.float32)
        self.x[..., -1] = 1
        taste = draw.standard_normal((people, LATENTS + 1), dtype=np.float32) / 10 + 0.1
        noise = draw.logistic(size=(people, ANSWERS))
        self.liked = (np.einsum("ntd,nd->nt", self.x, taste) > noise).astype(np.float32)
        body = draw.standard_normal((self.hidden, LATENTS + 1)) * (2 / LATENTS) ** 0.5
        head = draw.standard_normal(self.hidden + 1) / 8
        self.start = np.concatenate([body.ravel(), head]) if self.hidden else np.zeros(LATENTS + 1)
        self.clip = float(np.median([np.linalg.norm(self.change(self.start, i)) for i in range(min(people, 101))]))

    def change(self, weights: np.ndarray, person: int) -> np.ndarray:
        """What one person's steps change: the reference, float64."""
        x, liked, own = self.x[person].astype(np.float64), self.liked[person], weights.copy()
        for _ in range(STEPS):
            if self.hidden:
                body, head = own[: -self.hidden - 1].reshape(self.hidden, -1), own[-self.hidden - 1 :]
                inside = np.maximum(x @ body.T, 0)
                slope = liked - 1 / (1 + np.exp(-(inside @ head[:-1] + head[-1])))
                back = slope[:, None] * head[:-1] * (inside > 0)
                step = np.concatenate([(back.T @ x).ravel(), inside.T @ slope, [slope.sum()]])
            else:
                step = x.T @ (liked - 1 / (1 + np.exp(-(x @ own))))
            own += RATE * step / ANSWERS
        changed: np.ndarray = own - weights
        return changed

    def reference(self, rounds: int) -> np.ndarray:
        """The parameters after some rounds."""
        weights = self.start
        for _ in range(rounds):
            total = np.zeros_like(weights)
            for person in range(self.people):
                change = self.change(weights, person)
                total += change * min(1.0, self.clip / float(np.linalg.norm(change)))
            weights = weights + total / self.people
        return weights


def ours(work: Work, rounds: int, mark: Mark) -> None:
    """The strategy of the lab, with the integer sums it always makes (finer steps, to compare ten digits)."""
    import torch

    from client.likelihood import Evidence
    from simulations.clipped_sum import clipped_sum
    from simulations.strategies.classifiers import Linear, Perceptron
    from simulations.strategies.fedavg import FedAvg

    torch.set_num_threads(1)
    scale, together = 2**16, 128 if work.hidden else 512
    kind = torch.zeros(work.people, ANSWERS, dtype=torch.int64)
    features = torch.from_numpy(work.x).unsqueeze(2)
    everybody = Evidence(kind, torch.from_numpy(work.liked).long(), torch.ones(kind.shape), features, kind + 1)
    classifier = Perceptron(hidden=HIDDEN) if work.hidden else Linear()
    strategy = FedAvg(classifier=classifier, norm_bound=work.clip, steps=STEPS, rate=RATE)
    thresholds = torch.tensor([-2.0, -0.7, 0.7, 2.0])
    state = {"weights": torch.from_numpy(work.start), "thresholds": thresholds}
    for number in range(rounds):
        parts = everybody.chunks(together)
        total = sum(clipped_sum(strategy.updates(part, state), work.clip, scale) for part in parts)
        mean = torch.as_tensor(total).double() / scale + 0.0 * torch.randn(len(work.start), dtype=torch.float64)
        state = strategy.advance(state, mean / work.people, number + 1)
        mark(state["weights"].numpy())


def _torch_model(work: Work) -> Any:
    import torch

    torch.set_num_threads(1)
    start = torch.from_numpy(work.start).float()
    if not work.hidden:
        model = torch.nn.Sequential(torch.nn.Linear(LATENTS, 1))
        pieces = [start[None, :-1], start[-1:]]
    else:
        model = torch.nn.Sequential(torch.nn.Linear(LATENTS, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 1))
        body, head = start[: -HIDDEN - 1].reshape(HIDDEN, -1), start[-HIDDEN - 1 :]
        pieces = [body[:, :-1], body[:, -1], head[None, :-1], head[-1:]]
    with torch.no_grad():
        for parameter, piece in zip(model.parameters(), pieces, strict=True):
            parameter.copy_(piece)
    return model


def _vector(arrays: list[np.ndarray]) -> np.ndarray:
    """Weights in the order of ``Work`` from those of a torch model."""
    inner = np.concatenate([arrays[0], arrays[1][:, None]], axis=1).ravel()
    return np.concatenate([inner, *(array.ravel() for array in arrays[2:])])


def _train(model: Any, x: Any, liked: Any) -> None:
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss: Any = torch.nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], liked)
        loss.backward()
        optimizer.step()


def naive(work: Work, rounds: int, mark: Mark) -> None:
    """The loop one would write first: a model, an optimiser, one person after the other."""
    import torch

    model = _torch_model(work)
    x, liked = torch.from_numpy(work.x[..., :-1].copy()), torch.from_numpy(work.liked)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    for _ in range(rounds):
        total = [torch.zeros_like(parameter) for parameter in start]
        for person in range(work.people):
            with torch.no_grad():
                for parameter, value in zip(model.parameters(), start, strict=True):
                    parameter.copy_(value)
            _train(model, x[person], liked[person])
            change = [p.detach() - value for p, value in zip(model.parameters(), start, strict=True)]
            norm = torch.sqrt(sum((each.square().sum() for each in change), torch.zeros(())))
            factor = min(1.0, work.clip / float(norm))
            for sum_, each in zip(total, change, strict=True):
                sum_.add_(each, alpha=factor)
        start = [s + (t + 0.0 * torch.randn_like(t)) / work.people for s, t in zip(start, total, strict=True)]
        mark(_vector([value.numpy() for value in start]))


@functools.cache
def cached(model: str, people: int) -> Work:
    """The work, made once in each process."""
    return Work(model, people)


def flower(work: Work, rounds: int, mark: Mark) -> None:
    """Flower's simulation engine on Ray with its own DP wrapper, two actors."""
    import ray
    from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
    from flwr.simulation import run_simulation

    logging.getLogger("flwr").setLevel(logging.ERROR)
    people, name = work.people, work.model
    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(message: Any, context: Any) -> Any:
        import torch
        from flwr.app import Message

        # by its name: Ray's workers cannot be sent a cache of this process
        held = importlib.import_module("client_updates_frameworks").cached(name, people)
        model, person = _torch_model(held), int(context.node_config["partition-id"])
        received = message.content["arrays"].to_torch_state_dict()
        model.load_state_dict(received)
        _train(model, torch.from_numpy(held.x[person, :, :-1].copy()), torch.from_numpy(held.liked[person]))
        content: dict[str, Any] = {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": ANSWERS}),
        }
        return Message(RecordDict(content), reply_to=message)

    class Marked(DifferentialPrivacyServerSideFixedClipping):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            arrays, metrics = super().aggregate_train(server_round, replies)
            assert arrays is not None, "no round of Flower's gave anything"
            mark(_vector(arrays.to_numpy_ndarrays()))
            return arrays, metrics

    @server.main()
    def main(grid: Any, context: Any) -> None:
        inner = FedAvg(fraction_evaluate=0.0, min_train_nodes=people, min_available_nodes=people)
        begun = ArrayRecord({key: Array(value.numpy()) for key, value in _torch_model(work).state_dict().items()})
        Marked(inner, 0.0, work.clip, people).start(grid, begun, num_rounds=rounds)

    folder = str(Path(__file__).parent)
    environment = {"PYTHONPATH": os.pathsep.join([folder, *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": environment})
    resources: dict[str, Any] = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app=server, client_app=client, num_supernodes=people, backend_config=resources)
    ray.shutdown()


def pfl(work: Work, rounds: int, mark: Mark) -> None:
    """Apple's pfl in one process."""
    import torch

    use: Callable[[str], Any] = importlib.import_module  # mypy does not know pfl
    hyper, data, privacy = use("pfl.hyperparam.base"), use("pfl.data.dataset"), use("pfl.privacy.privacy_mechanism")

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = _torch_model(work)

        def loss(self, x: Any, liked: Any, eval: bool = False) -> Any:
            return torch.nn.functional.binary_cross_entropy_with_logits(self.inner(x)[:, 0], liked)

        def metrics(self, x: Any, liked: Any, eval: bool = True) -> dict[str, Any]:
            return {}

    class Marker(use("pfl.callback.base").TrainingProcessCallback):  # type: ignore[misc]
        def after_central_iteration(self, metrics: Any, model: Any, *, central_iteration: int) -> Any:
            mark(_vector([p.detach().numpy() for p in model.pytorch_model.parameters()]))
            return False, use("pfl.metrics").Metrics()

    x, liked = torch.from_numpy(work.x[..., :-1].copy()), torch.from_numpy(work.liked)
    module = Model()
    model = use("pfl.model.pytorch").PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0))
    sampler = use("pfl.data.sampling").MinimizeReuseUserSampler(list(range(work.people)))
    people = use("pfl.data.federated_dataset").FederatedDataset(
        lambda i: data.Dataset(raw_data=[x[i], liked[i]]), sampler
    )
    gaussian = use("pfl.privacy.gaussian_mechanism").GaussianMechanism(work.clip, 0.0)
    backend = use("pfl.aggregate.simulate").SimulatedBackend(
        training_data=people, val_data=people, postprocessors=[privacy.CentrallyAppliedPrivacyMechanism(gaussian)]
    )
    use("pfl.algorithm.federated_averaging").FederatedAveraging().run(
        algorithm_params=use("pfl.algorithm.base").NNAlgorithmParams(
            central_num_iterations=rounds, evaluation_frequency=10**6, train_cohort_size=work.people, val_cohort_size=0
        ),
        backend=backend,
        model=model,
        model_train_params=hyper.NNTrainHyperParams(
            local_num_epochs=STEPS, local_learning_rate=RATE, local_batch_size=None
        ),
        model_eval_params=hyper.NNEvalHyperParams(local_batch_size=None),
        callbacks=[Marker()],
        send_metrics_to_platform=False,
    )


FRAMEWORKS: dict[str, Callable[[Work, int, Mark], None]] = {"ours": ours, "naive": naive, "flower": flower, "pfl": pfl}


def cpu_seconds() -> float:
    """Processor time of this process and all it started, since they began."""
    times, parents = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended while we looked
                continue
            parents[int(folder.name)] = int(fields[1])
            times[int(folder.name)] = sum(map(int, fields[11:15]))
    tree = {os.getpid()}
    while grown := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= grown
    return sum(times[process] for process in tree) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run one framework; the last line of the output is JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("framework", choices=FRAMEWORKS)
    parser.add_argument("--model", choices=("lr", "mlp"), required=True)
    parser.add_argument("--people", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds must be at least 2: the first one warms up")
    work = Work(options.model, options.people)
    marks: list[float] = []
    kept: list[np.ndarray] = []

    def mark(weights: np.ndarray) -> None:
        if len(kept) < 2:
            kept.append(np.array(weights, dtype=np.float64))
        if len(marks) in (0, options.rounds - 1):
            marks.append(cpu_seconds())
        else:
            marks.append(marks[-1])

    FRAMEWORKS[options.framework](work, options.rounds, mark)
    difference = float(np.abs(kept[1] - work.reference(2)).max())
    spent = marks[-1] - marks[0]
    updates = (options.rounds - 1) * options.people
    print(json.dumps({"updates": updates, "cpu_seconds": spent, "difference": difference, "numbers": len(work.start)}))


if __name__ == "__main__":
    main()
